//! A table, in the hands of who holds the lock: building trees, and leading gates to them.

use super::contest::Contest;
use super::table::{Code, NONE, Table, Trees, plain_jump};
use super::{is_sealed, shared};
use crate::UpdateError;
use crate::imp::keys;
use crate::imp::sites::{Kind, Site as Crossing};
use crate::imp::text::Text;
use core::mem::offset_of;
use relpoline_core::arch::encode::rel32;
use relpoline_core::policy::{Counters as Start, Current, Plan, Reason};
use relpoline_core::tree::{self, CELL, Target, TreeSpec};
use relpoline_learn::{Memory, Site, To, Unlinked};
use relpoline_text::arena::{Arena, Counters};
use relpoline_text::cells::Cell;
use relpoline_text::poke::{self, PokeError};
use relpoline_text::stub::{self, Recording};
use relpoline_text::sync;

const JMP: u8 = 0xe9;
/// A text gate that falls through to its own jump.
pub const TEST: u8 = 0xa9;

/// The branches in front of a table's calls, of its sites `own`.
pub fn plain_sites(own: &[Crossing]) -> impl Iterator<Item = &Crossing> + Clone {
    own.iter().filter(|site| site.kind() == Some(Kind::Plain))
}

/// Leads a text gate, which jumps through the register as shipped, to its gate word at `gate`.
///
/// # Errors
/// The gate works as before then.
pub fn open_text_gate(text: &mut Text, text_gate: u64, gate: u64) -> Result<(), UpdateError> {
    let field = text_gate + 1;
    let rel = rel32(field + 4, gate).ok_or(UpdateError::TextRefused)?;
    // What is written is the operand of a `test` until the next change, so it does not matter who runs it.
    // SAFETY: text of the module that is being registered; nothing reads that operand.
    unsafe { text.idle(field, &rel.to_le_bytes())? };
    text.fence()?;
    // SAFETY: text of the module that is being registered.
    unsafe { text.byte(text_gate, TEST, JMP) }
}

/// See the module's text.
pub struct Hand<'a> {
    /// The table.
    pub table: &'a mut Table,
    /// Its arena.
    pub arena: &'a Arena,
    /// All trees.
    pub trees: &'a mut Trees,
}

