//! What the tests in `tests/tests` stand on: programs in C and C++, compiled with retpolines by the machine's
//! compiler, run with and without the engine, and compared.
//!
//! Every program (`tests/programs`) checks its own calls: a callee says which one it is, what it was given
//! and how often it was called, and the program ends with status 1 when that is not what the caller meant.
//! What the tests add is that the program behaves the same without the engine, and that promotion really took
//! place, by the report: a test of an engine that does nothing would prove nothing.
//!
//! | module | what it is for |
//! |---|---|
//! | [`program`] | compiling, once per content |
//! | [`tool`] | the command `relpoline` and its engine, also deliberately broken ones |
//! | [`run`] | running, with a deadline, and comparing |
//! | [`broken`] | engines that break a rule, and who notices |
//! | [`generate`] | random programs |
//! | [`living`] | programs that are attached to while they run |
//! | [`report`] | what the engine says it did |

pub mod broken;
pub mod generate;
pub mod living;
pub mod program;
pub mod report;
pub mod run;
pub mod tool;

pub use living::Living;
pub use program::Program;
pub use report::{Report, Site};
pub use run::{Outcome, Run};
