//! Which cells of an arena are taken.
//!
//! An arena is 512 halves of 32 KiB; a half is 128 *slots* of 256 bytes, and a slot four cells of 64 bytes.
//! The cells at the same place of all slots of a half are a *column*. So cells of one column lie 256 bytes
//! apart, and displacements to them differ in the second byte alone, unless that carries:
//!
//! ```text
//! half   slot 0    | column 0 | column 1 | column 2 | column 3 |      256 bytes
//!        slot 1    |          |          |          |          |
//!        …           slots 0 to 63: gate pages; 64 to 127: tree pages
//!        slot 127  |          |          |          |          |
//! ```
//!
//! A displacement is counted from behind its instruction, so it carries where a cell's address passes that of
//! the next instruction, modulo 64 KiB. Every other half has the same *parity*, and covers the same addresses
//! modulo 64 KiB; so a site uses halves of the parity that does not contain its own, and reaches every cell
//! of its column by one byte.
//!
//! Columns are given to sites of one kind (register, form of the thunk, kind of frame) until they are full:
//! what one of them is led to, the others can be led to as well. A column has one cell for a copy of the
//! thunk, [`GATES`] for gates, and 64 for heads of trees. Which slot comes first differs from half to half:
//! else the first cells of all columns, which are the hottest, would share few sets of the caches.
//!
//! Cells are only ever taken, never given back (rule 3), by an atomic or on a bitmap, so
//! that no two owners can get the same cell even if a lock was broken.
//!
//! Pages are of two kinds. *Gate pages* hold words that change; a forked child replaces all of them by
//! private copies. *Tree pages* hold code that never changes; a child shares its parent's. So a page has
//! one kind for ever, and this state lies in the arena's file, where a child reads what its parent has taken
//! up to this very moment.

use crate::broken;
use crate::sync::{AtomicU8, AtomicU32, AtomicU64};
use core::sync::atomic::Ordering;

/// Bytes of a cell.
pub const CELL: usize = 64;
/// How far the cells of a column lie apart: their displacements differ in the second byte.
pub const PITCH: usize = 256;
/// Bytes of a half of 64 KiB, in which a column lies.
pub const HALF: usize = 32 * 1024;
/// Halves of an arena.
pub const HALVES: usize = 512;
/// Bytes of an arena's code.
pub const CODE_BYTES: usize = HALF * HALVES;
/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Columns of a half.
const ABREAST: usize = PITCH / CELL;
/// Columns of an arena.
pub const COLUMNS: usize = HALVES * ABREAST;
/// Gates of a column. One more cell of its gate pages is the copy of the thunk.
pub const GATES: u32 = (HALF / PITCH / 2 - 1) as u32;
/// Heads of a column.
const HEADS: u32 = (HALF / PITCH / 2) as u32;
/// Kinds of gates, which get columns of their own.
pub const KINDS: usize = 128;
const CELLS: usize = CODE_BYTES / CELL;
const CELLS_PER_PAGE: usize = PAGE / CELL;
const PAGES: usize = CODE_BYTES / PAGE;
/// Cells in which runs are looked for, from the middle on. Not a fault: an arena that is soon full, for the
/// tests that watch what happens then.
const RUNS: u32 = if cfg!(relpoline_broken = "little-room") { 4096 } else { (CELLS / 2) as u32 };

/// What a page is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageKind {
    /// Not in use.
    Free = 0,
    /// Words that change: gates.
    Gates = 1,
    /// Code that never changes.
    Trees = 2,
    /// Code that never changes, written by a parent: this process cannot write it.
    Foreign = 3,
}

impl PageKind {
    fn from_u8(n: u8) -> PageKind {
        match n {
            1 => PageKind::Gates,
            2 => PageKind::Trees,
            3 => PageKind::Foreign,
            _ => PageKind::Free,
        }
    }
}

/// Which halves of an arena a site can be linked in: the even ones, or the odd ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parity(pub(crate) u8);

impl Parity {
    /// That of a site behind whose instruction lies `distance` from an arena's base: the halves that do not
    /// contain it, modulo 64 KiB.
    #[must_use]
    pub fn of(distance: u64) -> Parity {
        let within = distance as usize % (2 * HALF);
        let odd = within > 0 && within < HALF;
        // The broken variant that the tests must catch: it uses the half in which displacements carry.
        Parity(u8::from(odd != broken!("column-carries")))
    }

    /// The other one: cells in which can be jumped to, and not linked.
    #[must_use]
    pub fn other(self) -> Parity {
        Parity(self.0 ^ 1)
    }

