//! Changing the program's text, with this crate's errors.

use crate::UpdateError;
use relpoline_patch::text::{self, TextError};

/// Text that is opened when it is first changed, and closed with this value.
#[derive(Default)]
pub struct Text(text::Text);

/// What an error means to users.
pub fn explained(refusal: TextError) -> UpdateError {
    match refusal {
        TextError::Unavailable => UpdateError::TextUnavailable,
        TextError::Changed => UpdateError::TextChanged,
        TextError::Unfenced => UpdateError::Unfenced,
        _ => UpdateError::TextRefused,
    }
}

impl Text {
    /// The text, with errors of its own.
    pub fn inner(&mut self) -> &mut text::Text {
        &mut self.0
    }

    /// Changes one byte that threads may be executing.
    ///
    /// # Safety
    /// `at` must lie in text of a registered module, which is right with either byte.
    pub unsafe fn byte(&mut self, at: u64, old: u8, new: u8) -> Result<(), UpdateError> {
        // SAFETY: passed on to the caller; changes are made under the lock.
        unsafe { self.0.byte(at, old, new) }.map_err(explained)
    }

    /// Writes bytes that no thread can be executing.
    ///
    /// # Safety
    /// They must be text of a registered module or memory of this crate, and nobody may come there before a
    /// fence.
    pub unsafe fn idle(&mut self, at: u64, bytes: &[u8]) -> Result<(), UpdateError> {
        // SAFETY: passed on to the caller.
        unsafe { self.0.idle(at, bytes) }.map_err(explained)
    }

    /// Lets every thread notice what was changed so far.
    pub fn fence(&mut self) -> Result<(), UpdateError> {
        self.0.fence().map_err(explained)
    }
}
