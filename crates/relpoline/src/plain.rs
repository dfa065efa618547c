//! The fallback: keys are read, static calls jump through their pointer, dynamic calls call.
//!
//! Same behaviour, same API, nothing patched: for other processors and systems, Miri, and the feature
//! `no-patch`. A change is one atomic store; a call that begins after it on a thread that has synchronised
//! with the changer sees it.

use crate::UpdateError;
use crate::call::{Callers, Form, StaticCall};
use crate::key::{Change, Sites, StaticKey};
use crate::table::{DynamicCall, Stats};

/// Changes keys, one after the other.
pub fn change_keys(changes: &[(&StaticKey, Change)]) -> Result<(), UpdateError> {
    for &(key, change) in changes {
        key.change(change);
    }
    Ok(())
}

/// There are no sites.
pub fn key_sites(_: &StaticKey) -> Sites {
    Sites::default()
}

/// There are none that are patched.
pub fn branch_count() -> usize {
    0
}

/// Re-points a call.
pub fn update_call(call: &StaticCall, target: *const ()) -> Result<(), UpdateError> {
    call.store(target);
    Ok(())
}

/// None is found.
pub fn call_callers(_: &StaticCall) -> Callers {
    Callers::default()
}

/// None is found.
pub fn dynamic_callers(_: &DynamicCall) -> Callers {
    Callers::default()
}

/// Always through the pointer.
pub fn call_form(_: &StaticCall) -> Form {
    Form::Pointer
}

/// Nothing to prepare: no system call is ever made.
///
/// # Errors
/// Never: there is nothing to bring back.
pub fn prepare_for_sandbox() -> Result<(), UpdateError> {
    Ok(())
}

/// A branch on a key.
#[doc(hidden)]
#[macro_export]
macro_rules! __branch {
    ($key:path, $kind:literal, $ahead:literal) => {{
        const { $crate::__private::is_a_key(&$key) };
        // SAFETY: it is a key, or does not compile.
        #[allow(unused_unsafe)]
        unsafe {
            $crate::__private::read(&$key)
        }
    }};
}

/// What callers of a static call call.
#[doc(hidden)]
#[macro_export]
macro_rules! __call_gate {
    ($state:ident, $target:path) => {
        $state.target()
    };
}

/// Nothing is left where a static call is called.
#[doc(hidden)]
#[macro_export]
macro_rules! __caller_here {
    ($state:ident) => {};
}

/// The pointer decides.
#[doc(hidden)]
#[macro_export]
macro_rules! __first_target_here {
    ($state:ident) => {
        false
    };
}

/// Nothing is learned.
pub fn stats(_: &DynamicCall) -> Stats {
    Stats::plain("nothing is patched in this build")
}

/// Nothing to pause.
pub fn pause(_: &DynamicCall) {}

/// Nothing to forget.
pub fn forget(_: &DynamicCall) {}

/// Nothing to count.
pub fn count_calls(_: &DynamicCall, _: bool) {}

/// Nothing to promote.
pub fn always_promote(_: &DynamicCall, _: bool) {}

/// No tree.
pub fn pin(_: &DynamicCall, _: &[*const ()]) -> bool {
    false
}

/// It is always left alone.
#[doc(hidden)]
#[macro_export]
macro_rules! __plain_here {
    ($state:ident) => {
        true
    };
}

/// There is no gate.
#[doc(hidden)]
#[macro_export]
macro_rules! __table_gate {
    ($state:ident, $register:ident) => {
        ::core::ptr::null()
    };
}

/// The function that callers see: it calls.
#[doc(hidden)]
#[macro_export]
macro_rules! __dynamic_call_function {
    ([$(#[$meta:meta])* $vis:vis] [$($unsafe:tt)?] [$($abi:tt)*] $name:ident($($arg:ident: $ty:ty),*) [$($ret:tt)*]) => {
        $(#[$meta])*
        #[inline(always)]
        $vis $($unsafe)? fn $name(target: $($unsafe)? $($abi)* fn($($ty),*) $($ret)* $(, $arg: $ty)*) $($ret)* {
            // SAFETY: what an unsafe signature asks for was promised by the caller.
            #[allow(unused_unsafe)]
            unsafe { target($($arg),*) }
        }
    };
}

/// Nobody asks a vtable.
pub fn vtable_offset(_: *const (), _: u8) -> Option<u32> {
    None
}

/// Sites of C code that was compiled to be patched stay as they are shipped.
///
/// # Safety
/// None needed.
#[cfg(feature = "c")]
pub unsafe extern "C" fn register(_: *mut u8, _: *mut u8) {}

/// See [`register`].
///
/// # Safety
/// None needed.
#[cfg(feature = "c")]
pub unsafe extern "C" fn unregister(_: *mut u8) {}
