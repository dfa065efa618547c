//! Building trees, and leading gates to them.

use super::judge::NEVER;
use super::table::{NO_RING, NONE, Table, Tree, plain_jump};
use super::{Learner, TABLES, TARGETS, TREES, arenas, is_sealed, shared};
use crate::UpdateError;
use crate::imp::text::Text;
use crate::table::DynamicCall;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use relpoline_core::arch::Reg;
use relpoline_core::arch::encode::rel32;
use relpoline_core::policy::{Counters as Start, Plan, Reason, SiteState};
use relpoline_core::trace;
use relpoline_core::tree::{self, CELL, Target, TreeSpec};
use relpoline_text::arena::{Arena, Counters};
use relpoline_text::cells::Cell;
use relpoline_text::gate::{Gate, GateSpec};
use relpoline_text::poke::{self, PokeError};
use relpoline_text::stub::{self, Recording};
use relpoline_text::sync;

const JMP: u8 = 0xe9;
/// A text gate that falls through to its own jump.
pub const TEST: u8 = 0xa9;

/// Leads a text gate, which jumps through the register as shipped, to its gate word at `gate`.
///
/// # Errors
/// The gate works as before then.
pub fn open_text_gate(text: &mut Text, text_gate: u64, gate: u64) -> Result<(), UpdateError> {
    let field = text_gate + 1;
    let rel = rel32(field + 4, gate).ok_or(UpdateError::TextRefused)?;
    // What is written is the operand of a `test` until the next change, so it does not matter who runs it.
    text.idle(field, &rel.to_le_bytes())?;
    text.fence()?;
    // SAFETY: text of the module that is being registered.
    unsafe { text.byte(text_gate, TEST, JMP) }
}

impl Learner {
    /// Makes a place for a table: the address of its gate word. `None` when there is no room for it.
    ///
    /// A library that comes back to where it was gets the place that it had. (Other places are not given anew: a
    /// forked child may still have what was there, and runs this process' code until it gets some of its own.)
    pub fn admit(&mut self, call: &DynamicCall, text_gate: u64) -> Option<u64> {
        let reg = Reg::new(call.register())?;
        // Two gates in one place, which only a linker can make, would share everything: the second does without.
        if self.tables.iter().any(|table| table.text_gate == text_gate && !table.gone) {
            return None;
        }
        let old = self.tables.iter().position(|table| table.text_gate == text_gate && table.reg == reg);
        if let Some(id) = old.filter(|_| !cfg!(relpoline_broken = "forgets-records")) {
            return self.readmit(call, id as u32);
        }
        if self.tables.len() >= TABLES {
            return None;
        }
        let index = arenas::near(&mut self.arenas, text_gate)?;
        let group = self.arenas.get_mut(index)?;
        let slow_at = group.slow_path(reg)?;
        let counters = group.arena.take_counters()?;
        let (_, end) = group.arena.link_banks(text_gate + 5);
        let cell = group.arena.take_gate(end)?;
        let id = self.tables.len() as u32;
        let spec = GateSpec {
            site: id,
            counters,
            thunk: &plain_jump(reg),
            thunk_at: text_gate + 5,
            slow_at,
            counting: None,
            is_frameless: true,
        };
        let gate = Gate::build(&group.arena, cell, &spec).ok()?;
        let at = gate.address(&group.arena);
        let table = Table {
            text_gate,
            counters,
            gate,
            state: SiteState::new(),
            tree: NONE,
            rejected: NONE,
            newest_tree: NONE,
            recording: NONE,
            window: 0,
            misses: 0,
            exits: 0,
            relearned: 0,
            patches: 0,
            missed: 0,
            ring: NO_RING,
            group: index as u8,
            reg,
            contest: None,
            unchallenged: false,
            counted: false,
            pinned: false,
            linked: false,
            resting: false,
            gone: false,
        };
        table.counters().cursor.store(self.rings.idle(), Ordering::Relaxed);
        self.tables.push(table);
        call.place(id);
        self.start_counting(id);
        Some(at)
    }

    /// Gives a table to the call that is in its place now, whose text is as it was shipped.
    fn readmit(&mut self, call: &DynamicCall, id: u32) -> Option<u64> {
        let table = self.tables.get_mut(id as usize)?;
        (table.gone, table.linked, table.resting) = (false, false, false);
        (table.unchallenged, table.counted) = (false, false);
        (table.tree, table.relearned, table.patches, table.missed) = (NONE, 0, 0, 0);
        table.counters().calls.store(0, Ordering::Relaxed);
        let table = *table;
        call.place(id);
        self.start_counting(id);
        self.arena(&table).map(|arena| table.gate.address(arena))
    }

