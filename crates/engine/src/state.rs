//! All that the engine knows, in one place, behind one lock.

use crate::board::{Board, Leaves};
use crate::crowd::{Callers, Running};
use crate::head::Head;
use crate::judge::slow;
use crate::known::Known;
use crate::maps::Mapping;
use crate::rings::{self, Rings};
use crate::share::Share;
use crate::site::{NONE, Site, Tree};
use crate::table::Table;
use crate::unwind;
use crate::warm::Warm;
use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;
use relpoline_core::arch::Reg;
use relpoline_core::arch::encode::rel32;
use relpoline_core::arch::thunk::{self, Thunk};
use relpoline_core::policy::{Policy, Reason};
use relpoline_core::scan::{self, Function, Row};
use relpoline_core::tree::Target;
use relpoline_stats::control::Displacement;
use relpoline_stats::options::Options;
use relpoline_text::arena::Arena;
use relpoline_text::broken;
use relpoline_text::cells::{CELL, COLUMNS, Cell};
use relpoline_text::frames::{Frame, ROWS};
use relpoline_text::gate::{Gate, GateSpec};
use relpoline_text::lock::TryLock;
use relpoline_text::stub::{self, SLOW_CELLS};
use relpoline_text::sync::AtomicU32;

/// Arenas there can be: groups of objects that are more than 2 GiB apart, or more sites than fit one.
pub const ARENAS: usize = 16;
const SITES: usize = 1 << 18;
const THUNKS: usize = 1 << 16;
const TREES: usize = 1 << 18;
const TARGETS: usize = 1 << 21;
const BOARDS: usize = 1 << 16;
const HEADS: usize = 1 << 17;
const OBJECTS: usize = 8192;
/// Functions of one object, where unwind tables do not list them ready to be searched.
const FUNCTIONS: usize = 1 << 19;
const MAPPINGS: usize = 1 << 16;
const REFUSALS: usize = 1 << 16;

/// Kinds of gates: by register, by whether flags are kept, by the parity of their halves, by whether the
/// frame is known.
pub const SPARE: usize = 128;

/// An arena and the code in it that sites share.
pub struct Group {
    /// The arena.
    pub arena: Arena,
    /// Copies of thunks, by kind; 0 for none.
    copies: [u64; KINDS],
    /// What is known of its columns, among its counters.
    columns: *const Column,
    /// The first cell of the slow paths: one after the other, by register number, for calls and then for
    /// jumps.
    slow: Cell,
    built: u32,
}

/// What is known of a column. All zero is nothing.
#[repr(C)]
struct Column {
    /// Its copy of the thunk is there: it can be linked to.
    has_thunk: AtomicU32,
    /// The number of the head that was shared last; one more than that.
    first_head: AtomicU32,
}

/// Kinds of thunks that are copied: by register, by length, which tells apart how they are made, with and
/// without a frame.
const KINDS: usize = REGISTERS * LENGTHS.len() * 2;
/// Most bytes of a plain jump, of a fence and a jump, of gcc's thunks, of the longest.
const LENGTHS: [usize; 4] = [3, 8, 17, 23];
const _: () = assert!(KINDS == relpoline_text::cells::KINDS);

/// Registers that can hold a target.
const REGISTERS: usize = 16;

/// A copy of a thunk for jumps out of one kind of frame, which unwinds otherwise than those for calls.
#[derive(Clone, Copy)]
pub struct FramedCopy {
    frame: Frame,
    /// Which of the copies of its arena, and which arena.
    n: u16,
    group: u16,
    address: u64,
}

impl Group {
    /// Takes an arena into use: sets room for its slow paths aside and tells debuggers. `None` when the arena
    /// is full, which a new one is not.
    #[must_use]
    pub fn new(arena: Arena) -> Option<Group> {
        let cells = 2 * REGISTERS * SLOW_CELLS;
        let slow = arena.take_run(cells as u32)?;
        let first = arena.address(slow);
        unwind::announce(&arena, &(first..first + (cells * CELL) as u64));
        let columns = arena.take_data(COLUMNS * size_of::<Column>() / 8)? as *const Column;
        Some(Group { arena, copies: [0; KINDS], columns, slow, built: 0 })
    }

