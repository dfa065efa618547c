//! How an unwinder gets out of an arena's code, whichever instruction a thread stands on.
//!
//! A signal handler may interrupt a thread in a gate, a stub or a tree, and unwind from there: a profiler
//! does, a handler that throws, a cancellation, a crash reporter. It wants unwind data (`.eh_frame`), and
//! code comes and goes too fast, and too quietly, to give each cell an entry of its own in a sorted table. So
//! one entry stands for the whole arena, and its rules are DWARF expressions that look up what holds at this
//! very address:
//!
//! ```text
//! map[cell] = shape           a byte for each cell; 0, which nobody has to write, is a cell that leaves the stack alone
//! depths[shape][byte] = n     n words lie on the stack above what was there when the site was entered
//! ```
//!
//! A site is entered with the return address on top of the stack and every register that the caller wants
//! back in place, so no rule is needed for registers. (libunwind would not understand one that computes their
//! values.)
//!
//! Not so at a computed goto, whose function has a frame of its own. What holds there is the function's rule
//! at the jump, a [`Row`]: where its frame is, and where its caller's registers are. Each row has a table of
//! one entry of its own, for all of the arena, and [`Frames::header`] says for an address which table holds
//! there. So they are for unwinders that ask for each address anew; the table of the whole arena says of such
//! cells that the stack ends there, as it does where an address belongs to nobody, or where the function
//! itself has no rules ([`Frame::UNKNOWN`]). A function's handlers and clean-ups do not come along.
//!
//! A look-up by the address of the next instruction, and one by the byte before it (LLVM's unwinder does that
//! even where a signal came), must find the same. Hence a rule changes at the *last byte* of the instruction
//! that changes it, such instructions have two bytes at least, and the last byte of a cell, where no
//! instruction begins, counts to the next cell.
//!
//! The slow paths, which several sites share, are called from the site's cell, so that one is a frame like
//! any other. They are all alike, and have plain rules: [`crate::stub`] says where they change.
//!
//! All of it lies in the arena's file: a forked child that still runs its parent's code reads what its parent
//! writes.

use crate::broken;
use crate::cells::{CELL, CODE_BYTES, Cell, PAGE};
use crate::stub::{SLOW_BYTES, SLOW_FRAMED, SLOW_UNFRAMED, WORDS_OVER};
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use relpoline_core::scan::Row;

/// Shapes there can be.
const SHAPES: usize = 8;
/// What is added to a shape for cells of which a row says more.
const WITH_ROW: u8 = SHAPES as u8;
/// Rows there can be, and bytes of the table of one.
pub const ROWS: usize = 2048;
const ROW_BYTES: usize = 256;
const CELLS: usize = CODE_BYTES / CELL;

/// How the stack moves in a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Shape {
    /// Not at all: trees, settling stubs.
    Flat = 0,
    /// A gate's cell, with a thunk that begins with a call.
    Gate = 1,
    /// A gate's cell, with a thunk that is a plain jump.
    PlainGate = 2,
    /// A recording stub.
    Recording = 3,
    /// The cell of a jump's gate.
    JumpGate = 4,
    /// The first cell of a recording stub that keeps flags.
    Keeping = 5,
    /// The second.
    KeepingOn = 6,
    /// Not known: nothing lies above it.
    Unknown = 7,
}

/// What lies on the stack where a site leads to its gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Frame(u16);

impl Frame {
    /// The return address is on top, and every register is the caller's.
    pub const NONE: Frame = Frame(0);
    /// A frame of which nothing is known.
    pub const UNKNOWN: Frame = Frame(u16::MAX);

    /// The frame that row number `n` describes; `None` when there are too many.
    #[must_use]
    pub fn of_row(n: usize) -> Option<Frame> {
        (n < ROWS).then_some(Frame(n as u16 + 1))
    }

    /// The number of the row that describes it.
    #[must_use]
    pub fn row(self) -> Option<usize> {
        (self != Frame::NONE && self != Frame::UNKNOWN).then(|| usize::from(self.0) - 1)
    }
}

/// For each byte of a cell, from the last one of the cell before on, what a [`Shape`] says of it.
pub type Depths = [u8; CELL];

