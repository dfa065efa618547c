//! What the policy makes of every trace of the design, on the model of the engine that the tests use, beside the best in
//! hindsight; and how long judging takes here: `cargo bench -p relpoline-core --bench policy`.

// The tests use more of the model than this does.
#![allow(dead_code)]

#[path = "../tests/policy/cpu.rs"]
mod cpu;
#[path = "../tests/policy/engine.rs"]
mod engine;
#[path = "../tests/policy/oracle.rs"]
mod oracle;
#[path = "../tests/policy/replay.rs"]
mod replay;
#[path = "../tests/policy/tree.rs"]
mod tree;

use relpoline_core::policy::workload::{Pattern, STANDARD, Workload};
use relpoline_core::policy::{Event, Policy, SiteState};
use relpoline_core::trace::{Trace, entry};

use replay::{calls, costs, replay};

fn main() {
    table();
    judging_time();
}

/// The table of the report: what each trace costs, beside the best in hindsight.
fn table() {
    println!(
        "{:22} {:>6} {:>6}  best in hindsight        calls whole learn trees same links  now",
        "trace", "cycles", "best"
    );
    for workload in STANDARD {
        let (truth, calls) = (costs(workload), calls(workload, 1));
        let r = replay(workload, &calls, truth, truth);
        let tail = &calls[calls.len() / 2..];
        let best = oracle::best(tail, truth, tail.len() / 3);
        let (cost, work, t) = (r.cost(), f64::from(workload.work) * 16.0, &r.engine.tally);
        println!(
            "{:22} {:6.2} {:6.2}  {:24} {:5.3} {:5.3} {:5} {:5} {:4} {:5}  {}, {} targets",
            workload.name,
            cost / 16.0,
            best.cost / 16.0,
            best.what,
            cost / best.cost,
            (cost + work) / (best.cost + work),
            t.learnings,
            t.trees,
            t.resumes,
            t.links,
            r.engine.site.reason(),
            r.engine.site.targets(),
        );
    }
}

/// What judging takes on this machine.
fn judging_time() {
    let windows = [
        (Pattern::Mono, 256),
        (Pattern::Biased(90), 256),
        (Pattern::Periodic(4), 256),
        (Pattern::Periodic(16), 256),
        (Pattern::Periodic(64), 1024),
        (Pattern::Periodic(96), 2048),
        (Pattern::Random(64), 2048),
    ];
    for (pattern, window) in windows {
        let workload = Workload { name: "", pattern, work: 0, cycles_per_ms: 1 };
        let trace: Vec<u64> = workload.calls(1).take(window).map(|c| entry(c.target, c.thread)).collect();
        let mut policy = Box::new(Policy::new());
        (policy.config.window_max, policy.config.cold_share) = (window as u32, u32::MAX);
        let once = |round: u64| {
            let (mut site, now) = (SiteState::new(), round * 1_000_000);
            policy.on(&mut site, Event::ColdExpired, now, &|_| true);
            let from = std::time::Instant::now();
            policy.on(&mut site, Event::WindowFull { trace: Trace::new(&trace), current: None }, now, &|_| true);
            from.elapsed().as_nanos()
        };
        let best = (1..100).map(once).min().unwrap_or(0);
        println!("{pattern:?}, window {window}: {best} ns, {} ns per call", best / window as u128);
    }
}
