//! What the tool asks for from outside, in a process that runs.
//!
//! The tool lets a thread of its own making run [`serve`] on a stack that belongs to the engine
//! ([`relpoline_stats::control`]). That thread has all signals blocked, lives for some milliseconds, shares
//! no descriptors with the program, and waits for the engine's lock like everybody who switches promotion: no
//! thread of the program is interrupted for longer than it takes to make another one.
//!
//! # Preparing an attach
//! Sites get their gates while the program runs. Meanwhile no object may be unmapped, and the loader's lock
//! must not be taken. So first the loader's notice is led to the engine (by the tool, in a short stop), and
//! until the preparation is over whoever is told by the loader that the list of objects is about to change
//! waits ([`wait_for_preparation`]). Should the tool be killed before it says go, the thread gives up.
//!
//! The text itself is changed by the tool, when all threads stand still: sites that are led to their gates
//! are right one by one, so it does not matter where that stops. `Displacement`s say what is to be written.

use crate::calibrate;
use crate::dormant;
use crate::engine;
use crate::hold;
use crate::loader;
use crate::object::Listed;
use crate::report;
use crate::sandbox;
use crate::state::{Engine, LOCK};
use crate::unwind;
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use relpoline_core::policy::{Reason, SiteState};
use relpoline_stats::codes;
use relpoline_stats::control::{Area, Control, HOOK_BYTES, Hook, STACK, command, flag, outcome, phase};
use rustix::thread::{NanosleepRelativeResult, Timespec};

/// Steps of 100 µs, and what it takes to sleep, in which the tool has to say go.
const PATIENCE: u32 = 8000;

/// The area, which the tool writes to.
pub struct Shared(UnsafeCell<Area>);

// SAFETY: the control is all atomics; the lists are read by the serving thread alone, and the stack is its
// own.
unsafe impl Sync for Shared {}

/// The area, at the symbol [`relpoline_stats::control::AREA`].
#[cfg_attr(feature = "preload", unsafe(export_name = "relpoline_control_2"))]
pub static SHARED: Shared = Shared(UnsafeCell::new(Area::new()));

/// The process that is preparing an attach, or 0. A child that is forked meanwhile has no thread that goes
/// on.
static PREPARING: AtomicU32 = AtomicU32::new(0);

fn control() -> &'static Control {
    // SAFETY: atomics, which anybody may refer to.
    unsafe { &(*SHARED.0.get()).control }
}

/// The name of the thread whose stack `address` lies in, if that is the tool's.
pub fn name_on_stack(address: u64) -> Option<u64> {
    // SAFETY: no reference is made.
    let start = unsafe { &raw const (*SHARED.0.get()).stack } as u64;
    (start..start + STACK as u64).contains(&address).then_some(start)
}

fn pid() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get().cast_unsigned()
}

/// Notes that the engine was preloaded, and serves this program.
pub fn preloaded() {
    control().live.store(1, Ordering::Release);
}

/// Leaves the tool's lists and its thread's stack out of core dumps: they are half a megabyte of the engine's
/// data, and mean something for milliseconds.
pub fn keep_out_of_cores() {
    let page = relpoline_text::cells::PAGE;
    // SAFETY: addresses only.
    let (start, end) = unsafe {
        let area = SHARED.0.get();
        (&raw const (*area).scratch as usize, area.add(1) as usize)
    };
    let (start, end) = (start.next_multiple_of(page), end & !(page - 1));
    // SAFETY: whole pages of the lists and the stack, which belong to this static.
    unsafe { crate::memory::keep_out_of_cores(start as *mut _, end.saturating_sub(start)) };
}

/// Notes that another list of objects was looked at.
pub fn objects_changed() {
    control().generation.fetch_add(1, Ordering::AcqRel);
}

/// Offset in [`SHARED`] of where the function with hook number `n` is led to the engine.
pub const fn address_of_hook(n: usize) -> usize {
    offset_of!(Area, control) + offset_of!(Control, hooks) + n * size_of::<Hook>() + offset_of!(Hook, at)
}

/// Notes that the function with hook number `n`, with the first bytes `own` at `at`, jumps to the engine, or
/// is about to.
pub fn note_hook(n: usize, at: u64, own: [u8; HOOK_BYTES], jump: [u8; HOOK_BYTES]) {
    let word = |bytes: [u8; HOOK_BYTES]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let Some(hook) = control().hooks.get(n) else { return };
    hook.own.store(word(own), Ordering::Relaxed);
    hook.jump.store(word(jump), Ordering::Relaxed);
    hook.at.store(at, Ordering::Release);
}

/// Waits while the objects that are mapped are being looked at by the tool's thread.
pub fn wait_for_preparation() {
    while PREPARING.load(Ordering::Acquire) != 0 && sandbox::may_call() && PREPARING.load(Ordering::Acquire) == pid() {
        rest();
    }
}

/// Sleeps for a tenth of a millisecond.
pub fn rest() {
    let shortly = Timespec { tv_sec: 0, tv_nsec: 100_000 };
    let _: NanosleepRelativeResult = rustix::thread::nanosleep(&shortly);
}

