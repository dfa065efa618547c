//! The program's own text: single bytes that threads may be executing, and what they are not.
//!
//! Text is changed through `/proc/self/mem`, so that pages stay as they are: never writable and executable.
//! The kernel copies what is written there; only single bytes are promised to be whole. After a change
//! [`Text::fence`] lets every thread fetch anew.

use crate::membarrier;
use core::fmt;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Why text could not be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum TextError {
    /// `/proc/self/mem` cannot be opened for writing: no /proc, the process is not dumpable, a sandbox
    /// refuses it, or no descriptor is left.
    Unavailable,
    /// The kernel refuses the write itself.
    Refused,
    /// The bytes there are not those that were expected; nothing was written.
    Changed,
    /// Changed, but membarrier(2) is refused: threads may run what they have fetched before once more.
    Unfenced,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TextError::Unavailable => "/proc/self/mem cannot be opened",
            TextError::Refused => "writing to the program's text is refused",
            TextError::Changed => "the program's text is not what was expected",
            TextError::Unfenced => "changed, but membarrier(2) is refused",
        })
    }
}

impl std::error::Error for TextError {}

/// The program's text, opened when it is first changed. To be dropped soon after: the descriptor must not be
/// inherited, for a forked child would write its parent's text by it.
#[derive(Debug, Default)]
pub struct Text {
    mem: Option<OwnedFd>,
    changed: bool,
}

impl Text {
    fn open(&mut self) -> Result<&OwnedFd, TextError> {
        if self.mem.is_none() {
            let opened = rustix::fs::open(c"/proc/self/mem", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
            self.mem = Some(opened.map_err(|_| TextError::Unavailable)?);
        }
        self.mem.as_ref().ok_or(TextError::Unavailable)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), TextError> {
        self.changed = true;
        let mem = self.open()?;
        let write = || rustix::io::pwrite(mem, bytes, at);
        let written = match write() {
            Ok(n) if n < bytes.len() => write(),
            Err(Errno::INTR) => write(),
            other => other,
        };
        if written != Ok(bytes.len()) {
            return Err(TextError::Refused);
        }
        Ok(())
    }

    /// Changes the byte at `at` from `old` to `new` while any number of threads may be executing it.
    ///
    /// # Errors
    /// Nothing is changed then.
    ///
    /// # Safety
    /// `at` must lie in text that is mapped and stays so during the call, and code must be right with either
    /// byte, until [`fence`](Text::fence) has returned with the old one as well. Nobody else changes it
    /// meanwhile.
    pub unsafe fn byte(&mut self, at: u64, old: u8, new: u8) -> Result<(), TextError> {
        // SAFETY: mapped text is readable, as the caller vouches for.
        if unsafe { (at as *const u8).read_volatile() } != old {
            return Err(TextError::Changed);
        }
        self.write(at, &[new])
    }

    /// Writes `bytes` at `at`, in text or memory for code, where it makes no difference to whoever is
    /// executing there.
    ///
    /// # Errors
    /// The text is unchanged or, after a partial write that the kernel then refused to complete, partly
    /// changed.
    ///
    /// # Safety
    /// What is there must be this caller's to change. Nobody executes those bytes meanwhile (or they are an
    /// operand that nobody needs), and whoever is led there comes after a [`fence`](Text::fence).
    pub unsafe fn idle(&mut self, at: u64, bytes: &[u8]) -> Result<(), TextError> {
        self.write(at, bytes)
    }

    /// Returns after every thread has noticed what was changed so far. Costs nothing if that is nothing.
    ///
    /// # Errors
    /// [`TextError::Unfenced`].
    pub fn fence(&mut self) -> Result<(), TextError> {
        if core::mem::take(&mut self.changed) {
            membarrier::sync_core().map_err(|_| TextError::Unfenced)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    extern "C" fn seven() -> u32 {
        7
    }

    /// Text that is read-only is changed, told, and only from what was expected.
    #[test]
    fn a_byte_of_text_changes() {
        let at = seven as *const () as u64;
        // SAFETY: the function's first bytes.
        let code = unsafe { core::slice::from_raw_parts(at as *const u8, 32) };
        // mov $7, %eax, wherever the prologue ends.
        let operand =
            at + code.windows(5).position(|bytes| bytes == [0xb8, 7, 0, 0, 0]).expect("a constant") as u64 + 1;
        let mut text = Text::default();
        // SAFETY: an operand of an instruction that nobody else runs.
        unsafe {
            assert_eq!(text.byte(operand, 8, 9), Err(TextError::Changed));
            text.byte(operand, 7, 9).unwrap();
        }
        text.fence().unwrap();
        assert_eq!(core::hint::black_box(seven as extern "C" fn() -> u32)(), 9);
        // SAFETY: as above.
        unsafe { text.byte(operand, 9, 7).unwrap() };
        text.fence().unwrap();
    }
}
