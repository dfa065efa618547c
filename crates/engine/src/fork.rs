//! Life after fork.
//!
//! A child inherits text, gates, trees and states as they were, and goes on executing its parent's arena
//! pages, whose writable alias it does not have. It must not touch that alias: so the first thing a slow
//! path does is to look at a page that the kernel wipes on fork (`MADV_WIPEONFORK`, which sees raw clone too,
//! and rightly not vfork). A child that goes on calling gets arenas and statistics of its
//! own; one that may not goes on with what its parent knew.
//!
//! What a child must not inherit is a descriptor of its parent's memory, nor the writable alias of an arena
//! that is just being made. Both exist under the pinned lock only, for microseconds. So fork takes the lock
//! first, as far as libc's handlers see it ([`watch`]): whoever has pinned it is waited for, whoever has not
//! is overtaken. And should a thread be put off in the middle of a fork for so long that its lock is broken,
//! the others still know of it ([`is_under_way`]).
//!
//! A signal handler may interrupt a judgement and fork; its child goes back into that judgement. Such a child
//! never learns: it gets memory to throw away where the alias was, and its text is left alone (`in_child`,
//! [`is_inside`]). While a descriptor or an arena is in hand, handlers have to wait ([`sandbox::held_back`]).

use crate::calibrate;
use crate::engine;
use crate::hold::{self, wait_a_moment};
use crate::report;
use crate::sandbox;
use crate::site::{NO_RING, Site};
use crate::state::{self, Engine, Frozen, LOCK};
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use relpoline_core::policy::Phase;
use relpoline_text::broken;
use relpoline_text::cells::Cell;
use relpoline_text::sync::AtomicU64;
use rustix::mm::{Advice, MapFlags, ProtFlags};

const WIPED: u64 = 0;
const SETTLING: u64 = 1;
const SETTLED: u64 = 2;

/// Slow path entries before a child gets an arena of its own, [`STEP`] calls of a site apart. An arena costs
/// what some 16,000 promoted calls win (`cargo xtask scaling`, a process per connection); so a child gets one
/// when it has lost about as much, and one that calls exec at once, or serves one short request, never does.
const PATIENCE: u32 = if cfg!(relpoline_model) { 3 } else { 64 };
/// Calls that a child's slow path lets pass until the next one, before it has an arena of its own.
pub const STEP: u32 = if cfg!(relpoline_model) { 4 } else { 256 };

static EPOCH: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());

/// Sets the page up; `None` when the kernel has no such thing, without which forked children are not safe.
#[must_use]
pub fn prepare() -> Option<()> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh page of our own.
    unsafe {
        let page = rustix::mm::mmap_anonymous(core::ptr::null_mut::<c_void>(), 4096, prot, MapFlags::PRIVATE).ok()?;
        rustix::mm::madvise(page, 4096, Advice::LinuxWipeOnFork).ok()?;
        (*page.cast::<AtomicU64>()).store(SETTLED, Ordering::Release);
        EPOCH.store(page.cast(), Ordering::Release);
    }
    LOCK.settle();
    Some(())
}

/// Cycles that fork waits for a thread that holds the lock without having pinned it: some 10 ms. A judgement
/// takes microseconds; whoever takes longer has been put off, and is overtaken: it does nothing any more that
/// a child must not see.
const FORK_PATIENCE: u64 = 1 << 25;
/// Cycles that fork waits for a thread that has pinned the lock, or for other forks, and others for a fork:
/// seconds. Longer than that only a thread takes that was stopped.
const FORK_LIMIT: u64 = 1 << 33;

/// Cycles for which nobody else takes the lock after a fork has last asked for it: some 100 ms. It asks all
/// the time.
const PRECEDENCE: u64 = 1 << 28;

/// When a fork last asked for the lock, and did not get it; 0 when it got it.
static WANTED: AtomicU64 = AtomicU64::new(0);
/// When the fork that is under way began: the lock's stamp, if it has the lock. 0 while there is none, or it
/// is not announced.
static FORKING: AtomicU64 = AtomicU64::new(0);
/// The name of the thread that does, …
static FORKER: AtomicU64 = AtomicU64::new(0);
/// … and how many more times it does, in handlers that interrupted it. Means something to that thread only.
static NESTED: AtomicU32 = AtomicU32::new(0);

