//! What sites are linked to: heads of trees, and copies of thunks, in the columns of their gates.
//!
//! A tree on trial lies anywhere, behind its site's gate. When the site is linked, its tree is written once
//! more, with its head in the column of the gate. All sites of a column have the same register and thunk; so
//! calls whose trees have the same targets are linked to one *shared* head. A thousand sites with eight
//! targets run eight heads a column then, which the processor's caches and predictors know, where a thousand
//! heads of their own would drive each other out. In the same way sites that are left alone in a crowd are
//! linked to their column's copy of the thunk.
//!
//! A shared head does not belong to a site. It has a gate of its own, of which the miss gate, the counting
//! stub and the slow entry are used. What is missed in a window is charged to the site whose call ended it:
//! its return address is on top of the stack. Which site that is, is a matter of chance; but a site that
//! misses twice as often is charged twice as often, and each time with all misses of the window, so that it
//! pays for its own in the long run. Sites that miss nothing pay nothing. Whoever misses too much goes back
//! to its gate and learns; the others stay.
//!
//! A jump's return address is its caller's, or there is none; so jumps have heads of their own, as have trees
//! that count exits, those whose misses are not counted any more, and all where every call is counted
//! (`--count`). These leave by the site's miss gate.

use crate::site::{NONE, Site, Tree};
use crate::state::{Engine, Group};
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use relpoline_core::policy::Event;
use relpoline_core::tree::{self, CELL, TreeSpec};
use relpoline_text::arena::Counters;
use relpoline_text::broken;
use relpoline_text::cells::Cell;
use relpoline_text::frames::{Frame, Shape};
use relpoline_text::gate::{self, Gate, GateSpec};

/// What the slow path is told in place of a site's number: this, and the number of a head.
const HEADS_FROM: u32 = 1 << 24;
/// Sites that are left alone before they are a crowd: so many thunks of their own cost nothing.
const CROWD: u32 = if cfg!(relpoline_model) { 0 } else { 32 };
/// Calls of a site that is left alone in a crowd until it is linked to a thunk that others use too. A link
/// costs what a third of them lose.
pub const ALONE_CALLS: u32 = if cfg!(relpoline_model) { 3 } else { 4096 };
/// The longest window of these calls.
const ALONE_MAX: u32 = 1 << 20;

/// A head that several sites may be linked to.
#[derive(Clone, Copy)]
pub struct Head {
    /// What it does, as a number.
    fingerprint: u64,
    /// Its cell, in the column of those sites.
    pub cell: Cell,
    /// The cell behind which its tree goes on.
    pub body: Cell,
    /// What it leaves by when nothing matched.
    gate: Gate,
    /// The number of its arena.
    arena: u8,
    /// Address of its [`Counters`].
    counters: u64,
    /// The countdown of misses that is running, as it was started.
    window: u32,
    /// The next head of its column.
    next: u32,
    /// The site that has taken what is missed for itself, since its link cannot be undone any more.
    taker: u32,
}

impl Head {
    /// Whether it leaves by the gate in `cell`.
    #[must_use]
    pub fn leaves_by(&self, cell: Cell) -> bool {
        self.gate.cell == cell
    }

    fn counters(&self) -> &Counters {
        // SAFETY: in the counters of its arena, which are never unmapped.
        unsafe { &*(self.counters as *const Counters) }
    }
}

/// Which head a number stands for that the slow path was told.
#[must_use]
pub fn told(number: u32) -> Option<u32> {
    number.checked_sub(HEADS_FROM).filter(|&head| head < HEADS_FROM)
}

impl Engine {
    fn head(&self, index: u32) -> Option<&Head> {
        self.heads.as_slice().get(index as usize)
    }

    /// Counters of the head that a number stands for.
    pub fn counters_of_head(&self, index: u32) -> Option<&Counters> {
        self.head(index).map(Head::counters)
    }

    /// The cell that the site's displacement is to name, and the number of the head if it is shared. `None`
    /// when there is none in its column. What is called here is called one after the other, for the stack may
    /// be small.
    pub fn head_to_link(&mut self, id: u32) -> Option<(Cell, u32)> {
        let found = self.head_that_is_there(id);
        if found.is_some() {
            return found;
        }
        let shared = if self.is_shareable(id) { Some(self.gate_for_head(id)?) } else { None };
        let (cell, body) = self.write_linked(id, shared.map(|(gate, _)| gate))?;
        match shared {
            Some((gate, counters)) => self.note_head(id, (gate, counters), (cell, body)),
            None => {
                let tree = self.sites.as_slice().get(id as usize)?.tree;
                let tree = self.trees.get_mut(tree as usize)?;
                (tree.linked, tree.linked_body) = (cell.0, body.0);
                Some((cell, NONE))
            }
        }
    }

    fn site_and_tree(&self, id: u32) -> Option<(&Site, &Tree)> {
        let site = self.sites.as_slice().get(id as usize)?;
        Some((site, self.trees.as_slice().get(site.tree as usize)?))
    }

