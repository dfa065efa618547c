//! The engine: finds the retpolined calls and jumps of the process it lives in, learns where they go, and
//! patches compare-and-jump trees for the hot targets into the live text.
//!
//! It is preloaded into other people's programs, so it has no heap, no threads, no signal handlers and no
//! locks that anybody waits for; it makes its system calls itself and needs no library and no symbol: what it
//! uses of glibc's it finds in memory.
//!
//! | module | what it is for |
//! |---|---|
//! | [`engine`] | what happens from outside: start, libraries, sandbox, switching, end |
//! | [`config`] | the options, from the environment |
//! | [`object`], [`maps`] | executables and libraries as they lie in memory |
//! | [`functions`] | where functions begin and end, if no table of unwind rules says it |
//! | [`known`] | which objects are mapped, which were, and whether one has come back |
//! | [`discover`] | thunks, sites, gates; re-pointing idle text |
//! | [`judge`] | the slow path: asks the policy and does what it says |
//! | [`board`] | code of sites that change for ever, whose targets can be exchanged |
//! | [`site`], [`state`], [`table`], [`rings`], [`memory`] | what is remembered, and where |
//! | [`calibrate`] | what calls cost here |
//! | [`control`] | what the tool asks for from outside |
//! | [`fork`], [`loader`], [`exec`], [`sandbox`] | children, libraries, new programs, seccomp |
//! | [`entries`], `block` | how it hears of the last two; memory for environments |
//! | [`dormant`], `clean` | programs without retpolines, and files that are known to have none |
//! | `bytes` | `memcpy` and its like, which must leave vector registers alone |
//! | [`share`], [`report`], `leftovers` | the statistics, and the files of the dead |
//! | [`warm`] | trees from an earlier run's profile |
//! | [`unwind`] | what debuggers are told |
//! | `preload` | constructor and exported functions, with the feature of that name |
#![no_std]

#[cfg(test)]
extern crate std;

mod block;
pub mod board;
#[cfg(any(test, feature = "preload"))]
mod bytes;
pub mod calibrate;
mod clean;
pub mod config;
pub mod control;
pub mod crowd;
pub mod discover;
pub mod dormant;
pub mod engine;
pub mod entries;
pub mod exec;
pub mod fork;
pub mod functions;
pub mod head;
mod heap;
pub mod hold;
pub mod judge;
pub mod known;
mod leftovers;
pub mod link;
pub mod loader;
pub mod maps;
pub mod memory;
pub mod object;
#[cfg(feature = "preload")]
pub mod preload;
pub mod report;
pub mod rings;
pub mod sandbox;
pub mod share;
pub mod site;
pub mod state;
pub mod table;
pub mod unwind;
pub mod warm;