type Handler = Option<extern "C" fn()>;
/// What pthread_atfork(3) calls, which itself lies in no shared library: `__register_atfork`.
type Register = unsafe extern "C" fn(Handler, Handler, Handler, *mut c_void) -> core::ffi::c_int;

/// Lets fork wait for the lock, and children of judgements throw away what they write. Not seen: `_Fork` and
/// raw clone. `register` is the address of glibc's function for that.
pub fn watch(register: u64) {
    // The broken variant that the tests must catch: fork does not wait.
    if broken!("fork-does-not-wait") {
        return;
    }
    // The broken variant that the tests must catch: children go back into judgements without an alias.
    let in_child: Handler = if broken!("child-inside-judgement") { None } else { Some(in_child) };
    // SAFETY: glibc's function of that name. The handlers stay for good, in a library that is never unloaded.
    // A child's first slow path resets the lock. Should libc have no room for them, fork goes on without.
    unsafe {
        let register = core::mem::transmute::<u64, Register>(register);
        register(Some(before_fork), Some(after_fork), in_child, core::ptr::null_mut());
    }
}

extern "C" fn before_fork() {
    if !sandbox::may_read_clock() || !settle_epoch() {
        return;
    }
    // A handler that interrupted this thread's fork. That one has the lock for both.
    if is_mine() {
        NESTED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    if hold::is_mine() {
        return;
    }
    let begun = calibrate::now();
    loop {
        let now = calibrate::now();
        let waited = now.wrapping_sub(begun);
        if begin() || gives_up(waited) {
            WANTED.store(0, Ordering::Relaxed);
            return;
        }
        // Or it might not get it for seconds, beside a thread that gives it back and takes it again.
        WANTED.store(now, Ordering::Relaxed);
        wait_a_moment(waited);
    }
}

/// Whether a fork waits for the lock: it takes precedence.
pub fn is_wanted() -> bool {
    let asked = WANTED.load(Ordering::Relaxed);
    asked != 0 && calibrate::now().saturating_sub(asked) < PRECEDENCE
}

/// Takes the lock until [`after_fork`], if it is to be had and no other thread forks. While objects are being
/// unmapped it is not, and need not be: nothing is written then, and the loader's end waits for the fork.
fn begin() -> bool {
    let now = calibrate::now();
    if is_under_way() {
        return false;
    }
    if engine::is_removing() {
        let stamp = announce(now | 1);
        return engine::is_removing() || end(stamp);
    }
    let Some(held) = LOCK.try_take(hold::me(), now, FORK_PATIENCE) else { return false };
    // Another thread may have begun while this one's look at it was old.
    if is_under_way() {
        return false;
    }
    calibrate_for_children();
    let stamp = announce(held.stamp());
    // Who takes the lock after this knows of the fork.
    if !held.is_still_held() {
        return end(stamp);
    }
    let _ = held.keep();
    true
}

/// Lets others know of this thread's fork.
fn announce(stamp: u64) -> u64 {
    FORKER.store(hold::me(), Ordering::Relaxed);
    NESTED.store(0, Ordering::Relaxed);
    FORKING.store(stamp, Ordering::SeqCst);
    stamp
}

/// The fork that began with `stamp` is over, or does not begin: false.
fn end(stamp: u64) -> bool {
    let _ = FORKING.compare_exchange(stamp, 0, Ordering::SeqCst, Ordering::Relaxed);
    false
}

/// Whether fork goes on without the lock: whoever pinned it does not come back. The next fork does not wait
/// for him again.
fn gives_up(waited: u64) -> bool {
    static LOST: AtomicU64 = AtomicU64::new(0);
    let stamp = LOCK.stamp();
    if waited > FORK_LIMIT {
        LOST.store(stamp, Ordering::Relaxed);
    }
    waited > FORK_LIMIT || (stamp != 0 && stamp == LOST.load(Ordering::Relaxed))
}

/// Whether a thread is forking, or seems to.
fn is_announced() -> bool {
    let stamp = FORKING.load(Ordering::SeqCst);
    stamp != 0 && calibrate::now().saturating_sub(stamp) < FORK_LIMIT
}

/// Whether this thread is forking, and this is a handler that interrupted it.
fn is_mine() -> bool {
    is_announced() && FORKER.load(Ordering::Relaxed) == hold::me()
}

/// Whether another thread is forking: it holds the lock, or held it until it was thought to have vanished.
/// Nobody opens this process' memory then. (What a handler opens and closes that interrupted a fork, its
/// child does not get.)
pub fn is_under_way() -> bool {
    is_announced() && FORKER.load(Ordering::Relaxed) != hold::me()
}

/// Measures once what each child of a pre-forking server would measure again: half a millisecond.
///
/// The caller holds the lock.
fn calibrate_for_children() {
    // SAFETY: the lock is held.
    let engine = unsafe { state::engine() };
    if engine.enabled && engine.frozen == Frozen::No && !engine.sites.as_slice().is_empty() {
        engine.calibrate();
    }
}

extern "C" fn after_fork() {
    // Another thread may have begun one since, when this one's lock had been broken.
    if FORKER.load(Ordering::Relaxed) != hold::me() {
        return;
    }
    let is_inner = NESTED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |depth| depth.checked_sub(1)).is_ok();
    if !is_inner {
        let stamp = FORKING.load(Ordering::Relaxed);
        let _ = end(stamp);
        drop(hold::resume(stamp));
    }
}

