//! Learning where dynamic calls go.
//!
//! ```text
//! call deliver ──▶ gate in own text ──▶ gate word in an arena ──▶ tree | recording stub | counting stub
//!                  jmp; jmp *%reg       jmp                       (all of crates/text and crates/core)
//! ```
//!
//! The parts are the engine's: arena, gates, stubs, trees, policy; the learner is everybody's
//! ([`relpoline_learn`]). What differs is where a table comes from (a macro, not a scan of the program) and
//! what lies behind a tree: a jump through the register, which is what a call through a function pointer is.
//!
//! When a table is settled, its text gate's jump is led past the gate word to the tree, by changing one byte
//! of its displacement; and back before the table learns anew. While a table is left alone, its text gate's
//! `jmp` is a `test` of the same length, which falls through to the jump through the register. When text
//! cannot be changed any more, a linked table is *stuck*: it goes on learning behind the tree that its text
//! names.
//!
//! | module | what it does |
//! |---|---|
//! | [`table`] | what is remembered of a table and its trees |
//! | [`arenas`] | executable memory near each module that has tables, with its slow paths |
//! | [`rings`] | memory in which learning tables record their calls |
//! | [`judge`] | the slow path: what generated code calls |
//! | [`hand`] | a table for the learner: building trees and leading gates to them |
//! | [`place`] | making a place for a table |
//! | [`contest`] | whether a tree is faster than the plain jump, by the clock |
//! | [`fork`] | noticing that this is a forked child |
//! | [`control`] | what the user can ask: statistics, pause, pin, forget |
//!
//! # Locking
//! All of it is behind one [`TryLock`]. The slow path, which may run in a signal handler or while its own
//! thread holds the lock, takes it or does nothing. Who registers or controls tables waits for it. As long as
//! system calls are allowed, nobody who has it is interrupted by a handler or loses it. The slow path
//! allocates nothing: lists have their final capacity from the start.

mod arenas;
mod contest;
mod control;
mod fork;
mod hand;
mod judge;
mod place;
mod rings;
mod table;

pub use control::{always_promote, count_calls, forget, pause, pin, stats};

use super::sites::Site;
use super::text::Text;
use super::{hold, keys, wiped};
use crate::UpdateError;
use crate::table::DynamicCall;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use relpoline_core::policy::Config;
use relpoline_learn::Learner;
use relpoline_learn::round::Round;
use relpoline_text::lock::{Held, TryLock};
use relpoline_text::{mask, sync};
use table::{Fixed, Table, Trees};

/// Tables there can be in a process.
const TABLES: usize = 4096;
/// Trees there can be, and targets in them.
const TREES: usize = 16 * 1024;
const TARGETS: usize = 64 * 1024;
/// Ticks after which a lock is believed to be abandoned: some 100 ms.
const PATIENCE: u64 = 1 << 28;
/// Modelled cost of a call through the register [1/16 cycle]: what a mispredicted one costs. Whether it is
/// mispredicted no trace shows, so the policy is to suggest whatever might be better, and [`contest`]
/// decides.
const PLAIN_CALL: u32 = 40 * 16;

/// Everything that learning needs; behind the lock.
struct Tables {
    learner: Learner<1>,
    tables: Vec<Table>,
    trees: Trees,
    arenas: Vec<arenas::Group>,
    /// The memory of the learner's rings.
    rings: rings::Reserved,
    round: Round,
    /// A forked child that has not got arenas of its own yet.
    inherited: bool,
    /// A thread of the parent was in the middle of something.
    torn: bool,
    /// Slow paths a forked child has entered.
    entries: u32,
    /// Nothing is learned any more.
    frozen: bool,
    /// When it began: ticks, to measure their rate.
    begun: (u64, std::time::Instant),
}

struct Shared {
    lock: TryLock,
    tables: UnsafeCell<Tables>,
}

// SAFETY: the tables are only touched by who holds the lock.
unsafe impl Sync for Shared {}
// SAFETY: its pointers are to memory of the process.
unsafe impl Send for Shared {}

/// Null until a table is registered, and where the kernel refuses what learning needs.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(core::ptr::null_mut());

/// By what the lock is held over a fork; 0 when it is not.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// Nothing is learned or changed any more: [`crate::prepare_for_sandbox`].
static SEALED: AtomicBool = AtomicBool::new(false);

