//! Threads of another process under ptrace(2).
//!
//! Threads are *seized*, which by itself neither stops nor signals them, and interrupted when they shall
//! stand still. A signal that arrives for a seized thread is passed on. `PTRACE_O_EXITKILL` is never set:
//! when this process dies, the kernel lets go of all threads, and they go on from where their registers say.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::refusal;

/// What a traced thread did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It stands still because it was interrupted.
    Interrupted,
    /// It stands still because all of its process was stopped, by this signal.
    GroupStop(i32),
    /// It is about to get this signal.
    Signal(i32),
    /// It enters or leaves a system call.
    SystemCall,
    /// It has ended.
    Ended,
}

/// What a thread does in a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SystemCall {
    /// It is about to make one.
    Entering,
    /// It has made one: the address behind the instruction, and the answer.
    Left { at: u64, answer: i64 },
}

/// A thread that is seized. Let go of when dropped.
#[derive(Debug)]
pub struct Thread {
    /// Its number.
    pub tid: i32,
    stopped: bool,
    ended: bool,
    /// A signal that it is to get when it goes on.
    signal: i32,
}

fn ptrace(request: libc::c_uint, tid: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: requests that read or write memory of this process get pointers to live values of the right
    // size.
    match unsafe { libc::ptrace(request, tid, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

impl Thread {
    /// Seizes thread `tid` of process `pid`; not one of another process that has got its number since.
    pub fn seize(pid: i32, tid: i32) -> io::Result<Self> {
        ptrace(libc::PTRACE_SEIZE, tid, 0, libc::PTRACE_O_TRACESYSGOOD as usize)?;
        let thread = Self { tid, stopped: false, ended: false, signal: 0 };
        // As long as it is seized it keeps its number.
        if !std::path::Path::new(&format!("/proc/{pid}/task/{tid}")).exists() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(thread)
    }

    /// What it did, if it did something.
    pub fn poll(&mut self) -> io::Result<Option<Event>> {
        let mut status = 0;
        // SAFETY: `status` is live.
        match unsafe { libc::waitpid(self.tid, &raw mut status, libc::__WALL | libc::WNOHANG) } {
            0 => Ok(None),
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(Some(self.note(status))),
        }
    }

    fn note(&mut self, status: i32) -> Event {
        if !libc::WIFSTOPPED(status) {
            self.stopped = false;
            self.ended = true;
            return Event::Ended;
        }
        self.stopped = true;
        let signal = libc::WSTOPSIG(status);
        match (status >> 16, signal) {
            (libc::PTRACE_EVENT_STOP, libc::SIGTRAP) => Event::Interrupted,
            (libc::PTRACE_EVENT_STOP, signal) => Event::GroupStop(signal),
            (0, signal) if signal == libc::SIGTRAP | 0x80 => Event::SystemCall,
            (_, signal) => Event::Signal(signal),
        }
    }

    /// Waits until it did something.
    pub fn wait(&mut self, deadline: Instant) -> anyhow::Result<Event> {
        loop {
            if let Some(event) = self.poll().context("the thread is gone")? {
                return Ok(event);
            }
            let now = Instant::now();
            if now >= deadline {
                bail!("thread {} does not come to a stop", self.tid);
            }
            await_news(deadline - now);
        }
    }

    /// Asks it to stand still; [`Self::settle`] waits for that.
    pub fn interrupt(&self) -> io::Result<()> {
        ptrace(libc::PTRACE_INTERRUPT, self.tid, 0, 0)
    }

    /// Waits until it stands still after [`Self::interrupt`]. False when it has ended.
    pub fn settle(&mut self, deadline: Instant) -> anyhow::Result<bool> {
        loop {
            let event = self.wait(deadline)?;
            let is_there = matches!(event, Event::Interrupted | Event::GroupStop(_) | Event::Ended);
            if !is_there && Instant::now() >= deadline {
                self.signal = if let Event::Signal(signal) = event { signal } else { 0 };
                self.resume()?;
                bail!("thread {} does not come to a stop for all its signals", self.tid);
            }
            match event {
                Event::Interrupted | Event::GroupStop(_) => return Ok(true),
                // Still before it: the interruption comes once the signal was taken.
                Event::Signal(signal) => self.go_on(libc::PTRACE_CONT, signal)?,
                Event::SystemCall => self.go_on(libc::PTRACE_CONT, 0)?,
                Event::Ended => return Ok(false),
            }
        }
    }

    fn go_on(&mut self, how: libc::c_uint, signal: i32) -> io::Result<()> {
        self.stopped = false;
        ptrace(how, self.tid, 0, signal.unsigned_abs() as usize)
    }

    /// Lets it go on.
    pub fn resume(&mut self) -> io::Result<()> {
        let signal = std::mem::take(&mut self.signal);
        if self.stopped { self.go_on(libc::PTRACE_CONT, signal) } else { Ok(()) }
    }

    /// Lets it go on to the next system call, with a signal or 0.
    pub fn resume_to_system_call(&mut self, signal: i32) -> io::Result<()> {
        self.go_on(libc::PTRACE_SYSCALL, signal)
    }

    /// Passes on what has arrived for it while it was to run.
    pub fn pump(&mut self) -> io::Result<()> {
        match self.poll()? {
            Some(Event::Signal(signal)) => self.go_on(libc::PTRACE_CONT, signal),
            // A stop of the whole process: it shall stay stopped, as without us.
            Some(Event::GroupStop(_)) => {
                self.stopped = false;
                ptrace(libc::PTRACE_LISTEN, self.tid, 0, 0)
            }
            Some(Event::Ended) => Err(io::ErrorKind::NotFound.into()),
            Some(_) => self.resume(),
            None => Ok(()),
        }
    }

    /// Its registers.
    pub fn registers(&self) -> io::Result<libc::user_regs_struct> {
        // SAFETY: plain integers, all of whose values are valid.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETREGS, self.tid, 0, (&raw mut registers) as usize)?;
        Ok(registers)
    }

    /// Sets its registers, all at once.
    pub fn set_registers(&self, registers: &libc::user_regs_struct) -> io::Result<()> {
        ptrace(libc::PTRACE_SETREGS, self.tid, 0, std::ptr::from_ref(registers) as usize)
    }

    /// The signals that it blocks when it is in no system call.
    pub fn blocked_signals(&self) -> io::Result<u64> {
        const GETSIGMASK: libc::c_uint = 0x420a;
        let mut mask = 0_u64;
        ptrace(GETSIGMASK, self.tid, size_of::<u64>(), (&raw mut mask) as usize)?;
        Ok(mask)
    }

    /// Lets it block these signals.
    pub fn block_signals(&self, mask: u64) -> io::Result<()> {
        const SETSIGMASK: libc::c_uint = 0x420b;
        ptrace(SETSIGMASK, self.tid, size_of::<u64>(), (&raw const mask) as usize)
    }

    /// A word of its memory, as *it* sees it now.
    pub fn peek(&self, at: u64) -> io::Result<u64> {
        // The raw call, unlike libc's function, stores the word.
        let mut word = 0_u64;
        // SAFETY: the kernel writes one word to `word`.
        let answer =
            unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKTEXT, self.tid, at, (&raw mut word) as usize) };
        if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(word) }
    }

    /// Which system call stop it is in.
    pub fn system_call(&self) -> io::Result<SystemCall> {
        const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
        const EXIT: u8 = 2;
        // struct ptrace_syscall_info: op, pad, arch, instruction_pointer, stack_pointer, then the answer.
        let mut info = [0_u64; 11];
        ptrace(GET_SYSCALL_INFO, self.tid, size_of_val(&info), (&raw mut info) as usize)?;
        let op = info[0].to_le_bytes()[0];
        let left = SystemCall::Left { at: info[1], answer: info[3].cast_signed() };
        Ok(if op == EXIT { left } else { SystemCall::Entering })
    }

    fn let_go(&mut self) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        if !self.stopped {
            self.interrupt()?;
            let deadline = Instant::now() + Duration::from_millis(200);
            if !self.settle(deadline).map_err(io::Error::other)? {
                return Ok(());
            }
        }
        self.stopped = false;
        ptrace(libc::PTRACE_DETACH, self.tid, 0, self.signal.unsigned_abs() as usize)
    }
}

