//! A process that is being worked on: one of its threads is seized for as long as that lasts, so that nobody
//! else can trace it meanwhile, and no second `relpoline` either.
//!
//! It is the process that was looked at, not another one that has got its number since: that is asked once a
//! thread is seized (by a descriptor of the process, where the kernel has those, and by its start), and from
//! then on its number stays its own, since nobody but us can take note of that thread's end. Its memory is a
//! descriptor, too.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::PidfdFlags;

use super::hijack::{self, Call};
use super::loader::{Loaded, Loader};
use super::memory::{Memory, PAGE, Space as _};
use super::refusal;
use super::tracee::{self, Others, Thread, threads_of};
use crate::live::patience::{Patience, hasty};
use crate::live::process::Process;

/// A thread that does not stand still within this time is left alone.
const SOON: Duration = Duration::from_millis(50);
/// After this time without success everything is given up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Nothing takes longer altogether, whatever the process does.
pub const LONGEST: Duration = Duration::from_secs(120);

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    /// The process.
    pub pid: i32,
    thread: Thread,
    /// Threads that were asked to stand still and did not do so in time.
    late: Vec<Thread>,
    /// Its memory.
    pub memory: Memory,
    /// Its loader.
    pub loader: Loader,
    /// A place for code, and what is there.
    room: (u64, Vec<u8>),
    /// How long threads of it stood still, and what for.
    pub stops: Vec<(&'static str, Duration)>,
    deadline: Instant,
    _patience: Patience,
}

/// A process as it was looked at.
struct Identity {
    process: Process,
    /// None where the kernel has none.
    descriptor: Option<OwnedFd>,
}

impl Identity {
    fn of(pid: i32) -> anyhow::Result<Self> {
        let gone = || format!("there is no process {pid}");
        let number = rustix::process::Pid::from_raw(pid).with_context(gone)?;
        // First of all: what is looked at by its number is then the same process, or one that came later.
        let descriptor = rustix::process::pidfd_open(number, PidfdFlags::empty()).ok();
        let process = Process::of(pid.unsigned_abs()).with_context(gone)?;
        Ok(Self { process, descriptor })
    }

    /// Whether its number is still its own.
    fn is_there(&self) -> bool {
        let is_open = self.descriptor.as_ref().is_none_or(|descriptor| {
            // SAFETY: signal 0 is none, and no information is passed: the kernel only looks whether the
            // process is there.
            let answer = unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    descriptor.as_raw_fd(),
                    0,
                    std::ptr::null::<libc::siginfo_t>(),
                    0,
                )
            };
            answer == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
        });
        is_open && self.process.is_there()
    }
}

impl Session {
    /// Begins to work on process `pid`.
    ///
    /// # Errors
    /// Why that cannot or must not be.
    pub fn open(pid: i32) -> anyhow::Result<Self> {
        Self::open_as(pid, None)
    }

    /// The same for a process that was looked at before.
    ///
    /// # Errors
    /// As above, or when another one has its number now.
    pub fn open_as(pid: i32, known: Option<&Process>) -> anyhow::Result<Self> {
        // For what no deadline of ours ends.
        let patience = Patience::of(LONGEST + LONGEST / 4);
        refusal::look(pid)?;
        let identity = Identity::of(pid)?;
        tracee::be_quick();
        let thread = seize_one(pid)?;
        // Once more: it was anybody's before.
        refusal::look_closely(pid)?;
        let memory = Memory::open(pid).map_err(|error| refusal::of_tracing(pid, &error))?;
        let is_known = known.is_none_or(|known| known.started == identity.process.started);
        ensure!(
            is_known && identity.is_there(),
            "process {pid} is another one now than it was a moment ago; try again"
        );
        let senseless = || format!("process {pid}: what its loader has mapped cannot be told");
        let loader = Loader::find(pid, &memory).with_context(senseless)?;
        let at = room(&memory, &loader.objects(&memory).with_context(senseless)?)?;
        let own = memory.bytes(at, hijack::ROOM)?;
        let deadline = Instant::now() + hasty(LONGEST);
        let (late, stops) = (Vec::new(), Vec::new());
        let mut session =
            Self { pid, thread, late, memory, loader, room: (at, own), stops, deadline, _patience: patience };
        session.clear_room()?;
        Ok(session)
    }

    /// Passes signals on to threads that are seized.
    pub fn pump(&mut self) -> anyhow::Result<()> {
        ensure!(Instant::now() < self.deadline, "it takes far too long; try again");
        self.late.retain_mut(|thread| thread.pump().is_ok());
        self.thread.pump().context("the process has ended")
    }