/// Set in a child that was forked while its thread held the lock, and goes back to what that did.
static INSIDE: AtomicBool = AtomicBool::new(false);

/// When the thread that forked held the lock, a handler had interrupted it.
extern "C" fn in_child() {
    // In the model none of its handlers forks, and the child is not alone before this is over.
    if cfg!(relpoline_model) {
        return;
    }
    if !hold::is_mine() {
        // At once: a child that this one makes by vfork must not be taken for the one that the memory belongs
        // to.
        settle_epoch();
        count_from_here();
        return;
    }
    INSIDE.store(true, Ordering::Relaxed);
    // SAFETY: there is no other thread, and what was interrupted does not change what is read here: where the
    // lists of arenas and statistics are changed, handlers have to wait. It looks at `frozen` when it is
    // called anew only.
    let engine = unsafe { state::engine() };
    engine.frozen = Frozen::Child;
    // Also in a sandbox: without that memory the child would crash in any case.
    engine.share.stand_in();
    engine.groups.iter().flatten().for_each(|group| group.arena.stand_in());
}

/// Gives a child memory of its own at once, where all calls are counted for a report
/// (`run --count --report`): a worker whose sites are linked may never come to a slow path, and its calls
/// would be in nobody's figures. Nobody else pays for that.
fn count_from_here() {
    if !engine::is_running() || !sandbox::may_call() {
        return;
    }
    let Some(_hold) = hold::try_take() else { return };
    // SAFETY: the lock is held.
    let engine = unsafe { state::engine() };
    let is_counted = engine.options().count && engine.share.is_collected();
    if is_counted && engine.enabled && engine.inherited && engine.frozen == Frozen::No {
        engine.entries = PATIENCE;
        become_own(engine);
    }
}

/// Whether this is a child that was forked while its thread held the lock, and goes back to what that did.
pub fn is_inside() -> bool {
    INSIDE.load(Ordering::Relaxed)
}

