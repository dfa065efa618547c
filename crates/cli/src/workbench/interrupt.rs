//! Ctrl-C while a command measures: it ends what it started, puts back what it changed, removes its files,
//! and then ends.
//!
//! A handler notes the signal, and whatever waits is woken by it. Signals that were ignored when the command
//! was started (nohup) stay ignored.

use std::sync::atomic::{AtomicI32, Ordering};

static ARRIVED: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    ARRIVED.store(signal, Ordering::Relaxed);
}

/// From now on these signals are noted. Programs that are started have them as usual.
pub fn watch() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: zeros are a valid action; the handler stores to an atomic alone; all pointers are to live
        // values.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &raw mut before);
            if before.sa_sigaction != libc::SIG_IGN {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = note as extern "C" fn(libc::c_int) as usize;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// The signal that wants us to stop.
#[must_use]
pub fn signal() -> Option<u8> {
    u8::try_from(ARRIVED.load(Ordering::Relaxed)).ok().filter(|signal| *signal != 0)
}

/// Goes on unless a signal came.
///
/// # Errors
/// When one came.
pub fn check() -> anyhow::Result<()> {
    match signal() {
        None => Ok(()),
        Some(signal) => Err(anyhow::anyhow!("stopped by signal {signal}")),
    }
}
