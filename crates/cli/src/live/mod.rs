//! Engines that run now: where they are, what they say, without stopping anybody.
//!
//! ```text
//! /dev/shm/relpoline-UID/[run-…/]PID-….stats   one file per process, written by its engine
//! /proc/*/root/dev/shm/relpoline-UID/…          the same in containers, as far as we may look
//! /proc/PID/maps                                whether the process of that number really uses the file
//! ```
//! Reading is plain reading of a file in memory: the process notices nothing. What only its memory knows (the
//! code in its arena, what was counted since the last judgement) is read by [`memory`], where that is
//! allowed.
//!
//! | module | what it does |
//! |---|---|
//! | [`place`] | the directories |
//! | [`find`] | all engines, one engine, files that were left behind |
//! | [`shelf`] | directories of files, held open |
//! | [`patience`] | an end to waiting |
//! | [`process`] | what /proc says of a process |
//! | [`maps`] | what a process has mapped where |
//! | [`memory`] | a process' memory, read without stopping it |
//! | [`clock`] | ticks of the time-stamp counter as time |

pub mod clock;
pub mod find;
pub mod maps;
pub mod memory;
pub mod patience;
pub mod place;
pub mod process;
pub mod shelf;

pub use find::{Engine, all, one};
pub use patience::Patience;
