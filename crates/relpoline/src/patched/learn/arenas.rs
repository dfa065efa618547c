//! Executable memory near each module that has tables, with its slow paths.

use relpoline_core::arch::Reg;
use relpoline_text::arena::Arena;
use relpoline_text::cells::CELL;
use relpoline_text::stub::{SLOW_CELLS, emit_slow};

/// Arenas there can be: modules farther than 2 GiB apart need one each.
pub const GROUPS: usize = 64;
/// Bytes around a gate that an arena must reach: more than any module's text.
const AROUND: u64 = 64 << 20;

/// An arena, and the slow path of each register in it.
pub struct Group {
    /// The arena.
    pub arena: Arena,
    slow: [u64; 16],
}

impl Group {
    fn create(near: u64) -> Option<Group> {
        let around = near.saturating_sub(AROUND)..near + AROUND;
        let arena = Arena::create(&around).or_else(|_| Arena::create(&(near..near + 1))).ok()?;
        Some(Group { arena, slow: [0; 16] })
    }

    /// Address of the slow path for targets in `reg`.
    pub fn slow_path(&mut self, reg: Reg) -> Option<u64> {
        let known = self.slow[usize::from(reg.number())];
        if known != 0 {
            return Some(known);
        }
        let cell = self.arena.take_run(SLOW_CELLS as u32)?;
        let at = self.arena.address(cell);
        // SAFETY: the cells were taken just now.
        let buf = unsafe { self.arena.fresh(cell, SLOW_CELLS) };
        debug_assert_eq!(buf.len(), SLOW_CELLS * CELL);
        emit_slow(buf, at, reg, super::judge::slow, false).ok()?;
        self.slow[usize::from(reg.number())] = at;
        Some(at)
    }
}

/// Index of an arena that reaches `address`: one that there is, or a new one.
pub fn near(groups: &mut Vec<Group>, address: u64) -> Option<usize> {
    if let Some(known) = groups.iter().position(|g| g.arena.reaches(address)) {
        return Some(known);
    }
    if groups.len() >= GROUPS {
        return None;
    }
    groups.push(Group::create(address)?);
    Some(groups.len() - 1)
}