impl Hand<'_> {
    /// Whether its module was unloaded.
    pub fn is_gone(&self) -> bool {
        self.table.gone
    }

    /// Whether it may be given another chance.
    pub fn is_free(&self) -> bool {
        !self.table.gone && self.table.contest.is_none()
    }

    /// Where its gate word is, now that its trees' misses are counted again.
    pub fn reset(&self) -> u64 {
        self.table.gate.point_misses_to(self.arena, self.table.gate.counting(self.arena));
        self.table.gate.address(self.arena)
    }

    fn tree(&self, n: u32) -> Option<Code> {
        self.trees.get(n).map(|tree| tree.code)
    }

    /// The way to a cell of a tree: behind itself, where a tree leaves by the miss gate, it would go round
    /// and round. Then what is missed is counted.
    fn way_to(&self, code: Code, cell: Cell) -> u64 {
        let round = self.table.memory.stuck && code.by_miss_gate;
        if round { self.table.gate.counting(self.arena) } else { self.arena.address(cell) }
    }

    /// Lets its calls go to a tree that is not in place, counted.
    pub fn lead_to_settling(&mut self, tree: u32) {
        if let Some(code) = self.tree(tree) {
            self.publish(self.way_to(code, code.settling));
        }
    }

    /// Lets its gate lead to `to`; when it is stuck, its tree's misses.
    fn publish(&mut self, to: u64) {
        self.table.patches += 1;
        if self.table.memory.stuck {
            self.table.gate.point_misses_to(self.arena, to);
        } else {
            self.table.gate.point_to(self.arena, to);
            self.set_resting(false);
        }
    }

    /// Leaves it to the pointer: its text gate falls through to its own jump through the register, where the
    /// gate word leads too. A call that is left alone should not take the way through the arena; when that is
    /// refused it does.
    fn publish_plain(&mut self) {
        if self.table.memory.stuck {
            return self.publish(self.table.plain_at());
        }
        self.table.patches += 1;
        self.table.gate.point_to_thunk(self.arena, &plain_jump(self.table.reg));
        self.set_resting(true);
    }

    /// Lets the text gate fall through, or lead to the gate word again. When that is refused it stays as it
    /// is.
    fn set_resting(&mut self, resting: bool) {
        if self.table.resting == resting || self.table.gone || is_sealed() {
            return;
        }
        let (old, new) = if resting { (JMP, TEST) } else { (TEST, JMP) };
        let Some(shared) = shared() else { return };
        if poke::poke_byte(&shared.lock, sync::thread(), self.table.text_gate, old, new).is_ok() {
            self.table.resting = resting;
            // One that cannot be changed goes to the gate, or makes plain calls: right either way.
            let form = if resting { keys::Form::FallingThrough } else { keys::Form::Jumping };
            // The broken variant that the tests must catch: calls that are to learn again go on plainly.
            if cfg!(relpoline_broken = "stays-plain") && !resting {
                return;
            }
            let sites = plain_sites(self.table.own).map(|site| site.code);
            let _ = poke::poke_bytes(&shared.lock, sync::thread(), sites, |opcode| keys::opcode_in(opcode, form));
        }
    }

    /// The tree for those targets: an equal one from before, or a new one.
    pub fn tree_for(&mut self, targets: &[Target], chain: usize, exits: bool) -> Result<u32, Reason> {
        let (table, arena) = (&*self.table, self.arena);
        let (gate, by_miss_gate) = (table.gate, !table.memory.stuck);
        let counter = |offset: usize| table.counters + offset as u64;
        let spec = TreeSpec {
            reg: table.reg,
            targets,
            chain,
            miss: if by_miss_gate { gate.miss_address(arena) } else { gate.counting(arena) },
            hits_counter: table.counted.then(|| counter(offset_of!(Counters, calls))),
            exits: exits.then(|| (counter(offset_of!(Counters, exits)), gate.slow(arena))),
            keeps_flags: false,
        };
        let flags = u64::from(exits) | u64::from(table.counted) << 1 | u64::from(!by_miss_gate) << 2;
        let fingerprint = tree::fingerprint(&spec) ^ flags;
        if let Some(found) = self.trees.find(table.newest_tree, fingerprint, targets) {
            return Ok(found);
        }
        let code = |spec: &TreeSpec<'_>| {
            build(arena, table, spec).map(|(head, settling)| Code { head, settling, by_miss_gate })
        };
        let tree = self.trees.add(table.newest_tree, fingerprint, &spec, code)?;
        self.table.newest_tree = tree;
        Ok(tree)
    }

    fn build_recording(&self) -> Option<Cell> {
        let cell = self.arena.take_run(1)?;
        let to = Recording {
            reg: self.table.reg,
            counters: self.table.counters,
            thunk_at: self.table.plain_at(),
            slow_at: self.table.gate.slow(self.arena),
            keeps_flags: false,
        };
        // SAFETY: the cell was taken just now.
        let buf = unsafe { self.arena.fresh(cell, 1) };
        stub::emit_recording(buf, self.arena.address(cell), &to).ok()?;
        Some(cell)
    }

    /// The displacement by which the text gate leads to `to`.
    fn way(&self, to: u64) -> [u8; 4] {
        (to.wrapping_sub(self.table.field() + 4) as u32).to_le_bytes()
    }

    /// The displacement to the tree. `None` when it differs from that to the gate word in more than a byte,
    /// or not at all; or when the tree was built behind another one, so that nothing could be put behind
    /// this.
    fn way_to_tree(&self) -> Option<[u8; 4]> {
        let head = self.tree(self.table.tree).filter(|code| code.by_miss_gate)?.head;
        let (gate, tree) = (self.way(self.table.gate.address(self.arena)), self.way(self.arena.address(head)));
        (poke::same_column(gate, tree) && gate != tree).then_some(tree)
    }

    /// Lets the text gate's displacement be `to`.
    fn set_way(&self, to: [u8; 4]) -> Result<(), PokeError> {
        let shared = shared().ok_or(PokeError::Overtaken)?;
        poke::link(&shared.lock, sync::thread(), self.table.field(), to, None)
    }
}

