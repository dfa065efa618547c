//! Grace periods: waiting until everybody who might still use what was unpublished has let go of it.
//!
//! A *reader* brackets its use of shared things by [`Reader::enter`] and [`Reader::leave`]; a *writer*
//! unpublishes something and calls [`Domain::wait`], after which no reader holds it. Readers never wait and,
//! where `membarrier` exists, pay two plain stores: the writer's expedited barrier makes every running thread
//! order its own store against its later loads, which is the fence that readers leave out.
//!
//! ```text
//! reader   own phase = current phase   (compiler fence)   load published things, use them   own phase = 0
//! writer   unpublish · current phase += 1 · membarrier · for each reader: until phase == 0 or ≥ current
//! ```
//!
//! A reader that has loaded the current phase but not yet stored it when the barrier passes is not waited
//! for. It need not be: what it loads after its store, it loads after the barrier, and so finds it gone.
//!
//! The barrier is `PRIVATE_EXPEDITED_SYNC_CORE`, which also makes every core execute a serialising
//! instruction before it returns to the program: code written before the wait is what is fetched after it.
//!
//! A seccomp filter may refuse the barrier later, although the kernel had registered the process for it. Then
//! it is given up for ever: from the next [`Reader::enter`] on readers fence themselves, and for those who
//! are inside without having fenced the writer sleeps for a time in which any store gets out of its
//! processor, and nearly every processor has its timer's interrupt, which serialises. (A filter that kills is
//! the program's own death.)
//!
//! Readers are registered for ever (a static list that only grows); a thread that ends leaves its reader to
//! the next one.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering, compiler_fence, fence};
use rustix::thread::{MembarrierCommand, NanosleepRelativeResult, Timespec};

/// One thread's mark. Its owner alone writes the phase.
#[derive(Debug)]
#[repr(align(128))]
pub struct Reader {
    /// 0 outside, else the phase in which the thread entered.
    phase: AtomicU64,
    taken: AtomicBool,
    next: AtomicPtr<Reader>,
}

/// All readers of a kind of thing, and the phase they are in.
#[derive(Debug)]
pub struct Domain {
    phase: AtomicU64,
    readers: AtomicPtr<Reader>,
}

/// Whether expedited barriers can be had: one of the following.
static EXPEDITED: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
/// Readers do not fence.
const YES: u8 = 1;
const NO: u8 = 2;
/// They could be had until a moment ago, and some readers may not have fenced.
const NO_MORE: u8 = 3;

/// A time in which every processor that runs has an interrupt, unless it was told to do without: several
/// ticks of the slowest clock, 100 Hz.
const TICKS: i64 = 50_000_000;

fn expedited() -> u8 {
    let known = EXPEDITED.load(Ordering::Acquire);
    if known != UNKNOWN {
        return known;
    }
    let asked = rustix::thread::membarrier(MembarrierCommand::RegisterPrivateExpeditedSyncCore);
    let answer = if asked.is_ok() { YES } else { NO };
    // Another thread may have asked, and given up since.
    EXPEDITED
        .compare_exchange(UNKNOWN, answer, Ordering::SeqCst, Ordering::Acquire)
        .map_or_else(|seen| seen, |_| answer)
}

/// Whether readers order their accesses by themselves: the kernel's barrier cannot be had, or not any more.
#[must_use]
pub fn readers_fence() -> bool {
    expedited() != YES
}

/// Makes every thread of the process execute a serialising instruction: what was written to code before is
/// what each of them fetches afterwards. Without kernel support it orders memory only; x86-64 then still
/// sees single aligned words whole, and new code soon.
pub fn sync_cores() {
    fence(Ordering::SeqCst);
    let barrier = || rustix::thread::membarrier(MembarrierCommand::PrivateExpeditedSyncCore);
    match expedited() {
        YES if barrier().is_ok() => {}
        YES | NO_MORE => give_up_barriers(),
        _ => {}
    }
}

/// Lets readers fence from now on, and those who did not be ordered by interrupts.
fn give_up_barriers() {
    // The broken variant that the tests must catch: a barrier that is refused is taken for one.
    if cfg!(relpoline_broken = "barrier-refused") {
        return;
    }
    // Whoever comes meanwhile sleeps as well: its own readers may not have fenced.
    EXPEDITED.store(NO_MORE, Ordering::SeqCst);
    sleep(TICKS);
    EXPEDITED.store(NO, Ordering::SeqCst);
}

