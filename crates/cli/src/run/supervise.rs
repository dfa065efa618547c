//! Staying behind: start the program as a child, wait, end as it ended.
//!
//! The child stays in our process group, so that the terminal and the shell treat both as one job: Ctrl-C
//! reaches the program directly, and when the program is stopped we stop too, so that the shell notices.

use std::io::{self, PipeReader, Read, Write};
use std::process::ExitCode;

use anyhow::Context;
use rustix::process::{Resource, Rlimit};

use super::exec::Program;
use super::signals::{self, Arrived, Before};
use crate::report::LastFigures;

/// How the program ended.
#[derive(Debug)]
pub enum Ending {
    /// It never ran.
    NotStarted(io::Error),
    /// With this exit code.
    Exited(u8),
    /// By this signal.
    Killed(libc::c_int),
}

/// Starts the program, waits for its end, and looks at the figures of its processes meanwhile; also returns
/// its pid. Signals are blocked by now; `before` is how they were.
pub fn supervise(program: &Program, before: &Before, last: &mut LastFigures) -> anyhow::Result<(u32, Ending)> {
    // Both ends are closed by exec.
    let (reader, mut writer) = io::pipe()?;
    // SAFETY: this process has a single thread, so the child may do whatever we may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("the program cannot be started as a child"),
        0 => {
            before.restore();
            let error = program.exec().raw_os_error().unwrap_or(libc::ENOEXEC);
            // There is nobody else to tell when this fails.
            let _ = writer.write_all(&error.to_ne_bytes());
            // SAFETY: ends this process at once; nothing of the parent's may be flushed or removed here.
            unsafe { libc::_exit(i32::from(crate::CANNOT_EXECUTE)) }
        }
        pid => {
            drop(writer);
            let failed = exec_error(reader);
            let ending = wait(pid, last);
            Ok((pid.cast_unsigned(), failed.map_or(ending, Ending::NotStarted)))
        }
    }
}

/// The error of the child's exec. The pipe is closed by a successful one.
fn exec_error(mut reader: PipeReader) -> Option<io::Error> {
    let mut number = [0; 4];
    reader.read_exact(&mut number).ok()?;
    Some(io::Error::from_raw_os_error(i32::from_ne_bytes(number)))
}

/// Hands on signals until the program has ended.
fn wait(pid: libc::pid_t, last: &mut LastFigures) -> Ending {
    loop {
        last.note_first(pid.cast_unsigned());
        // Before waiting too: its SIGCHLD may have come while the pipe was read.
        if let Some(ending) = drain(pid) {
            return ending;
        }
        last.look();
        if let Arrived::Sent(signal) = signals::next(last.pause()) {
            // SAFETY: the child has not been waited for to its end, so the pid is still its.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

/// Takes what the child has to tell without waiting.
pub fn drain(pid: libc::pid_t) -> Option<Ending> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is live.
        let told = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
        if told == 0 {
            return None;
        }
        if told == -1 {
            match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => continue,
                // Somebody else took it: then its exit code is lost.
                _ => return Some(Ending::Exited(crate::OWN_FAILURE)),
            }
        }
        if libc::WIFSTOPPED(status) {
            stop_too(libc::WSTOPSIG(status));
        } else if libc::WIFSIGNALED(status) {
            return Some(Ending::Killed(libc::WTERMSIG(status)));
        } else {
            return Some(Ending::Exited(libc::WEXITSTATUS(status).to_le_bytes()[0]));
        }
    }
}

/// Stops this process as the child was stopped. Returns when it is continued.
fn stop_too(signal: libc::c_int) {
    signals::take(signal);
}

impl Ending {
    /// Ends this process in the same way, or at least with the exit code a shell would show.
    pub fn imitate(self) -> ExitCode {
        match self {
            Self::Exited(code) => ExitCode::from(code),
            Self::NotStarted(_) => ExitCode::from(crate::CANNOT_EXECUTE),
            Self::Killed(signal) => {
                // The program has left its own core dump; ours would overwrite it.
                let none = Rlimit { current: Some(0), maximum: Some(0) };
                let _ = rustix::process::setrlimit(Resource::Core, none);
                let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
                signals::take(signal);
                ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
            }
        }
    }
}