/// Whether nothing is learned or changed any more, and no system call made.
pub fn is_sealed() -> bool {
    SEALED.load(Ordering::Acquire)
}

/// The time-stamp counter, or 1 in a sandbox, which may forbid reading it (seccomp's strict mode does): locks
/// are taken then, but none is believed to be abandoned.
fn now() -> u64 {
    if is_sealed() {
        return 1;
    }
    // SAFETY: rdtsc is unprivileged unless a program forbids it by prctl(PR_SET_TSC).
    unsafe { core::arch::x86_64::_rdtsc() }
}

fn begin() -> Option<Box<Shared>> {
    const AT_HWCAP2: core::ffi::c_ulong = 26;
    unsafe extern "C" {
        fn getauxval(kind: core::ffi::c_ulong) -> core::ffi::c_ulong;
    }
    // SAFETY: libc's copy of what the kernel told the process at its start.
    sync::know_processor(unsafe { getauxval(AT_HWCAP2) });
    wiped::prepare()?;
    let rings = rings::Reserved::new()?;
    let mut learner = Learner::new();
    // SAFETY: asked for once; `end_of` unmaps them when nobody uses them any more.
    learner.rings = unsafe { rings.rings() };
    learner.policy.costs.retpoline = PLAIN_CALL;
    learner.policy.config = Config { max_targets: 96, ..Config::DEFAULT };
    let tables = Tables {
        learner,
        tables: Vec::with_capacity(TABLES),
        trees: Trees::new(Fixed::with_capacity(TREES), Fixed::with_capacity(TARGETS)),
        arenas: Vec::with_capacity(arenas::GROUPS),
        rings,
        round: Round::new(),
        inherited: false,
        torn: false,
        entries: 0,
        frozen: false,
        begun: (now(), std::time::Instant::now()),
    };
    let lock = TryLock::new();
    lock.settle();
    Some(Box::new(Shared { lock, tables: UnsafeCell::new(tables) }))
}

/// Makes the learner, unless there is one. To be called without the lock on changes, since it allocates.
pub fn prepare() {
    if shared().is_none()
        && let Some(new) = begin()
    {
        let new = Box::into_raw(new);
        let null = core::ptr::null_mut();
        if SHARED.compare_exchange(null, new, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: made just now, and seen by nobody.
            unsafe { end_of(Box::from_raw(new)) };
        }
    }
}

/// Frees all that the learner has.
///
/// # Safety
/// No module may be registered, and nobody be in generated code.
pub unsafe fn end() {
    let shared = SHARED.swap(core::ptr::null_mut(), Ordering::AcqRel);
    if !shared.is_null() {
        // SAFETY: it came from a box, and nobody uses it any more, says the caller.
        unsafe { end_of(Box::from_raw(shared)) };
    }
    // SAFETY: no module is registered, says the caller, who has the lock on changes: nobody waits for it.
    unsafe { wiped::give_back() };
}

/// # Safety
/// Nobody may be in its generated code.
unsafe fn end_of(shared: Box<Shared>) {
    let tables = shared.tables.into_inner();
    if tables.inherited || tables.frozen {
        // What there is belongs to the parent.
        return core::mem::forget(tables);
    }
    for group in tables.arenas {
        // SAFETY: nobody is in its code, says the caller.
        unsafe { group.arena.unmap() };
    }
    // SAFETY: nobody is in a recording stub, says the caller.
    unsafe { tables.rings.unmap() };
}

/// The learner, if there is one: no table was registered yet, or the kernel refuses what it needs.
fn shared() -> Option<&'static Shared> {
    // SAFETY: it is freed when nobody can come here any more.
    unsafe { SHARED.load(Ordering::Acquire).as_ref() }
}

/// Holds the learner's lock over a fork.
pub fn hold() {
    if let Some(shared) = shared()
        && !is_sealed()
    {
        settle();
        KEPT.store(wait(shared, true).keep(), Ordering::Release);
    }
}

/// Gives it back, unless it was taken away.
pub fn let_go() {
    let kept = KEPT.swap(0, Ordering::AcqRel);
    if kept != 0
        && let Some(shared) = shared()
    {
        drop(shared.lock.resume(sync::thread(), kept));
    }
}