    /// The kind of a thunk that is copied as `body`: sites of a column have the same.
    #[must_use]
    pub fn kind(reg: Reg, body: &[u8], frame: Frame) -> usize {
        let length = LENGTHS.iter().position(|&most| body.len() <= most).unwrap_or_default();
        (usize::from(reg.number()) * LENGTHS.len() + length) * 2 + usize::from(frame == Frame::NONE)
    }

    fn column(&self, number: u32) -> &Column {
        // SAFETY: within the data that was taken for this, which is never unmapped; all zero is a column of
        // which nothing is known.
        unsafe { &*self.columns.add(number as usize % COLUMNS) }
    }

    /// Whether sites can be linked to the copy of the thunk in a column.
    #[must_use]
    pub fn has_thunk(&self, column: u32) -> bool {
        self.column(column).has_thunk.load(Ordering::Acquire) != 0
    }

    /// They can from now on: it is there.
    pub fn set_thunk(&self, column: u32) {
        self.column(column).has_thunk.store(1, Ordering::Release);
    }

    /// The number of the head of a column that was shared last, or [`NONE`].
    #[must_use]
    pub fn first_head(&self, column: u32) -> u32 {
        self.column(column).first_head.load(Ordering::Acquire).wrapping_sub(1)
    }

    /// Another one is.
    pub fn set_first_head(&self, column: u32, head: u32) {
        self.column(column).first_head.store(head + 1, Ordering::Release);
    }

    /// The copy of `thunk`, made at its first use: a gate that stays a thunk. It does what the program's own
    /// does, and stays when that is unmapped. There is one for each kind of frame, for they unwind otherwise;
    /// those of computed gotos are in `framed`, where this arena has number `group`.
    pub fn copy_of(&mut self, thunk: Thunk, frame: Frame, framed: &mut Table<FramedCopy>, group: usize) -> Option<u64> {
        let body = thunk::body(thunk)?;
        let n = Group::kind(thunk.reg, &body, frame);
        let is_it =
            |copy: &&FramedCopy| copy.frame == frame && usize::from(copy.n) == n && usize::from(copy.group) == group;
        let known = match frame {
            Frame::NONE => self.copies.get(n).copied().filter(|&at| at != 0),
            _ => framed.as_slice().iter().find(is_it).map(|copy| copy.address),
        };
        if known.is_some() {
            return known;
        }
        let (cell, counters) = (self.arena.take_loose()?, self.arena.take_counters()?);
        let slow_at = self.slow_path(thunk, false)?;
        // Nobody counts here: the gate never leads to its stub.
        let thunk_at = self.arena.address(cell);
        let spec = GateSpec { site: NONE, counters, thunk: &body, thunk_at, slow_at, counting: None, frame };
        let gate = Gate::build(&self.arena, cell, &spec).ok()?;
        gate.point_to_thunk(&self.arena, &body);
        let address = gate.address(&self.arena);
        if frame == Frame::NONE {
            *self.copies.get_mut(n)? = address;
        } else {
            framed.push(FramedCopy { frame, n: n as u16, group: group as u16, address })?;
        }
        Some(address)
    }

    fn slow_cell(&self, reg: Reg, keeps_flags: bool) -> (u32, Cell) {
        let n = u32::from(reg.number()) + if keeps_flags { REGISTERS as u32 } else { 0 };
        (n, Cell(self.slow.0 + n * SLOW_CELLS as u32))
    }

    /// The slow path for sites that use a register and do not keep flags. `None` when it is not built.
    #[must_use]
    pub fn slow_path_of(&self, reg: Reg) -> Option<u64> {
        let (n, cell) = self.slow_cell(reg, false);
        (self.built >> n & 1 != 0).then(|| self.arena.address(cell))
    }

    /// The slow path for sites that use `thunk`'s register, built at its first use.
    pub fn slow_path(&mut self, thunk: Thunk, keeps_flags: bool) -> Option<u64> {
        let (n, cell) = self.slow_cell(thunk.reg, keeps_flags);
        let at = self.arena.address(cell);
        if self.built >> n & 1 == 0 {
            // SAFETY: the cells were set aside for this, and nothing leads to them yet.
            let buf = unsafe { self.arena.fresh(cell, SLOW_CELLS) };
            stub::emit_slow(buf, at, thunk.reg, slow, keeps_flags).ok()?;
            self.built |= 1 << n;
        }
        Some(at)
    }
}

