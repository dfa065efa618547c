//! Runs one command to its end within a time limit, and says what it printed and what processor time it took.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::children::{self, Group};

/// A command that ended well.
pub struct Finished {
    /// Everything on standard output.
    pub stdout: Vec<u8>,
    /// Seconds of user time, children it waited for included.
    pub user: f64,
    /// The same with system time.
    pub processor: f64,
}

/// Runs a command; failing, dying from a signal or outlasting `limit` is an error.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let line = format!("{command:?}");
    let errors = tempfile()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.try_clone()?);
    let (mut child, group) = children::spawn(command, libc::SIGKILL)?;
    let mut output = child.stdout.take().context("stdout was piped")?;
    let id = i32::try_from(child.id()).context("a pid fits an i32")?;
    let (finished, late) = watched(group, limit, || -> Result<_> {
        let mut stdout = Vec::new();
        output.read_to_end(&mut stdout)?;
        Ok((stdout, wait(id)?))
    });
    let (stdout, Ended { status, user, processor }) = finished.with_context(|| line.clone())?;
    ensure!(!late, "{line}: not done after {} s", limit.as_secs());
    ensure!(status.success(), "{line}: {status}\n{}", last_lines(&text_of(errors), 15));
    Ok(Finished { stdout, user, processor })
}

/// Runs a command with all its output going to `log`, and returns how it ended; outlasting `limit` is an
/// error.
pub fn logged(command: &mut Command, log: &Path, limit: Duration) -> Result<Ended> {
    let line = format!("{command:?}");
    let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let (child, group) = children::spawn(command, libc::SIGKILL)?;
    let id = i32::try_from(child.id()).context("a pid fits an i32")?;
    let (finished, late) = watched(group, limit, || wait(id));
    ensure!(!late, "{line}: not done after {} s; see {}", limit.as_secs(), log.display());
    finished
}

/// Runs `work` while a second thread kills the group once the limit is over; says whether it had to.
fn watched<T>(group: Group, limit: Duration, work: impl FnOnce() -> T) -> (T, bool) {
    let (done, waiting) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let late = waiting.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            // Also on time: whatever the command left behind in its group.
            drop(group);
            late
        });
        let result = work();
        drop(done);
        (result, watch.join().unwrap_or(true))
    })
}

/// How a child ended, and what it used.
pub struct Ended {
    /// Its exit status, or the signal that it died of.
    pub status: ExitStatus,
    /// Seconds of user time, children it waited for included.
    pub user: f64,
    /// The same with system time.
    pub processor: f64,
}

/// Waits for a child.
fn wait(pid: i32) -> Result<Ended> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value of that struct of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live locals of the right types, and pid is a child nobody else waits
        // for.
        let result = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        if result == pid {
            let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
            let user = seconds(usage.ru_utime);
            let processor = user + seconds(usage.ru_stime);
            return Ok(Ended { status: ExitStatus::from_raw(status), user, processor });
        }
        let error = std::io::Error::last_os_error();
        ensure!(error.kind() == std::io::ErrorKind::Interrupted, "waiting for {pid}: {error}");
    }
}

/// A nameless file for standard error: a pipe that nobody reads would block a talkative child.
fn tempfile() -> Result<File> {
    let path = std::env::temp_dir().join(format!("xtask-{}-{:?}", std::process::id(), thread::current().id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// The end of what may be long.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn text_of(mut file: File) -> String {
    use std::io::{Seek, SeekFrom};
    let mut text = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut text));
    read.map_or_else(|error| error.to_string(), |_| String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_time_come_back() {
        let mut command = Command::new("sh");
        command.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo $i"]);
        let done = run(&mut command, Duration::from_secs(60)).expect("it runs");
        assert_eq!(done.stdout, b"200000\n");
        assert!(done.user > 0.01 && done.user < 60.0, "{} s", done.user);
    }

    #[test]
    fn failure_tells_what_was_said() {
        let mut command = Command::new("sh");
        let error = run(command.args(["-c", "echo broken >&2; exit 3"]), Duration::from_secs(60)).err();
        assert!(error.is_some_and(|error| error.to_string().contains("broken")));
    }

    #[test]
    fn too_long_is_an_error() {
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(50)).err();
        assert!(error.is_some_and(|error| error.to_string().contains("not done")));
    }
}
