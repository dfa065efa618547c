//! The file in which the torture program counts. It is mapped by the program and all its children, so what
//! was counted, and what was seen when something was wrong, is there whatever becomes of them.
//!
//! The layout is that of `struct board` in `crates/cli/torture/torture.h`. Counters carry their names: which
//! there are is the program's affair.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

const WORD: usize = 8;
const HEADER: usize = 4 * WORD;
const NAME: usize = 56;
const COUNTER: usize = NAME + WORD;
const COUNTERS: usize = 64;
const NOTE: usize = 512;
const NOTES: usize = 16;
const SIZE: usize = HEADER + COUNTERS * COUNTER + NOTES * NOTE;

/// Name of the counter that has to stay 0.
const WRONG: &str = "wrong";

/// The file.
#[derive(Debug)]
pub struct Board {
    /// Its path.
    pub path: PathBuf,
    file: File,
}

/// What it says.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The program; 0 before it is ready.
    pub pid: u64,
    /// Whether it came to its end.
    pub ended: bool,
    /// Name and value of each counter, in the program's order.
    pub counters: Vec<(String, u64)>,
    /// What was seen when something was wrong.
    pub notes: Vec<String>,
}

impl Board {
    /// An empty one.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        file.set_len(SIZE as u64).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// What it says now.
    pub fn read(&self) -> anyhow::Result<Reading> {
        let mut bytes = [0; SIZE];
        self.file.read_exact_at(&mut bytes, 0).context("the torture program has cut its board short")?;
        Ok(Reading::of(&bytes))
    }

    /// Ends the program; its children end by themselves.
    pub fn kill_program(&self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.read()?.pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended just now.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        Ok(())
    }
}

impl Reading {
    fn of(bytes: &[u8; SIZE]) -> Self {
        let count = word(bytes, 2 * WORD).min(COUNTERS as u64) as usize;
        let counter = |i: usize| {
            let at = HEADER + i * COUNTER;
            (text(bytes, at, NAME), word(bytes, at + NAME))
        };
        let notes = (0..NOTES).map(|i| text(bytes, HEADER + COUNTERS * COUNTER + i * NOTE, NOTE));
        Self {
            pid: word(bytes, 0),
            ended: word(bytes, WORD) == 1,
            counters: (0..count).map(counter).collect(),
            notes: notes.filter(|note| !note.is_empty()).collect(),
        }
    }

    /// Calls and jumps that were checked.
    pub fn calls(&self) -> u64 {
        self.checked().map(|(_, value)| value).sum()
    }

    /// The counters of checked calls, which say so in their names.
    pub fn checked(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counters.iter().filter(|(name, _)| is_of_calls(name)).map(|(name, value)| (&**name, *value))
    }

    /// The counters of everything else that happened.
    pub fn events(&self) -> impl Iterator<Item = (&str, u64)> {
        let rest = self.counters.iter().filter(|(name, _)| !is_of_calls(name) && name != WRONG);
        rest.map(|(name, value)| (&**name, *value))
    }

    /// Calls that were wrong, crashes, children that did not end well.
    pub fn wrong(&self) -> u64 {
        self.counters.iter().find(|(name, _)| name == WRONG).map_or(0, |(_, value)| *value)
    }
}

fn is_of_calls(name: &str) -> bool {
    ["call", "jump", "goto"].iter().any(|kind| name.split(' ').any(|word| word.trim_end_matches('s') == *kind))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + WORD].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Up to its NUL.
fn text(bytes: &[u8], at: usize, size: usize) -> String {
    let bytes = &bytes[at..at + size];
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(size);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_read_as_it_is_written() {
        let mut bytes = [0; SIZE];
        for (at, value) in [(0, 4711), (WORD, 1), (2 * WORD, 3), (HEADER + NAME, 5), (HEADER + COUNTER + NAME, 6)] {
            bytes[at] = value as u64 as u8;
            bytes[at + 1] = (value as u64 >> 8) as u8;
        }
        for (i, name) in ["calls in children", "signals handled", WRONG].into_iter().enumerate() {
            bytes[HEADER + i * COUNTER..][..name.len()].copy_from_slice(name.as_bytes());
        }
        bytes[SIZE - NOTE..SIZE - NOTE + 4].copy_from_slice(b"seen");
        let reading = Reading::of(&bytes);
        assert_eq!((reading.pid, reading.ended, reading.calls(), reading.wrong()), (4711, true, 5, 0));
        assert_eq!(reading.events().collect::<Vec<_>>(), [("signals handled", 6)]);
        assert_eq!(reading.notes, ["seen"]);
    }
}