    /// Lets a table begin anew: it counts its calls until there are enough.
    pub fn start_counting(&mut self, id: u32) {
        let calls = self.policy.config.cold_calls;
        let Some(table) = self.tables.get_mut(id as usize) else { return };
        table.state = SiteState::new();
        table.misses = calls;
        table.pinned = false;
        table.contest = None;
        table.rejected = NONE;
        table.counters().misses.store(calls, Ordering::Relaxed);
        self.stop_recording(id);
        self.unlink(id);
        self.publish_counting(id);
    }

    fn arena(&self, table: &Table) -> Option<&Arena> {
        self.arenas.get(usize::from(table.group)).map(|group| &group.arena)
    }

    /// Ends a table's recording and gives its ring back.
    pub fn stop_recording(&mut self, id: u32) {
        let Some(table) = self.tables.get_mut(id as usize) else { return };
        if table.ring != NO_RING {
            table.counters().cursor.store(self.rings.idle(), Ordering::Relaxed);
            self.rings.give_back(table.ring);
            table.ring = NO_RING;
        }
    }

    /// Points the table at its recording stub, with a fresh ring.
    pub fn learn(&mut self, id: u32, window: u32) -> Result<(), Reason> {
        let Some(&before) = self.tables.get(id as usize) else { return Ok(()) };
        if before.recording == NONE {
            let cell = self.build_recording(&before).ok_or(Reason::ArenaFull)?;
            if let Some(table) = self.tables.get_mut(id as usize) {
                table.recording = cell.0;
            }
        }
        let ring = self.rings.lend().ok_or(Reason::BudgetSpent)?;
        before.counters().cursor.store(self.rings.address(ring), Ordering::Relaxed);
        self.unlink(id);
        if let Some(table) = self.tables.get_mut(id as usize) {
            table.relearned += u32::from(table.tree != NONE);
            table.ring = ring;
            table.window = window;
            let table = *table;
            let at = self.arena(&table).map(|arena| arena.address(Cell(table.recording)));
            self.publish(id, at);
        }
        Ok(())
    }

    fn build_recording(&self, table: &Table) -> Option<Cell> {
        let arena = self.arena(table)?;
        let cell = arena.take_run(1)?;
        let to = Recording {
            reg: table.reg,
            counters: table.counters,
            thunk_at: table.plain_at(),
            slow_at: table.gate.slow(arena),
            keeps_flags: false,
        };
        // SAFETY: the cell was taken just now.
        let buf = unsafe { arena.fresh(cell, 1) };
        stub::emit_recording(buf, arena.address(cell), &to).ok()?;
        Some(cell)
    }

    /// The tree for the policy's plan: an equal one from before, or a new one.
    pub fn tree_for_plan(&mut self, id: u32) -> Result<u32, Reason> {
        let plan: &Plan = self.policy.plan();
        let (chain, exits) = (plan.chain(), plan.count_exits());
        let first = self.targets.len();
        let targets = plan.targets();
        if first + targets.len() > TARGETS {
            return Err(Reason::ArenaFull);
        }
        self.targets.extend_from_slice(targets);
        self.tree_for(id, first, chain, exits)
    }

    /// The tree for targets that are given, hottest first.
    pub fn tree_for_given(&mut self, id: u32, targets: &[*const ()]) -> Result<u32, Reason> {
        let first = self.targets.len();
        if first + targets.len() > TARGETS {
            return Err(Reason::ArenaFull);
        }
        let share = trace::ONE / targets.len().max(1) as u32;
        self.targets.extend(targets.iter().map(|&t| Target { address: t as u64, share }));
        self.tree_for(id, first, 4, false)
    }

