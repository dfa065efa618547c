//! Which cells of an arena are taken.
//!
//! An arena is 256 banks of 64 KiB; a bank is 16 pages of 64 cells of 64 bytes. A cell's *column* is its
//! place in its bank. Cells are only ever taken, never given back (rule 3), by an atomic or on a bitmap, so
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
/// Bytes of a bank: cells of one column lie this far apart, so their displacements differ in the third byte.
pub const BANK: usize = 64 * 1024;
/// Banks of an arena: all values of a displacement's third byte.
pub const BANKS: usize = 256;
/// Bytes of an arena's code.
pub const CODE_BYTES: usize = BANK * BANKS;
/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Cells of a bank.
pub const COLUMNS: usize = BANK / CELL;
const CELLS: usize = CODE_BYTES / CELL;
const CELLS_PER_PAGE: usize = PAGE / CELL;
const PAGES: usize = CODE_BYTES / PAGE;
/// Cells in which runs are looked for, from the middle on. Not a fault: an arena that is soon full, for the tests that watch
/// what happens then.
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

/// A cell by its index: bank × 1024 + column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell(pub u32);

impl Cell {
    /// Offset of the cell's first byte from the arena's base.
    #[must_use]
    pub fn offset(self) -> usize {
        self.0 as usize * CELL
    }

    /// Place of the cell in its bank.
    #[must_use]
    pub fn column(self) -> u32 {
        self.0 % COLUMNS as u32
    }

    /// The bank the cell lies in.
    #[must_use]
    pub fn bank(self) -> u32 {
        self.0 / COLUMNS as u32
    }

    fn at(bank: u32, column: u32) -> Cell {
        Cell(bank * COLUMNS as u32 + column)
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
    /// Where the next gate from below, the next gate from above and the next run of tree cells are looked for.
    low_gate: AtomicU32,
    high_gate: AtomicU32,
    run: AtomicU32,
    /// In a child: gate pages that were replaced by its own (1).
    own: [AtomicU8; PAGES],
    /// Pages that this process populated.
    populated: AtomicU32,
}

/// Which end of the arena a site's gate belongs to: the end from which more banks can be linked by one byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Banks from 0 upwards.
    Low,
    /// Banks from 255 downwards.
    High,
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

    /// A cell for a site's gate. `None` when gates and trees have met: the arena is full.
    pub fn take_gate(&self, end: End) -> Option<Cell> {
        let (cursor, top) = match end {
            End::Low => (&self.low_gate, 0),
            End::High => (&self.high_gate, BANKS as u32 - 1),
        };
        // Gates may fill three eighths of the arena from either end; the middle stays for trees.
        let limit = (CELLS / 8 * 3) as u32;
        // Those of the broken variant are shifted into their neighbours.
        let each = if cfg!(relpoline_broken = "gate-not-aligned") { 2 } else { 1 };
        loop {
            let n = cursor.fetch_add(each, Ordering::AcqRel);
            if n >= limit {
                cursor.store(limit, Ordering::Release);
                return None;
            }
            let bank = top.abs_diff(n / COLUMNS as u32);
            let cell = Cell::at(bank, n % COLUMNS as u32);
            if self.claim_page(cell.page(), PageKind::Gates) && self.take(cell) {
                return Some(cell);
            }
        }
    }

    /// A tree cell in `column` of one of `banks`, searched from the `end` of the range at which the gate
    /// lies, pages in use first, so that few pages are populated.
    pub fn take_in_column(&self, column: u32, banks: core::ops::Range<u32>, end: End) -> Option<Cell> {
        for fresh in [false, true] {
            for i in 0..banks.len() as u32 {
                let bank = match end {
                    End::Low => banks.start + i,
                    End::High => banks.end - 1 - i,
                };
                let cell = Cell::at(bank, column);
                let kind = self.kind_of(cell.page());
                let usable = kind == PageKind::Trees || (fresh && kind == PageKind::Free);
                if usable && self.claim_page(cell.page(), PageKind::Trees) && self.take(cell) {
                    return Some(cell);
                }
            }
        }
        None
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
        for (mine, theirs) in [(&self.low_gate, &parent.low_gate), (&self.high_gate, &parent.high_gate)] {
            mine.store(theirs.load(Ordering::Acquire), Ordering::Release);
        }
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

    /// Bytes of the pages in use that this process populated: those that it claimed, and private copies of its parent's.
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
            let (cell, count, kind) = match round % 4 {
                0 => (map.take_gate(End::Low), 1, PageKind::Gates),
                1 => (map.take_gate(End::High), 1, PageKind::Gates),
                2 => (map.take_in_column(column, 0..BANKS as u32, End::High), 1, PageKind::Trees),
                _ => (map.take_run(count), count, PageKind::Trees),
            };
            match cell {
                Some(cell) => {
                    assert!(round % 4 != 2 || cell.column() == column);
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
                0 => map.take_gate(End::Low),
                1 => map.take_in_column(n % 8, 0..BANKS as u32, End::Low),
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
        let gate = parent.take_gate(End::Low).unwrap();
        let tree = parent.take_in_column(gate.column(), 0..200, End::Low).unwrap();
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
        let late = parent.take_gate(End::High).unwrap();
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
                child.take_gate(End::Low),
                child.take_gate(End::High),
                child.take_in_column(gate.column(), 0..BANKS as u32, End::Low),
                child.take_run(3),
            ];
            for cell in taken.into_iter().flatten() {
                assert!(!foreign.contains(&cell.page()) && cell != gate, "{cell:?}");
            }
        }
        assert_eq!(child.inherit_gates(&parent, |_, _| Err(7)), Err(7));
    }
}
