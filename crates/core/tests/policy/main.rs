//! The policy, replayed in a simulator over every trace of the design.
//!
//! [`engine`] drives the real policy with one site on a modelled [`cpu`]: true costs, and a TAGE branch
//! predictor that sees the branches of the [`tree`]s. [`oracle`] knows the whole trace beforehand and looks for
//! the best fixed tree. [`replay`] sends traces through. `cargo bench -p relpoline-core --bench policy` prints the table.

mod cpu;
mod crowd;
mod engine;
mod oracle;
mod replay;
mod states;
mod traces;
mod tree;
