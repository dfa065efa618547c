//! The architecture seam. Everything that knows an instruction's bytes sits below; the rest of the crate
//! names only what is re-exported here, so that a second architecture is a second folder.

pub mod x86_64;

pub use x86_64::{Reg, decode, encode, keep, thunk};
