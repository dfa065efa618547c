//! Forked children: real processes, made by fork(2) in the middle of an execution, with copies of everything.
//!
//! In a child there is one thread. It runs only while a task of its parent's execution waits for it, step by
//! step: so the scheduler decides how the two processes take turns, and a seed repeats it.

use crate::world;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

const MORE: u8 = b'm';
const DONE: u8 = b'd';
const FAILED: u8 = b'f';

thread_local! {
    /// In a child: where it is told to go on, where it answers, and how many steps it may make.
    static CHILD: Cell<Option<(i32, i32)>> = const { Cell::new(None) };
    static STEPS: Cell<u8> = const { Cell::new(0) };
}

/// A child, seen from its parent.
pub struct Child {
    pid: libc::pid_t,
    tell: i32,
    hear: i32,
}

/// How it is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By libc, whose handlers let it wait for the engine's lock.
    Fork,
    /// By the system call, which nobody hears of.
    Raw,
}

fn pipe() -> (i32, i32) {
    let mut ends = [0; 2];
    // SAFETY: room for two numbers.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0, "no pipe");
    (ends[0], ends[1])
}

fn receive(from: i32) -> Option<u8> {
    let mut byte = 0u8;
    // SAFETY: room for a byte.
    (unsafe { libc::read(from, (&raw mut byte).cast(), 1) } == 1).then_some(byte)
}

fn send(to: i32, byte: u8) {
    // SAFETY: a byte.
    unsafe { libc::write(to, (&raw const byte).cast(), 1) };
}

fn close(descriptors: [i32; 2]) {
    for descriptor in descriptors {
        // SAFETY: ours.
        unsafe { libc::close(descriptor) };
    }
}

/// Whether this is a child.
pub fn in_one() -> bool {
    CHILD.get().is_some()
}

/// In a child: waits until it may make this step. False in the first process.
pub fn paced() -> bool {
    let Some((hear, tell)) = CHILD.get() else { return false };
    if STEPS.get() == 0 {
        send(tell, MORE);
        match receive(hear) {
            Some(steps) => STEPS.set(steps),
            // The parent is gone.
            None => exit(2),
        }
    }
    STEPS.set(STEPS.get() - 1);
    true
}

fn exit(status: i32) -> ! {
    // SAFETY: ends this process, without what its parent has registered.
    unsafe { libc::_exit(status) }
}

impl Child {
    /// Forks; the child does `work` and ends.
    pub fn make(way: Way, work: impl FnOnce()) -> Child {
        let ((child_hears, tell), (hear, child_tells)) = (pipe(), pipe());
        // SAFETY: the child goes on with this thread alone, which is what this is about.
        let pid = unsafe {
            match way {
                Way::Fork => libc::fork(),
                Way::Raw => libc::syscall(libc::SYS_fork) as libc::pid_t,
            }
        };
        assert!(pid >= 0, "no child");
        if pid != 0 {
            close([child_hears, child_tells]);
            return Child { pid, tell, hear };
        }
        close([hear, tell]);
        CHILD.set(Some((child_hears, child_tells)));
        world::be_alone();
        let outcome = catch_unwind(AssertUnwindSafe(work));
        send(child_tells, if outcome.is_ok() { DONE } else { FAILED });
        exit(i32::from(outcome.is_err()));
    }

    /// Lets the child make some `steps`; whether there is more to do.
    ///
    /// # Panics
    /// When something went wrong in it.
    pub fn go_on(&self, steps: u8) -> bool {
        match receive(self.hear) {
            Some(MORE) => {
                send(self.tell, steps.max(1));
                true
            }
            Some(DONE) => {
                assert_eq!(self.wait(), 0, "a child failed at its end");
                false
            }
            Some(FAILED) => panic!("a child failed (see above)"),
            _ => panic!("a child ended with wait status {:#x}", self.wait()),
        }
    }

    fn wait(&self) -> i32 {
        let mut status = 0;
        // SAFETY: our child.
        unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        close([self.tell, self.hear]);
        status
    }
}
