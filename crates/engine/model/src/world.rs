//! What the engine's seam (`relpoline_text::sync`) leads to: every access to shared memory is a step at which
//! another thread may run, a signal may be delivered, or the thread may leave what it is doing for ever.
//!
//! All threads of an execution are tasks of shuttle's on one thread of the system, so what they do is one
//! sequence that the scheduler decides and a seed repeats. Each has its own source of chance, seeded by
//! shuttle.
//!
//! A thread that *leaves* (a `siglongjmp` out of a handler, a killed vfork child, a thread that is never
//! scheduled again) stands still where it is; what is left of its work is done by another task, and the clock
//! goes on by more than the lock's patience. At the end of an execution those that stand still go on after
//! all, as a stopped thread might.

use relpoline_engine::hold::PATIENCE;
use relpoline_text::sync::{self, World};
use shuttle::rand::{RngCore, thread_rng};
use shuttle::thread::{self, JoinHandle, Thread};
use std::cell::{Cell, RefCell};
use std::sync::{Arc, OnceLock};

/// Something that threads do again and again.
pub type Work = Arc<dyn Fn(&mut Chance) + Send + Sync>;

/// What a thread may meet with.
#[derive(Clone, Copy, Default)]
pub struct Dangers {
    /// One step in this many delivers a signal; 0: none.
    pub signals: u32,
    /// Of the signals of the execution, this many take the thread away from what it was doing.
    pub leaves: u32,
    /// Of the looks at the clock, one in this many is followed by a rest; 0: none.
    pub lingers: u32,
    /// This many threads come late with what signals have to wait for: not before the text was put back.
    pub late: u32,
    /// One step in this many takes longer than the lock's patience, as when a thread is put off by the
    /// scheduler; 0: none.
    pub stalls: u32,
}

/// A source of chance.
#[derive(Clone)]
pub struct Chance(u64);

impl Chance {
    /// One that shuttle has seeded.
    pub fn new() -> Chance {
        Chance(thread_rng().next_u64() | 1)
    }

    /// Less than `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(n)) >> 32) as u32
    }

    /// Once in `n` times.
    pub fn once_in(&mut self, n: u32) -> bool {
        n != 0 && self.below(n) == 0
    }
}

/// A thread's part of the world.
struct Actor {
    work: Work,
    handler: Option<Work>,
    left: u32,
    chance: Chance,
    /// Handlers that it is in.
    depth: u32,
    /// It stands still, and its work is another's.
    stands: bool,
    /// Its signals wait.
    held_back: bool,
}

#[derive(Default)]
struct State {
    actors: Vec<Option<Actor>>,
    handles: Vec<JoinHandle<()>>,
    dangers: Dangers,
    working: u32,
    main: Option<Thread>,
    /// Judgements under way: whose, and of which site.
    judging: Vec<(usize, u32)>,
    ending: bool,
    /// The lock may have been broken while its holder was there.
    broken: bool,
    figures: Figures,
}