impl Reader {
    /// A reader nobody has taken yet.
    #[must_use]
    pub const fn new() -> Reader {
        Reader { phase: AtomicU64::new(0), taken: AtomicBool::new(false), next: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// Marks the beginning of use. Must not be called again before [`Reader::leave`].
    #[inline]
    pub fn enter(&self, domain: &Domain) {
        self.phase.store(domain.phase.load(Ordering::Acquire), Ordering::Relaxed);
        if EXPEDITED.load(Ordering::Relaxed) == YES {
            // The writer's barrier does the rest.
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// Marks the end of use.
    #[inline]
    pub fn leave(&self) {
        self.phase.store(0, Ordering::Release);
    }

    /// Whether its thread is inside.
    #[inline]
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.phase.load(Ordering::Relaxed) != 0
    }

    /// Lets another thread have this reader.
    pub fn give_back(&self) {
        self.leave();
        self.taken.store(false, Ordering::Release);
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Domain {
    /// A domain without readers.
    #[must_use]
    pub const fn new() -> Domain {
        Domain { phase: AtomicU64::new(1), readers: AtomicPtr::new(core::ptr::null_mut()) }
    }

    fn readers(&self) -> impl Iterator<Item = &Reader> {
        let mut at = self.readers.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            // SAFETY: `register` takes references that live for ever, and nothing is ever taken out.
            let reader = unsafe { at.as_ref() }?;
            at = reader.next.load(Ordering::Acquire);
            Some(reader)
        })
    }

    /// A reader that an ended thread gave back.
    pub fn take_idle(&'static self) -> Option<&'static Reader> {
        expedited();
        self.readers().find(|r| r.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok())
    }

    /// Adds `reader`, taken by the caller. To be called once per reader.
    pub fn register(&self, reader: &'static Reader) {
        expedited();
        reader.taken.store(true, Ordering::Relaxed);
        let mut head = self.readers.load(Ordering::Acquire);
        loop {
            reader.next.store(head, Ordering::Release);
            let new = core::ptr::from_ref(reader).cast_mut();
            match self.readers.compare_exchange(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// In a forked child, which has one thread: lets go of the readers of all others, and asks anew for
    /// barriers, since a registration may end with the process that made it. `mine` is the calling thread's
    /// reader, if it has one.
    pub fn keep_only(&self, mine: Option<&Reader>) {
        EXPEDITED.store(UNKNOWN, Ordering::SeqCst);
        expedited();
        let others = self.readers().filter(|reader| mine.is_none_or(|mine| !core::ptr::eq(*reader, mine)));
        others.for_each(Reader::give_back);
    }

    /// Begins a grace period: the ticket is to be given to [`Domain::has_passed`].
    pub fn begin(&self) -> u64 {
        let ticket = self.phase.fetch_add(1, Ordering::SeqCst) + 1;
        sync_cores();
        ticket
    }

    /// Whether everybody who was inside at [`Domain::begin`] has left.
    #[must_use]
    pub fn has_passed(&self, ticket: u64) -> bool {
        self.readers().all(|r| {
            let phase = r.phase.load(Ordering::Acquire);
            phase == 0 || phase >= ticket
        })
    }

    /// Waits for one grace period. The caller must not be inside itself, or it waits for ever.
    pub fn wait(&self) {
        let ticket = self.begin();
        let mut rounds = 0u32;
        while !self.has_passed(ticket) {
            rounds += 1;
            match rounds {
                0..200 => core::hint::spin_loop(),
                200..2000 => rustix::thread::sched_yield(),
                // A reader is off its core, or runs for long.
                _ => sleep(50_000),
            }
        }
        fence(Ordering::SeqCst);
    }
}

/// Sleeps for less than a second, whatever signals come; where that is refused it lets time pass.
fn sleep(nanoseconds: i64) {
    let mut time = Timespec { tv_sec: 0, tv_nsec: nanoseconds };
    loop {
        match rustix::thread::nanosleep(&time) {
            NanosleepRelativeResult::Interrupted(rest) => time = rest,
            NanosleepRelativeResult::Ok => return,
            // A pause lasts ten cycles or more, and there are less than three in a nanosecond.
            NanosleepRelativeResult::Err(_) => return (0..nanoseconds / 2).for_each(|_| core::hint::spin_loop()),
        }
    }
}

impl Default for Domain {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Values are poisoned one grace period after they were replaced; no reader may ever see the poison.
    #[test]
    fn nothing_is_seen_after_its_grace_period() {
        static DOMAIN: Domain = Domain::new();
        let value = Arc::new(AtomicPtr::new(Box::into_raw(Box::new(AtomicU64::new(1)))));
        let stop = Arc::new(AtomicBool::new(false));
        let threads: std::vec::Vec<_> = (0..3)
            .map(|_| {
                let (value, stop) = (value.clone(), stop.clone());
                std::thread::spawn(move || {
                    let reader = DOMAIN.take_idle().unwrap_or_else(|| {
                        let reader = Box::leak(Box::new(Reader::new()));
                        DOMAIN.register(reader);
                        reader
                    });
                    while !stop.load(Ordering::Relaxed) {
                        reader.enter(&DOMAIN);
                        // SAFETY: the value is leaked, not freed: poison stands for freeing.
                        let seen = unsafe { &*value.load(Ordering::Acquire) };
                        for _ in 0..20 {
                            assert_eq!(seen.load(Ordering::Relaxed), 1);
                        }
                        reader.leave();
                    }
                    reader.give_back();
                })
            })
            .collect();
        for _ in 0..60 {
            let old = value.swap(Box::into_raw(Box::new(AtomicU64::new(1))), Ordering::AcqRel);
            DOMAIN.wait();
            // SAFETY: as above.
            unsafe { &*old }.store(0xdead, Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
