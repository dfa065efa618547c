// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The crate as the kernel links it: core and the engine in one, so that what nobody calls is not there.
//!
//! `cargo xtask kernel-build` compiles this file, cargo compiles `lib.rs`. Nothing of libcore is linked:
//! where the compiler cannot rule a panic out, an undefined symbol stays behind and modpost refuses the
//! module.
#![no_std]
#![allow(dead_code, unused_imports)]

extern crate self as relpoline_core;

#[path = "../../crates/core/src"]
mod core_files {
    pub mod arch;
    pub mod bounded;
    pub mod policy;
    pub mod scan;
    pub mod trace;
    pub mod tree;
}
use core_files::{arch, bounded, policy, scan, trace, tree};

mod engine;
mod ffi;
mod knobs;
mod layout;
mod machine;
mod modules;
mod price;
mod report;
mod site;
mod slots;
mod table;
mod trees;
mod windows;

/// Never reached: whatever could lead here has failed to link.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