    /// Lets a thread of the process make system calls.
    pub fn call(&mut self, what: &'static str, calls: &[Call]) -> anyhow::Result<Vec<i64>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.pump()?;
            let begun = Instant::now();
            self.thread.interrupt()?;
            let answers = if self.thread.settle(begun + SOON).is_ok_and(|alive| alive) {
                let answers = hijack::run(&mut self.thread, &self.memory, self.room.0, calls);
                self.thread.resume()?;
                Some(answers)
            } else {
                self.call_on_another(calls)
            };
            if let Some(answers) = answers {
                self.stops.push((what, begun.elapsed()));
                return answers;
            }
            ensure!(
                begun < deadline,
                "none of its threads comes to a stop: they wait for a child made by vfork, or for a device; try again"
            );
        }
    }

    /// Puts back what was there before [`Self::call`], when no thread can be on its way through it any more.
    pub fn leave_room(&self) -> anyhow::Result<()> {
        Ok(self.memory.write(self.room.0, &self.room.1)?)
    }

    /// The thread that is seized cannot stand still now: it may wait for a vfork child. `None` when no other
    /// can. Those that do not come in time stay seized, since they may come to a stop any moment now.
    fn call_on_another(&mut self, calls: &[Call]) -> Option<anyhow::Result<Vec<i64>>> {
        for tid in threads_of(self.pid).ok()? {
            let Ok(mut thread) = Thread::seize(self.pid, tid) else { continue };
            match thread.interrupt().map_err(Into::into).and_then(|()| thread.settle(Instant::now() + SOON)) {
                Ok(true) => return Some(hijack::run(&mut thread, &self.memory, self.room.0, calls)),
                Ok(false) => {}
                Err(_) => self.late.push(thread),
            }
        }
        None
    }

    /// Waits until no thread executes what a killed predecessor of ours has left in the room.
    fn clear_room(&mut self) -> anyhow::Result<()> {
        if !self.room.1.ends_with(&hijack::MARK) {
            return Ok(());
        }
        self.room.1.fill(0);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let others = self.stop_all()?;
            let in_use = self.is_room_in_use(&others);
            drop(others);
            self.go_on()?;
            if !in_use? {
                return Ok(self.memory.write(self.room.0, &self.room.1)?);
            }
            ensure!(Instant::now() < deadline, "a thread does not come out of what a killed relpoline began");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_room_in_use(&self, others: &Others) -> anyhow::Result<bool> {
        let mut all = others.iter().chain([&self.thread]);
        all.try_fold(false, |used, thread| Ok(used || hijack::is_in_room(thread, self.room.0)?))
    }

    /// Lets all threads stand still. They go on when what is returned is dropped and [`Self::go_on`] is
    /// called.
    pub fn stop_all(&mut self) -> anyhow::Result<Others> {
        let deadline = Instant::now() + PATIENCE;
        let mut patience = SOON;
        loop {
            self.pump()?;
            let begun = Instant::now();
            match Others::stop(self.pid, &mut self.thread, patience, &mut self.late) {
                Ok(others) => return Ok(others),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context("its threads do not stand still; try again"));
                }
                Err(_) => {
                    self.stops.push(("waiting in vain for one thread", begun.elapsed()));
                    // Where there are many threads and few processors it takes longer.
                    patience = (2 * patience).min(Duration::from_secs(1));
                    self.let_late_ones_come(deadline)?;
                }
            }
        }
    }

    /// Waits, while everything runs, for as long as one of the late threads cannot stand still whatever we
    /// do: it waits for a vfork child, or for a device.
    fn let_late_ones_come(&mut self, deadline: Instant) -> anyhow::Result<()> {
        loop {
            std::thread::sleep(Duration::from_millis(5));
            self.pump()?;
            let is_deep = |thread: &Thread| refusal::state_of_thread(self.pid, thread.tid) == Some('D');
            if Instant::now() >= deadline || !self.late.iter().chain([&self.thread]).any(is_deep) {
                return Ok(());
            }
        }
    }

    /// Lets the seized thread go on.
    pub fn go_on(&mut self) -> anyhow::Result<()> {
        self.thread.resume().context("the process has ended")
    }

    /// The seized thread, which stands still with the others.
    pub fn thread(&self) -> &Thread {
        &self.thread
    }

    /// How long threads stood still altogether.
    pub fn stopped(&self) -> Duration {
        self.stops.iter().map(|stop| stop.1).sum()
    }
}

/// A place for code: behind the end of some object's, in the same page.
fn room(memory: &Memory, objects: &[Loaded]) -> anyhow::Result<u64> {
    let mappings = memory.mappings()?;
    let is_of_file =
        |at: u64| mappings.iter().any(|m| m.inode != 0 && m.access == "r-xp" && (m.start..m.end).contains(&at));
    let texts = objects.iter().flat_map(|object| object.segments.iter().filter(|segment| segment.is_text()));
    let mut ends = texts.filter_map(|text| text.start.checked_add(text.size)?.checked_next_multiple_of(16));
    let found = ends.find(|&end| end % PAGE != 0 && end % PAGE + hijack::ROOM as u64 <= PAGE && is_of_file(end));
    found.context("there is no room behind the code of any of its libraries")
}

/// Seizes the main thread, or, when that has ended before the others, another one.
fn seize_one(pid: i32) -> anyhow::Result<Thread> {
    let first = Thread::seize(pid, pid);
    let error = match first {
        Ok(thread) => return Ok(thread),
        Err(error) => error,
    };
    let mut others = threads_of(pid).unwrap_or_default().into_iter().filter(|&tid| tid != pid);
    if refusal::main_thread_has_ended(pid)
        && let Some(thread) = others.find_map(|tid| Thread::seize(pid, tid).ok())
    {
        return Ok(thread);
    }
    Err(refusal::of_tracing(pid, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_not_its_number() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = Identity::of(child.id().cast_signed()).unwrap();
        assert!(identity.is_there());
        // Of the same number, but started at another time.
        let process = Process { started: identity.process.started + 1, ..identity.process.clone() };
        assert!(!Identity { process, descriptor: None }.is_there());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!identity.is_there());
        // The descriptor alone tells, too.
        let process = Process::of(std::process::id()).unwrap();
        assert!(!Identity { process, descriptor: identity.descriptor }.is_there());
    }
}