    /// Whether it is that of the odd halves.
    #[must_use]
    pub fn is_odd(self) -> bool {
        self.0 == 1
    }
}

/// A cell by its index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell(pub u32);

impl Cell {
    /// Offset of the cell's first byte from the arena's base.
    #[must_use]
    pub fn offset(self) -> usize {
        self.0 as usize * CELL
    }

    /// Number of the column in which the cell lies.
    #[must_use]
    pub fn column(self) -> u32 {
        self.0 / (HALF / CELL) as u32 * ABREAST as u32 + self.0 % ABREAST as u32
    }

    /// That of its half.
    #[must_use]
    pub fn parity(self) -> Parity {
        Parity((self.0 / (HALF / CELL) as u32 % 2) as u8)
    }

    /// In `column`, the cell number `n` of the lower part (gate pages), or of the upper part counted
    /// downwards (tree pages).
    fn in_column(column: u32, n: u32, upper: bool) -> Cell {
        const ROWS: u32 = (PAGE / PITCH) as u32;
        let (half, place) = (column / ABREAST as u32, column % ABREAST as u32);
        let page = if upper { (HALF / PAGE) as u32 - 1 - n / ROWS } else { n / ROWS };
        let row = (n + half * 5) % ROWS;
        Cell(half * (HALF / CELL) as u32 + (page * ROWS + row) * ABREAST as u32 + place)
    }

    /// The place of a column's copy of the thunk.
    #[must_use]
    pub fn of_thunk(column: u32) -> Cell {
        Cell::in_column(column % COLUMNS as u32, 0, false)
    }

    /// The places of a column's gates.
    pub fn gates_of(column: u32) -> impl Iterator<Item = Cell> {
        (1..=GATES).map(move |n| Cell::in_column(column % COLUMNS as u32, n, false))
    }

    /// The page the cell lies in.
    #[must_use]
    pub fn page(self) -> usize {
        self.0 as usize / CELLS_PER_PAGE
    }
}

/// Allocation state of one arena. It lies in the arena's file; all zero is the empty arena.
#[repr(C)]
pub struct CellMap {
    taken: [AtomicU64; CELLS / 64],
    kind: [AtomicU8; PAGES],
    /// Columns that were given to kinds of gates, by parity.
    columns: [AtomicU32; 2],
    /// By parity and kind: the column that is being filled, and how many of its gates were handed out.
    open: [[AtomicU32; KINDS]; 2],
    /// How many gates that need no column were handed out, from the end of the arena downwards.
    loose: AtomicU32,
    /// Where the next run of tree cells is looked for.
    run: AtomicU32,
    /// In a child: gate pages that were replaced by its own (1).
    own: [AtomicU8; PAGES],
    /// Pages that this process populated.
    populated: AtomicU32,
}

impl CellMap {
    fn kind_of(&self, page: usize) -> PageKind {
        PageKind::from_u8(self.kind[page].load(Ordering::Acquire))
    }

    /// What page number `page` is used for.
    #[must_use]
    pub fn page_kind(&self, page: usize) -> PageKind {
        self.kind_of(page)
    }

    /// Gives a free page a kind; true when it has that kind now.
    fn claim_page(&self, page: usize, kind: PageKind) -> bool {
        let claimed = self.kind[page].compare_exchange(0, kind as u8, Ordering::AcqRel, Ordering::Acquire);
        if claimed.is_ok() {
            self.populated.fetch_add(1, Ordering::Relaxed);
        }
        claimed.is_ok() || claimed == Err(kind as u8)
    }

