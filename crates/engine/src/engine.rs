//! What happens to the engine from outside: it is started, libraries come and go, the program enters a
//! sandbox, promotion is switched off and on, the process ends.

use crate::calibrate;
use crate::config;
use crate::control;
use crate::discover;
use crate::dormant;
use crate::entries::Entries;
use crate::exec;
use crate::fork;
use crate::hold;
use crate::loader::{self, Change};
use crate::memory::Reader;
use crate::object::{self, Listed};
use crate::report;
use crate::sandbox;
use crate::share::Share;
use crate::state::{Engine, Frozen, LOCK, engine};
use crate::unwind;
use core::ffi::c_char;
use core::sync::atomic::{AtomicBool, Ordering, compiler_fence};
use relpoline_core::policy::{Config, SiteState};
use relpoline_stats::Refusal;
use relpoline_stats::codes::flag;
use relpoline_text::poke::Idle;
use relpoline_text::sync::{self, AtomicU64};

/// The engine was started: what is asked of it before, or when it has declined, is passed over.
static STARTED: AtomicBool = AtomicBool::new(false);

/// While objects are being unmapped: the stamp with which the lock is kept. The loader's own lock sees to it
/// that there is one such thread.
static REMOVING: AtomicU64 = AtomicU64::new(0);

/// Starts the engine: reads the options, looks at every object, re-points their sites.
///
/// # Safety
/// To be called once, by the constructor, with the process' environment.
pub unsafe fn start(envp: *const *const c_char) {
    // SAFETY: passed on.
    let Some(options) = (unsafe { config::read(envp) }) else { return };
    // SAFETY: passed on; nobody had time to change it.
    unsafe { object::remember_executable(envp) };
    loader::find();
    // SAFETY: the only thread, before anything else could use it.
    let engine = unsafe { engine() };
    engine.options = Some(options);
    let is_alone = threads() == Some(1);
    // SAFETY: passed on.
    let of_libc = unsafe { look_around(envp, !options.no_follow, if is_alone { Reader::alone } else { Reader::open }) };
    if options.hidden || options.no_follow {
        // SAFETY: passed on.
        unsafe { exec::hide(envp) };
    }
    if !is_alone {
        if options.stats.is_some() {
            let _ = begin(engine, |_| Err(Refusal::Threads));
        }
        return;
    }
    let text = Idle::open();
    let hears_of_sandboxes = of_libc.entries.is_some_and(|entries| entries.lead(&text));
    if !options.dry_run {
        // Without the hook, libraries that are loaded later stay as they are.
        let _ = loader::listen(&text);
        // Before there is an arena: when one is needed, threads may run in libc's function.
        unwind::iterate::listen(&text);
    }
    drop(text);
    // SAFETY: says the caller.
    if options.stats.is_some() || unsafe { dormant::finds_thunks(Reader::alone) } {
        let _ = begin(engine, |engine| promote_all(engine, Reader::alone));
        // SAFETY: the only thread.
        unsafe { dormant::wake() };
    } else {
        dormant::fall_asleep();
    }
    if !hears_of_sandboxes {
        sandbox::seal();
    }
    if let Some(register) = of_libc.register_atfork {
        fork::watch(register);
    }
}

/// What is used of the C library.
#[derive(Default)]
struct OfLibc {
    entries: Option<Entries>,
    /// Address of `__register_atfork`.
    register_atfork: Option<u64>,
}

/// Looks at the C library and at this object; notes where this one lies.
///
/// # Safety
/// As for [`start`].
unsafe fn look_around(envp: *const *const c_char, follow: bool, memory: fn() -> Reader) -> OfLibc {
    let here = look_around as *const () as u64;
    let mut found = OfLibc::default();
    object::each(&memory(), &mut |object| {
        if object.span().contains(&here) {
            // SAFETY: says the caller.
            unsafe {
                exec::remember(object.name, envp, follow);
                dormant::note_clean(object.base, object.dynamic());
            }
        } else if object.name.ends_with(b"/libc.so.6") && found.entries.is_none() {
            let register = object.function(b"__register_atfork").map(|(at, _)| at);
            found = OfLibc { entries: Entries::of(object), register_atfork: register };
            unwind::note_libc(object);
        }
    });
    found
}

