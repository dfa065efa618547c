//! An end to waiting for what only the kernel could end.
//!
//! What is read of another process is answered by its memory, and a page of that may be a file of a file system that
//! another process answers for (FUSE): such a read waits for as long as that likes, in the kernel, and so does `ps`. Nothing
//! of ours is left half-done when this command is killed, at whatever moment. So it lets the kernel kill it. Where the
//! kernel cannot, since the question is with that process already, who stands by ([`crate::watched`]) ends in time.

use std::time::Duration;

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
    /// What was left before.
    before: u32,
}

impl Patience {
    /// At most so long; less, if less was left already.
    #[must_use]
    pub fn of(longest: Duration) -> Self {
        let seconds = u32::try_from(hasty(longest).as_secs()).unwrap_or(u32::MAX);
        // SAFETY: the default action of a signal, or the handler that was there, and a set that is live.
        let before = unsafe {
            // Whoever started us may have had it ignored; a handler of ours ends us too.
            let handler = libc::signal(libc::SIGALRM, libc::SIG_DFL);
            if handler != libc::SIG_IGN && handler != libc::SIG_ERR {
                libc::signal(libc::SIGALRM, handler);
            }
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGALRM);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
            libc::alarm(seconds)
        };
        if before != 0 && before < seconds {
            // SAFETY: it sets a timer.
            unsafe { libc::alarm(before) };
            watched::ends_in(before);
        } else {
            watched::ends_in(seconds);
        }
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
        // SAFETY: it sets a timer; 0 is none.
        unsafe { libc::alarm(self.before) };
        watched::ends_in(self.before);
    }
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
    }
}
