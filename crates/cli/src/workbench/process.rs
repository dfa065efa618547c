//! One run of a program: what it took, what it wrote, how it ended.
//!
//! Processor time comes from wait4(2): the process with its threads and those of its children that it waited
//! for. While a run lasts this process is a *subreaper*, so that children which their parent left behind
//! become ours; they are waited for and added too, for a moment. What the program writes goes through pipes
//! into a digest, not to disk, however much it is; the beginning is kept, to show where two runs differ. One
//! run at a time: whatever child ends meanwhile is taken for one that was left behind.

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::interrupt;

/// Bytes of output that are kept as they are.
const KEPT: usize = 1 << 20;
/// Children that were left behind are waited for no longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A program that does not end when it is asked to is killed.
const STUBBORN: Duration = Duration::from_secs(5);

/// So often it is looked whether we are to end.
const LOOK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// What a run took and did.
#[derive(Debug)]
pub struct Run {
    /// Seconds in the program.
    pub user: f64,
    /// Seconds in the kernel.
    pub system: f64,
    /// Seconds by the clock.
    pub wall: f64,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: Written,
    /// What it wrote to stderr.
    pub stderr: Written,
    /// Whether children of it were still there when it was no longer waited for: their time is not counted.
    pub is_survived: bool,
}

impl Run {
    /// Seconds of processor time.
    #[must_use]
    pub fn processor(&self) -> f64 {
        self.user + self.system
    }
}

/// What was written to a stream.
#[derive(Clone, Debug, Default)]
pub struct Written {
    hasher: DefaultHasher,
    bytes: u64,
    kept: Vec<u8>,
}

impl PartialEq for Written {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.hasher.finish() == other.hasher.finish()
    }
}

impl Written {
    /// Of a program that wrote this.
    #[cfg(test)]
    pub fn of(text: &str) -> Self {
        let mut written = Self::default();
        written.add(text.as_bytes());
        written
    }

    /// Takes in what was read.
    fn add(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
        self.bytes += bytes.len() as u64;
        let room = KEPT.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..room]);
    }

    /// Its beginning, as text.
    #[must_use]
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.kept)
    }

    /// Forgets the text; it can still be compared.
    pub fn forget_text(&mut self) {
        self.kept = Vec::new();
    }

    /// The first line in which two differ, from 1 on; nothing when that lies behind what was kept.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<usize> {
        let at = self.kept.iter().zip(&other.kept).position(|(a, b)| a != b);
        let shorter = self.kept.len().min(other.kept.len());
        let at = at.or((self.kept.len() != other.kept.len()).then_some(shorter))?;
        Some(1 + self.kept[..at].iter().filter(|&&byte| byte == b'\n').count())
    }
}

/// Runs a command to its end. Its stdin is the caller's business.
///
/// # Errors
/// When it cannot be started, or somebody wants us to stop.
pub fn run(mut command: Command) -> anyhow::Result<Run> {
    let ((out, out_end), (err, err_end)) = (io::pipe()?, io::pipe()?);
    command.stdout(out_end).stderr(err_end);
    let _reaping = Reaping::begin();
    let begun = Instant::now();
    let child = command.spawn()?;
    // With it go our copies of the pipes' other ends.
    drop(command);
    let pid = child.id().cast_signed();
    let watched = Pid::from_raw(pid).context("a process without a number")?;
    let ended = pidfd_open(watched, PidfdFlags::empty()).context("the program cannot be watched")?;
    let mut streams = [Stream::new(out), Stream::new(err)];
    let wall = watch(&ended, &mut streams, pid, begun)?;
    let (status, mut usage) = wait(pid)?;
    let is_survived = !reap(&mut usage, begun.elapsed())?;
    for stream in &mut streams {
        stream.drain()?;
    }
    let [stdout, stderr] = streams.map(|stream| stream.written);
    Ok(Run { user: usage.user, system: usage.system, wall, status, stdout, stderr, is_survived })
}

/// A pipe from the program.
struct Stream {
    pipe: Option<PipeReader>,
    written: Written,
}

impl Stream {
    fn new(pipe: PipeReader) -> Self {
        Self { pipe: Some(pipe), written: Written::default() }
    }

