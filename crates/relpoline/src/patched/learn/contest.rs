//! The clock decides between a tree and the plain jump.
//!
//! The policy prices a tree against a retpoline, which costs the same whatever the targets. What lies behind a
//! table here is a plain indirect jump, which processors foretell well in one loop and badly in the next, for
//! reasons that no trace shows. So a tree that the policy wants is first put in place untimed, until
//! predictors know it, and then the two take turns, each for the same number of calls. The turns follow each
//! other closely, so that both see the same program. The tree has to win most of them and in sum, or the table
//! is left to the plain jump for a while.

use super::Learner;
use super::judge::NEVER;
use core::sync::atomic::Ordering;
use relpoline_core::policy::{Counters as Start, Reason};

/// Calls through the tree before it is timed.
const TRAINING: u32 = 4096;
/// Calls in a turn.
const TURN: u32 = 1024;
/// Pairs of turns.
const PAIRS: u8 = 6;
/// Pairs that the tree must win.
const WINS: u8 = 4;
/// In sum, the tree must save more than 1/this …
const GAIN: u64 = 32;
/// … and this many ticks per call: a table that is left alone jumps once less than one that is linked to its
/// tree, which turns do not show, since both go through a counter.
const JUMP: u64 = 2;

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

impl Learner {
    /// Puts a tree in place if the clock is for it, or at once if nobody asks the clock.
    pub fn challenge(&mut self, id: u32, tree: u32, start: Start, now: u64) {
        let Some(table) = self.tables.get_mut(id as usize) else { return };
        if table.unchallenged {
            self.publish_tree(id, tree, start);
            return;
        }
        table.rejected = tree;
        table.contest = Some(Contest { tree, start, turn: 0, since: now, last: 0, wins: 0, sums: [0; 2] });
        self.trees_turn(id, tree, TRAINING);
    }

    fn trees_turn(&mut self, id: u32, tree: u32, calls: u32) {
        let Some(&table) = self.tables.get(id as usize) else { return };
        let counters = table.counters();
        counters.misses.store(NEVER, Ordering::Relaxed);
        counters.exits.store(NEVER, Ordering::Relaxed);
        counters.settle.store(calls, Ordering::Relaxed);
        let Some(settling) = self.trees.get(tree as usize).map(|t| t.settling) else { return };
        self.publish_cell(id, settling);
    }

    fn plain_turn(&mut self, id: u32) {
        let Some(&table) = self.tables.get(id as usize) else { return };
        table.counters().settle.store(NEVER, Ordering::Relaxed);
        table.counters().misses.store(TURN, Ordering::Relaxed);
        self.publish_counting(id);
    }

    /// A turn may have ended. Returns whether there is a contest at all.
    pub fn turn_ended(&mut self, id: u32, now: u64) -> bool {
        let Some(table) = self.tables.get_mut(id as usize) else { return false };
        let Some(mut contest) = table.contest else { return false };
        let counters = table.counters();
        let plain = contest.turn != 0 && contest.turn % 2 == 0;
        let counter = if plain { &counters.misses } else { &counters.settle };
        if counter.load(Ordering::Relaxed).cast_signed() > 0 {
            return true;
        }
        let took = now.saturating_sub(contest.since);
        if plain {
            contest.wins += u8::from(contest.last < took);
            contest.sums[0] += contest.last;
            contest.sums[1] += took;
        }
        contest.last = took;
        contest.turn += 1;
        contest.since = super::now();
        table.contest = Some(contest);
        if contest.turn > 2 * PAIRS {
            self.finish(id, &contest, now);
        } else if contest.turn % 2 == 0 {
            self.plain_turn(id);
        } else {
            self.trees_turn(id, contest.tree, TURN);
        }
        true
    }

    fn finish(&mut self, id: u32, contest: &Contest, now: u64) {
        let Some(table) = self.tables.get_mut(id as usize) else { return };
        table.contest = None;
        let [tree, plain] = contest.sums;
        if contest.wins >= WINS && tree + JUMP * u64::from(TURN) * u64::from(PAIRS) < plain - plain / GAIN {
            self.publish_tree(id, contest.tree, contest.start);
        } else {
            self.refuse(id, Reason::NoGain, now);
        }
    }
}
