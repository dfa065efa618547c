//! What updates of program arrays cost while threads run through them.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Result;
use relpoline_bpf::{Options, Runtime};
use serde::Serialize;

use super::chain::{Chain, hop, input};
use crate::workbench::sample::Sample;

/// Microseconds of one update.
#[derive(Debug, Serialize)]
pub struct Updates {
    pub name: String,
    /// Of other threads, all of them running.
    pub threads: usize,
    /// Their runs per second meanwhile.
    pub runs_per_second: f64,
    pub replace_us: Sample,
    pub remove_us: Sample,
    pub insert_us: Sample,
    /// All 33 slots at once for every run; `None` where there is no such thing.
    pub swap_us: Option<Sample>,
}

/// Microseconds that `what` takes.
pub fn microseconds(what: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    what()?;
    Ok(begin.elapsed().as_nanos() as f64 / 1000.0)
}

/// Does `work` while `threads` call `run` over and over, each for some runs at a time: its outcome, and runs
/// per second.
pub fn under_load<T>(
    threads: usize,
    run: impl Fn() -> u64 + Sync,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, f64)> {
    let (stop, runs) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun: Vec<AtomicBool> = (0..threads).map(|_| AtomicBool::new(false)).collect();
    std::thread::scope(|scope| {
        for begun in &begun {
            let (stop, runs, run) = (&stop, &runs, &run);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    runs.fetch_add(run(), Ordering::Relaxed);
                    begun.store(true, Ordering::Release);
                }
            });
        }
        // Nothing is measured before all of them run.
        while !begun.iter().all(|b| b.load(Ordering::Acquire)) {
            std::thread::yield_now();
        }
        let (begin, before) = (Instant::now(), runs.load(Ordering::Relaxed));
        let outcome = work();
        let meanwhile = runs.load(Ordering::Relaxed) - before;
        let rate = meanwhile as f64 / begin.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        Ok((outcome?, rate))
    })
}

/// Replaces, removes, inserts, and swaps.
fn all(chain: &Chain, runtime: &Runtime, rounds: u32) -> Result<[Vec<f64>; 4]> {
    let other = hop(runtime, &chain.array, 17, true, Options::default())?;
    let one = &chain.programs[16];
    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 0..100 * rounds {
        let next = if round % 2 == 0 { &other } else { one };
        times[0].push(microseconds(|| Ok(chain.array.update(16, Some(next))?))?);
        times[1].push(microseconds(|| Ok(chain.array.update(16, None)?))?);
        times[2].push(microseconds(|| Ok(chain.array.update(16, Some(one))?))?);
        if round % 10 == 0 {
            times[3].push(microseconds(|| Ok(chain.array.swap(chain.all())?))?);
        }
    }
    Ok(times)
}

/// Of this runtime.
pub fn ours(threads: usize, rounds: u32) -> Result<Updates> {
    let runtime = Runtime::new()?;
    let chain = Chain::new(&runtime, true, Options::default())?;
    let entry = chain.entry.clone();
    let run = || {
        const AT_A_TIME: u64 = 64;
        let mut bytes = input();
        for _ in 0..AT_A_TIME {
            // A trap would be a bug, and shown by the tests; here only time counts.
            let _ = black_box(entry.run(&mut bytes));
        }
        AT_A_TIME
    };
    let (times, runs_per_second) = under_load(threads, run, || all(&chain, &runtime, rounds))?;
    let [replace_us, remove_us, insert_us, swap_us] = times.map(|times| Sample::of(&times));
    let name = "relpoline".into();
    Ok(Updates { name, threads, runs_per_second, replace_us, remove_us, insert_us, swap_us: Some(swap_us) })
}
