//! Programs: loading, running, and their life. What they consist of is in `code`.
//!
//! | | what it is | who owns it |
//! |---|---|---|
//! | [`Program`] | the host's handle | the host |
//! | [`Core`] | identity: which [`Code`] is current | handles and slots of arrays |
//! | [`Body`] | what was loaded: instructions, maps, options; never changes | cores and codes |
//! | [`Code`] | one compilation of a body, with its patch sites | its core, until a grace period after the core let go |
//!
//! A body keeps the maps and arrays it names alive, and an array the programs in its slots. So a program in
//! a slot of an array that it calls itself would live for ever; like the kernel, an array empties its slots
//! when the host's last handle to it is gone ([`crate::ProgArray`]), and a program's handle holds on to the
//! arrays it was loaded with.

use crate::check::{Checked, check};
use crate::code::{Body, Core, MapRef};
use crate::constant::{TailCall, lookups, tail_calls};
use crate::decode::InsnError;
use crate::helper::{LOAD_PACKET, TAIL_CALL};
use crate::insn::Insn;
use crate::invocation::{Engine, Invocation};
use crate::jit::CompileError;
use crate::map::Map;
use crate::op::Op;
use crate::packet::{ContextKind, layout};
use crate::proof::{self, Proof, prove};
use crate::runtime::{Runtime, Shared};
use crate::section::{Expects, expects};
use crate::stack::Taken;
use crate::trap::Trap;
use crate::{ProgArray, callback, hits, interp, jit};
use relpoline_patch::reclaim::{self, Section};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most instructions of a program.
pub(crate) const MOST_INSTRUCTIONS: usize = 1_000_000;

/// Why a program was not loaded: which, where, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("program {program}{}{}: {kind}", in_section(.section), at_instruction(.instruction))]
pub struct LoadError {
    /// The program's name.
    pub program: String,
    /// The section it comes from; empty for programs that come from none.
    pub section: String,
    /// Slot of the instruction, where one is to blame.
    pub instruction: Option<usize>,
    /// Why.
    pub kind: LoadErrorKind,
}

fn in_section(section: &str) -> String {
    if section.is_empty() { String::new() } else { format!(", section {section}") }
}

fn at_instruction(instruction: &Option<usize>) -> String {
    instruction.map_or_else(String::new, |at| format!(", instruction {at}"))
}

/// Why a program was not loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoadErrorKind {
    /// An instruction is wrong.
    #[error(transparent)]
    Insn(#[from] InsnError),
    /// It could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A helper wanted to load a program: it might wait for its own run to end.
    #[error("programs cannot be loaded from within a run")]
    InsideRun,
    /// More than a million instructions, which is what the kernel takes at most.
    #[error("a program of more than {MOST_INSTRUCTIONS} instructions")]
    TooLarge,
    /// A map of the program belongs to another runtime.
    #[error("a map of the program belongs to another runtime")]
    OtherRuntime,
}

/// Whether a program's memory accesses are checked: they are, unless the host vouches for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checks {
    off: bool,
}

impl Checks {
    /// Checks everything that is not proved to be right.
    #[must_use]
    pub const fn on() -> Checks {
        Checks { off: false }
    }

    /// Checks nothing.
    ///
    /// # Safety
    /// The host vouches for the program as for its own code: in no run does it read or write memory that was
    /// not given to its runtime.
    #[must_use]
    pub const unsafe fn off() -> Checks {
        Checks { off: true }
    }

    pub(crate) const fn are_off(self) -> bool {
        self.off
    }
}

/// How a program is to be treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Instructions that a run may spend on loops and calls, or `None` for endless. Steps back are charged
    /// with what they repeat and calls with the length of the function, so straight-line code costs nothing.
    /// The program that a run starts with decides for all of it; but programs loaded without a budget charge
    /// none.
    pub budget: Option<u64>,
    /// Whether memory accesses are checked.
    pub checks: Checks,
    /// Count starts, for [`Program::hits`].
    pub count: bool,
    /// Whether runs of a program whose section is for packets with a context of the kernel's
    /// ([`crate::expects`]) have that context: those of a [`crate::PacketBuffer`]. With [`Options::proofs`]
    /// many of its accesses need no check then. A run that has not ends in [`crate::TrapKind::WrongContext`]
    /// where the program begins; and however it is reached, it has the context in r1.
    pub kernel_contexts: bool,
    /// Leave out checks of accesses that are proved to be within bounds. Off unless it is asked for: the
    /// proofs are new, and a mistake in them is a hole.
    pub proofs: bool,
}

impl Default for Options {
    /// A budget of 2³⁰, checked, not counted, over whatever it is given.
    fn default() -> Self {
        Options {
            budget: Some(1 << 30),
            checks: Checks::default(),
            count: false,
            kernel_contexts: false,
            proofs: false,
        }
    }
}