/// Gives every site of every object a gate.
fn promote_all(engine: &mut Engine, memory: fn() -> Reader) -> Result<(), Refusal> {
    prepare(engine)?;
    discover::sweep(engine, memory);
    unwind::listen();
    control::preloaded();
    Ok(())
}

/// Starts the engine in a process in which there was nothing to promote so far, if there is now. The thread
/// holds the loader's lock.
fn start_late() {
    // SAFETY: the loader's lock is held.
    if !dormant::is_asleep() || !sandbox::may_call() || !unsafe { dormant::finds_thunks(Reader::open) } {
        return;
    }
    dormant::starting(pid());
    // Whoever asks for a filter, or detaches it, says so before he looks whether the engine is being started.
    if sandbox::may_call() && dormant::is_asleep() {
        // Nobody uses an engine that was never started; a parent's thread may have been starting it at a
        // fork.
        sync::know_processor(object::processor());
        LOCK.reset();
        LOCK.settle();
        hold::undisturbed(None, |engine| {
            let options = engine.options;
            *engine = Engine::new();
            engine.options = options;
            let _ = begin(engine, |engine| promote_all(engine, Reader::open));
        });
        // SAFETY: the loader's lock is held.
        unsafe { dormant::wake() };
    }
    dormant::starting(0);
}

fn pid() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get().cast_unsigned()
}

/// Starts the engine in a process whose threads run and go on running: every site gets its gate, but nothing
/// of the text is changed. `objects` are those that the loader has mapped; none of them goes while this runs.
///
/// # Errors
/// Why the engine cannot be used in this process.
///
/// # Safety
/// To be called under the lock, by a thread of the tool's, when the engine was not started in this process.
/// `envp` must be an environment block that holds the options.
pub unsafe fn start_attached(
    envp: *const *const c_char,
    path: &[u8],
    follow: bool,
    objects: &Listed<'_>,
) -> Result<(), Refusal> {
    // SAFETY: under the lock.
    let engine = unsafe { engine() };
    // What a parent had begun when it forked this process is of no use.
    *engine = Engine::new();
    // SAFETY: passed on.
    let options = unsafe { config::read(envp) }.ok_or(Refusal::Off)?;
    engine.options = Some(options);
    // SAFETY: passed on; nothing is started by exec through the engine yet.
    unsafe { exec::remember(path, envp, follow && !options.no_follow) };
    begin(engine, |engine| {
        prepare(engine)?;
        discover::sweep_listed(engine, objects);
        unwind::listen();
        Ok(())
    })
}

/// Makes the statistics, then does `all`, and notes how long it took or why it cannot be.
fn begin(engine: &mut Engine, all: impl FnOnce(&mut Engine) -> Result<(), Refusal>) -> Result<(), Refusal> {
    let begun = calibrate::now();
    engine.share = Share::create(engine.options().stats).ok_or(Refusal::Kernel)?;
    describe(engine);
    let outcome = all(engine);
    let header = engine.share.header();
    header.refusal = outcome.err().map_or(0, |refusal| refusal as u32);
    header.startup_cycles += calibrate::now().wrapping_sub(begun);
    report::header(engine);
    outcome
}

/// Makes what must be there before anything is touched.
fn prepare(engine: &mut Engine) -> Result<(), Refusal> {
    sync::know_processor(object::processor());
    fork::prepare().ok_or(Refusal::Kernel)?;
    control::keep_out_of_cores();
    engine.reserve().ok_or(Refusal::NoArena)?;
    let options = engine.options();
    let config = &mut engine.policy.config;
    if options.nervous {
        *config = Config::NERVOUS;
    }
    if let Some(most) = options.max_targets {
        config.max_targets = most.min(96) as u8;
    }
    if let Some(profile) = options.profile.filter(|_| !options.dry_run) {
        engine.warm.read(profile);
    }
    engine.enabled = true;
    STARTED.store(true, Ordering::Release);
    Ok(())
}