impl Site for Hand<'_> {
    type Tree = u32;

    fn memory(&self) -> &Memory {
        &self.table.memory
    }

    fn memory_mut(&mut self) -> &mut Memory {
        &mut self.table.memory
    }

    fn counters(&self) -> &Counters {
        self.table.counters()
    }

    fn reaches(&self, target: u64) -> bool {
        self.arena.reaches(target)
    }

    fn standing(&self) -> Option<Current<'_>> {
        self.trees.standing(self.table.tree)
    }

    fn prepare_to_record(&mut self) -> Result<(), Reason> {
        if self.table.recording == NONE {
            self.table.recording = self.build_recording().ok_or(Reason::ArenaFull)?.0;
        }
        Ok(())
    }

    fn build(&mut self, plan: &Plan) -> Result<u32, Reason> {
        self.tree_for(plan.targets(), plan.chain(), plan.count_exits())
    }

    /// A tree that is behind another one would be timed for what that one misses only.
    fn admits(&mut self, tree: &u32, start: Start, now: u64) -> bool {
        let at_once = self.table.unchallenged || self.table.memory.stuck;
        if !at_once {
            Contest::begin(self, *tree, start, now);
        }
        at_once
    }

    fn adopt(&mut self, tree: u32) {
        self.table.tree = tree;
    }

    fn lead(&mut self, to: To) {
        match (to, self.tree(self.table.tree)) {
            (To::Counting, _) => self.publish(self.table.gate.counting(self.arena)),
            (To::Recording, _) => self.publish(self.arena.address(Cell(self.table.recording))),
            (To::Settling, Some(code)) => self.publish(self.way_to(code, code.settling)),
            (To::Head, Some(code)) => self.publish(self.way_to(code, code.head)),
            (To::Settling | To::Head, None) => {}
            (To::Thunk, _) => self.publish_plain(),
        }
    }

    fn count_misses(&mut self, counted: bool) {
        let counting = counted || self.table.counted;
        let way = if counting { self.table.gate.counting(self.arena) } else { self.table.plain_at() };
        self.table.gate.point_misses_to(self.arena, way);
    }

    /// Lets the text gate lead to the tree, past the gate word, by one byte.
    fn link(&mut self) -> Result<(), Reason> {
        self.lead(To::Head);
        if self.table.memory.linked || self.table.gone || is_sealed() {
            return Err(Reason::Promoted);
        }
        let to = self.way_to_tree().ok_or(Reason::Promoted)?;
        self.set_way(to).map_err(|_| Reason::Promoted)?;
        self.table.memory.linked = true;
        self.table.patches += 1;
        Ok(())
    }

    /// Leads the text gate back to its gate word. When that is refused the table keeps its tree: calls stay
    /// right, through the tree's misses. It is tried again the next time.
    fn unlink(&mut self) -> Unlinked {
        if self.table.gone {
            return Unlinked::Later;
        }
        match self.set_way(self.way(self.table.gate.address(self.arena))) {
            // Text that leads elsewhere is not ours any more.
            Ok(()) | Err(PokeError::Unexpected) => {
                self.table.patches += 1;
                self.reset();
                Unlinked::Done
            }
            Err(PokeError::NoMem | PokeError::Refused) => Unlinked::Stuck,
            Err(PokeError::Overtaken | PokeError::NotHere) => Unlinked::Later,
        }
    }
}

/// Builds a tree in fresh cells: its head in the column of the gate word, so that it can be linked.
fn build(arena: &Arena, table: &Table, spec: &TreeSpec<'_>) -> Result<(Cell, Cell), Reason> {
    let head = arena.take_in_column(table.gate.cell.column()).or_else(|| arena.take_run(1));
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