/// What the tool's thread runs.
#[cfg_attr(feature = "preload", unsafe(export_name = "relpoline_control_entry"))]
pub extern "C" fn serve() -> ! {
    let control = control();
    control.phase.store(phase::BUSY, Ordering::Release);
    let outcome = obey(control);
    control.outcome.store(outcome, Ordering::Relaxed);
    control.phase.store(phase::DONE, Ordering::Release);
    leave()
}

/// Ends this thread, which libc does not know of.
fn leave() -> ! {
    // SAFETY: exit(2) ends the calling thread and nothing else.
    unsafe { core::arch::asm!("syscall", "ud2", in("rax") 60, in("rdi") 0, options(noreturn)) }
}

fn obey(control: &Control) -> u32 {
    control.lock.store((&raw const LOCK) as u64, Ordering::Relaxed);
    let wanted = control.command.load(Ordering::Acquire);
    if wanted == command::PREPARE {
        return prepare(control);
    }
    if wanted == command::SLEEP && gives_up_sleep() {
        // There are the jumps that lead to it, which the tool puts back, and nothing else.
        control.displacement_count.store(0, Ordering::Relaxed);
        control.listed.store(control.generation.load(Ordering::Relaxed), Ordering::Relaxed);
        return 0;
    }
    if !engine::is_running() || !crate::fork::settle_epoch() {
        return outcome::NOT_STARTED;
    }
    // This thread has all signals blocked, and switching a large program takes longer than a judgement may.
    let _hold = hold::take_pinned(None);
    // SAFETY: the lock is held.
    let engine = unsafe { crate::state::engine() };
    match wanted {
        command::LIST => list(engine, control),
        command::SLEEP => sleep(engine, control),
        _ if !engine::usable(engine) => outcome::FROZEN,
        _ if needs_promotion(control, wanted) && !engine.enabled => relpoline_stats::Refusal::Off as u32,
        command::ENABLE => each_meant(engine, control, Engine::begin_anew, |engine| engine::switch(engine, true)),
        command::DISABLE => each_meant(engine, control, Engine::set_aside, |engine| engine::switch(engine, false)),
        command::RELEARN => each_meant(engine, control, Engine::begin_anew, |_| {}),
        _ => outcome::UNKNOWN,
    }
}

/// Whether the engine waited for something to promote, and does so no more. Another thread may just have
/// found something.
fn gives_up_sleep() -> bool {
    if !dormant::leave() {
        return false;
    }
    while dormant::is_starting(pid) {
        rest();
    }
    !engine::is_running()
}

/// Whether a command makes no sense while promotion is off altogether.
fn needs_promotion(control: &Control, wanted: u32) -> bool {
    wanted == command::RELEARN || wanted == command::ENABLE && !means_all(control)
}

/// Whether all sites are meant.
fn means_all(control: &Control) -> bool {
    control.from.load(Ordering::Relaxed) == 0 && control.to.load(Ordering::Relaxed) == u64::MAX
}

/// Tells the tool what to write, and where to look.
fn list(engine: &mut Engine, control: &Control) -> u32 {
    if engine.list_displacements().is_none() {
        return relpoline_stats::Refusal::NoArena as u32;
    }
    let displacements = engine.displacements.as_slice();
    control.displacements.store(displacements.as_ptr() as u64, Ordering::Relaxed);
    control.displacement_count.store(displacements.len() as u64, Ordering::Relaxed);
    control.listed.store(control.generation.load(Ordering::Relaxed), Ordering::Relaxed);
    control.statistics.store(core::ptr::from_mut(engine.share.header()) as u64, Ordering::Relaxed);
    0
}

/// Does `all` when all sites are meant, else `one` to those that are.
fn each_meant(engine: &mut Engine, control: &Control, one: fn(&mut Engine, u32), all: fn(&mut Engine)) -> u32 {
    let meant = control.from.load(Ordering::Relaxed)..control.to.load(Ordering::Relaxed);
    let changed_all = means_all(control) && control.command.load(Ordering::Relaxed) != command::RELEARN;
    if changed_all {
        all(engine);
    }
    let mut count = 0;
    for id in 0..engine.sites.len() as u32 {
        let Some(site) = engine.sites.as_slice().get(id as usize) else { break };
        if site.gone || !meant.contains(&site.address) {
            continue;
        }
        count += 1;
        if !changed_all {
            one(engine, id);
            report::site(engine, id);
        }
    }
    control.sites.store(count, Ordering::Relaxed);
    report::header(engine);
    0
}

impl Engine {
    /// Forgets what is known of a site, if promotion is on.
    pub fn begin_anew(&mut self, id: u32) {
        if self.enabled {
            self.stop_recording(id);
            self.unlink(id);
            self.restart(id);
        }
    }

    /// Leads every site to its thunk; then the tool puts the text back.
    pub fn fall_asleep(&mut self) {
        engine::switch(self, false);
        self.asleep = true;
    }