/// Why the engine does not learn any more in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frozen {
    /// It does learn.
    No,
    /// A forked child that could not get arenas of its own, or goes back into what its parent was doing under
    /// the lock.
    Child,
}

/// The engine. Everything in it is used under [`LOCK`] once threads may exist.
pub struct Engine {
    /// What was asked for.
    pub options: Option<Options<'static>>,
    /// Promotion is on.
    pub enabled: bool,
    /// It was detached: the text does not lead to it, and it does not hear of objects that go. Nothing is
    /// changed.
    pub asleep: bool,
    /// Sites are being switched to what `enabled` says.
    pub half_switched: bool,
    /// Whether, and why, learning has stopped.
    pub frozen: Frozen,
    /// In a forked child: its arenas are still its parent's.
    pub inherited: bool,
    /// Slow path entries that a forked child has had while `inherited`.
    pub entries: u32,
    /// Costs were measured.
    pub calibrated: bool,
    /// The arenas.
    pub groups: [Option<Group>; ARENAS],
    /// Objects looked at.
    pub objects: Table<Known>,
    /// While an object is looked at: its thunks, their addresses (ascending), its sites.
    pub thunks: Table<Thunk>,
    /// See `thunks`.
    pub thunk_addresses: Table<u64>,
    /// See `thunks`.
    pub thunk_registers: Table<Reg>,
    /// See `thunks`.
    pub found: Table<scan::Site>,
    /// What lies on the stack at each of those.
    pub found_frames: Table<Frame>,
    /// What is said of frames at computed gotos: each row once, with the number that it has in all arenas.
    pub rows: Table<Row>,
    /// Copies of thunks for them.
    pub copies: Table<FramedCopy>,
    /// Likewise, its sites that are left alone, and why.
    pub refusals: Table<(scan::Site, Reason)>,
    /// Likewise, its functions as far as the table of its unwind rules does not list them: those that have
    /// rules, then, from number `framed` on, those that have symbols only.
    pub functions: Table<Function>,
    /// See `functions`.
    pub framed: usize,
    /// What is mapped where, if all of it was asked for in this look at the list of objects.
    pub mappings: Table<Mapping>,
    /// See `mappings`.
    pub is_mapped: bool,
    /// Looks at the list of objects.
    pub looks: u32,
    /// Sites whose gates can be used again: chains by [`Site::next`], by what the gates are for.
    pub spare: [u32; SPARE],
    /// Sites.
    pub sites: Table<Site>,
    /// Trees.
    pub trees: Table<Tree>,
    /// Targets of trees, with their shares.
    pub targets: Table<Target>,
    /// Sites whose first window is over.
    pub awake: u32,
    /// Whom they call.
    pub callers: Callers,
    /// How busy the process is.
    pub running: Running,
    /// Heads that several sites are linked to.
    pub heads: Table<Head>,
    /// Boards of sites that change for ever.
    pub boards: Table<Board>,
    /// The leaves behind them.
    pub leaves: Leaves,
    /// Sites of objects that are met now are not re-pointed: the tool does that when all threads stand still.
    pub deferred: bool,
    /// Displacements of sites, listed for the tool.
    pub displacements: Table<Displacement>,
    /// Rings to learn in.
    pub rings: Rings,
    /// Decides.
    pub policy: Policy,
    /// Tells.
    pub share: Share,
    /// What an earlier run knew.
    pub warm: Warm,
    /// Where the round through retpolined sites goes on.
    pub next_due: u32,
    /// Likewise, through all sites, for those that went astray.
    pub next_stray: u32,
    /// For the highest rate of patches: the second in which they are being counted, and their number.
    pub rate: (u64, u32),
}