    fn is_shareable(&self, id: u32) -> bool {
        let of_a_call =
            |(site, tree): (&Site, &Tree)| !site.kind.keeps_flags() && !tree.counts_exits && !site.state.is_uncounted();
        !self.options().count && self.site_and_tree(id).is_some_and(of_a_call)
    }

    /// What the site can be linked to without anything being written: a board, what its tree was linked by
    /// before, or a head of its column that does what its tree does.
    #[inline(never)]
    fn head_that_is_there(&self, id: u32) -> Option<(Cell, u32)> {
        let (site, tree) = self.site_and_tree(id)?;
        // A board is written in its column at once.
        if tree.is_board {
            return Some((tree.head, NONE));
        }
        if !self.is_shareable(id) {
            return (tree.linked != NONE).then_some((Cell(tree.linked), NONE));
        }
        let mut at = self.group(site)?.first_head(site.gate.cell.column());
        while let Some(head) = self.head(at) {
            if head.fingerprint == tree.fingerprint {
                return Some((head.cell, at));
            }
            at = head.next;
        }
        None
    }

    fn group(&self, site: &Site) -> Option<&Group> {
        self.groups.get(usize::from(site.arena))?.as_ref()
    }

    /// The gate of a new head that this site is the first to share, and the address of its counters.
    #[inline(never)]
    fn gate_for_head(&self, id: u32) -> Option<(Gate, u64)> {
        let site = self.sites.as_slice().get(id as usize)?;
        let group = self.group(site)?;
        let arena = &group.arena;
        let body = site.gate.thunk(arena, site.thunk);
        let counters = arena.take_counters()?;
        // Nobody else makes heads meanwhile, unless the lock was broken: then two have a number, and misses
        // are charged wrongly.
        let spec = GateSpec {
            site: HEADS_FROM + self.heads.len() as u32,
            counters,
            thunk: &body,
            thunk_at: site.way,
            slow_at: group.slow_path_of(site.reg)?,
            counting: None,
            frame: site.frame,
        };
        let gate = Gate::build(arena, arena.take_loose()?, &spec).ok()?;
        Some((gate, counters))
    }

    /// A head was written for the site, with a gate and counters of its own: its cell and its number.
    #[inline(never)]
    fn note_head(&mut self, id: u32, (gate, counters): (Gate, u64), (cell, body): (Cell, Cell)) -> Option<(Cell, u32)> {
        let (site, tree) = self.site_and_tree(id)?;
        let (arena, window) = (site.arena, site.misses.max(1));
        let column = site.gate.cell.column();
        let head = Head {
            fingerprint: tree.fingerprint,
            cell,
            body,
            gate,
            arena,
            counters,
            window,
            next: self.group(site)?.first_head(column),
            taker: NONE,
        };
        head.counters().misses.store(window, Ordering::Relaxed);
        let index = self.heads.push(head)? as u32;
        self.groups.get(usize::from(arena))?.as_ref()?.set_first_head(column, index);
        Some((cell, index))
    }

    /// Writes the site's tree once more, with its head in the column of the site's gate; head and body. It
    /// leaves by the miss gate of `gate`, or by that of the site.
    #[inline(never)]
    fn write_linked(&self, id: u32, gate: Option<Gate>) -> Option<(Cell, Cell)> {
        let (site, tree) = self.site_and_tree(id)?;
        let arena = self.arena(site)?;
        let first = tree.first_target as usize;
        let counter = |offset: usize| site.counters + offset as u64;
        let spec = TreeSpec {
            reg: site.reg,
            targets: self.targets.as_slice().get(first..first + usize::from(tree.targets))?,
            chain: usize::from(tree.chain),
            miss: gate.unwrap_or(site.gate).miss_address(arena),
            hits_counter: self.options().count.then(|| counter(offset_of!(Counters, calls))),
            exits: tree.counts_exits.then(|| (counter(offset_of!(Counters, exits)), site.gate.slow(arena))),
            keeps_flags: site.kind.keeps_flags(),
        };
        let head = arena.take_in_column(site.gate.cell.column())?;
        let body_cells = (tree::body_size(&spec) / CELL) as u32;
        let body = if body_cells == 0 { head } else { arena.take_run(body_cells)? };
        // SAFETY: all these cells were taken just now.
        let head_buf = unsafe { arena.fresh(head, 1) };
        // SAFETY: likewise; there is nothing to write when there are none.
        let body_buf = if body_cells == 0 { &mut [] } else { unsafe { arena.fresh(body, body_cells as usize) } };
        arena.describe(head, 1, Shape::Flat, site.frame);
        arena.describe(body, body_cells.max(1), Shape::Flat, site.frame);
        tree::emit(&spec, head_buf, arena.address(head), body_buf, arena.address(body)).ok()?;
        Some((head, body))
    }

