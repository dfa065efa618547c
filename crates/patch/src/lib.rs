//! Changing code while threads run it: for JIT compilers, and whoever else generates code.
//!
//! A compiler that replaces code by better code, or takes some away, has three questions: how a thread is led
//! from the old to the new, when the old may be freed, and how memory gets written that others execute. The
//! answers here are those by which [`relpoline`](https://docs.rs/relpoline) patches a program's own branches
//! and calls, and its eBPF runtime links programs: no thread is stopped, none runs a trap or a handler, and
//! no page is ever writable and executable.
//!
//! ```
//! use relpoline_patch::{code::{Draft, Entry}, gate::Gate, space::Space};
//! use std::sync::Arc;
//!
//! type Function = unsafe extern "C" fn(u32) -> u32;
//! /// `lea n(%rdi), %eax; ret`
//! fn adds(n: u8) -> [u8; 4] { [0x8d, 0x47, n, 0xc3] }
//!
//! let space = Arc::new(Space::create(1 << 20)?);
//! let compile = |n| {
//!     let mut draft = Draft::take(&space, 4)?;
//!     draft.write(0, &adds(n));
//!     // SAFETY: these bytes are such a function, and lead nowhere.
//!     unsafe { Entry::<Function>::new(&draft.publish(), 0) }
//! };
//! let gate = Gate::new(&compile(1)?)?;
//! // SAFETY: called where it lives.
//! assert_eq!(gate.enter(|f| unsafe { f(40) })?, 41);
//! // From any thread, while others call it. What it led to is freed when nobody is there any more.
//! gate.lead_to(&compile(2)?)?;
//! // SAFETY: as above.
//! assert_eq!(gate.enter(|f| unsafe { f(40) })?, 42);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What changes, byte by byte
//!
//! | module | what | from | to | one store of | between two changes |
//! |---|---|---|---|---|---|
//! | [`gate`], [`word`] | a gate | `e9 d0 d1 d2 d3 cc cc cc` | `e9 e0 e1 e2 e3 cc cc cc` | 8 aligned bytes | nothing |
//! | [`word`] | a site that leads away, or is passed through | `0f 1f 44 00 00 0f 1f 00` | `e9 d0 d1 d2 d3 0f 1f 00` | 8 aligned bytes | nothing |
//! | [`bypass`] | two sites: a jump that may be missing, behind a jump over it | | | 8 aligned bytes each | a barrier, or a grace period |
//! | [`switch`] | an instruction that jumps or is passed over, anywhere | `a9 d0 d1 d2 d3` or `a8 d0` | `e9 d0 d1 d2 d3` or `eb d0` | 1 byte | nothing |
//! | [`slots`] | a gate of jumps that are passed over until one decides, anywhere | `e9 …` | `a9 …` | 1 byte each | nothing: from the last to the first |
//! | [`route`] | a call's own displacement, anywhere | `e8 d0 d1 d2 d3` | `e8 e0 e1 e2 e3` | 1 byte each, by way of islands | a barrier |
//!
//! Why each is right at every instant is in its module. They have in common: a thread that fetches finds what
//! was there or what is there, and *both must be right*, until a barrier ([`grace::sync_cores`],
//! [`text::Text::fence`]: membarrier(2) with `SYNC_CORE`) has made every thread fetch anew; what the old one
//! led to is there until a *grace period* is over. Neither Intel nor AMD promises that a change of a running
//! instruction without a stop is clean on every part, not even of a byte: the project's SPECIFICATION.md
//! lists the processors on which it was tested.
//!
//! # What is safe
//!
//! | safe | `unsafe`, and what is promised |
//! |---|---|
//! | memory, drafts, writing and publishing them | [`Entry::new`](code::Entry::new): these bytes are a function of this type |
//! | making gates and leading them elsewhere, from any thread | calling a function that an entry or a gate gives: it is called while that lives |
//! | setting switches | [`Switch::new`](code::Switch::new): code is right in either form |
//! | freeing: it happens by itself, when nobody is there any more | [`Code::replace_word`](code::Code::replace_word), [`Text::byte`](text::Text::byte): both are right for everybody |
//!
//! # Modules
//!
//! | module | what it is for |
//! |---|---|
//! | [`code`] | drafts, code, entries, switches |
//! | [`gate`] | functions whose body is exchanged |
//! | [`space`], [`memory`] | who has which bytes; code memory that is mapped twice and sealed |
//! | [`reclaim`], [`grace`] | sections, and freeing one grace period later; the grace periods themselves |
//! | [`word`], [`bypass`], [`switch`], [`slots`], [`route`] | the protocols, on bytes alone |
//! | [`text`], [`membarrier`] | the program's own text, changed by the byte; making every thread notice |
//! | [`fork`], [`inherited`] | forked children: they must not run or change their parent's code, and are told so |
//!
//! # Limits
//! Linux on x86-64. A space has at most 1 GiB, in one place, so that all of it reaches all of it by direct
//! jumps; functions elsewhere are called through a register. Code has no unwind information: nothing may
//! unwind through it. In a forked child the parent's code is refused
//! ([`CodeError::Inherited`](code::CodeError::Inherited)); a space that the child makes is as good as any.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

pub mod bypass;
pub mod code;
pub mod fork;
pub mod gate;
pub mod grace;
pub mod inherited;
pub mod membarrier;
pub mod memory;
pub mod reclaim;
pub mod route;
pub mod slots;
pub mod space;
pub mod switch;
pub mod text;
pub mod word;
