//! What [`demo`](crate::demo) and [`bench`](crate::bench) share: C programs that are part of the command, compiled
//! in variants by the machine's compiler, and started with or without the engine.
//!
//! ```text
//! compiler   find one, and the flags by which it makes retpolines
//! variant    the variants: how each is compiled, how each is started
//! progress   a bar
//! sample     medians and spread
//! machine    where it was measured
//! ```

pub mod compiler;
pub mod machine;
pub mod progress;
pub mod sample;
pub mod variant;