/// What happened.
#[derive(Clone, Copy, Default, Debug)]
pub struct Figures {
    /// Steps.
    pub steps: u64,
    /// Judgements.
    pub judgements: u64,
    /// Signals.
    pub signals: u64,
    /// Threads that left.
    pub leaves: u64,
    /// Of those, in the middle of a judgement.
    pub left_judgements: u64,
    /// Steps that took longer than the lock's patience.
    pub stalls: u64,
    /// Times that the text was put back.
    pub detached: u64,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
    static CLOCK: Cell<u64> = const { Cell::new(0) };
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

static WORLD: World = World { step, relax, now, begins, ends, makes_mistake, thread: name, hold_back };

/// The deliberate mistake that the engine is to make, if any.
pub static MISTAKE: OnceLock<String> = OnceLock::new();

fn makes_mistake(name: &str) -> bool {
    MISTAKE.get().is_some_and(|mistake| mistake == name)
}

fn with<R>(f: impl FnOnce(&mut State) -> R) -> R {
    STATE.with_borrow_mut(f)
}

fn me() -> usize {
    shuttle::current::me().into()
}

fn name() -> u64 {
    me() as u64 + 1
}

fn hold_back(wait: bool) -> bool {
    let me = me();
    with(|state| {
        let actor = state.actors.get_mut(me).and_then(Option::as_mut);
        actor.is_some_and(|actor| std::mem::replace(&mut actor.held_back, wait))
    })
}

/// Does something while all other threads stand still.
pub fn in_a_stop<R>(work: impl FnOnce() -> R) -> R {
    RUNNING.set(false);
    let result = work();
    RUNNING.set(true);
    result
}

/// Begins an execution.
pub fn begin(dangers: Dangers) {
    let main = Some(thread::current());
    let before = with(|state| {
        let figures = state.figures;
        std::mem::replace(state, State { dangers, figures, main, ..State::default() })
    });
    drop(before);
    CLOCK.set(1 << 40);
    RUNNING.set(false);
    sync::enter(&WORLD);
}

/// From here on there are other threads.
pub fn let_threads_run() {
    RUNNING.set(true);
}

/// Counts that the text was put back.
pub fn note_detached() {
    with(|state| state.figures.detached += 1);
}

/// What happened since the process began.
pub fn figures() -> Figures {
    with(|state| state.figures)
}

/// Time passes.
pub fn pass(cycles: u64) {
    CLOCK.set(CLOCK.get() + cycles);
}

/// Starts a thread that does `work` so many `times`; its signals are handled by `handler`.
pub fn start(times: u32, work: Work, handler: Option<Work>) {
    with(|state| state.working += 1);
    spawn(Actor { work, handler, left: times, chance: Chance::new(), depth: 0, stands: false, held_back: false });
}

fn spawn(actor: Actor) {
    let handle = thread::spawn(move || {
        let me = me();
        with(|state| {
            state.actors.resize_with(state.actors.len().max(me + 1), || None);
            state.actors[me] = Some(actor);
        });
        work(me);
    });
    with(|state| state.handles.push(handle));
}

fn work(me: usize) {
    loop {
        let next = with(|state| {
            let actor = state.actors[me].as_mut()?;
            if actor.left == 0 || actor.stands {
                return None;
            }
            actor.left -= 1;
            Some((Arc::clone(&actor.work), actor.chance.clone()))
        });
        let Some((work, mut chance)) = next else { break };
        // The actor's own chance goes on with another sequence, for steps.
        chance.0 = chance.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        work(&mut chance);
    }
    // Neither dropped nor woken inside: both may be steps.
    let (actor, main) = with(|state| {
        let actor = state.actors[me].take_if(|actor| !actor.stands);
        state.working -= u32::from(actor.is_some());
        (actor, state.main.clone().filter(|_| state.working == 0))
    });
    if let Some(main) = main.filter(|_| actor.is_some()) {
        main.unpark();
    }
}

/// Waits until all threads have done their work.
pub fn wait() {
    while with(|state| state.working != 0) {
        thread::park();
    }
    RUNNING.set(false);
    // Whoever has left with the lock does not hold it for ever.
    pass(2 * PATIENCE);
}

/// Lets those that stand still go on, and waits for them.
pub fn let_late_threads_go_on() {
    RUNNING.set(true);
    let handles = with(|state| {
        state.ending = true;
        state.judging.clear();
        std::mem::take(&mut state.handles)
    });
    for handle in &handles {
        handle.thread().unpark();
    }
    for handle in handles {
        handle.join().expect("a thread that came late failed");
    }
    RUNNING.set(false);
}

/// Another thread may run here.
pub fn step() {
    if !RUNNING.get() {
        return;
    }
    with(|state| state.figures.steps += 1);
    if !crate::child::paced() {
        // Nothing but a scheduling point, says shuttle.
        perhaps_stall();
        thread::sleep(std::time::Duration::ZERO);
    }
    perhaps_signal();
}

/// Between looking at the clock and what it is wanted for, taking the lock mostly, others get ahead, or not.
fn perhaps_linger() {
    let me = me();
    let lingers = RUNNING.get()
        && !crate::child::in_one()
        && with(|state| {
            let often = state.dangers.lingers;
            state.actors.get_mut(me).and_then(Option::as_mut).is_some_and(|actor| actor.chance.once_in(often))
        });
    if lingers {
        (0..200).for_each(|_| thread::yield_now());
    }
}

/// This thread is put off for longer than the lock's patience, or not.
fn perhaps_stall() {
    let me = me();
    let late = with(|state| {
        let dangers = state.dangers;
        let actor = state.actors.get_mut(me).and_then(Option::as_mut).filter(|_| !state.ending)?;
        let waits = actor.held_back && dangers.late != 0 && actor.chance.once_in(4);
        state.dangers.late -= u32::from(waits);
        (waits || actor.chance.once_in(dangers.stalls)).then_some(waits.then_some(state.figures.detached))
    });
    let Some(until) = late else { return };
    pass(2 * PATIENCE);
    with(|state| {
        state.broken = true;
        state.figures.stalls += 1;
    });
    if let Some(detached) = until {
        (0..1500).take_while(|_| with(|state| state.figures.detached) == detached).for_each(|_| thread::yield_now());
    }
}

/// Whether the lock may have been broken while its holder was there.
pub fn is_broken() -> bool {
    with(|state| state.broken)
}

/// Whether all work is done, and who stood still goes on.
pub fn is_ending() -> bool {
    with(|state| state.ending)
}

/// Others have to run here.
pub fn relax() {
    CLOCK.set(CLOCK.get() + (1 << 10));
    if !RUNNING.get() {
        return;
    }
    if !crate::child::paced() {
        thread::yield_now();
    }
}

fn now() -> u64 {
    step();
    perhaps_linger();
    CLOCK.set(CLOCK.get() + 50);
    CLOCK.get()
}

fn begins(site: u32) {
    step();
    let me = me();
    with(|state| {
        state.figures.judgements += 1;
        let may_be = state.ending || state.broken;
        assert!(may_be || state.judging.is_empty(), "two judgements at once: {:?} and {site}", state.judging);
        state.judging.push((me, site));
    });
}

fn ends() {
    let me = me();
    with(|state| state.judging.retain(|judging| judging.0 != me));
    step();
}

/// Whether the thread that runs is in the middle of a judgement.
fn is_judging(state: &State, me: usize) -> bool {
    state.judging.iter().any(|judging| judging.0 == me)
}

/// In a forked child: there are no other threads.
pub fn be_alone() {
    with(|state| {
        state.judging.clear();
        state.dangers = Dangers { leaves: 0, late: 0, stalls: 0, ..state.dangers };
        let me = me();
        for (n, actor) in state.actors.iter_mut().enumerate() {
            if n != me {
                *actor = None;
            }
        }
    });
}

/// A signal comes, or not.
fn perhaps_signal() {
    let me = me();
    let handler = with(|state| {
        let (ending, often) = (state.ending, state.dangers.signals);
        let actor = state.actors.get_mut(me)?.as_mut()?;
        if ending || actor.stands || actor.held_back || actor.depth >= 2 || !actor.chance.once_in(often) {
            return None;
        }
        actor.depth += 1;
        state.figures.signals += 1;
        let mut chance = actor.chance.clone();
        chance.0 = chance.0.rotate_left(17) | 1;
        actor.handler.clone().map(|handler| (handler, chance))
    });
    let Some((handler, mut chance)) = handler else { return };
    handler(&mut chance);
    let leaves = with(|state| {
        let judging = is_judging(state, me);
        let actor = state.actors[me].as_mut()?;
        actor.depth -= 1;
        // Judgements are rare, and what is to be tried.
        let wanted = if judging { actor.chance.once_in(2) } else { actor.chance.once_in(10) };
        if state.dangers.leaves == 0 || !wanted || actor.depth > 0 {
            return None;
        }
        state.dangers.leaves -= 1;
        state.figures.leaves += 1;
        state.figures.left_judgements += u64::from(judging);
        actor.stands = true;
        state.judging.retain(|judging| judging.0 != me);
        let (work, handler) = (Arc::clone(&actor.work), actor.handler.clone());
        let successor = Actor {
            work,
            handler,
            left: actor.left,
            chance: actor.chance.clone(),
            depth: 0,
            stands: false,
            held_back: false,
        };
        Some((successor, judging))
    });
    if let Some((successor, judging)) = leaves {
        pass(2 * PATIENCE);
        // Another one may hold the lock, and just not run: it has lost it now.
        with(|state| state.broken |= !judging);
        spawn(successor);
        while with(|state| !state.ending) {
            thread::park();
        }
    }
}
