//! Whether the engine changes what a program does: what it writes, how it ends.
//!
//! A program may write something else in every run by itself: a time, an address, lines of threads in another
//! order. So runs without the engine are compared with each other first. What was seen with it alone is told
//! from what varies anyhow; only the exit status must always be one that was seen without it, since there are
//! few of them.

use std::process::ExitStatus;

use serde::Serialize;

use crate::workbench::process::{Run, Written};

/// What became of the comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// The same in all runs.
    Same,
    /// It varies without the engine too, so it cannot be compared.
    Varies,
    /// It differs with the engine only.
    Differs,
}

/// All that was seen of one thing, each once.
#[derive(Debug, Default)]
struct Seen<T> {
    without: Vec<T>,
    with: Vec<T>,
}

impl<T: PartialEq> Seen<T> {
    fn add(&mut self, what: T, with: bool) {
        let all = if with { &mut self.with } else { &mut self.without };
        if !all.contains(&what) {
            all.push(what);
        }
    }

    /// What was seen with the engine only.
    fn foreign(&self) -> Option<&T> {
        self.with.iter().find(|what| !self.without.contains(what))
    }
}

/// What the runs wrote and how they ended.
#[derive(Debug, Default)]
pub struct Outputs {
    streams: [Seen<Written>; 2],
    ends: Seen<ExitStatus>,
}

impl Outputs {
    /// Takes in a run; its texts are kept as long as there is something to show by them.
    pub fn add(&mut self, run: Run, with: bool) {
        self.ends.add(run.status, with);
        for (seen, mut written) in self.streams.iter_mut().zip([run.stdout, run.stderr]) {
            if seen.with.len() + seen.without.len() > 2 {
                written.forget_text();
            }
            seen.add(written, with);
        }
    }

    /// Whether it ended as it may without the engine.
    pub fn has_ended_like(&self, run: &Run) -> bool {
        self.ends.without.contains(&run.status)
    }

    /// Of stdout and stderr.
    pub fn streams(&self) -> [Compared; 2] {
        self.streams.each_ref().map(|seen| match seen.without.len() {
            2.. => Compared::Varies,
            _ if seen.foreign().is_some() => Compared::Differs,
            _ => Compared::Same,
        })
    }

    /// Of the exit status.
    pub fn end(&self) -> Compared {
        match self.ends.without.len() {
            _ if self.ends.foreign().is_some() => Compared::Differs,
            2.. => Compared::Varies,
            _ => Compared::Same,
        }
    }

    /// Whether anything differs with the engine only.
    pub fn differ(&self) -> bool {
        self.end() == Compared::Differs || self.streams().contains(&Compared::Differs)
    }

    /// What differs, in words.
    pub fn differences(&self) -> Vec<String> {
        let mut said = Vec::new();
        if let Some(end) = self.ends.foreign() {
            let usual: Vec<String> = self.ends.without.iter().map(ToString::to_string).collect();
            said.push(format!("it ended with {end} instead of {}", usual.join(" or ")));
        }
        let compared = self.streams();
        for ((seen, compared), name) in self.streams.iter().zip(compared).zip(["stdout", "stderr"]) {
            let (Some(with), Compared::Differs) = (seen.foreign(), compared) else { continue };
            let line = seen.without.first().and_then(|without| without.first_difference(with));
            said.push(line.map_or_else(|| name.to_owned(), |line| format!("{name}, from line {line} on")));
        }
        said
    }

    /// How it ended without the engine, if that was no success, or is not always the same.
    pub fn unsuccessful(&self) -> Option<String> {
        match self.ends.without.as_slice() {
            [end] => (!end.success()).then(|| format!("it ended with {end} in every run")),
            _ => Some("it does not always end the same way".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    /// `OUT|ERR|CODE`: of a run that wrote that, and ended with that; a negative code is a signal.
    fn ran(text: &str) -> Run {
        let fields: Vec<&str> = text.split('|').collect();
        let code: i32 = fields[2].parse().unwrap();
        Run {
            user: 0.0,
            system: 0.0,
            wall: 0.0,
            status: ExitStatus::from_raw(if code < 0 { -code } else { code << 8 }),
            stdout: Written::of(fields[0]),
            stderr: Written::of(fields[1]),
            is_survived: false,
        }
    }

    fn outputs(without: &[&str], with: &[&str]) -> Outputs {
        let mut outputs = Outputs::default();
        for (runs, is_with) in [(without, false), (with, true)] {
            runs.iter().for_each(|run| outputs.add(ran(run), is_with));
        }
        outputs
    }

    #[test]
    fn what_varies_by_itself_is_not_held_against_us() {
        let same = outputs(&["a||0", "a||0"], &["a||0"]);
        assert_eq!((same.streams(), same.end(), same.differ()), ([Compared::Same; 2], Compared::Same, false));
        let varies = outputs(&["a||0", "b||0"], &["c||0"]);
        assert_eq!((varies.streams()[0], varies.differ()), (Compared::Varies, false));
        let differs = outputs(&["a\nb\n||0", "a\nb\n||0"], &["a\nb\n||0", "a\nc\n||0"]);
        assert_eq!(differs.differences(), ["stdout, from line 2 on"]);
        let errors = outputs(&["a||0", "a||0"], &["a|no|0"]);
        assert_eq!(errors.differences(), ["stderr, from line 1 on"]);
    }

    /// Output that varies hides nothing about how it ends.
    #[test]
    fn an_end_that_was_never_seen_is_always_ours() {
        let crashed = outputs(&["a||1", "b||0"], &["c||-9"]);
        assert_eq!((crashed.end(), crashed.differ()), (Compared::Differs, true));
        let both = outputs(&["||1", "||0"], &["||1"]);
        assert_eq!((both.end(), both.differ()), (Compared::Varies, false));
        assert!(outputs(&["||3"], &["||3"]).unsuccessful().unwrap().contains('3'));
    }
}