    /// Reads once.
    fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let mut buffer = [0; 1 << 16];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(length) => self.written.add(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What is in it now. Whoever is left behind may hold its other end for ever, and go on writing.
    fn drain(&mut self) -> io::Result<()> {
        let Some(pipe) = self.pipe.take() else { return Ok(()) };
        let mut bytes = Vec::new();
        let there = rustix::io::ioctl_fionread(&pipe)?;
        pipe.take(there).read_to_end(&mut bytes)?;
        self.written.add(&bytes);
        Ok(())
    }
}

/// Reads what the program writes until it ends; the seconds that took.
fn watch(ended: &OwnedFd, streams: &mut [Stream; 2], pid: libc::pid_t, begun: Instant) -> anyhow::Result<f64> {
    loop {
        let mut ready = [false; 3];
        let mut numbers = vec![0];
        let mut fds = vec![PollFd::new(ended, PollFlags::IN)];
        for (number, stream) in streams.iter().enumerate() {
            if let Some(pipe) = &stream.pipe {
                fds.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
                numbers.push(1 + number);
            }
        }
        match poll(&mut fds, Some(&LOOK)) {
            Ok(1..) => {}
            // A signal that came before the call does not wake it.
            Ok(_) | Err(rustix::io::Errno::INTR) => {
                end_if_asked(pid)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        for (fd, number) in fds.iter().zip(numbers) {
            ready[number] = !fd.revents().is_empty();
        }
        if ready[0] {
            return Ok(begun.elapsed().as_secs_f64());
        }
        for (stream, ready) in streams.iter_mut().zip(&ready[1..]) {
            if *ready {
                stream.read()?;
            }
        }
    }
}

/// Ends the program when we are to end.
fn end_if_asked(pid: libc::pid_t) -> anyhow::Result<()> {
    let Err(stop) = interrupt::check() else { return Ok(()) };
    // SAFETY: the child has not been waited for, so the number is still its own.
    let end = |signal| unsafe { libc::kill(pid, signal) };
    end(libc::SIGTERM);
    let begun = Instant::now();
    while wait4(pid, libc::WNOHANG)?.is_none() {
        if begun.elapsed() > STUBBORN {
            end(libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(stop)
}

/// Processor seconds.
#[derive(Clone, Copy, Default)]
struct Usage {
    user: f64,
    system: f64,
}

/// Waits for a child.
fn wait(pid: libc::pid_t) -> io::Result<(ExitStatus, Usage)> {
    loop {
        match wait4(pid, 0) {
            Ok(Some(found)) => return Ok(found),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
}

/// Adds children that were left to us. False when some are still there after a while.
fn reap(usage: &mut Usage, ran: Duration) -> anyhow::Result<bool> {
    let begun = Instant::now();
    loop {
        match wait4(-1, libc::WNOHANG) {
            Ok(Some((_, more))) => {
                usage.user += more.user;
                usage.system += more.system;
            }
            Ok(None) if begun.elapsed() > PATIENCE.min(ran + PATIENCE / 4) => return Ok(false),
            Ok(None) => {
                interrupt::check()?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait4(pid: libc::pid_t, options: libc::c_int) -> io::Result<Option<(ExitStatus, Usage)>> {
    // SAFETY: zeros are a valid rusage.
    let (mut status, mut usage) = (0, unsafe { std::mem::zeroed::<libc::rusage>() });
    // SAFETY: both are live for the call.
    match unsafe { libc::wait4(pid, &raw mut status, options, &raw mut usage) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        _ => {
            let usage = Usage { user: seconds(usage.ru_utime), system: seconds(usage.ru_stime) };
            Ok(Some((ExitStatus::from_raw(status), usage)))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a program's seconds")]
fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

/// While it is there, children that a descendant leaves behind become this process's own.
struct Reaping;

impl Reaping {
    fn begin() -> Self {
        Self::set(1);
        Self
    }

    fn set(on: libc::c_ulong) {
        // SAFETY: the call takes numbers alone. Where it is refused, such children are not counted.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, on, 0, 0, 0) };
    }
}

impl Drop for Reaping {
    fn drop(&mut self) {
        Self::set(0);
    }
}
