//! A workload's calls, sent through the model of the engine.

use relpoline_core::policy::Costs;
use relpoline_core::policy::workload::{Call, Pattern, Workload};

use crate::engine::{Engine, Tally};

/// One replay: everything, and the part after learning.
pub struct Replay {
    pub engine: Engine,
    pub learned: Tally,
}

impl Replay {
    /// Cost of a call once learned [1/16 cycle].
    pub fn cost(&self) -> f64 {
        self.learned.cost as f64 / self.learned.calls as f64
    }
}

/// What calls cost on the processor of a workload.
pub fn costs(workload: &Workload) -> Costs {
    Costs { cycles_per_ms: workload.cycles_per_ms, ..Costs::TYPICAL }
}

/// Replays `calls`, of which the first half is for learning.
pub fn replay(workload: &Workload, calls: &[Call], truth: Costs, belief: Costs) -> Replay {
    let mut engine = Engine::new(truth, belief);
    let mut before = Tally::default();
    for (i, call) in calls.iter().enumerate() {
        if i == calls.len() / 2 {
            before = engine.tally;
        }
        engine.work(workload.work);
        engine.call(call);
    }
    let mut learned = engine.tally;
    learned.calls -= before.calls;
    learned.cost -= before.cost;
    Replay { engine, learned }
}

/// The calls of a workload, so many that it is learned in the first half.
pub fn calls(workload: &Workload, seed: u64) -> Vec<Call> {
    let changing = matches!(workload.pattern, Pattern::Phases { .. } | Pattern::Flapping(_) | Pattern::Turns { .. });
    workload.calls(seed).take(if changing { 400_000 } else { 120_000 }).collect()
}
