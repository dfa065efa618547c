#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

#[cfg(feature = "c")]
pub mod c;
mod call;
// Loom's keys cannot be made in constants, which is all that this module does.
#[cfg(not(loom))]
pub mod compat;
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

pub use call::{Callers, Form, StaticCall};
pub use error::UpdateError;
pub use imp::prepare_for_sandbox;
pub use key::{Sites, StaticKey, set_keys};
pub use passed::{Passed, Returned};
pub use table::{DynamicCall, State, Stats, TargetStats};

/// What a model checker runs: see tests/external/model.
#[cfg(loom)]
#[doc(hidden)]
pub mod __model {
    use crate::{StaticKey, UpdateError, key::Change};

    /// Switches a key, whose sites `follow` changes.
    pub fn set(key: &StaticKey, on: bool, follow: impl FnOnce() -> Result<(), UpdateError>) -> Result<(), UpdateError> {
        key.recount(Change::Set(on).applied(key.count()), follow)
    }
}

/// What the macros need in the user's code.
#[doc(hidden)]
pub mod __private {
    #[cfg(patched)]
    pub use crate::imp::{register, unregister};
    pub use crate::method::MethodSlot;
    pub use crate::passed::register_behind;

    /// What `likely!` and `unlikely!` take.
    ///
    /// # Safety
    /// It must be laid out as a [`StaticKey`](crate::StaticKey): the branch reads one there.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not a static key",
        note = "`likely!` and `unlikely!` take the path of the `static` that `static_key!` defined, not of something that \
                refers or leads to it: the branch is patched by that static's address"
    )]
    pub unsafe trait IsKey {}
    // SAFETY: it is one.
    unsafe impl IsKey for crate::StaticKey {}

    /// Refuses what only refers to a key, which would never be patched: nothing is dereferenced on the way
    /// here.
    #[inline(always)]
    pub const fn is_a_key<K: IsKey>(_: &'static K) {}

    /// Refuses, at compile time, what holds a function's address instead of being one: the gate would jump
    /// into it.
    pub const fn is_a_function<F>(_: &F) {
        assert!(
            size_of::<F>() == 0,
            "the first target of a static call must be a function, not a variable or constant that holds a pointer to one"
        );
    }

    /// Reads a key, off the hot path. Takes anything, so that what [`is_a_key`] refuses is one mistake and
    /// not two.
    ///
    /// # Safety
    /// It must be [a key](IsKey).
    #[inline(always)]
    pub unsafe fn read<K>(key: &K) -> bool {
        // SAFETY: it is one, says the caller.
        unsafe { &*core::ptr::from_ref(key).cast::<crate::StaticKey>() }.is_enabled()
    }
}
