//! Making every running thread notice a change of code.
//!
//! A store to text is coherent on x86-64, but another processor may already have fetched the old bytes.
//! `membarrier(PRIVATE_EXPEDITED_SYNC_CORE)` returns once every thread of the process has passed a
//! serialising instruction, or was not running and passes one before it does (membarrier(2); Intel SDM
//! vol. 3, 9.1.3). A process registers once; that is quick while it has one thread, and takes a grace period
//! of the kernel (milliseconds) later on.

use core::sync::atomic::{AtomicBool, Ordering};
use rustix::io::Errno;
use rustix::thread::{MembarrierCommand, membarrier};

static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Registers the process; to be done early. Doing it again costs nothing.
///
/// # Errors
/// The kernel lacks the command (before Linux 4.16), or a filter refuses the call.
pub fn register() -> Result<(), Errno> {
    if REGISTERED.load(Ordering::Acquire) {
        return Ok(());
    }
    membarrier(MembarrierCommand::RegisterPrivateExpeditedSyncCore)?;
    REGISTERED.store(true, Ordering::Release);
    Ok(())
}

/// Returns after every thread has serialised: what was written to text before is what they execute after.
/// About 1.5 µs idle.
///
/// # Errors
/// As for [`register`]; then nothing is promised about threads that were running just now.
pub fn sync_core() -> Result<(), Errno> {
    match membarrier(MembarrierCommand::PrivateExpeditedSyncCore) {
        // A forked child is not registered, though it remembers that its parent was.
        Err(Errno::PERM) => {
            membarrier(MembarrierCommand::RegisterPrivateExpeditedSyncCore)?;
            membarrier(MembarrierCommand::PrivateExpeditedSyncCore)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_registered_process_can_synchronise() {
        if super::register().is_ok() {
            super::sync_core().unwrap();
        }
    }
}
