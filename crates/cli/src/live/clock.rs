//! Ticks of the time-stamp counter as time.
//!
//! Engines note ticks, because reading the counter is no system call. How many make a second is measured
//! here: the counter runs at one rate, the same on all processors, for as long as the machine is up.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long the rate is measured: a thousandth of it is well above what starting and stopping cost.
const MEASURED: Duration = Duration::from_millis(10);

/// The counter now.
#[must_use]
pub fn now() -> u64 {
    // SAFETY: rdtsc is unprivileged; nobody forbids it to this process.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ticks in a second.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
pub fn rate() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (begun, first) = (Instant::now(), now());
        std::thread::sleep(MEASURED);
        now().wrapping_sub(first) as f64 / begun.elapsed().as_secs_f64()
    })
}

/// Seconds from one reading of the counter to another; 0 when the second came first, which no engine writes.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "as above")]
pub fn seconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / rate()
}

/// A time for people: `12 ms`, `3.4 s`, `5 min`, `2 h`, `3 d`.
#[must_use]
pub fn words(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s if s < 360_000.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_words() {
        let said = [0.0, 0.0123, 3.44, 300.0, 7200.0, 864_000.0].map(words);
        assert_eq!(said, ["0 ms", "12 ms", "3.4 s", "5 min", "2 h", "10 d"]);
    }

    #[test]
    fn a_time_that_runs_backwards_is_none() {
        assert_eq!(seconds(9, 8).to_bits(), 0.0_f64.to_bits());
    }
}
