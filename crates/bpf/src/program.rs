//! Programs: loading, running, and their life.
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

use crate::array::{ArrayCore, ProgArray, Table};
use crate::check::{Checked, check, function_at};
use crate::constant::{TailCall, tail_calls};
use crate::decode::InsnError;
use crate::helper::TAIL_CALL;
use crate::insn::Insn;
use crate::jit::{CompileError, Placed, SiteAt, compile};
use crate::map::{Map, MapOwner};
use crate::op::Op;
use crate::reclaim::{self, Section};
use crate::region::Region;
use crate::run::{BUFFERS, Run, Window};
use crate::runtime::{Runtime, Shared};
use crate::space::Block;
use crate::stack::Taken;
use crate::trap::Trap;
use crate::{hits, interp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

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
    /// A map of the program belongs to another runtime.
    #[error("a map of the program belongs to another runtime")]
    OtherRuntime,
}

/// How a program is to be treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Instructions that a run may spend on loops and calls, or `None` for endless. Steps back are charged with
    /// what they repeat and calls with the length of the function, so straight-line code costs nothing. The
    /// program that a run starts with decides for all of it; but programs loaded without a budget charge none.
    pub budget: Option<u64>,
    /// Do not check memory accesses. The host then vouches for the program as for its own code.
    pub trusted: bool,
    /// Count starts, for [`Program::hits`].
    pub count: bool,
}

impl Default for Options {
    /// A budget of 2³⁰, checked, not counted.
    fn default() -> Self {
        Options { budget: Some(1 << 30), trusted: false, count: false }
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

/// What a body keeps of them.
pub enum MapRef {
    /// A map with values.
    Map(Arc<MapOwner>),
    /// A program array.
    Array(Arc<ArrayCore>),
}

impl MapRef {
    /// What a program knows it by.
    pub fn handle(&self) -> u64 {
        match self {
            MapRef::Map(map) => map.handle,
            MapRef::Array(array) => array.handle(),
        }
    }

    /// The address `offset` bytes into its values.
    pub fn value_address(&self, offset: u32) -> Option<u64> {
        match self {
            MapRef::Map(map) => {
                let region = map.body().region();
                (u64::from(offset) < region.len).then(|| region.start + u64::from(offset))
            }
            MapRef::Array(_) => None,
        }
    }

    /// Slots of a program array; 0 for other maps.
    pub fn entries(&self) -> u32 {
        if let MapRef::Array(array) = self { array.entries } else { 0 }
    }
}

/// See the module's table.
pub struct Body {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Arc<str>,
    pub(crate) section: String,
    pub(crate) id: u32,
    pub(crate) checked: Checked,
    pub(crate) tails: BTreeMap<u32, TailCall>,
    pub(crate) maps: Vec<MapRef>,
    pub(crate) options: Options,
    /// Where its starts are counted.
    pub(crate) hits: Option<usize>,
    hits_before: u64,
}

impl Body {
    /// What a call of the function at `target` takes from the budget.
    pub fn call_cost(&self, target: u32) -> i64 {
        let function = &self.checked.functions[function_at(&self.checked.functions, target)];
        i64::from(function.end - function.start)
    }

    /// The arrays it can tail-call through.
    pub fn arrays(&self) -> impl Iterator<Item = &Arc<ArrayCore>> {
        self.maps.iter().filter_map(|map| if let MapRef::Array(array) = map { Some(array) } else { None })
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.shared.forget_program(self.id);
        if let Some(place) = self.hits {
            hits::give_back(place);
        }
    }
}

/// See the module's table. The entry comes first: compiled tail calls through a table load it from there.
#[repr(C)]
pub struct Code {
    /// Address where runs and tail calls begin.
    pub entry: u64,
    pub(crate) body: Arc<Body>,
    /// Slot tables of the program's arrays, by map number.
    pub(crate) tables: Vec<Option<Arc<Table>>>,
    pub(crate) block: Block,
    pub(crate) sites: Vec<SiteAt>,
    pub(crate) offsets: Vec<u32>,
    /// Bytes of code.
    pub(crate) len: usize,
}

impl Code {
    /// Compiles `body` against `tables` and writes it to its place, all patch sites as nops. To be linked
    /// before anybody runs it.
    pub fn place(body: &Arc<Body>, tables: Vec<Option<Arc<Table>>>) -> Result<Arc<Code>, CompileError> {
        let shared = &body.shared;
        let addresses: Vec<u64> = tables.iter().map(|t| t.as_ref().map_or(0, |t| t.slots.as_ptr() as u64)).collect();
        let Placed { block, bytes, sites, offsets } = compile(body, &addresses, &shared.space, &shared.stubs)?;
        // SAFETY: the block was just taken, so nobody executes it.
        unsafe { shared.space.memory().write(block.offset, &bytes) };
        let entry = shared.space.memory().address(block.offset);
        Ok(Arc::new(Code { entry, body: body.clone(), tables, block, sites, offsets, len: bytes.len() }))
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: codes are dropped a grace period after they were unpublished, or never were.
        unsafe { self.body.shared.space.give_back(self.block) };
    }
}

/// See the module's table.
pub struct Core {
    pub(crate) body: Arc<Body>,
    /// Owns one count of the `Arc`.
    code: AtomicPtr<Code>,
}

impl Core {
    /// A core whose current code is `code`.
    pub fn new(code: Arc<Code>) -> Core {
        Core { body: code.body.clone(), code: AtomicPtr::new(Arc::into_raw(code).cast_mut()) }
    }

    /// The current code, for the table of a variable index and for runs.
    pub fn code_ptr(&self) -> *mut Code {
        self.code.load(Ordering::Acquire)
    }

    /// Address of its current entry, under the links' lock.
    pub fn entry(&self) -> u64 {
        // SAFETY: a core owns its current code, and codes are replaced under the lock only.
        unsafe { &*self.code_ptr() }.entry
    }

    /// Publishes `code`, and returns what was current before, which is to be retired.
    pub fn publish(&self, code: Arc<Code>) -> Arc<Code> {
        let old = self.code.swap(Arc::into_raw(code).cast_mut(), Ordering::AcqRel);
        // SAFETY: it came from `Arc::into_raw`, and the core's count goes to the result.
        unsafe { Arc::from_raw(old) }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // SAFETY: as in `publish`; nobody can publish any more.
        let code = unsafe { Arc::from_raw(*self.code.get_mut()) };
        self.body.shared.links().forget(&code);
        reclaim::retire(Box::new(code));
    }
}

/// How a run is executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// As compiled code.
    #[default]
    Compiled,
    /// By the interpreter.
    Interpreter,
}

/// A run to be: what a program is given.
#[derive(Debug)]
pub struct Invocation<'a> {
    input: &'a mut [u8],
    packet: Option<Region>,
    buffers: [Region; BUFFERS],
    used: usize,
    engine: Engine,
    clear_stack: bool,
}