    /// The tree for the targets from `first` on, which end the list; they leave it again if there is an equal
    /// tree already.
    fn tree_for(&mut self, id: u32, first: usize, chain: usize, exits: bool) -> Result<u32, Reason> {
        let Some(&table) = self.tables.get(id as usize) else { return Err(Reason::ArenaFull) };
        let arena = self.arena(&table).ok_or(Reason::ArenaFull)?;
        let counter = |offset: usize| table.counters + offset as u64;
        let targets = self.targets.get(first..).unwrap_or_default();
        let spec = TreeSpec {
            reg: table.reg,
            targets,
            chain,
            miss: table.gate.miss_address(arena),
            hits_counter: table.counted.then(|| counter(offset_of!(Counters, calls))),
            exits: exits.then(|| (counter(offset_of!(Counters, exits)), table.gate.slow(arena))),
            keeps_flags: false,
        };
        let fingerprint = tree::fingerprint(&spec) ^ u64::from(exits) ^ (u64::from(table.counted) << 1);
        if let Some(found) = self.find_tree(&table, fingerprint) {
            self.remember_shares(found, first);
            self.targets.truncate(first);
            return Ok(found);
        }
        if self.trees.len() >= TREES {
            return Err(Reason::ArenaFull);
        }
        let (head, settling) = build(arena, &table, &spec)?;
        let tree = Tree {
            fingerprint,
            head,
            settling,
            older: table.newest_tree,
            first_target: first as u32,
            targets: targets.len() as u16,
            chain: chain as u16,
        };
        let index = self.trees.len() as u32;
        self.trees.push(tree);
        if let Some(table) = self.tables.get_mut(id as usize) {
            table.newest_tree = index;
        }
        Ok(index)
    }

    fn find_tree(&self, table: &Table, fingerprint: u64) -> Option<u32> {
        let mut at = table.newest_tree;
        while let Some(tree) = self.trees.get(at as usize) {
            if tree.fingerprint == fingerprint {
                return Some(at);
            }
            at = tree.older;
        }
        None
    }

    /// The shares of an equal tree are those of the targets that found it, from `first` on.
    fn remember_shares(&mut self, tree: u32, first: usize) {
        let Some(tree) = self.trees.get(tree as usize) else { return };
        let (old, new) = self.targets.split_at_mut(first);
        let start = tree.first_target as usize;
        if let Some(old) = old.get_mut(start..start + usize::from(tree.targets))
            && old.len() == new.len()
        {
            old.copy_from_slice(new);
        }
    }

    /// Lets the table's gate word lead to `to`.
    fn publish(&mut self, id: u32, to: Option<u64>) {
        let Some(table) = self.tables.get_mut(id as usize) else { return };
        table.patches += 1;
        let table = *table;
        if let (Some(arena), Some(to)) = (self.arena(&table), to) {
            table.gate.point_to(arena, to);
        }
        self.wake(id);
    }

    /// Lets the table count its calls down.
    pub fn publish_counting(&mut self, id: u32) {
        let Some(&table) = self.tables.get(id as usize) else { return };
        let at = self.arena(&table).map(|arena| table.gate.counting(arena));
        self.publish(id, at);
    }

    /// Leaves the table to the pointer.
    pub fn publish_plain(&mut self, id: u32) {
        let Some(table) = self.tables.get_mut(id as usize) else { return };
        table.patches += 1;
        let table = *table;
        if let Some(arena) = self.arena(&table) {
            table.gate.point_to_thunk(arena, &plain_jump(table.reg));
        }
        self.rest(id);
    }

    /// Lets the text gate fall through to its own jump through the register, where the gate word leads too: a
    /// call that is left alone should not take the way through the arena. When that is refused it does.
    fn rest(&mut self, id: u32) {
        self.set_resting(id, true);
    }

    /// Lets the text gate lead to the gate word again. When that is refused the table stays as it is.
    fn wake(&mut self, id: u32) {
        self.set_resting(id, false);
    }

    /// Ends whatever is under way at a table: it keeps its tree, if it has one in place.
    pub fn leave_as_it_is(&mut self, id: u32) {
        let Some(&table) = self.tables.get(id as usize) else { return };
        let keeps = table.pinned || (table.state.has_tree() && table.contest.is_none());
        if !keeps {
            self.bar(id, Reason::Disabled);
        } else if !table.linked {
            self.publish_head(id);
        }
        let counters = table.counters();
        for counter in [&counters.misses, &counters.exits, &counters.settle] {
            counter.store(NEVER, Ordering::Relaxed);
        }
    }

    fn set_resting(&mut self, id: u32, resting: bool) {
        let Some(table) = self.tables.get_mut(id as usize) else { return };
        if table.resting == resting || table.gone || is_sealed() {
            return;
        }
        let (old, new) = if resting { (JMP, TEST) } else { (TEST, JMP) };
        let Some(shared) = shared() else { return };
        if poke::poke_byte(&shared.lock, sync::thread(), table.text_gate, old, new).is_ok() {
            table.resting = resting;
        }
    }

    /// Lets the gate word lead to a cell.
    pub fn publish_cell(&mut self, id: u32, cell: Cell) {
        let Some(&table) = self.tables.get(id as usize) else { return };
        let at = self.arena(&table).map(|arena| arena.address(cell));
        self.publish(id, at);
    }

