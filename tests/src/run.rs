//! Running a program with and without the engine.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::report::Report;
use crate::tool;

/// How a program is to be run.
#[derive(Clone, Debug)]
pub struct Run {
    command: Vec<OsString>,
    options: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    deadline: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub status: ExitStatus,
    /// The report on it, when it ran with the engine.
    pub report: Option<Report>,
    /// The reports on its children.
    pub children: Vec<Report>,
}

impl Run {
    /// `program`, without arguments.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            command: vec![program.as_ref().to_owned()],
            options: Vec::new(),
            environment: Vec::new(),
            directory: None,
            deadline: Duration::from_secs(60),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.extend(args.iter().map(OsString::from));
        self
    }

    /// Adds an option for `relpoline run`.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.into());
        self
    }

    /// Lets it take so long. (A minute is enough for most.)
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Runs it without the engine.
    #[must_use]
    pub fn plain(&self) -> Outcome {
        let place = tempfile::tempdir().expect("no temporary directory");
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        self.finish(command, place.path())
    }

    /// Runs it with the engine, and reads the reports.
    #[must_use]
    pub fn promoted(&self) -> Outcome {
        let place = tempfile::tempdir().expect("no temporary directory");
        let report = place.path().join("report");
        let mut command = Command::new(tool::relpoline());
        command.args(["run", "--quiet", "--report"]).arg(&report).args(&self.options).arg("--").args(&self.command);
        let mut outcome = self.finish(command, place.path());
        outcome.read_reports(place.path());
        outcome
    }

    /// Runs it both ways; both must succeed and write the same. What the run with the engine was like.
    #[must_use]
    pub fn same(&self) -> Outcome {
        let (plain, promoted) = (self.plain(), self.promoted());
        plain.assert_success();
        promoted.assert_success();
        promoted.assert_like(&plain);
        promoted
    }

    fn finish(&self, mut command: Command, place: &Path) -> Outcome {
        let file = |name: &str| File::create(place.join(name)).expect("cannot create a file for the output");
        // Nothing of the developer's: shells and programs behave as their environment tells them.
        command.env_clear().env("LC_ALL", "C");
        command.envs(["PATH", "HOME", "TMPDIR"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        // Files, not pipes: a daemon that is left behind holds a pipe open for ever.
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr")).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let ended = wait(child, self.deadline);
        let read = |name: &str| fs::read(place.join(name)).unwrap_or_default();
        let (stdout, stderr) = (read("stdout"), read("stderr"));
        let Some(status) = ended else {
            panic!("{command:?} hangs:\n{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        };
        Outcome { stdout, stderr, status, report: None, children: Vec::new() }
    }
}

/// Waits for the child; kills it and its process group when it takes too long.
fn wait(mut child: Child, deadline: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < deadline {
        if let Some(status) = child.try_wait().expect("cannot wait for the program") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
    let _ = child.wait();
    None
}

impl Outcome {
    fn read_reports(&mut self, place: &Path) {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix("report") else {
                continue;
            };
            let text = fs::read(entry.path()).expect("unreadable report");
            let report = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            if rest.is_empty() {
                self.report = Some(report);
            } else {
                self.children.push(report);
            }
        }
    }

    /// Everything the program wrote, for messages and for searching.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", String::from_utf8_lossy(&self.stdout), String::from_utf8_lossy(&self.stderr))
    }

    /// The report on the program itself.
    #[must_use]
    pub fn report(&self) -> &Report {
        self.report.as_ref().unwrap_or_else(|| panic!("there is no report\n{}", self.text()))
    }

    /// Fails the test unless the program ended with status 0.
    pub fn assert_success(&self) {
        let engine = self.report.as_ref().map(Report::summary).unwrap_or_default();
        assert!(self.status.success(), "{}\n{}{engine}", self.status, self.text());
    }

    /// Whether the program noticed that something was wrong, or died of it.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.status.code() == Some(1) || self.status.signal().is_some()
    }

    /// Fails the test unless the program wrote the same and ended the same way.
    pub fn assert_like(&self, other: &Outcome) {
        assert_eq!(self.status, other.status, "{}\n--- against\n{}", self.text(), other.text());
        for (ours, theirs) in [(&self.stdout, &other.stdout), (&self.stderr, &other.stderr)] {
            assert_eq!(String::from_utf8_lossy(ours), String::from_utf8_lossy(theirs));
        }
    }
}
