//! eBPF in user space, with program arrays whose tail calls are direct jumps, patched while programs run.
//!
//! Load what clang makes (`clang -O2 -g -target bpf -c`), run it, and change which program a slot of a
//! program array leads to while any number of threads are running:
//!
//! ```
//! use relpoline_bpf::{Object, Options, Reason, Runtime};
//!
//! let runtime = Runtime::new()?;
//! // Programs classify, icmp, tcp and udp, and an array that leads from the first to the others by protocol number.
//! let bytes = include_bytes!("../tests/programs/dispatch.o");
//! let object = Object::load(&runtime, bytes, Options { count: true, ..Options::default() })?;
//! let classify = object.program("classify").expect("it is in the file");
//! let protocols = object.array("protocols").expect("it is in the file");
//!
//! let mut packet = [0; 64];
//! packet[23] = 17;
//! assert_eq!(classify.run(&mut packet)?, 17);
//!
//! // One slot: runs that go on meanwhile see the old program or the new one.
//! protocols.update(17, object.program("tcp"))?;
//! assert_eq!(classify.run(&mut packet)?, 6);
//!
//! // Many slots: every run sees all of them old, or all of them new.
//! protocols.swap([(17, object.program("udp")), (6, None)])?;
//! assert_eq!(classify.run(&mut packet)?, 17);
//!
//! // The index is the packet's, so the call is learned when it is hot; why it is what it is can be asked at any time.
//! for call in classify.variable_calls() {
//!     assert!(!call.promoted && call.reason == Reason::Cold);
//! }
//! assert_eq!(object.program("udp").and_then(|udp| udp.hits()), Some(2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Instructions need no file: [`Program::load`] takes them as they are ([`insn::parse`]). Helpers of the host
//! are added by number ([`RuntimeBuilder::helper`]), maps are made by [`Map::new`] or come with an object,
//! and packets get the kernel's contexts by a [`PacketBuffer`].
//!
//! # Tail calls
//! A tail call whose index is a constant is two words of machine code, a bypass and a jump, that change by
//! the protocol of [`relpoline_patch::bypass`]. One whose index is computed looks the program up in a table,
//! and then goes through a retpoline, or, when it is hot, through compare-and-jump code for its usual targets
//! ([`IndirectBranches`], [`Program::variable_calls`]). At most 33 are taken in a run, however programs and
//! functions nest; the next returns −2.
//!
//! What [`ProgArray::update`] changes is one slot's jumps, which takes less than a microsecond; emptying a
//! slot waits for the runs that are going on. [`ProgArray::swap`] and [`Transaction`] compile the programs
//! concerned anew, some tens of microseconds for 33 of them, and switch over at once. A program is freed one
//! grace period after its last handle and slot are gone; programs and arrays may refer to each other in
//! circles.
//!
//! # What is verified, and what is not
//! Every instruction is checked when a program is loaded ([`check`]), and every memory access while it runs,
//! so that no program, however malformed, reads or writes memory that was not given to its runtime, or runs
//! for ever: it ends in a [`Trap`]. With [`Options::proofs`] accesses that are proved to be within bounds are
//! not checked (`proof`; [`Options::kernel_contexts`] lets more be proved). There is no verifier: types and
//! value ranges are not proved, which means that errors show at run time. In particular:
//! - Programs of one [`Runtime`] can reach all of each other's maps, and all of their run's stack, by
//!   addresses they make up; keep programs that must not in runtimes of their own. Addresses are visible to
//!   programs.
//! - Bounds checks are not hardened against speculation (Spectre variant 1): do not run programs of
//!   adversaries beside secrets of the same process.
//! - A program can read stack that an earlier run of the same runtime left behind, unless
//!   [`Invocation::clear_stack`] is asked for.
//! - [`Checks::off`], which is `unsafe`, switches the memory checks off, and [`Options::budget`] can be
//!   switched off; then what they promise no longer holds.
//! - Not supported, and refused when loaded (an object's other programs are loaded: [`Object::refused`]):
//!   calls by BTF id, kernel functions, CO-RE relocations against types of a kernel's that was not given
//!   ([`Around`]), spin locks, timers, maps of kinds other than [`MapKind`]'s.
//!
//! # Limits
//! x86-64 Linux. 64 MiB of code, 4096 maps and 16384 computed tail calls per runtime; 8 nested functions with
//! 512 bytes of stack each; 65536 slots per array. Not for signal handlers. A forked child interprets the
//! programs it inherited and cannot change them; see [`Runtime`].
//!
//! # The crate, inside
//!
//! | module | what it is for |
//! |---|---|
//! | [`insn`], [`op`], [`decode`] | instructions: encoded, decoded, and what can be wrong with one |
//! | [`check`], [`constant`] | what has to hold for a program; which tail calls are constant |
//! | [`semantics`], `interp` | what instructions mean, and the interpreter |
//! | `proof` | which accesses need no check while running |
//! | `jit`, `branches` | the compiler to x86-64 |
//! | `learn`, `promotion` | computed tail calls: learning, promoting, telling why |
//! | `run`, `region`, `stack` | the memory of a run, and bounds checks |
//! | `program`, `code`, `invocation`, `trap`, `hits` | loading, what a program consists of, running, how runs end |
//! | `packet`, `frame`, `section` | contexts as the kernel's programs expect them, where a packet begins and ends, and which context a program expects |
//! | `redirect` | where packets go |
//! | `array` | program arrays: updates, swaps, patch sites |
//! | `elf` | object files |
//! | `c` (feature `c`) | the interface for C behind `relpoline_bpf.h` |
//! | [`listing`] | instructions as text, beside the machine code they became |
//! | `callback` | helpers that call functions of the program |
//! | `map`, `slot`, `helper` | maps, whose values per CPU are whose, and helpers |
//! | `fork` | forked children; code memory and grace periods are [`relpoline_patch`]'s |

mod array;
mod branches;
#[cfg(feature = "c")]
pub mod c;
mod callback;
pub mod check;
mod code;
pub mod constant;
pub mod decode;
mod elf;
mod fork;
mod frame;
mod helper;
mod hits;
pub mod insn;
mod interp;
mod invocation;
mod jit;
mod learn;
pub mod listing;
mod map;
pub mod op;
mod packet;
mod program;
mod promotion;
mod proof;
mod redirect;
mod region;
mod run;
mod runtime;
mod section;
pub mod semantics;
mod slot;
mod stack;
mod trap;

pub use array::{ProgArray, Transaction, UpdateError};
pub use branches::IndirectBranches;
pub use elf::{Around, LARGEST as LARGEST_OBJECT, Object, ObjectError};
pub use helper::HelperCall;
pub use invocation::{Engine, Invocation};
pub use jit::CompileError;
pub use map::{Map, MapError, MapKind, MapSpec, Mode};
pub use packet::{NoLowMemory, PacketBuffer};
pub use program::{Checks, LoadError, LoadErrorKind, MapHandle, Options, Program, Source};
pub use promotion::{HotTarget, VariableCall};
pub use proof::Why;
pub use redirect::{Redirect, Way};
pub use relpoline_core::policy::Reason;
pub use runtime::{Runtime, RuntimeBuilder, RuntimeError};
pub use section::{ContextKind, Expects, expects};
pub use slot::count as slots;
pub use trap::{Trap, TrapKind};
