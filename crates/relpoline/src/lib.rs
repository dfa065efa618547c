#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

#[cfg(feature = "c")]
pub mod c;
mod call;
mod error;
mod key;
mod method;
mod name;
mod passed;
mod sync;
mod table;

#[cfg(patched)]
#[path = "patched/mod.rs"]
mod imp;
#[cfg(not(patched))]
#[path = "plain.rs"]
mod imp;

pub use call::{Form, StaticCall};
pub use error::UpdateError;
pub use imp::prepare_for_sandbox;
pub use key::{Sites, StaticKey, set_keys};
pub use passed::{Passed, Returned};
pub use table::{DynamicCall, State, Stats, TargetStats};

/// What the macros need in the user's code.
#[doc(hidden)]
pub mod __private {
    #[cfg(patched)]
    pub use crate::imp::{register, unregister};
    pub use crate::method::MethodSlot;
    pub use crate::passed::register_behind;

    /// Reads a key, off the hot path.
    #[inline(always)]
    pub fn read(key: &crate::StaticKey) -> bool {
        key.is_enabled()
    }
}
