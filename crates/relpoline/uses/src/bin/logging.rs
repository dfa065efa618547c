//! A disabled event of `log` and of `tracing`, alone and behind a static key.
//!
//! Both crates decide by a level in memory that every event loads and compares. A key in front makes that one
//! instruction that reads nothing. It is switched where the level is set, so that an event is seen exactly
//! when the level says so.

use relpoline::{UpdateError, static_key, unlikely};
use relpoline_uses::{compare, looped, work};
use std::sync::atomic::{AtomicU64, Ordering};

static_key! {
    /// Whether any event of level DEBUG or below is wanted.
    static DEBUG: bool = false;
}
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Counts what arrives.
struct Counting;
impl log::Log for Counting {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, _: &log::Record<'_>) {
        SEEN.fetch_add(1, Ordering::Relaxed);
    }
    fn flush(&self) {}
}
impl tracing::Subscriber for Counting {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO || DEBUG.is_enabled()
    }
    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        use tracing::level_filters::LevelFilter;
        Some(if DEBUG.is_enabled() { LevelFilter::DEBUG } else { LevelFilter::INFO })
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        SEEN.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// The one place that sets the level: of both crates, and of the key.
fn set_debug(on: bool) -> Result<(), UpdateError> {
    // On: the key last, off: the key first; so nobody passes it for nothing for long. Either order is right.
    DEBUG.set(on)?;
    log::set_max_level(if on { log::LevelFilter::Debug } else { log::LevelFilter::Info });
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

macro_rules! debug_log {
    ($($message:tt)*) => { if unlikely!(DEBUG) { log::debug!($($message)*) } };
}
macro_rules! debug_trace {
    ($($message:tt)*) => { if unlikely!(DEBUG) { tracing::debug!($($message)*) } };
}

#[inline(never)]
fn events(x: u64) -> u64 {
    debug_log!("{x}");
    debug_trace!(x);
    work(x)
}

fn main() -> Result<(), UpdateError> {
    log::set_logger(&Counting).expect("there is no other logger");
    tracing::subscriber::set_global_default(Counting).expect("there is no other subscriber");
    for on in [false, true, false] {
        set_debug(on)?;
        let before = SEEN.load(Ordering::Relaxed);
        let result = (0..10).fold(1, |x, _| events(x));
        let seen = SEEN.load(Ordering::Relaxed) - before;
        assert_eq!(seen, if on { 20 } else { 0 }, "ten rounds with an event of each crate end at {result}");
    }
    compare(
        "one disabled event",
        &mut [
            ("none", looped!(x => work(x))),
            ("`log::debug!`", looped!(x => { log::debug!("{x}"); work(x) })),
            ("`log::debug!` behind a key", looped!(x => { debug_log!("{x}"); work(x) })),
            ("`tracing::debug!`", looped!(x => { tracing::debug!(x); work(x) })),
            ("`tracing::debug!` behind a key", looped!(x => { debug_trace!(x); work(x) })),
        ],
    );
    macro_rules! eight {
        ($($event:tt)*) => {{ $($event)*; $($event)*; $($event)*; $($event)*; $($event)*; $($event)*; $($event)*; $($event)*; }};
    }
    compare(
        "eight disabled events",
        &mut [
            ("none", looped!(x => work(x))),
            ("`log::debug!`", looped!(x => { eight!(log::debug!("{x}")); work(x) })),
            ("`log::debug!` behind a key", looped!(x => { eight!(debug_log!("{x}")); work(x) })),
            ("`tracing::debug!`", looped!(x => { eight!(tracing::debug!(x)); work(x) })),
            ("`tracing::debug!` behind a key", looped!(x => { eight!(debug_trace!(x)); work(x) })),
        ],
    );
    Ok(())
}
