//! Counters and timings of each step of a pipeline, on only while somebody collects them.

use relpoline::{UpdateError, static_key, unlikely};
use relpoline_uses::{compare, looped, work};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

static_key! {
    /// Whether anybody collects.
    static METRICS: bool = false;
}
static FLAG: AtomicBool = AtomicBool::new(false);
static EVENTS: AtomicU64 = AtomicU64::new(0);
static NANOSECONDS: AtomicU64 = AtomicU64::new(0);

#[cold]
#[inline(never)]
fn timed(x: u64) -> u64 {
    let start = Instant::now();
    let result = work(x);
    NANOSECONDS.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    EVENTS.fetch_add(1, Ordering::Relaxed);
    result
}

fn main() -> Result<(), UpdateError> {
    let by_key = |x| if unlikely!(METRICS) { timed(x) } else { work(x) };
    let by_flag = |x| if FLAG.load(Ordering::Relaxed) { timed(x) } else { work(x) };
    for on in [false, true, false] {
        METRICS.set(on)?;
        let before = EVENTS.load(Ordering::Relaxed);
        assert_eq!((0..5).fold(1, |x, _| by_key(x)), (0..5).fold(1, |x, _| work(x)));
        assert_eq!(EVENTS.load(Ordering::Relaxed) - before, if on { 5 } else { 0 });
    }
    for (on, title) in [(false, "a step, nobody collects"), (true, "a step, somebody collects")] {
        METRICS.set(on)?;
        FLAG.store(on, Ordering::Relaxed);
        compare(
            title,
            &mut [
                ("no metrics", looped!(x => work(x))),
                ("by a key", looped!(x => by_key(x))),
                ("by an `AtomicBool`", looped!(x => by_flag(x))),
                ("always", looped!(x => timed(x))),
            ],
        );
    }
    Ok(())
}