impl<'a> Invocation<'a> {
    /// A run with `input` as r1, its length as r2, and as the packet.
    pub fn new(input: &'a mut [u8]) -> Self {
        let (packet, buffers) = (None, [Region::default(); BUFFERS]);
        Invocation { input, packet, buffers, used: 0, engine: Engine::default(), clear_stack: false }
    }

    /// Chooses how it is executed.
    #[must_use]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// Lets the run touch `bytes` too, if there are at most three such buffers.
    #[must_use]
    pub fn buffer(mut self, bytes: &'a mut [u8]) -> Self {
        if let Some(place) = self.buffers.get_mut(self.used) {
            *place = Region { start: bytes.as_mut_ptr() as u64, len: bytes.len() as u64, writable: true };
            self.used += 1;
        }
        self
    }

    /// As [`Invocation::buffer`], and makes it the packet that helpers load from.
    #[must_use]
    pub fn packet(mut self, bytes: &'a mut [u8]) -> Self {
        self.packet = Some(Region { start: bytes.as_mut_ptr() as u64, len: bytes.len() as u64, writable: true });
        self.buffer(bytes)
    }

    /// Names a part of the input as the packet.
    pub(crate) fn packet_within(mut self, packet: Region) -> Self {
        self.packet = Some(packet);
        self
    }

    /// Clears the stack first, so that nothing of earlier runs can be read there.
    #[must_use]
    pub fn clear_stack(mut self) -> Self {
        self.clear_stack = true;
        self
    }
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
        let checked = check(source.insns).map_err(insn)?;
        let tails = tail_calls(&checked).map_err(insn)?;
        let maps = map_refs(runtime, source.maps).ok_or_else(|| fail(None, LoadErrorKind::OtherRuntime))?;
        check_references(runtime.shared(), &checked, &tails, &maps).map_err(insn)?;
        let body = make_body(runtime, source, checked, tails, maps, options);
        let core = runtime.shared().links().add_program(&body).map_err(|e| fail(None, e.into()))?;
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
        let mut stack = Taken::take(shared.id);
        if invocation.clear_stack {
            stack.clear();
        }
        let len = invocation.input.len() as u64;
        let input = if len == 0 { 0 } else { invocation.input.as_mut_ptr() as u64 };
        let mut run = new_run(body, &invocation, stack.bounds(), input, len);
        let _section = Section::enter();
        // SAFETY: the section was entered before, so what is current now lives until it is left.
        let code = unsafe { &*self.core.code_ptr() };
        let result = match invocation.engine {
            // SAFETY: the code is current, and the run describes memory borrowed for the invocation.
            Engine::Compiled => unsafe { shared.stubs.enter(input, len, &mut run, code.entry) },
            // SAFETY: as above.
            Engine::Interpreter => unsafe { interp::run(code, input, len, &mut run) }.unwrap_or(0),
        };
        match run.kind {
            None => Ok(result),
            Some(kind) => Err(Trap { program: shared.program_name(run.program), instruction: run.instruction, kind }),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.core.body.shared
    }
}

#[inline]
fn new_run(body: &Body, invocation: &Invocation<'_>, stack: (u64, u64), input: u64, len: u64) -> Run {
    let window = Window::new(input, len);
    let budget = body.options.budget.map_or(i64::MAX, |b| i64::try_from(b).unwrap_or(i64::MAX));
    Run {
        windows: [window, window, Window::default(), Window::default()],
        native_stack: 0,
        stack_end: stack.1,
        budget,
        failed: 0,
        instruction: 0,
        program: body.id,
        helper: 0,
        hits: hits::mine(),
        shared: Arc::as_ptr(&body.shared),
        stack_start: stack.0,
        buffers: invocation.buffers,
        packet: invocation.packet.unwrap_or(Region { start: input, len, writable: true }),
        kind: None,
    }
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
    Arc::new(Body { shared, name, section, id, checked, tails, maps, options, hits, hits_before })
}