/// A depth that is not known.
const UNKNOWN: u8 = 0x80;

/// Depths of a cell in which each `(end, depth)` stands for an instruction that ends at offset `end` and
/// leaves the stack so.
#[must_use]
pub const fn depths(changes: &[(usize, u8)]) -> Depths {
    depths_from(changes, 0)
}

/// The same for the second of two cells.
#[must_use]
pub const fn depths_of_second(changes: &[(usize, u8)]) -> Depths {
    depths_from(changes, CELL)
}

const fn depths_from(changes: &[(usize, u8)], first: usize) -> Depths {
    let mut depths = [0; CELL];
    let mut n = 0;
    while n < changes.len() {
        // The last byte of the instruction, one further on since the cell begins with a byte of its
        // neighbour's.
        let mut at = changes[n].0.saturating_sub(first);
        while at < CELL {
            depths[at] = changes[n].1;
            at += 1;
        }
        n += 1;
    }
    depths
}

/// What is said of an arena's cells. All zero is an arena of which nothing is said.
#[repr(C)]
pub struct Frames {
    /// `.eh_frame_hdr` and `.eh_frame`.
    tables: [AtomicU8; PAGE],
    /// What is read as the return address where a frame is not known, so that it is the last one: 0.
    nobody: [AtomicU8; 8],
    /// By shape; those with a row come behind, of which this table says that nothing is known.
    depths: [[AtomicU8; CELL]; 2 * SHAPES],
    /// One more than there are cells, for the last byte of the last.
    map: [AtomicU8; CELLS + 1],
    /// For cells with a row: its number.
    row_of: [AtomicU16; CELLS + 1],
    /// One more than the highest row that has a table.
    rows_end: AtomicU16,
    /// Tables of rows: those that begin with zero are not there.
    rows: [[AtomicU8; ROW_BYTES]; ROWS],
}

/// Bytes of [`Frames`], in whole pages.
pub const FRAMES_BYTES: usize = core::mem::size_of::<Frames>().next_multiple_of(PAGE);

impl Frames {
    /// Writes down what never changes: the tables for an arena whose code lies in `code`, with slow paths one
    /// after the other in `slow` (those of calls, then as many of jumps), and whose frames are read at `at`.
    ///
    /// `None` when they do not reach each other.
    pub fn set_up(&self, at: u64, code: &Range<u64>, slow: &Range<u64>) -> Option<()> {
        for (shape, depths) in [
            (Shape::Gate, crate::gate::DEPTHS),
            (Shape::PlainGate, crate::gate::PLAIN_DEPTHS),
            (Shape::Recording, crate::stub::RECORDING_DEPTHS),
            (Shape::JumpGate, crate::gate::JUMP_DEPTHS),
            (Shape::Keeping, crate::stub::KEEPING_DEPTHS[0]),
            (Shape::KeepingOn, crate::stub::KEEPING_DEPTHS[1]),
            (Shape::Unknown, [UNKNOWN; CELL]),
        ] {
            for (slot, depth) in self.depths[shape as usize].iter().zip(depths) {
                // The broken variant that the tests must catch: a stub pushes, and its rule does not say so.
                let depth = if broken!("frame-wrong") && shape == Shape::Recording { 0 } else { depth };
                slot.store(depth, Ordering::Relaxed);
            }
        }
        for slot in self.depths.iter().skip(SHAPES).flatten() {
            slot.store(UNKNOWN, Ordering::Relaxed);
        }
        let mut bytes = [0; PAGE];
        let len = header(&mut bytes, at, code, slow)?;
        copy(&self.tables, &bytes[..len]);
        Some(())
    }

    /// Says how `count` cells from `cell` on, which nothing leads to yet, unwind. The frame's row must be
    /// known.
    pub fn describe(&self, cell: Cell, count: u32, shape: Shape, frame: Frame) {
        let first = cell.0 as usize;
        let kind = match (frame, frame.row()) {
            (Frame::NONE, _) => shape as u8,
            (_, Some(_)) => shape as u8 + WITH_ROW,
            _ => Shape::Unknown as u8,
        };
        if let Some(row) = frame.row() {
            let slots = self.row_of.iter().skip(first).take(count as usize);
            slots.for_each(|slot| slot.store(row as u16, Ordering::Relaxed));
        }
        // Zero is there already, on pages that may never be needed.
        if kind != 0 {
            let slots = self.map.iter().skip(first).take(count as usize);
            slots.for_each(|slot| slot.store(kind, Ordering::Release));
        }
    }