/// What a program's map number stands for.
#[derive(Clone, Debug)]
pub enum MapHandle {
    /// A map with values.
    Map(Map),
    /// A program array.
    Array(ProgArray),
}

/// A loaded program. Clones are the same program. It can be run by any number of threads at a time.
#[derive(Clone)]
pub struct Program {
    pub(crate) core: Arc<Core>,
    /// Keeps the arrays that it was loaded with from emptying.
    _keep: Arc<Vec<MapHandle>>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("name", &self.core.body.name).finish_non_exhaustive()
    }
}

/// A program's instructions and where they come from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Name, for messages.
    pub name: &'a str,
    /// Section of the file; may be empty.
    pub section: &'a str,
    /// The instructions; runs begin with the first.
    pub insns: &'a [Insn],
    /// What the map numbers in 64-bit immediate loads stand for.
    pub maps: &'a [MapHandle],
}

impl Program {
    /// Checks and compiles a program.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(runtime: &Runtime, source: Source<'_>, options: Options) -> Result<Program, LoadError> {
        let keep = Arc::new(source.maps.to_vec());
        Program::load_keeping(runtime, source, options, keep)
    }

    /// As [`Program::load`], for programs of an object, which keep all arrays of the object.
    pub(crate) fn load_keeping(
        runtime: &Runtime,
        source: Source<'_>,
        options: Options,
        keep: Arc<Vec<MapHandle>>,
    ) -> Result<Program, LoadError> {
        let fail = |instruction, kind| LoadError {
            program: source.name.into(),
            section: source.section.into(),
            instruction,
            kind,
        };
        let insn = |(at, e): (usize, InsnError)| fail(Some(at), e.into());
        if reclaim::is_inside() {
            return Err(fail(None, LoadErrorKind::InsideRun));
        }
        if source.insns.len() > MOST_INSTRUCTIONS {
            return Err(fail(None, LoadErrorKind::TooLarge));
        }
        let checked = check(&callback::expand(source.insns)).map_err(insn)?;
        let tails = tail_calls(&checked).map_err(insn)?;
        let maps = map_refs(runtime, source.maps).ok_or_else(|| fail(None, LoadErrorKind::OtherRuntime))?;
        check_references(runtime.shared(), &checked, &tails, &maps).map_err(insn)?;
        let body = make_body(runtime, source, checked, tails, maps, options);
        let core = runtime.shared().links_at_rest().add_program(&body).map_err(|e| fail(None, e.into()))?;
        reclaim::reap();
        Ok(Program { core, _keep: keep })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.body.name
    }

    /// The section it comes from.
    #[must_use]
    pub fn section(&self) -> &str {
        &self.core.body.section
    }

    /// What it expects in r1, by its section's name. It can be given anything, which is up to the host,
    /// unless it was loaded otherwise ([`Options::kernel_contexts`]).
    #[must_use]
    pub fn expects(&self) -> Expects {
        expects(self.section())
    }

    /// How often it was started, by the host or a tail call, if it was loaded to be counted.
    #[must_use]
    pub fn hits(&self) -> Option<u64> {
        let body = &self.core.body;
        body.hits.map(|place| hits::count(place) - body.hits_before)
    }

    /// Runs it as compiled code on `input`: r0.
    ///
    /// # Errors
    /// Why it could not go on.
    pub fn run(&self, input: &mut [u8]) -> Result<u64, Trap> {
        self.invoke(Invocation::new(input))
    }

    /// Runs it in the interpreter on `input`: r0.
    ///
    /// # Errors
    /// Why it could not go on.
    pub fn interpret(&self, input: &mut [u8]) -> Result<u64, Trap> {
        self.invoke(Invocation::new(input).engine(Engine::Interpreter))
    }

    /// Runs it: r0.
    ///
    /// # Errors
    /// Why it could not go on.
    pub fn invoke(&self, invocation: Invocation<'_>) -> Result<u64, Trap> {
        let body = &self.core.body;
        let shared = &body.shared;
        let trap = |kind| Trap { program: body.name.clone(), instruction: 0, kind };
        let mut stack = Taken::take(shared.id).map_err(trap)?;
        if invocation.clear_stack {
            stack.clear();
        }
        let len = invocation.input.len() as u64;
        let input = if len == 0 { 0 } else { invocation.input.as_mut_ptr() as u64 };
        let mut run = crate::invocation::new_run(body, &invocation, stack.bounds(), input, len);
        let section = Section::enter();
        // SAFETY: the section was entered before, so what is current now lives until it is left.
        let code = unsafe { &*self.core.code_ptr() };
        // A forked child must not run its parent's code.
        let inherited = shared.space.is_inherited();
        let engine = if inherited { Engine::Interpreter } else { invocation.engine };
        let result = match engine {
            // SAFETY: the code is current, and the run describes memory borrowed for the invocation.
            Engine::Compiled => unsafe { jit::enter(code.way_in, input, len, &mut run) },
            // SAFETY: as above.
            Engine::Interpreter => unsafe { interp::run(code, input, len, &mut run) }.unwrap_or(0),
        };
        drop(section);
        if let Some(after) = invocation.after {
            after.redirect = run.redirect.filter(|_| run.kind.is_none() && is_redirected(after.frame.kind, result));
            after.frame = run.frame.unwrap_or(after.frame);
            if let (Some(redirect), Some(deliver)) = (&after.redirect, &shared.deliver) {
                deliver(redirect, &run.packet_bytes());
            }
        }
        // Nor free anything of its parent's: whoever held a lock there at the fork holds it for ever here.
        if !inherited {
            reclaim::reap_if_crowded();
        }
        match run.kind {
            None => Ok(result),
            Some(kind) => Err(Trap { program: shared.program_name(run.program), instruction: run.instruction, kind }),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.core.body.shared
    }
}