/// Notices that this is a new process. False while another thread is busy with it.
pub fn settle_epoch() -> bool {
    // SAFETY: the page is never unmapped, and slow paths exist only after it does.
    let Some(epoch) = (unsafe { EPOCH.load(Ordering::Acquire).as_ref() }) else { return false };
    match epoch.load(Ordering::Acquire) {
        SETTLED => true,
        WIPED if epoch.compare_exchange(WIPED, SETTLING, Ordering::AcqRel, Ordering::Acquire).is_ok() => {
            // Whoever held the lock at the fork does not exist here.
            // The broken variant that the model must catch: he is waited for.
            if !broken!("child-keeps-lock") {
                LOCK.reset();
            }
            FORKING.store(0, Ordering::SeqCst);
            WANTED.store(0, Ordering::Relaxed);
            // In a sandbox nobody changes text, and nobody asks.
            if sandbox::may_call() {
                LOCK.settle();
            }
            // SAFETY: nobody else gets past the epoch before it is settled.
            let engine = unsafe { state::engine() };
            engine.inherited = true;
            engine.entries = 0;
            epoch.store(SETTLED, Ordering::Release);
            true
        }
        _ => false,
    }
}

/// Whether nothing is left to be noticed about this process; so too before there is an engine.
pub fn is_settled() -> bool {
    // SAFETY: as in `settle_epoch`.
    unsafe { EPOCH.load(Ordering::Acquire).as_ref() }.is_none_or(|epoch| epoch.load(Ordering::Acquire) == SETTLED)
}

/// Gives a forked child what it needs to learn. False when it is too early, or not possible: then the engine
/// is frozen.
///
/// The caller holds the lock.
#[inline(never)]
pub fn become_own(engine: &mut Engine) -> bool {
    engine.entries += 1;
    if engine.entries < PATIENCE {
        return false;
    }
    // The broken variant that the tests must catch: a child writes its parent's arena.
    if broken!("child-shares-arena") {
        engine.inherited = false;
        return true;
    }
    let mut own = || {
        let privatised = engine.share.take_over() && privatise(engine);
        if privatised {
            engine.inherited = false;
            report::count_anew(engine);
            begin_strays_anew(engine);
        } else {
            engine.frozen = Frozen::Child;
        }
        privatised
    };
    if !sandbox::may_call() {
        engine.frozen = Frozen::Child;
        return false;
    }
    if is_under_way() {
        return false;
    }
    // Pinned: a fork of this process waits until the writable aliases are out of its child's reach.
    let is_visiting = !LOCK.is_at_home();
    sandbox::held_back(|| if is_visiting { own() } else { LOCK.pinned(hold::me(), own).unwrap_or(false) })
}

/// The parent may have re-pointed gates between the fork and the moment at which this process got gates of
/// its own. Where these lead now is unknown here; a recording stub, for one, would record for ever.
fn begin_strays_anew(engine: &mut Engine) {
    for id in 0..engine.sites.len() as u32 {
        let strays = engine.sites.as_slice().get(id as usize).is_some_and(|site| has_strayed(engine, site));
        if strays {
            engine.stop_recording(id);
            engine.restart(id);
        }
    }
}

/// Whether a site's gate does not lead where its state says.
#[must_use]
pub fn has_strayed(engine: &Engine, site: &Site) -> bool {
    let Some(arena) = engine.arena(site) else { return false };
    if site.gone || site.linked || site.stuck || !engine.enabled {
        return false;
    }
    let leads_to = site.gate.target(arena);
    let is_cell = |cell: Cell| leads_to == Some(arena.address(cell));
    !match site.state.phase() {
        Phase::Cold => leads_to == Some(site.gate.counting(arena)),
        Phase::Learning => is_cell(Cell(site.recording)) && site.ring != NO_RING,
        Phase::Promoted | Phase::Linked => {
            let tree = engine.trees.as_slice().get(site.tree as usize);
            tree.is_some_and(|tree| is_cell(tree.head) || is_cell(tree.settling))
        }
        Phase::Retpolined if leads_to == Some(site.gate.counting(arena)) => true,
        Phase::Retpolined | Phase::Barred => leads_to.is_none(),
    }
}

fn privatise(engine: &mut Engine) -> bool {
    engine.groups.iter_mut().flatten().all(|group| {
        // SAFETY: in the child, under the lock, before anything was written.
        unsafe { group.arena.privatise() }.is_ok()
    })
}
