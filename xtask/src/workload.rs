//! What is run and measured: a workload gives numbers for its metrics and an answer that must not depend on
//! the variant.
//!
//! Most programs are commands: start, read the output, take the user time. Servers bring their own
//! `Workload`.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::measure;
use crate::place::Place;
use crate::variant::Variant;

/// A quantity that a workload yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name in results.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Which way is up.
    pub better: Better,
}

/// Whether less or more of a metric is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Less is better: times.
    Less,
    /// More is better: rates.
    More,
}

/// User time of a command, the metric of everything that is not a server.
pub const USER_CPU: Metric = Metric { name: "user CPU", unit: "s", better: Better::Less };
/// Requests per second.
pub const THROUGHPUT: Metric = Metric { name: "throughput", unit: "1/s", better: Better::More };
/// Processor time of the server per request.
pub const CPU_PER_REQUEST: Metric = Metric { name: "CPU per request", unit: "us", better: Better::Less };

/// One run's numbers, in the order of the metrics, and a digest of what the program answered.
pub struct Sample {
    /// A value per metric.
    pub values: Vec<f64>,
    /// The same for every variant, or something is broken.
    pub answer: String,
}

/// Something to run in each variant.
pub trait Workload {
    /// Its name, unique within the program.
    fn name(&self) -> &'static str;
    /// What it measures.
    fn metrics(&self) -> &'static [Metric];
    /// Runs it once.
    fn run(&self, setting: &Setting) -> Result<Sample>;
    /// A command line with which to run it, or something like it, by hand.
    fn example(&self, place: &Place, program: &str, variant: Variant) -> String;
}

/// How and where to run a variant.
pub struct Setting<'a> {
    /// The directories.
    pub place: &'a Place,
    /// The built tree.
    pub built: PathBuf,
    /// Directory for data and logs.
    pub run: PathBuf,
    /// The engine, for the variant that has one.
    pub engine: Option<&'a Engine>,
    /// A library that every process loads.
    pub preload: Option<&'a Path>,
    /// A short run is enough.
    pub quick: bool,
    program: String,
}

impl<'a> Setting<'a> {
    /// A setting without the engine.
    pub fn direct(place: &'a Place, program: &str, variant: Variant) -> Result<Setting<'a>> {
        let (built, run) = (place.built(program, variant), place.run(program)?);
        Ok(Setting { place, built, run, engine: None, preload: None, quick: false, program: program.to_owned() })
    }

    /// The command that starts a program of the built tree, under the engine if there is one, pinned if asked
    /// for.
    pub fn start(&self, executable: &str, pin: Option<usize>) -> Command {
        self.started(&self.built.join(executable), pin)
    }

    /// The same for a program that is not of the tree but starts one: make, or an interpreter of test
    /// scripts.
    pub fn start_driver(&self, program: &str) -> Command {
        self.started(Path::new(program), None)
    }

    fn started(&self, program: &Path, pin: Option<usize>) -> Command {
        let mut words: Vec<PathBuf> = Vec::new();
        if let Some(processor) = pin {
            words.extend(["taskset".into(), "-c".into(), processor.to_string().into()]);
        }
        words.extend(self.engine.into_iter().flat_map(Engine::prefix));
        words.push(program.to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if let Some(library) = self.preload {
            command.env("LD_PRELOAD", library);
        }
        command
    }

    /// A client, pinned. All variants are asked by one and the same build: the plain one where it exists.
    pub fn client(&self, executable: &str, pin: usize) -> Command {
        let plain = self.place.built(&self.program, Variant::Plain).join(executable);
        let client = if plain.is_file() { plain } else { self.built.join(executable) };
        let mut command = Command::new("taskset");
        command.arg("-c").arg(pin.to_string()).arg(client);
        command
    }

    /// A count of requests, fewer when a short run is enough.
    pub fn count(&self, full: u64) -> u64 {
        if self.quick { full / 4 } else { full }
    }
}

/// A digest of an answer, for comparison and for the results file.
pub fn digest(answer: &[u8]) -> String {
    // Its keys are fixed, unlike those of RandomState, so it is the same in each run.
    let mut hasher = DefaultHasher::new();
    hasher.write(answer);
    format!("{:016x}", hasher.finish())
}

/// A workload that is one command.
pub struct Run {
    /// The workload's name.
    pub name: &'static str,
    /// The executable within the built tree.
    pub executable: &'static str,
    /// A word of the command line, or a file that comes with xtask.
    pub arguments: Vec<Word>,
    /// Variables set for it.
    pub environment: &'static [(&'static str, &'static str)],
    /// Whether a line of output is part of the answer; timings are not.
    pub is_answer: fn(&str) -> bool,
}

/// An argument.
#[derive(Clone)]
pub enum Word {
    /// As it stands.
    Plain(&'static str),
    /// A file in xtask/workloads.
    File(&'static str),
    /// A file or directory in the built tree.
    Built(&'static str),
    /// A file in the program's run directory.
    Data(&'static str),
}

impl Run {
    fn words(&self, place: &Place, built: &Path, run: &Path) -> Vec<String> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let word = |word: &Word| match word {
            Word::Plain(plain) => (*plain).to_owned(),
            Word::File(file) => text(place.workload(file)),
            Word::Built(file) => text(built.join(file)),
            Word::Data(file) => text(run.join(file)),
        };
        self.arguments.iter().map(word).collect()
    }
}

impl Workload for Run {
    fn name(&self) -> &'static str {
        self.name
    }

    fn metrics(&self) -> &'static [Metric] {
        &[USER_CPU]
    }

    fn run(&self, setting: &Setting) -> Result<Sample> {
        let mut command = setting.start(self.executable, None);
        command.args(self.words(setting.place, &setting.built, &setting.run).iter().map(OsStr::new));
        command.envs(self.environment.iter().copied()).current_dir(&setting.run);
        let done = measure::run(&mut command, Duration::from_secs(120))?;
        let text = String::from_utf8_lossy(&done.stdout);
        let answer: Vec<_> = text.lines().filter(|line| (self.is_answer)(line)).collect();
        answer.first().context("the program printed no answer")?;
        Ok(Sample { values: vec![done.user], answer: digest(answer.join("\n").as_bytes()) })
    }

    fn example(&self, place: &Place, program: &str, variant: Variant) -> String {
        let built = place.built(program, variant);
        let run = place.work.join("run").join(program);
        let variables: String = self.environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        let words = self.words(place, &built, &run).join(" ");
        format!("env {variables}{} {words}", built.join(self.executable).display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_tells_answers_apart_and_is_stable() {
        assert_eq!(digest(b"42\n"), digest(b"42\n"));
        assert_ne!(digest(b"42\n"), digest(b"43\n"));
        assert_eq!(digest(b"").len(), 16);
    }
}