/// Number of threads of the process: /proc/self/task has a link for each, besides its own two. Without /proc
/// nobody can tell; a constructor that runs first is single-threaded then for all we know.
pub fn threads() -> Option<u32> {
    match rustix::fs::stat(c"/proc/self/task") {
        Ok(stat) => u32::try_from(stat.st_nlink.saturating_sub(2)).ok(),
        Err(_) => Some(1),
    }
}

fn describe(engine: &mut Engine) {
    let options = engine.options();
    let mut path = [core::mem::MaybeUninit::uninit(); 256];
    let header = engine.share.header();
    if let Ok((path, _)) = rustix::fs::readlinkat_raw(rustix::fs::CWD, c"/proc/self/exe", &mut path) {
        relpoline_stats::file::set_text(&mut header.program, path);
    }
    let flags = [(options.count, flag::COUNT), (options.dry_run, flag::DRY_RUN), (options.no_link, flag::NO_LINK)];
    header.flags = flags.iter().filter(|f| f.0).fold(0, |all, f| all | f.1);
}

/// Whether the engine was started and can still read the clock, without which it does nothing.
pub fn is_running() -> bool {
    STARTED.load(Ordering::Acquire) && sandbox::may_read_clock()
}

/// Whether the engine may be used by this process, in which `fork` may have happened; then nothing is
/// half-done.
pub fn usable(engine: &mut Engine) -> bool {
    let may_change = may_change(engine);
    if may_change {
        engine.recover();
    }
    may_change
}

/// Likewise, but what others left half-done is so still.
pub fn may_change(engine: &mut Engine) -> bool {
    is_running()
        && engine.frozen == Frozen::No
        && (!engine.inherited || {
            // What is asked for explicitly is worth an arena at once.
            engine.entries = u32::MAX - 1;
            fork::become_own(engine)
        })
}

/// Whether objects are being unmapped: the lock stays taken until that is over, and nothing is done with it.
pub fn is_removing() -> bool {
    REMOVING.load(Ordering::SeqCst) != 0
}

/// The loader is about to change, or has changed, the list of objects.
///
/// While objects are being unmapped the lock stays taken, so that nobody writes to text that is going.
pub fn loader_changed(change: Change) {
    // Whoever has the lock for this does not wait: the preparation waits for the lock.
    if REMOVING.load(Ordering::Acquire) == 0 {
        control::wait_for_preparation();
    }
    if change == Change::Done && !is_running() {
        start_late();
        return;
    }
    if !is_running() || !fork::settle_epoch() {
        return;
    }
    let held = hold::resume(REMOVING.swap(0, Ordering::SeqCst));
    // While objects were being unmapped forks began without the lock.
    hold::wait_for_forks();
    match change {
        Change::Adding => drop(held),
        // Given back when the loader is done; a judgement that comes in between finds it taken.
        Change::Removing => REMOVING.store(hold::take_pinned(held).keep(), Ordering::SeqCst),
        Change::Done => hold::undisturbed(held, |engine| {
            let begun = calibrate::now();
            // What is gone is noted before anything is mended. Who sleeps will look at everything when it
            // wakes.
            if !engine.asleep && may_change(engine) {
                discover::sweep(engine, Reader::open);
                unwind::listen();
                engine.recover();
                engine.share.header().startup_cycles += calibrate::now().wrapping_sub(begun);
                report::header(engine);
            }
        }),
    }
}

