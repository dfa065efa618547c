//! The names and macros of the crate [static-keys] 0.8, on this crate's [keys](crate::StaticKey).
//!
//! A program that uses it changes `use static_keys::…` to `use relpoline::compat::static_keys::…`. Everything
//! else stays. What is different underneath:
//!
//! * Keys may be switched from any thread, while other threads run through the branches.
//! * [`global_init`] does nothing. Branches are right before it, in constructors, and in libraries loaded
//!   later.
//! * [`static_branch_unlikely!`] and [`static_branch_likely!`] lay out the branch by their own name alone.
//!   static-keys also looks at what the key starts with.
//! * [`enable`](StaticKey::enable) and [`disable`](StaticKey::disable) stay `unsafe`, so that the source
//!   compiles unchanged and without warnings, but ask for nothing. Where text cannot be patched they panic,
//!   as static-keys does; a key [leads](core::ops::Deref) to its [`StaticKey`](crate::StaticKey), whose
//!   methods return an error instead.
//!
//! Not here: keys that are generic over a code manipulator, which are for programs without an operating
//! system.
//!
//! ```
//! use relpoline::compat::static_keys::{self, define_static_key_false, static_branch_unlikely};
//!
//! define_static_key_false!(VERBOSE);
//!
//! static_keys::global_init();
//! assert!(!static_branch_unlikely!(VERBOSE));
//! unsafe { VERBOSE.enable() };
//! assert!(static_branch_unlikely!(VERBOSE));
//! // What static-keys has not: no `unsafe`, from any thread, and an error instead of a panic.
//! VERBOSE.set(false)?;
//! # Ok::<(), relpoline::UpdateError>(())
//! ```
//!
//! [static-keys]: https://docs.rs/static-keys/0.8

use core::fmt;
use core::ops::Deref;

pub use crate::{
    __define_static_key_false as define_static_key_false, __define_static_key_true as define_static_key_true,
    likely as static_branch_likely, unlikely as static_branch_unlikely,
};

/// A key that is `INITIALLY` on or off.
#[repr(transparent)]
pub struct StaticKey<const INITIALLY: bool>(crate::StaticKey);

/// A key that is on at first.
pub type StaticTrueKey = StaticKey<true>;
/// A key that is off at first.
pub type StaticFalseKey = StaticKey<false>;

impl<const INITIALLY: bool> StaticKey<INITIALLY> {
    /// A key for a `static`, with a name for messages.
    #[doc(hidden)]
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self(crate::StaticKey::new(name, INITIALLY))
    }

    /// Whether the key is on at first.
    #[inline(always)]
    #[must_use]
    pub const fn initial_enabled(&self) -> bool {
        INITIALLY
    }

    /// Whether the key is on, by its value rather than by a patched branch.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.0.is_enabled()
    }

    /// Switches the key on.
    ///
    /// # Safety
    /// Nothing is asked for.
    ///
    /// # Panics
    /// When text cannot be patched; see [`UpdateError`](crate::UpdateError).
    pub unsafe fn enable(&self) {
        self.switch(true);
    }

    /// Switches the key off.
    ///
    /// # Safety
    /// Nothing is asked for.
    ///
    /// # Panics
    /// As for [`enable`](StaticKey::enable).
    pub unsafe fn disable(&self) {
        self.switch(false);
    }

    fn switch(&self, on: bool) {
        if let Err(refusal) = self.0.set(on) {
            panic!("the static key `{}` cannot be switched: {refusal}", self.0.name());
        }
    }
}

impl<const INITIALLY: bool> Deref for StaticKey<INITIALLY> {
    type Target = crate::StaticKey;

    fn deref(&self) -> &crate::StaticKey {
        &self.0
    }
}

impl<const INITIALLY: bool> fmt::Debug for StaticKey<INITIALLY> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// SAFETY: a transparent struct of one.
unsafe impl<const INITIALLY: bool> crate::__private::IsKey for StaticKey<INITIALLY> {}

/// Does nothing: modules register their branches when they are loaded.
pub fn global_init() {}

/// How many branches on keys there are in the modules that are loaded. 0 where nothing is patched.
#[must_use]
pub fn jump_entries_count() -> usize {
    crate::imp::branch_count()
}

/// A key that is off at first.
#[must_use]
pub const fn new_static_false_key() -> StaticFalseKey {
    StaticKey::named("")
}

/// A key that is on at first.
#[must_use]
pub const fn new_static_true_key() -> StaticTrueKey {
    StaticKey::named("")
}

/// Defines a static key that is off at first.
#[doc(hidden)]
#[macro_export]
macro_rules! __define_static_key_false {
    ($key:ident) => {
        static $key: $crate::compat::static_keys::StaticFalseKey =
            $crate::compat::static_keys::StaticKey::named(::core::stringify!($key));
    };
}

/// Defines a static key that is on at first.
#[doc(hidden)]
#[macro_export]
macro_rules! __define_static_key_true {
    ($key:ident) => {
        static $key: $crate::compat::static_keys::StaticTrueKey =
            $crate::compat::static_keys::StaticKey::named(::core::stringify!($key));
    };
}
