//! The best fixed tree in hindsight.

use std::collections::HashMap;

use relpoline_core::policy::Costs;
use relpoline_core::policy::workload::Call;
use relpoline_core::trace::ONE;
use relpoline_core::tree::{MAX_TARGETS, Target};

use crate::cpu::Cpu;
use crate::tree::Tree;

/// Sizes and chain lengths that are tried.
const SIZES: [usize; 7] = [1, 2, 4, 8, 16, 40, MAX_TARGETS];

/// What the best of them costs per call [1/16 cycle], and what it is.
#[derive(Debug)]
pub struct Best {
    pub cost: f64,
    pub what: String,
}

fn by_share(calls: &[Call]) -> Vec<Target> {
    let mut counts = HashMap::new();
    for call in calls {
        *counts.entry(call.target).or_insert(0u64) += 1;
    }
    let share = |count: u64| (count * u64::from(ONE) / calls.len() as u64) as u32;
    let mut targets: Vec<Target> = counts.into_iter().map(|(address, n)| Target { address, share: share(n) }).collect();
    targets.sort_by_key(|t| (std::cmp::Reverse(t.share), t.address));
    targets
}

fn cost_of(tree: &Tree, calls: &[Call], truth: Costs, skip: usize) -> f64 {
    let mut cpu = Cpu::new(truth);
    let mut sum = 0;
    for (i, call) in calls.iter().enumerate() {
        let passage = tree.pass(call.target, call.thread, &mut cpu);
        if i >= skip {
            sum += passage.cost + u64::from(if passage.hit { truth.direct } else { truth.retpoline });
        }
    }
    sum as f64 / (calls.len() - skip) as f64
}

/// The cheapest of the retpoline and all trees that are tried, over `calls` without the first `skip`.
pub fn best(calls: &[Call], truth: Costs, skip: usize) -> Best {
    let all = by_share(calls);
    let mut best = Best { cost: f64::from(truth.retpoline), what: "retpoline".into() };
    let mut sizes: Vec<usize> = SIZES.iter().map(|&s| s.min(all.len())).collect();
    sizes.dedup();
    for size in sizes {
        for chain in [0, 2, 4] {
            let (chain, kept) = (if size <= 4 { size } else { chain }, &all[..size]);
            let cost = cost_of(&Tree::new(999, kept, chain), calls, truth, skip);
            if cost < best.cost {
                best = Best { cost, what: format!("{size} targets, chain {chain}") };
            }
            if size <= 4 {
                break;
            }
        }
    }
    best
}