impl Engine {
    /// One that knows nothing.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "there is one engine, and it is a static")]
    pub const fn new() -> Engine {
        Engine {
            options: None,
            enabled: false,
            asleep: false,
            half_switched: false,
            frozen: Frozen::No,
            inherited: false,
            entries: 0,
            calibrated: false,
            groups: [const { None }; ARENAS],
            objects: Table::none(),
            thunks: Table::none(),
            thunk_addresses: Table::none(),
            thunk_registers: Table::none(),
            found: Table::none(),
            found_frames: Table::none(),
            rows: Table::none(),
            copies: Table::none(),
            refusals: Table::none(),
            functions: Table::none(),
            framed: 0,
            mappings: Table::none(),
            is_mapped: false,
            looks: 0,
            spare: [NONE; SPARE],
            sites: Table::none(),
            trees: Table::none(),
            targets: Table::none(),
            awake: 0,
            callers: Callers::none(),
            running: Running::unknown(),
            heads: Table::none(),
            boards: Table::none(),
            leaves: Leaves::none(),
            deferred: false,
            displacements: Table::none(),
            rings: Rings::none(),
            policy: Policy::new(),
            share: Share::none(),
            warm: Warm::none(),
            next_due: 0,
            next_stray: 0,
            rate: (0, 0),
        }
    }

    /// Reserves what the tables need; `None` when the process may not have that much address space.
    pub fn reserve(&mut self) -> Option<()> {
        self.thunks = Table::scratch(THUNKS)?;
        self.thunk_addresses = Table::scratch(THUNKS)?;
        self.thunk_registers = Table::scratch(THUNKS)?;
        self.found = Table::scratch(SITES)?;
        self.found_frames = Table::scratch(SITES)?;
        self.refusals = Table::scratch(REFUSALS)?;
        self.functions = Table::scratch(FUNCTIONS)?;
        self.mappings = Table::scratch(MAPPINGS)?;
        self.objects = Table::reserve(OBJECTS)?;
        self.rows = Table::reserve(ROWS)?;
        self.copies = Table::reserve(4 * ROWS)?;
        self.sites = Table::reserve(SITES)?;
        self.trees = Table::reserve(TREES)?;
        self.targets = Table::reserve(TARGETS)?;
        self.heads = Table::reserve(HEADS)?;
        self.boards = Table::reserve(BOARDS)?;
        self.leaves = Leaves::reserve()?;
        self.rings = rings::reserve()?;
        Some(())
    }

    /// Lists the displacements of all sites that are mapped, ascending by object and address; `None` when the
    /// process may not have the address space.
    pub fn list_displacements(&mut self) -> Option<()> {
        if !self.displacements.is_reserved() {
            self.displacements = Table::reserve(SITES)?;
        }
        self.displacements.clear();
        for site in self.sites.as_slice().iter().filter(|site| !site.gone) {
            let group = self.groups.get(usize::from(site.arena)).and_then(Option::as_ref);
            let gate = group.and_then(|group| rel32(site.field + 4, site.gate.address(&group.arena)));
            if let (Some(own), Some(gate)) = (rel32(site.field + 4, site.thunk_at), gate) {
                // The broken variant that the tests must catch: sites are led past their gates.
                let gate = if broken!("displaced") { gate + 12 } else { gate };
                self.displacements.push(Displacement { at: site.field, own, gate });
            }
        }
        Some(())
    }

    /// The options that were given.
    #[must_use]
    pub fn options(&self) -> Options<'static> {
        self.options.unwrap_or_default()
    }

    /// The arena of a site.
    #[must_use]
    pub fn arena(&self, site: &Site) -> Option<&Arena> {
        self.groups.get(usize::from(site.arena))?.as_ref().map(|group| &group.arena)
    }
}

/// The one engine of the process.
pub struct Global(UnsafeCell<Engine>);

// SAFETY: reached through `LOCK` only.
unsafe impl Sync for Global {}

static ENGINE: Global = Global(UnsafeCell::new(Engine::new()));

/// The lock under which the engine is used.
pub static LOCK: TryLock = TryLock::new();

/// The engine.
///
/// # Safety
/// The caller holds [`LOCK`], or is the constructor, and keeps no reference beyond that.
#[must_use]
pub unsafe fn engine() -> &'static mut Engine {
    // SAFETY: passed on to the caller.
    unsafe { &mut *ENGINE.0.get() }
}
