// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The engine of `relpoline.ko`: what happens to the indirect calls of a running kernel, and when.
//!
//! It decides nothing about the machine it runs on: all that touches the kernel goes through
//! [`machine::Machine`], which the C shim implements (`ffi`), and the tests simulate.
//!
//! ```text
//!          site (call/jmp thunk)             5 bytes of kernel text, changed by text_poke alone
//! cold        ▶ counting stub ▶ thunk        one counter per site and processor
//! learning    ▶ recording stub ▶ thunk       (slot, target) into the ring of this processor
//! promoted    ▶ tree ▶ target                cmp $imm32, %reg; je target; … up to four
//!                 ▶ miss stub ▶ thunk        one counter per tree and processor
//! left alone  ▶ thunk                        as the compiler made it
//! ```
//!
//! A kernel thread looks at all that every few milliseconds ([`engine::Engine::tick`]): it empties the rings
//! into windows, reads the counters, asks the policy of `relpoline-core`, and changes sites in batches. No
//! decision is ever made in the path of a call.
//!
//! | module | what it holds |
//! |---|---|
//! | [`engine`] | the tick: from counters and windows to decisions, from decisions to pokes |
//! | [`modules`] | scanning text for sites; kernel modules that come and go |
//! | [`site`] | what is known of a site |
//! | [`trees`] | tree slots: building, finding again, counting |
//! | [`windows`] | recording stubs lent to sites, and what they recorded |
//! | [`slots`] | which slots are in use, leaving, or free |
//! | [`layout`] | the shape of stubs and slots, as `shim/stubs.S` lays them out |
//! | [`knobs`] | what can be turned while it runs |
//! | [`price`] | what a change of live text costs on this machine |
//! | [`report`] | what the devices show |
//! | [`machine`] | what is asked of the kernel |
//! | [`table`] | arrays in memory that the kernel provides |
#![no_std]

pub mod engine;
pub mod knobs;
pub mod layout;
pub mod machine;
pub mod modules;
pub mod price;
pub mod report;
pub mod site;
pub mod slots;
pub mod table;
pub mod trees;
pub mod windows;
