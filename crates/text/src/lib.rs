//! Live text: where generated code lives and how running code is changed.
//!
//! | module | what it is for |
//! |---|---|
//! | [`arena`] | a window of executable memory beside an object, mapped twice and sealed |
//! | [`cells`] | which 64-byte cells of an arena are taken: append-only, atomic, shared with forked children |
//! | [`frames`] | how an unwinder gets out of an arena's code |
//! | [`gate`] | the cell of a site: gate word, miss gate, counting stub |
//! | [`stub`] | code that many sites or one site's learning share: record a target, enter the slow path |
//! | [`poke`] | the program's own text: many words while nobody runs it, one byte while everybody does |
//! | [`lock`] | the try-lock under which sites are judged; survives fork, longjmp and death |
//! | [`mask`] | keeping signal handlers away from a thread for a moment |
//! | [`sync`] | the atomics; where a model checker gets in between |
//!
//! Nothing here allocates, takes a blocking lock or calls libc: system calls are made directly, so all of it
//! may run in a signal handler or in a forked child.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod arena;
pub mod cells;
pub mod clock;
pub mod frames;
pub mod gate;
pub mod lock;
pub mod mask;
pub mod poke;
pub mod stub;
pub mod sync;
