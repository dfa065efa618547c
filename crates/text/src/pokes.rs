//! Many one-byte changes of the program's own text behind one open of `/proc/self/mem`.
//!
//! [`crate::poke::poke_byte`] opens and closes the file for its one byte, which is most of what it costs. Who
//! toggles hundreds of sites at once, outside of signal handlers and of other people's code, opens it once,
//! and keeps it no longer than that. The old byte is read from memory, not from the file: text is readable.

use crate::poke::{PokeError, open_mem, write_all};
use rustix::fd::OwnedFd;

/// The program's text, open for changes. To be dropped at once when they are made: it must not be inherited.
pub struct Pokes {
    mem: OwnedFd,
}

impl Pokes {
    /// Opens the text.
    ///
    /// # Errors
    /// [`PokeError::NoMem`].
    pub fn open() -> Result<Pokes, PokeError> {
        Ok(Pokes { mem: open_mem()? })
    }

    /// Changes the byte at `at` from `old` to `new` while any number of threads may be executing it.
    ///
    /// # Errors
    /// Nothing is changed then.
    ///
    /// # Safety
    /// `at` must lie in mapped text that stays mapped during the call.
    pub unsafe fn byte(&self, at: u64, old: u8, new: u8) -> Result<(), PokeError> {
        // SAFETY: mapped text is readable, as the caller vouches for.
        let seen = unsafe { (at as *const u8).read_volatile() };
        if seen != old {
            return Err(PokeError::Unexpected);
        }
        write_all(&self.mem, at, &[new])
    }

    /// Writes `bytes` at `at`, in text that no thread can be executing.
    ///
    /// # Errors
    /// The text is unchanged or, after a partial write that the kernel then refused to complete, partly
    /// changed.
    pub fn idle(&self, at: u64, bytes: &[u8]) -> Result<(), PokeError> {
        write_all(&self.mem, at, bytes)
    }
}