    /// Writes down what `row` says, as number `n`, for an arena with code in `code`, whose frames are read at
    /// `at`. `None` when there is no room for that.
    pub fn know_row(&self, n: usize, row: &Row, at: u64, code: &Range<u64>) -> Option<()> {
        let slot = self.rows.get(n)?;
        if slot[0].load(Ordering::Acquire) != 0 {
            return Some(());
        }
        let mut bytes = [0; ROW_BYTES];
        let len = row_table(&mut bytes, at + offset_of!(Frames, rows) as u64 + (n * ROW_BYTES) as u64, at, code, row)?;
        copy(&slot[1..], &bytes[1..len]);
        self.rows_end.fetch_max(n as u16 + 1, Ordering::Relaxed);
        slot[0].store(bytes[0], Ordering::Release);
        Some(())
    }

    /// Where the table is that holds at `pc`, in an arena whose code begins at `code` and whose frames,
    /// these, are read at `at`.
    #[must_use]
    pub fn header(&self, at: u64, code: u64, pc: u64) -> u64 {
        // As in `rules`: the last byte of a cell counts to the next.
        let cell = (pc + 1).wrapping_sub(code) as usize / CELL;
        let has_row = self.map.get(cell).is_some_and(|kind| kind.load(Ordering::Acquire) >= WITH_ROW);
        match self.row_of.get(cell).filter(|_| has_row) {
            Some(row) => {
                let row = usize::from(row.load(Ordering::Relaxed));
                at + offset_of!(Frames, rows) as u64 + (row * ROW_BYTES) as u64
            }
            None => at,
        }
    }