    /// A window of misses of a shared head is over, by a call that returns to `back`.
    #[inline(never)]
    pub fn head_missed(&mut self, index: u32, back: u64, now: u64) {
        let Some(&head) = self.head(index) else { return };
        let counter = &head.counters().misses;
        if counter.load(Ordering::Relaxed).cast_signed() > 0 {
            return;
        }
        counter.store(head.window, Ordering::Relaxed);
        if let Some(id) = self.linked_to(index, back) {
            self.while_busy(id, |engine| engine.charge(id, head.window, now));
        }
    }

    /// The site that is linked to a head and whose calls return to `back`.
    fn linked_to(&self, index: u32, back: u64) -> Option<u32> {
        let head = self.head(index)?;
        let is_it = |site: &Site| {
            // The broken variant that the tests must catch: anybody pays.
            let returns = site.field + 4 == back || broken!("charges-anybody");
            site.linked && site.head == index && returns
        };
        let group = self.groups.get(usize::from(head.arena))?.as_ref()?;
        let ids = Cell::gates_of(head.cell.column()).map(|cell| gate::number_in(&group.arena, cell));
        ids.into_iter().find(|&id| self.sites.as_slice().get(id as usize).is_some_and(is_it))
    }

    fn charge(&mut self, id: u32, misses: u32, now: u64) {
        self.calibrate();
        if self.mend_if_astray(id) {
            return;
        }
        let Some(site) = self.sites.get_mut(id as usize).filter(|site| !site.gone && site.state.has_tree()) else {
            return;
        };
        site.missed += u64::from(misses);
        self.decide(id, Event::MissWindow { misses }, now);
        crate::report::site(self, id);
    }

    /// Lets the misses of a site's head be counted in windows of `window`. False where it has none but its
    /// own.
    pub fn count_misses_of_head(&mut self, site: &Site, window: u32) -> bool {
        let Some(head) = self.heads.get_mut(site.head as usize).filter(|_| site.linked) else { return false };
        head.window = window.max(1);
        head.counters().misses.store(head.window, Ordering::Relaxed);
        true
    }

    /// The cell of the head that a site with this tree runs, and the cell at which the tree goes on.
    pub fn parts(&self, site: &Site, tree: &Tree) -> (Cell, Cell) {
        match self.head(site.head) {
            Some(head) if site.linked => (head.cell, head.body),
            _ if site.linked && tree.linked != NONE => (Cell(tree.linked), Cell(tree.linked_body)),
            _ => (tree.head, Cell(tree.settling.0 + 1)),
        }
    }

    /// The gate whose miss gate the tree leaves by that the site is stuck with. `None` when that is another
    /// site's, stuck there too, for good.
    pub fn misses_by(&mut self, id: u32, site: &Site) -> Option<Gate> {
        let Some(head) = self.heads.get_mut(site.head as usize) else { return Some(site.gate) };
        if head.taker == NONE {
            head.taker = id;
        }
        (head.taker == id).then_some(head.gate)
    }

    /// Lets a head that sites were stuck with count what it misses again.
    pub fn free_head(&mut self, site: &Site) {
        let Some(&head) = self.head(site.head) else { return };
        if let Some(arena) = self.arena(site) {
            head.gate.point_misses_to(arena, head.gate.counting(arena));
        }
        if let Some(head) = self.heads.get_mut(site.head as usize) {
            head.taker = NONE;
        }
    }

    /// Whether so many sites are left alone that each of them feels the others.
    pub fn is_crowd(&mut self) -> bool {
        !self.options().no_link && self.share.header().sites_retpolined >= CROWD
    }

    /// A site that is left alone is called often: it is linked to its column's copy of the thunk.
    #[inline(never)]
    pub fn join_the_crowd(&mut self, id: u32, now: u64) {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return };
        let window = site.misses.saturating_mul(2);
        if !site.alone && window <= ALONE_MAX && !self.policy.may_link(now) {
            if let Some(site) = self.sites.get_mut(id as usize) {
                site.misses = window;
                site.counters().misses.store(window, Ordering::Relaxed);
            }
            return;
        }
        let _ = self.link_to_thunk(id);
        self.publish_thunk(id);
    }

    /// The cell of the copy of the thunk in the site's column.
    #[inline(never)]
    pub fn column_thunk(&self, site: &Site) -> Option<Cell> {
        // Each computed goto would need one that unwinds as its function does.
        if site.frame != Frame::NONE {
            return None;
        }
        let column = site.gate.cell.column();
        let group = self.groups.get(usize::from(site.arena))?.as_ref()?;
        if group.has_thunk(column) {
            return Some(Cell::of_thunk(column));
        }
        let cell = group.arena.take_thunk(column)?;
        let body = site.gate.thunk(&group.arena, site.thunk);
        gate::write_thunk(&group.arena, cell, &body).ok()?;
        group.set_thunk(column);
        Some(cell)
    }
}
