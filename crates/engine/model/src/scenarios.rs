//! What threads do to the engine, and to each other.

use crate::child::{Child, Way};
use crate::processor;
use crate::program::{Program, TARGETS};
use crate::world::{self, Chance, Dangers, Work};
use relpoline_engine::engine;
use relpoline_engine::state::{LOCK, engine as the_engine};
use shuttle::thread;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// One of them.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    /// An execution.
    pub run: fn(),
}

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "calls", about: "three threads call sites whose targets change", run: calls },
    Scenario { name: "signals", about: "handlers call sites in the middle of everything", run: signals },
    Scenario { name: "leaving", about: "threads leave the engine in the middle, and come back late", run: leaving },
    Scenario {
        name: "switching",
        about: "promotion is switched off and on, sites are made to relearn",
        run: || switching(0),
    },
    Scenario {
        name: "overtaken",
        about: "the same, and threads are put off for longer than the lock's patience",
        run: || switching(3000),
    },
    Scenario { name: "stuck", about: "links can no longer be undone from some moment on", run: stuck },
    Scenario {
        name: "detaching",
        about: "the text is put back and led to the gates again, and threads come late",
        run: detaching,
    },
    Scenario { name: "fork", about: "children by fork, which waits for the lock", run: || fork(Way::Fork) },
    Scenario { name: "clone", about: "children by the system call, at any moment", run: || fork(Way::Raw) },
];

/// Deliberate faults, and the scenario that finds each.
pub const FAULTS: &[(&str, &str)] = &[
    ("two-byte-patch", "calls"),
    ("tree-in-place", "calls"),
    ("published-unfinished", "calls"),
    ("leaf-believes", "calls"),
    ("cell-reused", "calls"),
    ("lock-in-two-steps", "calls"),
    ("left-half-done", "leaving"),
    ("left-astray", "leaving"),
    ("judges-while-off", "switching"),
    ("behind-itself", "stuck"),
    ("poke-outlives-lock", "detaching"),
    ("child-keeps-lock", "clone"),
    ("child-shares-arena", "clone"),
];

const SITES: usize = 3;

