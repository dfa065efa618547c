//! Programs that run while `relpoline` works on them from outside.
//!
//! They say on stdout when they are ready, and end when their stdin does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use crate::tool;

/// A program that runs. Killed when dropped.
#[derive(Debug)]
pub struct Living {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// What it said when it was ready.
    pub said: String,
}

impl Living {
    /// Starts `command` and waits for its first line.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("it has a stdout"));
        let mut said = String::new();
        stdout.read_line(&mut said).expect("its stdout can be read");
        Self { child, stdin, stdout, said: said.trim_end().to_owned() }
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_none()
    }

    /// Tells it something and waits for its answer, a line.
    pub fn tell(&mut self, what: &str) -> String {
        let stdin = self.stdin.as_mut().expect("it was not told to end");
        stdin.write_all(what.as_bytes()).expect("it reads");
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("its stdout can be read");
        answer.trim_end().to_owned()
    }

    /// Lets it end: whether it did so in an orderly way, having said `last`.
    pub fn ends_with(mut self, last: &str) -> bool {
        drop(self.stdin.take());
        let mut rest = String::new();
        let _ = self.stdout.read_to_string(&mut rest);
        self.child.wait().expect("it can be waited for").success() && rest.trim_end() == last
    }

    /// Runs `relpoline VERB … PID`.
    #[must_use]
    pub fn relpoline(&self, arguments: &[&str]) -> Output {
        relpoline(arguments, &self.pid().to_string())
    }

    /// Likewise; it must succeed.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.relpoline(arguments);
        let text = text(&output);
        assert!(output.status.success(), "{arguments:?}: {}: {text}", output.status);
        text
    }

    /// Executable mappings of files whose bytes are not those of the file, with how many are not.
    #[must_use]
    pub fn changed_text(&self) -> Vec<(String, usize)> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid())).expect("it runs");
        let mut memory = File::open(format!("/proc/{}/mem", self.pid())).expect("its memory can be read");
        let mut changed = Vec::new();
        for line in maps.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [range, "r-xp", offset, _, _, path] = fields[..] else { continue };
            let number = |text| u64::from_str_radix(text, 16).expect("maps have numbers");
            let (start, end) = range.split_once('-').map(|(a, b)| (number(a), number(b))).expect("a range");
            // A library that is being loaded and unloaded may be gone by now.
            let Ok(mut file) = File::open(path) else { continue };
            let (mut there, mut here) = (vec![0; (end - start) as usize], Vec::new());
            memory.seek(SeekFrom::Start(start)).expect("it can be sought");
            if memory.read_exact(&mut there).is_err() {
                continue;
            }
            file.seek(SeekFrom::Start(number(offset))).expect("it can be sought");
            file.take(end - start).read_to_end(&mut here).expect("it can be read");
            here.resize(there.len(), 0);
            let count = there.iter().zip(&here).filter(|(a, b)| a != b).count();
            if count != 0 {
                changed.push((path.to_owned(), count));
            }
        }
        changed
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `relpoline` with these arguments and a process.
#[must_use]
pub fn relpoline(arguments: &[&str], pid: &str) -> Output {
    Command::new(tool::relpoline()).args(arguments).arg(pid).output().expect("relpoline can be started")
}

/// What a command said.
#[must_use]
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether a program of the system's is installed.
#[must_use]
pub fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|part| Path::new(&part).join(program).exists()))
}