/// Notices that this is a new process.
pub fn settle() {
    while shared().is_some_and(|shared| !fork::settle_epoch(shared)) {
        std::thread::yield_now();
    }
}

/// Waits for the lock.
fn wait(shared: &'static Shared, forks: bool) -> Held<'static> {
    let mut turns = 0u32;
    loop {
        if (forks || !hold::lets_forks_pass(turns))
            && let Some(held) = shared.lock.try_take(sync::thread(), now(), PATIENCE)
        {
            return held;
        }
        turns += 1;
        if turns < 1000 || is_sealed() {
            std::thread::yield_now();
        } else {
            // Whoever holds it may be of lower priority.
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
    }
}

/// Lets the holder of the lock use the tables. Nobody breaks the lock meanwhile, and no handler interrupts,
/// which might leave by longjmp, or fork. `act` comes back when the lock was broken just now, and in a child
/// that one of them has forked before that.
///
/// In a child made by vfork, which may be killed half-way, the lock can be broken.
fn undisturbed<R, A: FnOnce(&mut Tables) -> R>(shared: &Shared, held: &mut Held<'_>, act: A) -> Result<R, A> {
    if is_sealed() {
        // SAFETY: the lock is held.
        return Ok(act(unsafe { &mut *shared.tables.get() }));
    }
    mask::held_back(|| {
        if !wiped::LEARNING.is_settled() || shared.lock.is_at_home() && !held.pin() {
            return Err(act);
        }
        // SAFETY: the lock is held.
        let result = act(unsafe { &mut *shared.tables.get() });
        held.unpin();
        Ok(result)
    })
}

/// Does something under the lock; `None` without a learner, or in a child that cannot become its own.
fn with<R>(act: impl FnOnce(&mut Tables) -> R) -> Option<R> {
    let shared = shared()?;
    let mut act = |tables: &mut Tables| {
        if tables.inherited {
            fork::become_own(tables);
        }
        (!tables.frozen).then(|| act(tables))
    };
    loop {
        settle();
        // In a handler of a fork for which this very thread has the lock it goes on within.
        let kept = if hold::is_held_for_fork() { KEPT.swap(0, Ordering::AcqRel) } else { 0 };
        let resumed = shared.lock.resume(sync::thread(), kept);
        let keep = resumed.is_some();
        let mut held = resumed.unwrap_or_else(|| wait(shared, false));
        let outcome = undisturbed(shared, &mut held, act);
        if keep {
            KEPT.store(held.keep(), Ordering::Release);
        }
        match outcome {
            Ok(result) => return result,
            Err(again) => act = again,
        }
    }
}

/// Gives a table of a new module its place in an arena, and leads its text gate there. `own` are its sites in
/// that module.
///
/// # Errors
/// Why the text gate stays as it is shipped: a jump through the register.
pub fn arm(text: &mut Text, site: &Site, own: &'static [Site]) -> Result<(), UpdateError> {
    // SAFETY: the site is of a table: the macro wrote the address of a `static` of this type.
    let call = unsafe { &*(site.owner() as *const DynamicCall) };
    match with(|tables| tables.admit(call, site.code, own)).flatten() {
        Some(gate) => hand::open_text_gate(text, site.code, gate),
        // Nothing will be learned: calls are plain ones.
        None => hand::plain_sites(own).try_for_each(|site| keys::bring(text, site, keys::Form::FallingThrough)),
    }
}

/// A module goes: its text gates are led past the learner's memory, and its tables wait until it comes back
/// to the same place. False when a gate still leads there.
pub fn gone(site: &Site) -> bool {
    if shared().is_none() {
        return true;
    }
    with(|tables| {
        let mut apart = true;
        for id in 0..tables.tables.len() as u32 {
            if tables.tables.get(id as usize).is_some_and(|t| t.text_gate == site.code && !t.gone) {
                apart &= tables.close(id);
            }
        }
        apart
    })
    .unwrap_or(false)
}

/// Leaves every table with what it has: its tree, or else the pointer. From here on there is no learning, no
/// clock, and no system call.
pub fn seal() {
    let _ = with(|tables| {
        (0..tables.tables.len() as u32).for_each(|id| tables.leave_as_it_is(id));
        // Under the lock: whoever takes it from now on finds that it makes no system call.
        SEALED.store(true, Ordering::Release);
    });
    SEALED.store(true, Ordering::Release);
}
