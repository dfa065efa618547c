//! Why a change could not be made.

use core::fmt;

/// Why a key, a call or a table could not be changed.
///
/// Unless the variant says otherwise nothing has changed: every site still does what it did before, and the
/// change can be asked for again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum UpdateError {
    /// `/proc/self/mem` cannot be opened for writing: `/proc` is not mounted, the process is not dumpable (it
    /// changed its user id), a sandbox refuses it, or there is no file descriptor left.
    TextUnavailable,
    /// The kernel refuses to write to the program's text (`proc_mem.force_override`, a security module).
    TextRefused,
    /// The program's text is not what it should be: something else patches it too.
    TextChanged,
    /// The change **was made**, but membarrier(2) is refused, so a thread that was inside the old code at
    /// that moment may run it once more after the call returned.
    Unfenced,
}

impl fmt::Display for UpdateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UpdateError::TextUnavailable => {
                "/proc/self/mem cannot be opened: mount /proc, or call relpoline::prepare_for_sandbox() before \
                 giving up privileges"
            }
            UpdateError::TextRefused => {
                "the kernel refuses to write to the program's text: see proc_mem.force_override, or build with \
                 the feature `no-patch`"
            }
            UpdateError::TextChanged => "the program's text is not what was expected: something else patches it too",
            UpdateError::Unfenced => {
                "changed, but membarrier(2) is refused: threads that run the old code now may do so once more"
            }
        })
    }
}

impl std::error::Error for UpdateError {}