    /// Takes over what `parent` says of the cells of the page number `page`.
    pub fn inherit_page(&self, parent: &Frames, page: usize) {
        let cells = page * (PAGE / CELL)..(page + 1) * (PAGE / CELL);
        for (mine, theirs) in self.map[cells.clone()].iter().zip(&parent.map[cells.clone()]) {
            mine.store(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let rows = self.row_of[cells.clone()].iter().zip(&parent.row_of[cells.clone()]);
        for ((mine, theirs), _) in
            rows.zip(&self.map[cells]).filter(|(_, kind)| kind.load(Ordering::Relaxed) >= WITH_ROW)
        {
            mine.store(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Takes over everything of `parent` but the map.
    pub fn inherit_tables(&self, parent: &Frames) {
        let end = parent.rows_end.load(Ordering::Acquire);
        self.rows_end.store(end, Ordering::Relaxed);
        let rows = (self.rows.iter().take(end.into()).flatten(), parent.rows.iter().flatten());
        let mine = self.tables.iter().chain(self.depths.iter().flatten()).chain(rows.0);
        let theirs = parent.tables.iter().chain(parent.depths.iter().flatten()).chain(rows.1);
        mine.zip(theirs).for_each(|(mine, theirs)| mine.store(theirs.load(Ordering::Relaxed), Ordering::Relaxed));
    }
}

fn copy(to: &[AtomicU8], from: &[u8]) {
    to.iter().zip(from).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
}

/// Writes little-endian values one after the other; remembers when they did not fit.
struct Writer<'a> {
    bytes: &'a mut [u8],
    len: usize,
    fits: bool,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        match self.bytes.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => room.copy_from_slice(bytes),
            None => self.fits = false,
        }
        self.len += bytes.len();
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn sleb128(&mut self, value: i64) {
        let (bytes, len) = sleb128(value);
        self.put(&bytes[..len]);
    }

    /// The distance from `from` to `to`.
    fn distance(&mut self, from: u64, to: u64) {
        match i32::try_from(to.wrapping_sub(from).cast_signed()) {
            Ok(distance) => self.put(&distance.to_le_bytes()),
            Err(_) => self.fits = false,
        }
    }

    /// What `rest` writes, behind its length, and padded to 8 bytes with zeroes: an entry of `.eh_frame`.
    fn entry(&mut self, rest: impl FnOnce(&mut Self)) {
        let at = self.len;
        self.u32(0);
        rest(self);
        while !self.len.is_multiple_of(8) {
            self.put(&[0]);
        }
        let len = (self.len - at - 4) as u32;
        if let Some(room) = self.bytes.get_mut(at..at + 4) {
            room.copy_from_slice(&len.to_le_bytes());
        }
    }

    /// A CIE with these rules, in which the return address lies right below the canonical frame address:
    /// version 1, addresses relative and of four bytes, code alignment 1, data alignment -8, return address
    /// in column 16.
    fn cie(&mut self, rules: impl FnOnce(&mut Self)) -> usize {
        let at = self.len;
        self.entry(|w| {
            w.put(&[0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, 0x90, 1]);
            rules(w);
        });
        at
    }

    /// An FDE for `range`, by the CIE at `cie`; `at` is the address of the first byte that was written. Its
    /// own offset.
    fn fde(&mut self, at: u64, cie: usize, range: &Range<u64>, part: Part) -> usize {
        let start = self.len;
        self.entry(|w| {
            w.u32((w.len - cie) as u32);
            w.distance(at + w.len as u64, range.start);
            w.u32((range.end - range.start) as u32);
            w.put(&[0]);
            w.slow_rules(part);
        });
        start
    }

    /// The rules of a slow path, which begins one byte behind its range: while rbp is its frame pointer, it
    /// points at what the cell has pushed, above the return address into the cell.
    fn slow_rules(&mut self, part: Part) {
        const { assert!(SLOW_FRAMED < 64 && SLOW_UNFRAMED - SLOW_FRAMED < 1 << 16) };
        // From behind the return address to the frame, in words, as one byte of LEB128.
        let above = WORDS_OVER - 1;
        match part {
            Part::Cells => return,
            Part::Calls => self.put(&[ADVANCE | SLOW_FRAMED as u8, DEF_CFA, RBP, 0, OFFSET | RBP, 0]),
            Part::Jumps => {
                self.put(&[ADVANCE | SLOW_FRAMED as u8, DEF_CFA_SF, RBP, above]);
                self.put(&[OFFSET_EXTENDED_SF, RBP, above.wrapping_neg() & 0x7f]);
            }
        }
        let [low, high] = ((SLOW_UNFRAMED - SLOW_FRAMED) as u16).to_le_bytes();
        self.put(&[ADVANCE2, low, high, DEF_CFA, RSP, 8, RESTORE | RBP]);
    }

    /// An expression behind its length.
    fn block(&mut self, write: impl FnOnce(&mut Expression)) {
        let mut expression = Expression { bytes: [0; 127], len: 0 };
        write(&mut expression);
        self.put(&[expression.len as u8]);
        match expression.bytes.get(..expression.len) {
            Some(bytes) => self.put(bytes),
            None => self.fits = false,
        }
    }
}

/// A number as signed LEB128, and its length.
fn sleb128(mut value: i64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut len = 0;
    loop {
        let low = value as u8 & 0x7f;
        value >>= 7;
        let is_last = value == i64::from(low >> 6).wrapping_neg();
        bytes[len] = if is_last { low } else { low | 0x80 };
        len += 1;
        if is_last || len == bytes.len() {
            return (bytes, len);
        }
    }
}

/// A DWARF expression of at most 127 bytes, whose length takes one.
struct Expression {
    bytes: [u8; 127],
    len: usize,
}

const CONST8U: u8 = 0x0e;
const CONST1U: u8 = 0x08;
const DUP: u8 = 0x12;
const DROP: u8 = 0x13;
const BRA: u8 = 0x28;
const SKIP: u8 = 0x2f;
const SWAP: u8 = 0x16;
const AND: u8 = 0x1a;
const MINUS: u8 = 0x1c;
const PLUS: u8 = 0x22;
const SHL: u8 = 0x24;
const SHR: u8 = 0x25;
const LIT: u8 = 0x30;
const BREG: u8 = 0x70;
const DEREF_SIZE: u8 = 0x94;
const RBP: u8 = 6;
const RSP: u8 = 7;
const RIP: u8 = 16;
const ADVANCE: u8 = 0x40;
const ADVANCE2: u8 = 0x03;
const OFFSET: u8 = 0x80;
const RESTORE: u8 = 0xc0;
const DEF_CFA: u8 = 0x0c;
const DEF_CFA_SF: u8 = 0x12;
const OFFSET_EXTENDED_SF: u8 = 0x11;
const UNDEFINED: u8 = 0x07;
const DEF_CFA_EXPRESSION: u8 = 0x0f;

impl Expression {
    fn ops(&mut self, ops: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + ops.len()) {
            room.copy_from_slice(ops);
        }
        self.len += ops.len();
    }

    fn sleb128(&mut self, value: i64) {
        let (bytes, len) = sleb128(value);
        self.ops(&bytes[..len]);
    }

    fn address(&mut self, address: u64) {
        self.ops(&[CONST8U]);
        self.ops(&address.to_le_bytes());
    }
}

/// Looks up how deep the stack is, in an arena whose code begins at `code`: by the map, in frames that are
/// read at `at`, and by what lies at `depths` for each shape.
fn look_depth_up(e: &mut Expression, code: u64, at: u64, depths: u64) {
    // From here on one byte further, since the last byte of a cell counts to the next.
    e.ops(&[BREG + RIP, 1]);
    e.address(code);
    e.ops(&[MINUS, DUP, LIT + 6, SHR]);
    e.address(at + offset_of!(Frames, map) as u64);
    e.ops(&[PLUS, DEREF_SIZE, 1, LIT + 6, SHL, SWAP, CONST1U, 63, AND, PLUS]);
    e.address(depths);
    e.ops(&[PLUS, DEREF_SIZE, 1]);
}

/// The rule of gates, stubs and trees, in an arena whose code begins at `code` and whose frames are read at
/// `at`.
fn rules(w: &mut Writer<'_>, code: u64, at: u64) {
    w.put(&[DEF_CFA_EXPRESSION]);
    w.block(|e| {
        look_depth_up(e, code, at, at + offset_of!(Frames, depths) as u64);
        // Over the branch, and over what is done where the depth is known.
        let known = [LIT + 3, SHL, BREG + RSP, 8, PLUS, SKIP, 10, 0];
        e.ops(&[DUP, LIT + 7, SHR, BRA, known.len() as u8, 0]);
        e.ops(&known);
        e.ops(&[DROP]);
        e.address(at + offset_of!(Frames, nobody) as u64 + 8);
    });
}

/// What `row` says, of code of ours that has pushed more. Registers are saved where they were; the frame is
/// where it was, too, but farther from the stack pointer, if it is counted from there.
fn row_rules(w: &mut Writer<'_>, row: &Row, code: u64, at: u64) {
    // The broken variant that the tests must catch: a frame is one word off.
    let off = if broken!("row-wrong") { 8 } else { 0 };
    w.put(&[DEF_CFA_EXPRESSION]);
    w.block(|e| {
        e.ops(&[BREG + row.register]);
        e.sleb128((row.distance + off).into());
        if row.register == RSP {
            // The shapes of cells with a row lie behind the others.
            look_depth_up(e, code, at, at + (offset_of!(Frames, depths) - SHAPES * CELL) as u64);
            e.ops(&[LIT + 3, SHL, PLUS]);
        }
    });
    for (register, place) in (0u8..).zip(row.saved) {
        match (register, -i32::from(place) / 8) {
            (RIP, 0) => w.put(&[UNDEFINED, RIP]),
            (_, 0) => {}
            (_, words @ 1..128) => w.put(&[OFFSET | register, words as u8]),
            (_, words) => {
                w.put(&[OFFSET_EXTENDED_SF, register]);
                w.sleb128(words.into());
            }
        }
    }
}

/// A table of one entry for all of `code`, by which `row` holds; it is read at `table`, and what it looks up
/// at `at`.
fn row_table(bytes: &mut [u8], table: u64, at: u64, code: &Range<u64>, row: &Row) -> Option<usize> {
    let mut w = Writer { bytes, len: 24, fits: true };
    let cie = w.cie(|w| row_rules(w, row, code.start, at));
    let range = early(code.clone());
    let fde = w.fde(table, cie, &range, Part::Cells);
    w.u32(0);
    let end = core::mem::replace(&mut w.len, 0);
    w.put(&HEADER);
    w.distance(table + 4, table + 24);
    w.u32(1);
    w.distance(table, range.start);
    w.u32(fde as u32);
    w.fits.then_some(end)
}

/// The first rule of slow paths.
fn first_slow_rule(w: &mut Writer<'_>) {
    w.put(&[DEF_CFA, RSP, 8]);
}

/// What lies in a range of code.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Gates, stubs, trees.
    Cells,
    /// A slow path of calls.
    Calls,
    /// A slow path of jumps.
    Jumps,
}

/// Everything begins one byte early: the byte before an address may be looked up instead of it.
fn early(range: Range<u64>) -> Range<u64> {
    range.start - 1..range.end - 1
}

/// Ranges of code, in ascending order, with what lies there.
fn ranges(code: &Range<u64>, slow: &Range<u64>) -> impl Iterator<Item = (Range<u64>, Part)> + Clone {
    let jumps = slow.start + (slow.end - slow.start) / 2;
    let part = move |at: u64| if at < jumps { Part::Calls } else { Part::Jumps };
    let path = move |at: u64| (early(at..at + SLOW_BYTES as u64), part(at));
    let paths = (slow.start..slow.end).step_by(SLOW_BYTES).map(path);
    let before = core::iter::once((early(code.start..slow.start), Part::Cells));
    before.chain(paths).chain(core::iter::once((early(slow.end..code.end), Part::Cells)))
}

/// Version 1; `.eh_frame`'s address relative to its place, count absolute, table relative to the header.
const HEADER: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

/// `.eh_frame_hdr`, with a sorted table, and `.eh_frame` behind it, as read at `at`. Its length.
fn header(bytes: &mut [u8], at: u64, code: &Range<u64>, slow: &Range<u64>) -> Option<usize> {
    let ranges = ranges(code, slow);
    let count = ranges.clone().count();
    let frames_at = (12 + 8 * count).next_multiple_of(8);
    let mut w = Writer { bytes, len: frames_at, fits: true };
    let cies = [w.cie(|w| rules(w, code.start, at)), w.cie(first_slow_rule)];
    let mut entry = 12;
    for (range, part) in ranges {
        let fde = w.fde(at, cies[usize::from(part != Part::Cells)], &range, part);
        let end = core::mem::replace(&mut w.len, entry);
        w.distance(at, range.start);
        w.u32(fde as u32);
        entry = core::mem::replace(&mut w.len, end);
    }
    w.u32(0);
    let end = core::mem::replace(&mut w.len, 0);
    w.put(&HEADER);
    w.distance(at + 4, at + frames_at as u64);
    // The broken variant that the tests must catch: nothing is said.
    w.u32(if broken!("frame-missing") { 0 } else { count as u32 });
    w.fits.then_some(end)
}

/// For debuggers: an `.eh_frame` section whose addresses are absolute, of which nothing has to be near. Its
/// length.
pub fn debug_section(bytes: &mut [u8], frames_at: u64, code: &Range<u64>, slow: &Range<u64>) -> Option<usize> {
    let mut w = Writer { bytes, len: 0, fits: true };
    let mut cies = [0; 2];
    for (n, cie) in cies.iter_mut().enumerate() {
        *cie = w.len;
        // As in `cie`, but without the letter that says that addresses are relative.
        w.entry(|w| {
            w.put(&[0, 0, 0, 0, 1, 0, 1, 0x78, 16, 0x90, 1]);
            if n == 0 { rules(w, code.start, frames_at) } else { first_slow_rule(w) }
        });
    }
    for (range, part) in ranges(code, slow) {
        w.entry(|w| {
            w.u32((w.len - cies[usize::from(part != Part::Cells)]) as u32);
            w.put(&range.start.to_le_bytes());
            w.put(&(range.end - range.start).to_le_bytes());
            w.slow_rules(part);
        });
    }
    w.u32(0);
    let len = w.len;
    w.fits.then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_changes_at_the_last_byte_of_the_instruction_that_changes_it() {
        let depths = depths(&[(3, 1), (7, 0)]);
        // Offsets 0 and 2 begin instructions, as does 3: looked up by themselves, or by the byte before them.
        let exact = |offset: usize| depths[offset + 1];
        let before = |offset: usize| depths[offset];
        for (offset, depth) in [(0, 0), (3, 1), (7, 0), (62, 0)] {
            assert_eq!((exact(offset), before(offset)), (depth, depth), "{offset}");
        }
        assert_eq!(exact(1), 0);
    }

    #[test]
    fn the_tables_fit_and_are_sorted() {
        // SAFETY: all zero is an arena of which nothing is said.
        let frames = unsafe { std::boxed::Box::<Frames>::new_zeroed().assume_init() };
        let code = 0x1_0000..0x1_0000 + CODE_BYTES as u64;
        let slow = 0x2_0000..0x2_0000 + 32 * SLOW_BYTES as u64;
        frames.set_up(code.end, &code, &slow).expect("they reach each other");
        let word = |at: usize| {
            let bytes = [0, 1, 2, 3].map(|n| frames.tables[at + n].load(Ordering::Relaxed));
            i32::from_le_bytes(bytes)
        };
        assert_eq!(word(8), 34);
        let mut starts = (0..34).map(|n| code.end.wrapping_add_signed(word(12 + 8 * n).into()));
        assert!(starts.clone().is_sorted() && starts.clone().next() == Some(0xffff));
        assert_eq!(starts.next_back(), Some(slow.end - 1));
        assert!(frames.set_up(code.end + (1 << 40), &code, &slow).is_none());
        let mut section = [0; 4096];
        assert!(debug_section(&mut section, code.end, &code, &slow).is_some());
    }

    #[test]
    fn a_row_has_a_table_of_its_own_that_holds_for_its_cells_alone() {
        // SAFETY: all zero is an arena of which nothing is said.
        let frames = unsafe { std::boxed::Box::<Frames>::new_zeroed().assume_init() };
        let code = 0x100_0000..0x100_0000 + CODE_BYTES as u64;
        let at = code.end;
        let mut row = Row { register: RSP, distance: 1 << 20, saved: [0; relpoline_core::scan::ROW_REGISTERS] };
        // Every register far away: as long as rules get.
        row.saved.iter_mut().for_each(|place| *place = -32760);
        let last = ROWS - 1;
        let frame = Frame::of_row(last).unwrap();
        assert_eq!((frame.row(), Frame::of_row(ROWS)), (Some(last), None));
        frames.know_row(last, &row, at, &code).expect("it fits");
        assert!(frames.know_row(ROWS, &row, at, &code).is_none());
        frames.describe(Cell(2), 2, Shape::Flat, frame);
        frames.describe(Cell(5), 1, Shape::Flat, Frame::UNKNOWN);
        let table = at + (offset_of!(Frames, rows) + last * ROW_BYTES) as u64;
        let cell = |n: u64| code.start + n * CELL as u64;
        // The byte before a cell counts to it.
        for (pc, expected) in [
            (cell(2) - 2, at),
            (cell(2) - 1, table),
            (cell(2), table),
            (cell(4) - 2, table),
            (cell(4) - 1, at),
            (cell(5), at),
            (code.start - 1, at),
            (code.end - 1, at),
        ] {
            assert_eq!(frames.header(at, code.start, pc), expected, "{pc:#x}");
        }
        let bytes: std::vec::Vec<u8> = frames.rows[last].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        let region = relpoline_core::scan::Region { address: table, bytes: &bytes };
        let read = relpoline_core::scan::EhFrameHdr::parse(region, region).expect("a table");
        let range = relpoline_core::scan::Function::new(code.start - 1, code.end - 1);
        assert_eq!((read.len(), read.get(0)), (1, Some(range)));
    }
}
