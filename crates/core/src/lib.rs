//! Relpoline's pure part: everything that can be decided or encoded without touching the machine.
//!
//! No operating system, no allocation, no clock, no I/O: what is in here runs the same in the preloaded
//! engine, in the library, in the kernel module, in a test and under Miri.
//!
//! | module | what it answers |
//! |---|---|
//! | [`arch`] | how instructions look: the one seam behind which x86-64 lives |
//! | [`scan`] | which bytes of a text section are sites, and may each of them be re-pointed |
//! | [`trace`] | what a window of observed calls says: shares, order, predictability |
//! | [`policy`] | what a site's gate should point to, when, and why |
//! | [`tree`] | the machine code of a branch tree |
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod arch;
mod bounded;
pub mod policy;
pub mod scan;
pub mod trace;
pub mod tree;