/// The program is about to restrict itself; `without_clock` when the time-stamp counter goes too, without
/// which nothing can be learnt. `latch` notes it, once nobody is in the middle of a system call that was
/// still allowed: another thread's, since a filter may be meant for all of them.
pub fn entering_sandbox(without_clock: bool, latch: impl FnOnce()) {
    if !is_running() || !fork::settle_epoch() {
        latch();
        while dormant::is_starting(pid) {
            control::rest();
        }
        return;
    }
    hold::undisturbed(None, |engine| {
        if (without_clock || engine.options().off_in_sandbox) && usable(engine) {
            switch(engine, false);
            engine.share.header().refusal = Refusal::Sandbox as u32;
        }
        if !engine.inherited {
            engine.share.claim_for_sandbox();
            engine.share.header().flags |= flag::SANDBOXED;
        }
        latch();
    });
}

/// A program that was started by exec goes without the engine.
pub fn child_refused(refusal: Refusal, program: &[u8]) {
    // It is not for a child that may share its parent's memory to notice that its parent is a new process.
    if !is_running() || !fork::is_settled() {
        return;
    }
    let Some(_hold) = hold::try_take() else { return };
    // SAFETY: the lock is held.
    let engine = unsafe { engine() };
    if engine.inherited || !engine.share.exists() {
        return;
    }
    let header = engine.share.header();
    let slot = header.refused_children as usize;
    header.refused_children += 1;
    if let Some(record) = header.refusals.get_mut(slot) {
        record.refusal = refusal as u8;
        relpoline_stats::file::set_text(&mut record.program, program);
    }
}

/// Switches promotion in this process off (every site back to its retpoline) or on again (every site starts
/// anew). False when the engine is not in this process, was detached from it, or cannot change anything in
/// it.
pub fn set_enabled(on: bool) -> bool {
    if !is_running() || !fork::settle_epoch() {
        return false;
    }
    hold::undisturbed(None, |engine| {
        let usable = !engine.asleep && usable(engine);
        if usable {
            switch(engine, on);
        }
        usable
    })
}

/// Switches promotion off or on, under the lock. Whoever takes the lock next ends it when this thread does
/// not.
pub fn switch(engine: &mut Engine, on: bool) {
    if engine.enabled == on && !engine.half_switched {
        return;
    }
    engine.half_switched = true;
    compiler_fence(Ordering::SeqCst);
    engine.enabled = on;
    let text = (!on && sandbox::may_call()).then(Reader::open);
    for id in 0..engine.sites.len() as u32 {
        if let Some(text) = &text {
            engine.see_link(id, text);
        }
        if on {
            engine.restart(id)
        } else {
            engine.retire(id)
        }
        report::site(engine, id);
    }
    report::header(engine);
    compiler_fence(Ordering::SeqCst);
    engine.half_switched = false;
}

/// Writes the last figures down.
pub fn finish() {
    if !is_running() {
        return;
    }
    let Some(_hold) = hold::try_take() else { return };
    // SAFETY: the lock is held.
    let engine = unsafe { engine() };
    if engine.inherited {
        return;
    }
    if !engine.share.is_collected() {
        engine.share.remove();
        return;
    }
    report::all(engine);
    engine.share.header().flags |= flag::ENDED;
}

impl Engine {
    /// Leaves a site to its thunk, whatever it was doing.
    pub fn retire(&mut self, id: u32) {
        if self.sites.as_slice().get(id as usize).is_none_or(|site| site.gone) {
            return;
        }
        self.stop_recording(id);
        self.unlink(id);
        self.publish_thunk(id);
    }

    /// Lets a site begin anew.
    pub fn restart(&mut self, id: u32) {
        let calls = self.policy.config.cold_calls;
        self.count_left_alone(id);
        self.leaves_the_crowd(id);
        if let Some(site) = self.sites.get_mut(id as usize) {
            if site.gone {
                return;
            }
            site.state = SiteState::new();
            site.misses = calls;
            site.counters().misses.store(calls, Ordering::Relaxed);
            self.publish_counting(id);
        }
    }
}