/// Threads that could not be let go of: asked to stand still, they had not come to it.
/// [`let_go_of_late_ones`].
static LATE: Mutex<Vec<Thread>> = Mutex::new(Vec::new());

impl Drop for Thread {
    fn drop(&mut self) {
        if self.let_go().is_err() && !self.ended {
            let Self { tid, stopped, ended, signal } = *self;
            let mut late = LATE.lock().unwrap_or_else(PoisonError::into_inner);
            late.push(Self { tid, stopped, ended, signal });
        }
    }
}

/// Lets go of threads that have come to a stop since they were dropped. To be called from time to time by
/// whoever goes on after that: until then they stand still. When this process ends, the kernel lets go of
/// them.
pub fn let_go_of_late_ones() {
    let late = std::mem::take(&mut *LATE.lock().unwrap_or_else(PoisonError::into_inner));
    for mut thread in late {
        match thread.poll() {
            // Dropped for good, or, when it runs on towards its stop, noted again.
            Ok(Some(Event::Signal(signal))) => thread.signal = signal,
            Ok(_) => {}
            Err(_) => thread.ended = true,
        }
    }
}

fn child_signal() -> libc::sigset_t {
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        set
    }
}

/// Sees to it that what threads do is noticed at once: by a signal that [`await_news`] takes, and ahead of
/// other programs if we may. Threads stand still while we wait to be scheduled.
pub fn be_quick() {
    let news = child_signal();
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: both are live; a refusal changes nothing.
    unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &raw const news, std::ptr::null_mut());
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters);
    }
}

/// Waits until some thread has done something.
fn await_news(longest: Duration) {
    let longest = longest.min(Duration::from_millis(100));
    let longest = libc::timespec { tv_sec: 0, tv_nsec: i64::from(longest.subsec_nanos()) };
    let news = child_signal();
    // SAFETY: both are live.
    unsafe { libc::sigtimedwait(&raw const news, std::ptr::null_mut(), &raw const longest) };
}

