//! eBPF in user space, with program arrays whose tail calls are direct jumps, patched while programs run.
//!
//! ```
//! use relpoline_bpf::{Options, Program, Runtime, Source, insn::parse};
//!
//! // r0 = 42; exit
//! let code = [0xb7, 0, 0, 0, 42, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
//! let insns = parse(&code).unwrap();
//! let runtime = Runtime::new()?;
//! let source = Source { name: "answer", section: "", insns: &insns, maps: &[] };
//! let program = Program::load(&runtime, source, Options::default())?;
//! assert_eq!(program.run(&mut [])?, 42);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | [`insn`], [`op`], [`decode`] | instructions: encoded, decoded, and what can be wrong with one |
//! | [`check`], [`constant`] | what has to hold for a program; which tail calls are constant |
//! | [`semantics`], `interp` | what instructions mean, and the interpreter |
//! | `jit` | the compiler to x86-64 |
//! | `run`, `region`, `stack` | the memory of a run, and bounds checks |
//! | `program`, `code`, `invocation` | loading, what a program consists of, running |
//! | `packet` | contexts as the kernel's programs expect them |
//! | `array` | program arrays: updates, swaps, patch sites |
//! | `elf` | object files |
//! | [`listing`] | instructions as text, beside the machine code they became |
//! | `map`, `helper` | maps and helpers |
//! | `reclaim`, `space` | grace periods; code memory |
//!
//! # What is verified, and what is not
//! Every instruction is checked when a program is loaded, and every memory access while it runs, so that no
//! program, however malformed, reads or writes memory that was not given to its runtime, or runs for ever: it
//! ends in a [`Trap`]. There is no verifier: types and value ranges are not proved, which means that errors show
//! at run time. Programs of one [`Runtime`] can reach each other's maps. [`Options::trusted`] switches the memory
//! checks off, and all of this no longer holds.

mod array;
mod branches;
pub mod check;
mod code;
pub mod constant;
pub mod decode;
mod elf;
mod helper;
mod hits;
mod inherited;
pub mod insn;
mod interp;
mod invocation;
mod jit;
mod learn;
pub mod listing;
mod map;
pub mod op;
mod packet;
mod printk;
mod program;
mod promotion;
mod reclaim;
mod region;
mod run;
mod runtime;
pub mod semantics;
mod space;
mod stack;
mod trap;

pub use array::{ProgArray, Transaction, UpdateError};
pub use branches::IndirectBranches;
pub use elf::{Object, ObjectError};
pub use helper::HelperCall;
pub use invocation::{Engine, Invocation};
pub use jit::CompileError;
pub use map::{Map, MapError, MapKind, MapSpec, Mode};
pub use packet::{ContextKind, NoLowMemory, PacketBuffer};
pub use program::{LoadError, LoadErrorKind, MapHandle, Options, Program, Source};
pub use promotion::{HotTarget, VariableCall};
pub use relpoline_core::policy::Reason;
pub use runtime::{Runtime, RuntimeBuilder, RuntimeError};
pub use trap::{Trap, TrapKind};
