//! The clock decides between a tree and the plain jump.
//!
//! The policy prices a tree against a retpoline, which costs the same whatever the targets. What lies behind
//! a table here is a plain indirect jump, which processors foretell well in one loop and badly in the next,
//! for reasons that no trace shows. So a tree that the policy wants is first put in place untimed, until
//! predictors know it, and then the two take turns, each for the same number of calls. The turns follow each
//! other closely, so that both see the same program. The tree has to win most of them and in sum, or the
//! table is left to the plain jump for a while.

use super::hand::Hand;
use core::sync::atomic::Ordering::Relaxed;
use relpoline_core::policy::{Counters as Start, Reason};
use relpoline_learn::countdown::{is_over, never};
use relpoline_learn::{Learner, Site, To};

/// Calls through the tree before it is timed.
const TRAINING: u32 = 4096;
/// Calls in a turn.
const TURN: u32 = 1024;
/// Pairs of turns.
const PAIRS: u8 = 6;
/// Pairs that the tree must win.
const WINS: u8 = 4;
/// In sum, the tree must save more than 1/this …
const GAIN: u64 = if cfg!(feature = "retpoline") { 32 } else { 4 };
/// … and this many ticks per call. A call that is left alone is a plain one in its caller, and what turns do
/// not show is what that saves: both go through a branch, the gate and a counter, which lie apart. Measured:
/// three targets in turn cost 3.6 ns plainly and 6.4 by a tree that had won its turns by a little. So a tree
/// has to win by much. With retpolines both go through the gate for good.
const JUMPS: u64 = if cfg!(feature = "retpoline") { 2 } else { 8 };

/// Where a table's contest stands.
#[derive(Clone, Copy, Debug)]
pub struct Contest {
    /// The tree that wants to be in place, and the countdowns it will start with.
    tree: u32,
    start: Start,
    /// 0 is training; then odd turns are the tree's and even ones the plain jump's.
    turn: u8,
    since: u64,
    /// Ticks of the tree's last turn.
    last: u64,
    wins: u8,
    /// Ticks of all turns: the tree's, the plain jump's.
    sums: [u64; 2],
}

impl Contest {
    /// One for `tree`, which is to start with those countdowns, begins.
    pub fn begin(table: &mut Hand<'_>, tree: u32, start: Start, now: u64) {
        table.table.rejected = tree;
        table.table.contest = Some(Contest { tree, start, turn: 0, since: now, last: 0, wins: 0, sums: [0; 2] });
        trees_turn(table, tree, TRAINING);
    }

    /// It is the plain jump's turn.
    fn is_plain(&self) -> bool {
        self.turn != 0 && self.turn.is_multiple_of(2)
    }
}

fn trees_turn(table: &mut Hand<'_>, tree: u32, calls: u32) {
    let counters = table.counters();
    counters.misses.store(never(), Relaxed);
    counters.exits.store(never(), Relaxed);
    counters.settle.store(calls, Relaxed);
    table.lead_to_settling(tree);
}

fn plain_turn(table: &mut Hand<'_>) {
    table.counters().settle.store(never(), Relaxed);
    table.counters().misses.store(TURN, Relaxed);
    table.lead(To::Counting);
}

/// A turn may have ended. Returns whether there is a contest at all.
pub fn turn_ended(learner: &mut Learner<1>, table: &mut Hand<'_>, now: u64) -> bool {
    let Some(mut contest) = table.table.contest else { return false };
    let counters = table.counters();
    let counter = if contest.is_plain() { &counters.misses } else { &counters.settle };
    if !is_over(counter) {
        return true;
    }
    let took = now.saturating_sub(contest.since);
    if contest.is_plain() {
        contest.wins += u8::from(contest.last < took);
        contest.sums[0] += contest.last;
        contest.sums[1] += took;
    }
    contest.last = took;
    contest.turn += 1;
    contest.since = super::now();
    table.table.contest = Some(contest);
    if contest.turn > 2 * PAIRS {
        finish(learner, table, &contest, now);
    } else if contest.is_plain() {
        plain_turn(table);
    } else {
        trees_turn(table, contest.tree, TURN);
    }
    true
}

fn finish(learner: &mut Learner<1>, table: &mut Hand<'_>, contest: &Contest, now: u64) {
    table.table.contest = None;
    let [tree, plain] = contest.sums;
    if contest.wins >= WINS && tree + JUMPS * u64::from(TURN) * u64::from(PAIRS) < plain - plain / GAIN {
        learner.put_in_place(table, contest.tree, contest.start);
    } else {
        learner.refuse(table, Reason::NoGain, now);
    }
}
