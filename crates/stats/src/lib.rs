//! What the preloaded engine and the command line tool agree on.
//!
//! The two never link against each other: one is injected into somebody else's process, the other starts
//! that process and reads what was left behind. This crate is the whole contract between them.
//!
//! | module | what it fixes |
//! |---|---|
//! | [`record`] | the records of a statistics file and what each field means; the engine writes them in place |
//! | [`codes`] | the numbers in them: kinds, states, flags, refusals |
//! | [`control`] | what an engine in a living process can be asked to do |
//! | [`mod@file`] | where the records lie in the file, and the reader, which survives any content |
//! | [`live`] | where the files of living processes are |
//! | [`options`] | the environment variable `RELPOLINE_OPTS` |
//! | [`glob`] | the patterns of `--only` and `--exclude` |
//! | [`profile`] | what was learned, kept for the next start |
//! | [`program`] | whether a program can take the preload, by its file's bytes |
//!
//! # The way of a statistics file
//! Each process creates a file ([`live::Name`]; mode 0600; an older file of that name is unlinked first, so
//! after an exec the newest image counts) in a directory that only its user can enter ([`live`]), or in the
//! one that `RELPOLINE_OPTS` names (`stats=DIR`), sets its length to [`file::Layout::file_size`], maps it
//! shared, and stores plain integers there on its slow path. No format step, no flush: when the process is
//! killed the file holds what was known at the last judgement. A forked child makes its own file at its first
//! judgement.
//!
//! All integers are little-endian, all fields naturally aligned, and a file of zeros is an empty one.
//! Nothing that is read is trusted: the program under test could have written anything into its own file.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod codes;
pub mod control;
pub mod file;
pub mod glob;
pub mod live;
pub mod options;
mod plain;
pub mod profile;
pub mod program;
pub mod record;

pub use codes::{Kind, Refusal, State};
pub use file::{Layout, Malformed, Stats};
pub use plain::Plain;
pub use record::{
    ArenaRecord, EventRecord, Header, LastTargetRecord, ObjectRecord, RefusalRecord, SampleRecord, SiteRecord,
    TargetRecord,
};
