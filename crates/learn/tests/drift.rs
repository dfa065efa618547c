//! Faults that crept in while the learner was written three times: a test for each, with its deliberate
//! fault.
//!
//! With `RUSTFLAGS='--cfg relpoline_broken="…"'` these fail, each its own: `empty-reads-full`,
//! `cursor-trusted`, `cursor-left`, `refusal-ignored`, `waits-for-ever`, `misses-contended`.

mod machine;

use core::sync::atomic::Ordering::Relaxed;
use machine::{ALLOWED, Machine, OVERTAKEN, REFUSED};
use relpoline_core::policy::{Config, Phase, SiteState};
use relpoline_learn::countdown::never;
use relpoline_learn::rings::Rings;
use relpoline_learn::{Learner, Site};

/// A site, its learner, and the time.
struct Bench {
    site: Machine,
    learner: Learner<1>,
    now: u64,
}

impl Bench {
    fn new() -> Bench {
        let mut learner = Learner::new();
        // SAFETY: zeroes that are never freed, and the only pool there.
        learner.rings = unsafe { Rings::at(machine::ring_memory()) };
        learner.policy.config = Config { trials: false, cold_share: u32::MAX, ..Config::DEFAULT };
        let site = Machine::new(&learner.rings, 1..100, 96);
        Bench { site, learner, now: 1 << 40 }
    }

    fn call(&mut self, target: u64) -> bool {
        self.now += 1000;
        let (slow, known) = self.site.call(target);
        if slow {
            self.arrive();
        }
        known
    }

    /// Some thread has come to the slow path.
    fn arrive(&mut self) {
        self.learner.attend(&mut self.site.hand(), self.now);
    }

    fn phase(&self) -> Phase {
        self.site.memory().state.phase()
    }

    /// Calls `target` until the site is in that phase.
    fn until(&mut self, phase: Phase, target: u64) {
        for _ in 0..1_000_000 {
            if self.phase() == phase {
                return;
            }
            self.call(target);
        }
        panic!("never {phase:?}: {:?}", self.site.memory());
    }

    /// Whether calls of `target` come to be direct.
    fn learns(&mut self, target: u64) -> bool {
        (0..200_000).any(|_| self.call(target))
    }
}

/// Two threads count the last calls of a cold site down. The second one finds a window that has just begun.
#[test]
fn an_empty_window_is_empty_whoever_arrives() {
    let mut bench = Bench::new();
    bench.until(Phase::Learning, 7);
    bench.arrive();
    assert_eq!(bench.phase(), Phase::Learning);
    bench.until(Phase::Promoted, 7);
    assert!(bench.call(7));
}

/// A window that has gone round is full, all the same.
#[test]
fn a_ring_that_went_round_is_full() {
    let mut bench = Bench::new();
    bench.until(Phase::Learning, 7);
    // Whoever had the lock did not let it go for so long.
    for _ in 0..8192 {
        let _ = bench.site.call(7);
    }
    bench.arrive();
    assert!(bench.call(7));
}

/// A thread that was late in the recording stub has stored the cursor as it was before.
#[test]
fn a_cursor_in_another_ring_is_noticed() {
    let mut bench = Bench::new();
    bench.until(Phase::Learning, 7);
    bench.site.counters.cursor.store(bench.learner.rings.nobodys() + 256 * 8, Relaxed);
    bench.arrive();
    assert_eq!(bench.phase(), Phase::Learning);
    let ring = bench.site.memory().ring().expect("it learns");
    assert_eq!(bench.site.counters.cursor.load(Relaxed), bench.learner.rings.address(ring));
    assert!(bench.learns(7));
}

/// Whoever is late in a recording stub does not write where another site records.
#[test]
fn a_cursor_leaves_its_ring_before_that_is_given_back() {
    let mut bench = Bench::new();
    assert_eq!(bench.site.counters.cursor.load(Relaxed), bench.learner.rings.nobodys());
    bench.until(Phase::Promoted, 7);
    assert_eq!(bench.site.counters.cursor.load(Relaxed), bench.learner.rings.nobodys());
    assert_eq!(bench.learner.rings.lent(), 0);
    assert_eq!(bench.site.memory().seen, 96 + 256);
}

/// Text that cannot be changed any more: the site goes on learning behind its tree, and gives its ring back.
#[test]
fn a_refused_unlink_leaves_nothing_half_way() {
    let mut bench = Bench::new();
    bench.until(Phase::Linked, 7);
    bench.site.pokes.store(REFUSED, Relaxed);
    assert!(bench.learns(8), "{:?}", bench.site.memory());
    assert!(bench.call(7) && bench.site.memory().stuck);
    assert!(bench.learns(9));
    assert_eq!(bench.learner.rings.lent(), 0);
    // It may be changed again, and the site is told to begin anew.
    bench.site.pokes.store(ALLOWED, Relaxed);
    bench.learner.begin_anew(&mut bench.site.hand());
    assert!(!bench.site.memory().stuck && !bench.site.memory().linked);
    bench.until(Phase::Linked, 10);
    assert!(bench.call(10));
}

/// A thread that was overtaken, or a child that has its parent's memory, must not change text: the tree
/// stays.
#[test]
fn an_unlink_that_is_put_off_leaves_the_tree() {
    let mut bench = Bench::new();
    bench.until(Phase::Linked, 7);
    bench.site.pokes.store(OVERTAKEN, Relaxed);
    for _ in 0..100_000 {
        bench.call(8);
    }
    assert!(bench.call(7));
    assert_eq!(bench.learner.rings.lent(), 0);
    assert!(!bench.site.memory().stuck);
    bench.site.pokes.store(ALLOWED, Relaxed);
    assert!(bench.learns(8));
}

/// A thread that was late has stored the countdown of a site that nobody waits for, where calls are counted.
#[test]
fn every_countdown_ends() {
    let mut bench = Bench::new();
    bench.site.counters.misses.store(never(), Relaxed);
    let ended = (0..1u32 << 25).any(|_| bench.site.call(7).0);
    assert!(ended);
    bench.arrive();
    assert_eq!(bench.phase(), Phase::Learning);
}

/// A thread that was overtaken has left a site linked that has no tree, or learning without a ring.
#[test]
fn what_was_left_astray_begins_anew() {
    let mut bench = Bench::new();
    bench.until(Phase::Linked, 7);
    bench.site.hand().memory_mut().state = SiteState::new();
    assert!(bench.learner.look_at(&mut bench.site.hand(), bench.now));
    assert!(!bench.site.memory().linked);
    bench.until(Phase::Learning, 8);
    let ring = bench.site.hand().memory_mut().take_ring();
    bench.learner.rings.give_back(ring.expect("it learns"));
    bench.arrive();
    assert_eq!(bench.phase(), Phase::Cold);
    assert!(bench.learns(8));
}

/// One call in eight goes anywhere, however often the site learns.
fn counts_misses_that_stay(threads: u32) -> bool {
    let mut bench = Bench::new();
    bench.site.threads.store(threads, Relaxed);
    for n in 0..200_000_u64 {
        bench.call(if n % 8 == 0 { 8 + n / 8 % 90 } else { 7 });
    }
    assert!(bench.call(7), "{:?}", bench.site.memory());
    bench.site.counts_misses()
}

/// Several threads would take the counter from each other. With `misses-contended` this fails.
#[test]
fn misses_of_several_threads_that_stay_are_not_counted() {
    assert!(counts_misses_that_stay(1));
    assert!(!counts_misses_that_stay(2));
}