    /// Takes one cell if it is free.
    fn take(&self, cell: Cell) -> bool {
        let bit = 1u64 << (cell.0 % 64);
        self.taken[cell.0 as usize / 64].fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// A cell for the gate of a site of this `parity` and `kind`. `None` when the arena is full.
    pub fn take_gate(&self, parity: Parity, kind: usize) -> Option<Cell> {
        // Of what is known of an open column: one more than its number, in these.
        const OPENED: u32 = 1 << 8;
        let open = &self.open[usize::from(parity.0 % 2)][kind % KINDS];
        loop {
            let now = open.load(Ordering::Acquire);
            let (column, given) = ((now / OPENED).checked_sub(1), now % OPENED);
            let Some(column) = column.filter(|_| given < GATES) else {
                let next = self.open_column(parity)?;
                // Should another thread have been faster, a column is lost, which is rarer and cheaper than a
                // lock.
                let _ = open.compare_exchange(now, (next + 1) * OPENED, Ordering::AcqRel, Ordering::Acquire);
                continue;
            };
            if open.compare_exchange(now, now + 1, Ordering::AcqRel, Ordering::Acquire).is_err() {
                continue;
            }
            let cell = Cell::in_column(column, given + 1, false);
            if self.claim_page(cell.page(), PageKind::Gates) && self.take(cell) {
                return Some(cell);
            }
        }
    }

    /// A column that was nobody's.
    fn open_column(&self, parity: Parity) -> Option<u32> {
        let take = |taken: u32| (taken < (COLUMNS / 2) as u32).then_some(taken + 1);
        let n = self.columns[usize::from(parity.0 % 2)].fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        // Those of the broken variant are shifted into their neighbours.
        let each = if cfg!(relpoline_broken = "gate-not-aligned") { 2 } else { 1 };
        let (pair, place) = (n * each / ABREAST as u32, n * each % ABREAST as u32);
        Some((2 * pair + u32::from(parity.0 % 2)) * ABREAST as u32 + place)
    }

    /// The cell for a column's copy of the thunk, once.
    pub fn take_thunk(&self, column: u32) -> Option<Cell> {
        let cell = Cell::of_thunk(column);
        (self.claim_page(cell.page(), PageKind::Gates) && self.take(cell)).then_some(cell)
    }

    /// A cell for a gate that nothing is linked to, or for other words that change.
    pub fn take_loose(&self) -> Option<Cell> {
        let limit = (CELLS / 4) as u32;
        loop {
            let each = if cfg!(relpoline_broken = "gate-not-aligned") { 2 } else { 1 };
            let n = self.loose.fetch_add(each, Ordering::AcqRel);
            if n >= limit {
                self.loose.store(limit, Ordering::Release);
                return None;
            }
            // Ascending within a page.
            let (page, within) = (n / CELLS_PER_PAGE as u32, n % CELLS_PER_PAGE as u32);
            let cell = Cell((CELLS - CELLS_PER_PAGE) as u32 - page * CELLS_PER_PAGE as u32 + within);
            if self.claim_page(cell.page(), PageKind::Gates) && self.take(cell) {
                return Some(cell);
            }
        }
    }

    /// A cell of `column` for the head of a tree.
    pub fn take_in_column(&self, column: u32) -> Option<Cell> {
        let cells = (0..HEADS).map(|n| Cell::in_column(column % COLUMNS as u32, n, true));
        cells.into_iter().find(|&cell| self.claim_page(cell.page(), PageKind::Trees) && self.take(cell))
    }

    /// `count` neighbouring tree cells anywhere; the first of them.
    pub fn take_run(&self, count: u32) -> Option<Cell> {
        let middle = (CELLS / 2) as u32;
        // The broken variant that the tests must catch: cells are used again after a while.
        let after = if cfg!(relpoline_model) { 124 } else { 2000 };
        if broken!("cell-reused") && self.run.load(Ordering::Acquire) > after {
            let first = middle / 64;
            self.taken[first as usize..first as usize + 32].iter().for_each(|word| word.store(0, Ordering::Release));
            self.run.store(0, Ordering::Release);
        }
        let end = middle + RUNS;
        let mut start = middle + self.run.load(Ordering::Acquire);
        while start + count <= end {
            match self.take_exactly(start, count) {
                Ok(()) => {
                    self.run.fetch_max(start + count - middle, Ordering::AcqRel);
                    return Some(Cell(start));
                }
                Err(blocked) => start = blocked + 1,
            }
        }
        None
    }

    /// Of 64 parts of the room for runs, how many were gone through.
    #[must_use]
    pub fn spent(&self) -> u32 {
        self.run.load(Ordering::Relaxed) / (RUNS / 64)
    }

    /// Takes `start..start + count`, or says which cell was in the way. Cells taken before a blocked one
    /// stay taken: they are lost, which is rarer and cheaper than giving cells back.
    fn take_exactly(&self, start: u32, count: u32) -> Result<(), u32> {
        for i in start..start + count {
            let page = Cell(i).page();
            if !self.claim_page(page, PageKind::Trees) {
                return Err((page as u32 + 1) * CELLS_PER_PAGE as u32 - 1);
            }
            let word = self.taken[i as usize / 64].load(Ordering::Acquire);
            if word & (1 << (i % 64)) != 0 {
                return Err(i);
            }
        }
        for i in start..start + count {
            if !self.take(Cell(i)) {
                return Err(i);
            }
        }
        Ok(())
    }

    /// Begins to continue a parent's map: notes which of its pages hold gates and calls `privatise` for each
    /// run of such pages (first page, count), which must put private copies in their place.
    ///
    /// # Errors
    /// The first error of `privatise`; the map is unusable then.
    pub fn inherit_gates<E>(
        &self,
        parent: &CellMap,
        mut privatise: impl FnMut(usize, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut page = 0;
        while page < PAGES {
            let run = (page..PAGES).take_while(|&p| parent.kind_of(p) == PageKind::Gates).count();
            if run > 0 {
                privatise(page, run)?;
                self.populated.fetch_add(run as u32, Ordering::Relaxed);
                for p in page..page + run {
                    self.kind[p].store(PageKind::Gates as u8, Ordering::Release);
                    self.own[p].store(1, Ordering::Release);
                }
            }
            page += run.max(1);
        }
        Ok(())
    }

    /// Ends what [`CellMap::inherit_gates`] began. From here on nothing that the parent publishes can be
    /// entered any more, so what it has taken by now is all that this process may be executing: pages with
    /// trees become foreign as a whole, and so do gate pages that were begun meanwhile.
    pub fn inherit_trees(&self, parent: &CellMap) {
        for page in 0..PAGES {
            if self.own[page].load(Ordering::Acquire) == 0 && parent.kind_of(page) != PageKind::Free {
                self.kind[page].store(PageKind::Foreign as u8, Ordering::Release);
            }
        }
        for (mine, theirs) in self.taken.iter().zip(&parent.taken) {
            let theirs = theirs.load(Ordering::Acquire);
            // A fresh map is all zero: pages of it that stay so are never allocated.
            if theirs != 0 {
                mine.store(theirs, Ordering::Release);
            }
        }
        self.run.store(parent.run.load(Ordering::Acquire), Ordering::Release);
        for (mine, theirs) in self.counters().zip(parent.counters()) {
            mine.store(theirs.load(Ordering::Acquire), Ordering::Release);
        }
    }

    /// What says where the next cells are looked for that are not taken in runs.
    fn counters(&self) -> impl Iterator<Item = &AtomicU32> {
        self.columns.iter().chain(self.open.iter().flatten()).chain([&self.loose])
    }

    /// Calls `map` for each run (first page, count) of free pages.
    ///
    /// # Errors
    /// The first error of `map`.
    pub fn each_free_run<E>(&self, mut map: impl FnMut(usize, usize) -> Result<(), E>) -> Result<(), E> {
        let mut page = 0;
        while page < PAGES {
            let run = (page..PAGES).take_while(|&p| self.kind_of(p) == PageKind::Free).count();
            if run > 0 {
                map(page, run)?;
            }
            page += run.max(1);
        }
        Ok(())
    }

    /// Bytes of the pages in use that this process populated: those that it claimed, and private copies of
    /// its parent's.
    #[must_use]
    pub fn populated_bytes(&self) -> usize {
        self.populated.load(Ordering::Relaxed) as usize * PAGE
    }
}

/// Number of pages of an arena's code.
pub const CODE_PAGES: usize = PAGES;

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::collections::HashSet;
    use std::vec;
    use std::vec::Vec;

    fn empty() -> Box<CellMap> {
        // SAFETY: all zero is the empty map.
        unsafe { Box::<CellMap>::new_zeroed().assume_init() }
    }

    #[test]
    fn no_cell_is_given_out_twice_and_kinds_are_kept() {
        let map = empty();
        let mut seen = HashSet::new();
        let mut check = |cells: core::ops::Range<u32>, kind: PageKind| {
            for cell in cells {
                assert!((cell as usize) < CELLS && seen.insert(cell), "{cell}");
                assert_eq!(map.page_kind(Cell(cell).page()), kind);
            }
        };
        let mut round = 0u32;
        let mut failed = 0;
        while failed < 4000 {
            let column = round.wrapping_mul(37) % COLUMNS as u32;
            let count = 1 + round % 97;
            let parity = Parity((round / 8 % 2) as u8);
            let (cell, count, kind) = match round % 5 {
                0 => (map.take_gate(parity, round as usize % 7), 1, PageKind::Gates),
                1 => (map.take_loose(), 1, PageKind::Gates),
                2 => (map.take_in_column(column), 1, PageKind::Trees),
                3 => (map.take_thunk(column), 1, PageKind::Gates),
                _ => (map.take_run(count), count, PageKind::Trees),
            };
            match cell {
                Some(cell) => {
                    assert!(!matches!(round % 5, 2 | 3) || cell.column() == column);
                    assert!(!round.is_multiple_of(5) || cell.parity() == parity);
                    check(cell.0..cell.0 + count, kind);
                }
                None => failed += 1,
            }
            round += 1;
        }
    }

    #[test]
    fn threads_never_get_the_same_cell() {
        let map = empty();
        let take = |thread: u32| {
            let take = |n: u32| match (n + thread) % 3 {
                0 => map.take_gate(Parity((n % 2) as u8), n as usize % 3),
                1 => map.take_in_column(n % 8),
                _ => map.take_run(1),
            };
            (0..6000).filter_map(take).map(|cell| cell.0).collect::<Vec<_>>()
        };
        let all = std::thread::scope(|scope| {
            let threads = [0, 1, 2].map(|thread| scope.spawn(move || take(thread)));
            threads.map(|thread| thread.join().unwrap()).concat()
        });
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn a_child_owns_its_gates_and_leaves_its_parents_trees_alone() {
        let (parent, child) = (empty(), empty());
        let gate = parent.take_gate(Parity(0), 1).unwrap();
        let tree = parent.take_in_column(gate.column()).unwrap();
        let run = parent.take_run(5).unwrap();
        let mut own = Vec::new();
        child
            .inherit_gates(&parent, |page, count| {
                own.extend(page..page + count);
                Ok::<(), ()>(())
            })
            .unwrap();
        assert_eq!((own, child.populated_bytes()), (vec![gate.page()], PAGE));
        assert_eq!(parent.populated_bytes(), 3 * PAGE);
        // A page of gates that the parent begins only now is none of the child's.
        let late = parent.take_gate(Parity(1), 1).unwrap();
        child.inherit_trees(&parent);
        for (cell, kind) in
            [(gate, PageKind::Gates), (tree, PageKind::Foreign), (run, PageKind::Foreign), (late, PageKind::Foreign)]
        {
            assert_eq!(child.page_kind(cell.page()), kind);
        }
        let mut free = Vec::new();
        child
            .each_free_run(|page, count| {
                free.extend(page..page + count);
                Ok::<(), ()>(())
            })
            .unwrap();
        assert_eq!(free.len(), PAGES - 4);
        let foreign = [tree, run, late].map(Cell::page);
        for _ in 0..2000 {
            let taken = [
                child.take_gate(Parity(0), 1),
                child.take_gate(Parity(1), 2),
                child.take_loose(),
                child.take_in_column(gate.column()),
                child.take_run(3),
            ];
            for cell in taken.into_iter().flatten() {
                assert!(!foreign.contains(&cell.page()) && cell != gate, "{cell:?}");
            }
        }
        assert_eq!(child.inherit_gates(&parent, |_, _| Err(7)), Err(7));
    }

    #[test]
    fn a_column_is_a_copy_of_the_thunk_its_gates_and_its_heads() {
        let map = empty();
        for column in [0, 1, 5, 1027, COLUMNS as u32 - 1] {
            let thunk = map.take_thunk(column).unwrap();
            assert_eq!((thunk, map.take_thunk(column)), (Cell::of_thunk(column), None));
            let gates: Vec<_> = Cell::gates_of(column).collect();
            let heads: Vec<_> = core::iter::from_fn(|| map.take_in_column(column)).collect();
            assert_eq!((gates.len(), heads.len()), (63, 64));
            let all: HashSet<_> = gates.iter().chain(&heads).chain([&thunk]).map(|cell| cell.0).collect();
            assert_eq!(all.len(), 128);
            assert!(gates.iter().chain(&heads).all(|cell| cell.column() == column && cell.0 / 512 == thunk.0 / 512));
            assert!(heads.iter().all(|head| gates.iter().all(|gate| gate.page() != head.page())));
        }
    }

    #[test]
    fn columns_have_gates_of_one_kind() {
        let map = empty();
        let mut kinds = std::collections::HashMap::new();
        for n in 0..4000usize {
            let (parity, kind) = (Parity((n % 2) as u8), n / 3 % 5);
            let cell = map.take_gate(parity, kind).unwrap();
            assert_eq!(*kinds.entry(cell.column()).or_insert((parity, kind)), (parity, kind));
            assert!(Cell::gates_of(cell.column()).any(|gate| gate == cell));
        }
    }
}