/// Whether `result` is the verdict that the packet goes where helpers said: `XDP_REDIRECT`,
/// `TC_ACT_REDIRECT`.
fn is_redirected(kind: ContextKind, result: u64) -> bool {
    result as u32 == if kind == ContextKind::Xdp { 4 } else { 7 }
}

fn map_refs(runtime: &Runtime, maps: &[MapHandle]) -> Option<Vec<MapRef>> {
    let of = |handle: &MapHandle| {
        let (shared, map) = match handle {
            MapHandle::Map(map) => (&map.0.shared, MapRef::Map(map.0.clone())),
            MapHandle::Array(array) => (array.shared(), MapRef::Array(array.core().clone())),
        };
        Arc::ptr_eq(shared, runtime.shared()).then_some(map)
    };
    maps.iter().map(of).collect()
}

/// Every helper and map that is named must exist.
fn check_references(
    shared: &Shared,
    checked: &Checked,
    tails: &BTreeMap<u32, TailCall>,
    maps: &[MapRef],
) -> Result<(), (usize, InsnError)> {
    for (at, op) in checked.ops.iter().enumerate() {
        let fine = match *op {
            Op::Call { helper: TAIL_CALL } => {
                let array = tails.get(&(at as u32)).and_then(|call| maps.get(call.map as usize));
                if array.is_some_and(|map| map.entries() > 0) { Ok(()) } else { Err(InsnError::UnknownProgArray) }
            }
            Op::Call { helper } => shared.helpers.index(helper).map(|_| ()).ok_or(InsnError::UnknownHelper(helper)),
            Op::LoadMap { map, .. } => maps.get(map as usize).map(|_| ()).ok_or(InsnError::UnknownMap(map)),
            Op::LoadMapValue { map, offset, .. } => match maps.get(map as usize) {
                None => Err(InsnError::UnknownMap(map)),
                Some(m) => m.value_address(offset).map(|_| ()).ok_or(InsnError::NoMapValue(map)),
            },
            _ => Ok(()),
        };
        fine.map_err(|e| (at, e))?;
    }
    Ok(())
}

/// What a proof may rely on beside the program itself.
fn around<'a>(shared: &'a Shared, maps: &[MapRef], context: Option<ContextKind>) -> proof::Around<'a> {
    let memory = |map: &MapRef| match map {
        MapRef::Map(map) => map.body().memory(),
        MapRef::Array(_) => proof::Memory::default(),
    };
    let call = |helper: u32| shared.helpers.call(helper);
    proof::Around {
        context: context.map(layout),
        maps: maps.iter().map(memory).collect(),
        call: Box::new(call),
        tail_call: TAIL_CALL,
        load_packet: LOAD_PACKET,
    }
}

fn make_body(
    runtime: &Runtime,
    source: Source<'_>,
    checked: Checked,
    tails: BTreeMap<u32, TailCall>,
    maps: Vec<MapRef>,
    options: Options,
) -> Arc<Body> {
    let shared = runtime.shared().clone();
    let name: Arc<str> = source.name.into();
    let id = shared.name_program(&name);
    let (hits, hits_before) = options.count.then(hits::take).flatten().map_or((None, 0), |(p, n)| (Some(p), n));
    let section = source.section.into();
    let context = match expects(source.section) {
        Expects::Context(kind) if options.proofs && options.kernel_contexts => Some(kind),
        _ => None,
    };
    let context = context.filter(|_| !options.checks.are_off());
    let proof = if options.proofs && !options.checks.are_off() {
        prove(&checked, &around(&shared, &maps, context))
    } else {
        Proof::default()
    };
    let lookups = lookups(&checked);
    Arc::new(Body {
        shared,
        name,
        section,
        id,
        checked,
        tails,
        lookups,
        maps,
        options,
        context,
        proof,
        hits,
        hits_before,
    })
}
