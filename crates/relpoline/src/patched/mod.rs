//! Patched code: x86-64 on Linux.
//!
//! | module | what it does |
//! |---|---|
//! | [`asm`] | the assembly that macros leave in the user's functions |
//! | [`sites`] | what that assembly noted down, module by module |
//! | [`hold`] | the one lock, which every change takes; sites themselves take none |
//! | [`fork`] | what happens around `fork` |
//! | [`wiped`] | noticing a forked child, whoever made it |
//! | [`unload`] | whether a module is unloaded, or the process ends |
//! | [`text`] | changing a byte of text, and telling every thread |
//! | [`keys`] | toggling the sites of a key |
//! | [`calls`] | re-pointing the slots of a static call |
//! | [`callers`] | leading the calls themselves straight to the target |
//! | [`mirror`] | memory that they pass through on the way |
//! | [`learn`] | learning the targets of dynamic calls |
//! | [`vtable`] | reading off where a method lies |

pub mod asm;
mod callers;
mod calls;
mod fork;
mod hold;
mod keys;
mod learn;
mod mirror;
mod sites;
mod text;
mod unload;
mod vtable;
mod wiped;

pub use calls::{call_callers, call_form, update_call};
pub use keys::{branch_count, change_keys, dynamic_callers, key_sites};
pub use learn::{always_promote, count_calls, forget, pause, pin, stats};
pub use sites::{prepare_for_sandbox, register, unregister};
pub use vtable::vtable_offset;