thread_local! {
    /// Sites that had trees in the end, of how many.
    static PROMOTED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// After many executions.
///
/// # Panics
/// When hardly a site was ever promoted: then nothing was shown.
pub fn end() {
    let (promoted, all) = PROMOTED.get();
    assert!(promoted * 2 >= all, "of {all} sites {promoted} were promoted: nothing was shown");
    let _held = LOCK.try_take(1, u64::MAX >> 2, 1);
    // SAFETY: the only thread.
    unsafe { the_engine() }.share.remove();
}

/// Calls now this site and now that one. Each has a favourite target, which changes.
fn caller(program: &Arc<Program>, number: u64) -> Work {
    caller_of_favourites(program, number, 24, 8)
}

/// Likewise; favourites change after so many `turns`, and one call in `odd` goes anywhere.
fn caller_of_favourites(program: &Arc<Program>, number: u64, turns: u32, odd: u32) -> Work {
    let program = Arc::clone(program);
    let turn = AtomicU32::new(0);
    Arc::new(move |chance: &mut Chance| {
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        let site = chance.below(program.sites.len() as u32);
        let favourite = site + turn / turns;
        let target = if chance.once_in(odd) { chance.below(TARGETS) } else { favourite };
        processor::call(&program, site as usize, program.target(target % TARGETS), number);
    })
}

/// Begins an execution.
fn begin(dangers: Dangers) -> Arc<Program> {
    world::begin(dangers);
    let program = Arc::new(Program::start(SITES));
    world::let_threads_run();
    program
}

/// Ends it: whatever happened, sites come to rest; and when those who were late have gone on, calls are still
/// right.
fn finish(program: &Program) {
    world::wait();
    // Who switched promotion off may have left since.
    assert!(engine::set_enabled(true), "promotion can be switched on");
    let promoted = program.come_to_rest(0);
    let (before, all) = PROMOTED.get();
    PROMOTED.set((before + promoted, all + program.sites.len()));
    world::let_late_threads_go_on();
    for n in 0..40 {
        (0..program.sites.len()).for_each(|site| processor::call(program, site, program.target(n % TARGETS), 0));
    }
    // Nothing of this execution is left for the next.
    world::pass(1 << 40);
    engine::set_enabled(false);
}

fn calls() {
    let program = begin(Dangers::default());
    (0..3).for_each(|n| world::start(120, caller(&program, n), None));
    finish(&program);
}

fn signals() {
    let program = begin(Dangers { signals: 60, ..Dangers::default() });
    (0..2).for_each(|n| world::start(120, caller(&program, n), Some(caller(&program, n + 8))));
    finish(&program);
}

fn leaving() {
    let program = begin(Dangers { signals: 30, leaves: 3, ..Dangers::default() });
    (0..3).for_each(|n| world::start(120, caller(&program, n), Some(caller(&program, n + 8))));
    finish(&program);
}

/// Switches promotion off, sees to it that it is off, and on again.
fn switcher(program: &Arc<Program>) -> Work {
    let program = Arc::clone(program);
    Arc::new(move |chance: &mut Chance| {
        assert!(engine::set_enabled(false), "promotion can be switched off");
        for _ in 0..chance.below(200) {
            let is_off = program.all_is_off() || world::is_broken();
            let is_unlinked = program.nothing_is_linked();
            // Who stood still here until the end finds that promotion was switched on since.
            if world::is_ending() {
                break;
            }
            assert!(is_off, "a tree was published while promotion is off");
            assert!(is_unlinked, "a site was linked while promotion is off");
            world::relax();
        }
        assert!(engine::set_enabled(true), "promotion can be switched on");
    })
}

/// Lets all sites begin anew.
fn relearner() -> Work {
    Arc::new(move |_: &mut Chance| {
        let _hold = relpoline_engine::hold::take();
        // SAFETY: the lock is held.
        let engine = unsafe { the_engine() };
        if engine::usable(engine) {
            (0..engine.sites.len() as u32).for_each(|id| engine.begin_anew(id));
        }
    })
}

fn switching(stalls: u32) {
    let program = begin(Dangers { signals: 60, leaves: 2, lingers: 12, stalls, ..Dangers::default() });
    (0..2).for_each(|n| world::start(120, caller(&program, n), Some(caller(&program, n + 8))));
    world::start(3, switcher(&program), Some(caller(&program, 16)));
    world::start(3, relearner(), Some(caller(&program, 17)));
    finish(&program);
}

/// What the tool does to detach, and to attach again.
fn detacher(program: &Arc<Program>) -> Work {
    let program = Arc::clone(program);
    Arc::new(move |chance: &mut Chance| {
        let switch = |to_gates: bool| {
            loop {
                relpoline_engine::hold::undisturbed(None, |engine| {
                    assert!(engine::usable(engine), "the engine can be used");
                    if to_gates { engine.begin_all_anew() } else { engine.fall_asleep() }
                });
                if world::in_a_stop(|| program.lead_all(to_gates)) {
                    return;
                }
                world::relax();
            }
        };
        // Sites are about to be linked, or are.
        let at_most = 20_000;
        for _ in (0..at_most).take_while(|_| !program.has_promoted()) {
            world::relax();
        }
        (0..chance.below(200)).for_each(|_| world::step());
        switch(false);
        world::note_detached();
        for _ in 0..chance.below(200) {
            assert!(program.is_as_written(), "text that was put back was changed");
            world::relax();
        }
        switch(true);
    })
}

fn detaching() {
    let program = begin(Dangers { signals: 60, late: 3, stalls: 600, ..Dangers::default() });
    // Steady enough for sites to be linked in between.
    let caller = |n| caller_of_favourites(&program, n, 100, 16);
    (0..3).for_each(|n| world::start(200, caller(n), Some(caller(n + 8))));
    world::start(4, detacher(&program), None);
    finish(&program);
}

/// How many files may be open: without any, the program's text cannot be changed.
fn may_open_files(may: bool) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: room for the limits, which are then changed within what is allowed.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = if may { limit.rlim_max.min(1024) } else { 0 };
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

fn stuck() {
    let program = begin(Dangers { signals: 60, ..Dangers::default() });
    // Learning finds what it knew already, now and then.
    let caller = |n| caller_of_favourites(&program, n, u32::MAX, 4);
    (0..2).for_each(|n| world::start(400, caller(n), Some(caller(n + 8))));
    let loser: Work = Arc::new(|chance: &mut Chance| {
        (0..chance.below(4000)).for_each(|_| world::step());
        may_open_files(false);
    });
    world::start(1, loser, None);
    finish(&program);
    may_open_files(true);
}

/// Forks, and lets the child go on beside everybody else.
fn forker(program: &Arc<Program>, way: Way) -> Work {
    let program = Arc::clone(program);
    Arc::new(move |chance: &mut Chance| {
        let in_child = (Arc::clone(&program), chance.clone());
        let child = Child::make(way, move || live_as_a_child(&in_child.0, in_child.1));
        // Now the parent is faster, and now the child.
        let pace = 2 << chance.below(6);
        while child.go_on(1 + chance.below(pace) as u8) {
            thread::sleep(std::time::Duration::ZERO);
        }
    })
}

/// Calls everything in an order of its own until the child has an arena, and all sites have come to rest.
fn live_as_a_child(program: &Arc<Program>, mut chance: Chance) {
    let caller = caller(program, 16);
    (0..20).for_each(|_| caller(&mut chance));
    program.call_all(16);
    // SAFETY: the only thread.
    let engine = unsafe { the_engine() };
    assert!(!engine.inherited, "a child that goes on calling has no arena of its own: {:?}", engine.frozen);
    program.come_to_rest(16);
}

unsafe extern "C" {
    /// glibc's, which the preloaded engine finds in memory.
    fn __register_atfork();
}

fn fork(way: Way) {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if !WATCHED.swap(true, Ordering::Relaxed) {
        relpoline_engine::fork::watch(__register_atfork as *const () as u64);
    }
    let program = begin(Dangers { signals: 60, ..Dangers::default() });
    (0..2).for_each(|n| world::start(120, caller(&program, n), Some(caller(&program, n + 8))));
    world::start(1, forker(&program, way), None);
    finish(&program);
}
