//! An end to waiting for what only the kernel could end.
//!
//! What is read of another process is answered by its memory, and a page of that may be a file of a file
//! system that another process answers for (FUSE): such a read waits for as long as that likes, in the
//! kernel, and so does `ps`. Nothing of ours is left half-done when this command is killed, at whatever
//! moment. So it lets the kernel kill it. Where the kernel cannot, since the question is with that process
//! already, who stands by (`watched`) ends in time.

use std::time::{Duration, Instant};

use crate::watched;

/// A file that is there is opened in this time.
const TO_OPEN: Duration = Duration::from_secs(30);

/// As long as that; in debug builds less, for tests that wait until the time is over.
#[must_use]
pub fn hasty(longest: Duration) -> Duration {
    let wanted = || std::env::var("RELPOLINE_HASTE").ok()?.parse().ok();
    let most: Option<u64> = if cfg!(debug_assertions) { wanted() } else { None };
    most.map_or(longest, |seconds| longest.min(Duration::from_secs(seconds)))
}

/// While it lives, this process has so much time left.
#[derive(Debug)]
pub struct Patience {
    /// When the time was over before, if ever. Not what was left: whoever waits many times within a longer
    /// wait would put that back each time, and it would never be over.
    before: Option<Instant>,
}

impl Patience {
    /// At most so long; less, if less was left already.
    #[must_use]
    pub fn of(longest: Duration) -> Self {
        // SAFETY: the default action of a signal, or the handler that was there, and a set that is live.
        unsafe {
            // Whoever started us may have had it ignored; a handler of ours ends us too.
            let handler = libc::signal(libc::SIGALRM, libc::SIG_DFL);
            if handler != libc::SIG_IGN && handler != libc::SIG_ERR {
                libc::signal(libc::SIGALRM, handler);
            }
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGALRM);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        }
        let now = Instant::now();
        let wanted = now.checked_add(hasty(longest));
        let before = arm(left(wanted, now)).and_then(|left| now.checked_add(left));
        arm_until(before.into_iter().chain(wanted).min());
        Self { before }
    }

    /// The same for opening a file, where somebody stands by; else who has named it waits for it.
    #[must_use]
    pub fn to_open() -> Option<Self> {
        watched::is_watched().then(|| Self::of(TO_OPEN))
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        arm_until(self.before);
    }
}

/// What is left until `deadline`; none if there is none. When it is over, the least that there is a timer
/// for.
fn left(deadline: Option<Instant>, now: Instant) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(now).max(Duration::from_micros(1)))
}

/// The time is over then, or never.
fn arm_until(deadline: Option<Instant>) {
    let left = left(deadline, Instant::now());
    arm(left);
    watched::ends_in(left);
}

/// The alarm comes after this time, or never. What was left until it would have come.
fn arm(left: Option<Duration>) -> Option<Duration> {
    let time = |left: Duration| libc::timeval {
        tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: left.subsec_micros().into(),
    };
    let none = time(Duration::ZERO);
    // Less than the kernel's longest.
    let value = left.map_or(none, |left| time(left.min(Duration::from_secs(u32::MAX.into()))));
    let timer = libc::itimerval { it_interval: none, it_value: value };
    let mut before = libc::itimerval { it_interval: none, it_value: none };
    // SAFETY: both are live.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, &raw mut before) };
    let libc::timeval { tv_sec, tv_usec } = before.it_value;
    let before = Duration::from_secs(tv_sec.unsigned_abs()) + Duration::from_micros(tv_usec.unsigned_abs());
    (!before.is_zero()).then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_time_counts() {
        // SAFETY: it asks for what is left, and sets that again.
        let left = || unsafe {
            let left = libc::alarm(0);
            libc::alarm(left);
            left
        };
        let outer = Patience::of(Duration::from_secs(1000));
        assert!((990..=1000).contains(&left()));
        let inner = Patience::of(Duration::from_secs(5000));
        assert!((990..=1000).contains(&left()));
        drop(inner);
        let inner = Patience::of(Duration::from_secs(500));
        assert!((490..=500).contains(&left()));
        drop(inner);
        assert!((990..=1000).contains(&left()));
        drop(outer);
        assert_eq!(left(), 0);
        // As many as one likes within another one do not make it longer.
        let outer = Patience::of(Duration::from_millis(999_400));
        for _ in 0..50 {
            drop(Patience::of(Duration::from_secs(5000)));
            std::thread::sleep(Duration::from_millis(1));
        }
        let now = arm(None).unwrap();
        assert!(now < Duration::from_millis(999_400 - 50 + 1), "{now:?}");
        drop(outer);
    }

    #[test]
    fn what_is_left_is_what_is_left_now() {
        let now = Instant::now();
        let deadline = now + Duration::from_secs(10);
        let after = |millis| left(Some(deadline), now + Duration::from_millis(millis));
        assert_eq!(after(0), Some(Duration::from_secs(10)));
        assert_eq!(after(9999), Some(Duration::from_millis(1)));
        let at_once = Some(Duration::from_micros(1));
        assert_eq!([after(10_000), after(99_000)], [at_once, at_once]);
        assert_eq!(left(None, now), None);
    }
}
