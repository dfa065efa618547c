//! What [`demo`](crate::demo), [`bench`](crate::bench) and [`trial`](crate::trial) share: programs started
//! with and without the engine, what that took; and C programs that are part of the command, compiled in
//! variants by the machine's compiler.
//!
//! ```text
//! compiler   find one, and the flags by which it makes retpolines
//! variant    the variants: how each is compiled, how each is started
//! process    one run of a program: its time, its output
//! interrupt  Ctrl-C meanwhile
//! scratch    a directory that goes with the command, also when a signal ends that
//! progress   a bar
//! sample     medians, spread, intervals
//! machine    where it was measured
//! ```

pub mod compiler;
pub mod interrupt;
pub mod machine;
pub mod process;
pub mod progress;
pub mod sample;
pub mod scratch;
pub mod variant;
