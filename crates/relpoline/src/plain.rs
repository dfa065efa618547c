//! The fallback: keys are read, static calls jump through their pointer, dynamic calls call.
//!
//! Same behaviour, same API, nothing patched: for other processors and systems, Miri, and the feature
//! `no-patch`. A change is one atomic store; a call that begins after it on a thread that has synchronised
//! with the changer sees it.

use crate::UpdateError;
use crate::call::{Form, StaticCall};
use crate::key::{Change, Sites, StaticKey};

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

/// Re-points a call.
pub fn update_call(call: &StaticCall, target: *const ()) -> Result<(), UpdateError> {
    call.store(target);
    Ok(())
}

/// Always through the pointer.
pub fn call_form(_: &StaticCall) -> Form {
    Form::Pointer
}

/// Nothing to prepare: no system call is ever made.
///
/// # Errors
/// None.
pub fn prepare_for_sandbox() -> Result<(), UpdateError> {
    Ok(())
}

/// A branch on a key.
#[doc(hidden)]
#[macro_export]
macro_rules! __branch {
    ($key:path, $kind:literal, $ahead:literal) => {{
        let key: &'static $crate::StaticKey = &$key;
        $crate::__private::read(key)
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
