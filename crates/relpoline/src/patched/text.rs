//! Changing the program's text, and telling every thread.

use crate::UpdateError;
use relpoline_text::membarrier;
use relpoline_text::poke::PokeError;
use relpoline_text::pokes::Pokes;

/// Text that is opened when it is first needed, and closed with this value.
#[derive(Default)]
pub struct Text {
    pokes: Option<Pokes>,
    changed: bool,
}

fn explained(refusal: PokeError) -> UpdateError {
    match refusal {
        PokeError::NoMem => UpdateError::TextUnavailable,
        // The others do not come from here: these changes are not made under the learner's lock.
        PokeError::Refused | PokeError::Overtaken | PokeError::NotHere => UpdateError::TextRefused,
        PokeError::Unexpected => UpdateError::TextChanged,
    }
}

impl Text {
    fn open(&mut self) -> Result<&Pokes, UpdateError> {
        if self.pokes.is_none() {
            self.pokes = Some(Pokes::open().map_err(explained)?);
        }
        self.changed = true;
        self.pokes.as_ref().ok_or(UpdateError::TextUnavailable)
    }

    /// Changes one byte that threads may be executing.
    ///
    /// # Safety
    /// `at` must lie in text of a registered module.
    pub unsafe fn byte(&mut self, at: u64, old: u8, new: u8) -> Result<(), UpdateError> {
        // SAFETY: text of a registered module, says the caller.
        unsafe { self.open()?.byte(at, old, new) }.map_err(explained)
    }

    /// Writes bytes that no thread can be executing.
    pub fn idle(&mut self, at: u64, bytes: &[u8]) -> Result<(), UpdateError> {
        self.open()?.idle(at, bytes).map_err(explained)
    }

    /// Lets every thread notice what was changed so far.
    pub fn fence(&mut self) -> Result<(), UpdateError> {
        if core::mem::take(&mut self.changed) {
            membarrier::sync_core().map_err(|_| UpdateError::Unfenced)?;
        }
        Ok(())
    }
}