    /// Puts a tree in place, with its countdowns.
    pub fn publish_tree(&mut self, id: u32, tree: u32, start: Start) {
        let Some(&Tree { head, settling, .. }) = self.trees.get(tree as usize) else { return };
        let Some(table) = self.tables.get_mut(id as usize) else { return };
        table.tree = tree;
        table.misses = start.misses;
        table.exits = start.exits;
        let table = *table;
        let counters = table.counters();
        let running = |n: u32| if n == 0 { NEVER } else { n };
        counters.misses.store(running(start.misses), Ordering::Relaxed);
        counters.exits.store(running(start.exits), Ordering::Relaxed);
        counters.settle.store(running(start.settle), Ordering::Relaxed);
        self.publish_cell(id, if start.settle == 0 { head } else { settling });
    }

    /// Lets the gate word lead straight to the tree.
    pub fn publish_head(&mut self, id: u32) {
        let Some(&table) = self.tables.get(id as usize) else { return };
        let Some(&tree) = self.trees.get(table.tree as usize) else { return };
        self.publish_cell(id, tree.head);
    }

    /// Lets the text gate lead to the tree, past the gate word, by one byte.
    pub fn link(&mut self, id: u32) -> Result<(), Reason> {
        self.publish_head(id);
        let Some(&table) = self.tables.get(id as usize) else { return Ok(()) };
        if table.linked || table.gone || is_sealed() {
            return Err(Reason::Promoted);
        }
        let to = self.way_to_tree(&table).ok_or(Reason::Promoted)?;
        lead(&table, to).map_err(|_| Reason::Promoted)?;
        if let Some(table) = self.tables.get_mut(id as usize) {
            table.linked = true;
            table.patches += 1;
        }
        Ok(())
    }

    /// The displacement to the tree. `None` when it differs from that to the gate word in more than a byte, or not at all.
    fn way_to_tree(&self, table: &Table) -> Option<[u8; 4]> {
        let arena = self.arena(table)?;
        let head = self.trees.get(table.tree as usize)?.head;
        let (gate, tree) = (way(table, table.gate.address(arena)), way(table, arena.address(head)));
        (poke::same_column(gate, tree) && gate != tree).then_some(tree)
    }

    /// Leads a linked text gate back to its gate word. When that is refused the table keeps its tree: calls
    /// stay right, through the tree's misses.
    pub fn unlink(&mut self, id: u32) {
        let Some(&table) = self.tables.get(id as usize) else { return };
        if !table.linked || table.gone {
            return;
        }
        let gate = self.arena(&table).map(|arena| way(&table, table.gate.address(arena)));
        let undone = gate.is_some_and(|gate| lead(&table, gate).is_ok());
        if let Some(table) = self.tables.get_mut(id as usize) {
            table.linked = !undone;
            table.patches += 1;
        }
    }
}

/// The displacement by which a text gate leads to `to`.
fn way(table: &Table, to: u64) -> [u8; 4] {
    (to.wrapping_sub(table.field() + 4) as u32).to_le_bytes()
}

/// Lets a text gate's displacement be `to`.
fn lead(table: &Table, to: [u8; 4]) -> Result<(), PokeError> {
    let shared = shared().ok_or(PokeError::Overtaken)?;
    poke::link(&shared.lock, sync::thread(), table.field(), to, None)
}

/// Builds a tree in fresh cells: its head in the column of the gate word, so that it can be linked.
fn build(arena: &Arena, table: &Table, spec: &TreeSpec<'_>) -> Result<(Cell, Cell), Reason> {
    let (banks, end) = arena.link_banks(table.field() + 4);
    let head = arena.take_in_column(table.gate.cell.column(), banks, end).or_else(|| arena.take_run(1));
    let head = head.ok_or(Reason::ArenaFull)?;
    let body_cells = (tree::body_size(spec) / CELL) as u32;
    let rest = arena.take_run(body_cells + 1).ok_or(Reason::ArenaFull)?;
    let (settling, body) = (rest, Cell(rest.0 + 1));
    // SAFETY: all these cells were taken just now.
    let (head_buf, settling_buf, body_buf) =
        unsafe { (arena.fresh(head, 1), arena.fresh(settling, 1), arena.fresh(body, body_cells as usize)) };
    tree::emit(spec, head_buf, arena.address(head), body_buf, arena.address(body)).map_err(|_| Reason::OutOfRange)?;
    stub::emit_settling(
        settling_buf,
        arena.address(settling),
        table.counters,
        table.gate.slow(arena),
        arena.address(head),
        false,
    )
    .map_err(|_| Reason::OutOfRange)?;
    Ok((head, settling))
}