    /// Switches promotion on while the text leads past the gates; then the tool leads it there, whole
    /// displacements at a time.
    pub fn begin_all_anew(&mut self) {
        self.enabled = true;
        self.asleep = false;
        for id in 0..self.sites.len() as u32 {
            if let Some(site) = self.sites.get_mut(id as usize) {
                let old = *site;
                (site.linked, site.stuck, site.alone, site.head) = (false, false, false, crate::site::NONE);
                self.free_misses(&old);
            }
            self.stop_recording(id);
            self.restart(id);
            // Only those that have a record: it may say anything.
            if self.sites.as_slice().get(id as usize).is_some_and(|site| site.record != crate::site::NONE) {
                report::site(self, id);
            }
        }
    }

    /// Leaves a site to its thunk until it is switched on again.
    fn set_aside(&mut self, id: u32) {
        self.count_left_alone(id);
        self.retire(id);
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.state = SiteState::barred(Reason::Disabled);
        }
    }
}

/// Every site goes to its thunk, and the engine does nothing more until it is attached again.
fn sleep(engine: &mut Engine, control: &Control) -> u32 {
    // A child that cannot write its gates is left with those of its parent: nothing will lead to them.
    if engine::usable(engine) {
        engine.fall_asleep();
        engine.share.header().flags |= codes::flag::ASLEEP;
        control.sites.store(engine.sites.len() as u64, Ordering::Relaxed);
    } else {
        engine.enabled = false;
    }
    list(engine, control)
}

/// Looks at the objects that the tool has listed and gives their sites gates; the first time it starts the
/// engine.
fn prepare(control: &Control) -> u32 {
    let again = engine::is_running();
    if !again {
        // Nobody uses an engine that was never started; a parent's thread may have held its lock at a fork.
        LOCK.reset();
        LOCK.settle();
    } else if !crate::fork::settle_epoch() {
        return outcome::NOT_STARTED;
    }
    unwind::find::prepare(control.find_object.load(Ordering::Relaxed));
    unwind::iterate::prepare(control.iterate.load(Ordering::Relaxed));
    // From the moment at which the loader's notice leads here, which is later.
    loader::attend(control.loader.load(Ordering::Relaxed));
    PREPARING.store(pid(), Ordering::Release);
    let outcome = prepare_guarded(control, again);
    PREPARING.store(0, Ordering::Release);
    outcome
}

fn prepare_guarded(control: &Control, again: bool) -> u32 {
    // Looking at a large program takes longer than a judgement may.
    let _hold = hold::take_pinned(None);
    control.phase.store(phase::WAITING, Ordering::Release);
    if !is_told_to_go(control) {
        return outcome::GAVE_UP;
    }
    // SAFETY: the tool has listed what the loader has mapped, and the loader waits for us before it unmaps
    // anything.
    let objects =
        unsafe { Listed::new(control.objects.load(Ordering::Relaxed), control.object_count.load(Ordering::Relaxed)) };
    let outcome = if again { wake(&objects) } else { start(control, &objects) };
    // SAFETY: the lock is held.
    let engine = unsafe { crate::state::engine() };
    if outcome == 0 { list(engine, control) } else { outcome }
}

/// Waits until the tool has put the loader's notice in place. It may have been killed.
fn is_told_to_go(control: &Control) -> bool {
    (0..PATIENCE).any(|_| {
        let told = control.go.load(Ordering::Acquire) != 0;
        if !told {
            rest();
        }
        told
    })
}

fn start(control: &Control, objects: &Listed<'_>) -> u32 {
    let flags = control.flags.load(Ordering::Relaxed);
    let environment = control.environment.load(Ordering::Relaxed) as *const *const c_char;
    let path = control.path.load(Ordering::Relaxed) as *const c_char;
    unwind::cover_engine();
    // SAFETY: the tool has put both there: an array of C strings and a null, and a C string.
    let started = unsafe {
        let path = CStr::from_ptr(path).to_bytes();
        engine::start_attached(environment, path, flags & flag::FOLLOW != 0, objects)
    };
    if flags & flag::SEALED != 0 {
        sandbox::seal();
    }
    started.err().map_or(0, |refusal| refusal as u32)
}

/// The engine was asleep, or the tool was killed before it had led all sites to their gates: everything
/// begins anew.
fn wake(objects: &Listed<'_>) -> u32 {
    // SAFETY: the lock is held.
    let engine = unsafe { crate::state::engine() };
    if !engine::may_change(engine) {
        return outcome::FROZEN;
    }
    let begun = calibrate::now();
    // It heard of nothing meanwhile: objects came, went, and were exchanged, and text was changed.
    engine.doubt();
    // What is gone is noted before anything is mended.
    crate::discover::sweep_listed(engine, objects);
    engine.recover();
    engine.begin_all_anew();
    unwind::listen();
    let header = engine.share.header();
    header.refusal = 0;
    header.flags &= !codes::flag::ASLEEP;
    header.startup_cycles += calibrate::now().wrapping_sub(begun);
    report::header(engine);
    0
}