/// Numbers of the threads of process `pid`.
pub fn threads_of(pid: i32) -> io::Result<Vec<i32>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Whether a thread runs no program any more.
fn is_dead(pid: i32, tid: i32) -> bool {
    matches!(refusal::state_of_thread(pid, tid), None | Some('Z' | 'X'))
}

/// All other threads of a process, standing still. They go on when this is dropped.
#[derive(Debug)]
pub struct Others {
    threads: Vec<Thread>,
    /// When the first one was asked to stand still.
    pub begun: Instant,
}

impl Others {
    /// Lets all threads of process `pid` stand still; `first` is one that is seized already.
    ///
    /// A thread that waits for a vfork child cannot: then, after `patience`, everything goes on and this is
    /// an error. Those that did not stand still in time are in `late`, to be tried again.
    pub fn stop(pid: i32, first: &mut Thread, patience: Duration, late: &mut Vec<Thread>) -> anyhow::Result<Self> {
        let deadline = Instant::now() + patience;
        let mut known: HashSet<i32> = late.iter().map(|thread| thread.tid).chain([first.tid]).collect();
        let mut all = Self { threads: Vec::new(), begun: Instant::now() };
        // Seizing costs time and stops nobody: it comes first.
        let mut fresh = std::mem::take(late);
        fresh.extend(seize_new(pid, &mut known)?);
        all.begun = Instant::now();
        let settled = all.settle(pid, first, &mut fresh, &mut known, deadline);
        if settled.is_err() {
            late.append(&mut fresh);
            // It may not have come to that.
            let _ = first.resume();
        }
        settled.map(|()| all)
    }

    /// Moves threads from `fresh` to the others as they stand still, and looks for those that were made
    /// meanwhile.
    fn settle(
        &mut self,
        pid: i32,
        first: &mut Thread,
        fresh: &mut Vec<Thread>,
        known: &mut HashSet<i32>,
        deadline: Instant,
    ) -> anyhow::Result<()> {
        first.interrupt()?;
        // One that has ended since says so when it is waited for.
        fresh.iter().for_each(|thread| drop(thread.interrupt()));
        if !first.settle(deadline)? {
            bail!("the process has ended");
        }
        while !fresh.is_empty() {
            if Instant::now() >= deadline {
                bail!("it makes new threads all the time");
            }
            while let Some(mut thread) = fresh.pop() {
                match thread.settle(deadline) {
                    Ok(true) => self.threads.push(thread),
                    Ok(false) => {}
                    Err(error) => {
                        fresh.push(thread);
                        return Err(error);
                    }
                }
            }
            *fresh = seize_new(pid, known)?;
            fresh.iter().for_each(|thread| drop(thread.interrupt()));
        }
        Ok(())
    }

    /// Them.
    pub fn iter(&self) -> impl Iterator<Item = &Thread> {
        self.threads.iter()
    }
}

fn seize_new(pid: i32, known: &mut HashSet<i32>) -> anyhow::Result<Vec<Thread>> {
    let mut fresh = Vec::new();
    for tid in threads_of(pid)? {
        if !known.insert(tid) {
            continue;
        }
        match Thread::seize(pid, tid) {
            Ok(thread) => fresh.push(thread),
            Err(_) if is_dead(pid, tid) => {}
            Err(error) => return Err(error).with_context(|| format!("thread {tid} cannot be traced")),
        }
    }
    Ok(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeWriter, pipe};
    use std::os::fd::AsRawFd;

    /// A process that waits for its vfork child, which waits for the other end of the pipe to be closed.
    /// Nothing can stop a thread that waits so.
    fn in_vfork() -> (i32, PipeWriter) {
        let (read, write) = pipe().unwrap();
        let mut byte = 0_u8;
        // SAFETY: the child makes system calls only.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: as above; without CLONE_VM this is a fork whose parent waits.
            unsafe {
                libc::close(write.as_raw_fd());
                let flags = libc::CLONE_VFORK | libc::SIGCHLD;
                if libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) == 0 {
                    libc::read(read.as_raw_fd(), (&raw mut byte).cast(), 1);
                    libc::_exit(0);
                }
                loop {
                    libc::pause();
                }
            }
        }
        (pid, write)
    }

    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_traced(pid: i32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        !status.contains("TracerPid:\t0\n")
    }

    #[test]
    fn a_thread_that_stops_late_goes_on_in_the_end() {
        let (pid, busy) = in_vfork();
        until("it waits for its child", || refusal::state_of_thread(pid, pid) == Some('D'));
        let thread = Thread::seize(pid, pid).unwrap();
        thread.interrupt().unwrap();
        drop(thread);
        let_go_of_late_ones();
        assert!(is_traced(pid), "it has not come to its stop yet, and cannot be let go of");
        drop(busy);
        until("it is let go of", || {
            let_go_of_late_ones();
            !is_traced(pid)
        });
        until("it runs", || refusal::state_of_thread(pid, pid) == Some('S'));
        // SAFETY: it is our child, and nobody else waits for it.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
    }
}
