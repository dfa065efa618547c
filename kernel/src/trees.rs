// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Tree slots.
//!
//! ```text
//! +0    cmp $T1, %reg; je T1; …; jmp miss      up to four targets in 64 bytes, from core's tree emitter
//! +64   miss: incl misses of this processor; jmp thunk
//! +96   counted: incq calls of this processor; jmp +0
//! ```
//!
//! A site leads to +0, or to +96 while calls are counted. Kernel addresses fit a sign-extended immediate, so
//! what is compared stands in the code, as the thread on the relpolines asked for. What is written has no
//! reader: slots are free ones. The assembler laid out all but the tree itself and the last jump of the miss
//! stub, so that objtool gave every byte of it unwind data; a tree does not touch the stack, and so takes
//! that of its place.

use relpoline_core::arch::Reg;
use relpoline_core::arch::encode::{Code, CodeError, INT3};
use relpoline_core::tree::{self, CELL, Target, TreeSpec};

use crate::layout::{COUNTED, MISS, MISS_JUMP, TARGETS, TREE, TREES};
use crate::machine::Machine;
use crate::slots::Slots;

/// What stands in a slot.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    /// Its targets in the order of comparing, with their shares.
    targets: [Target; TARGETS],
    len: u8,
    /// Equal for equal trees.
    pub fingerprint: u64,
    /// Readings of its counters when calls were last added up.
    pub calls: u64,
    /// Likewise.
    pub misses: u32,
}

impl Tree {
    const NONE: Tree =
        Tree { targets: [Target { address: 0, share: 0 }; TARGETS], len: 0, fingerprint: 0, calls: 0, misses: 0 };

    /// Its targets.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        self.targets.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// All slots.
#[derive(Debug)]
pub struct Trees {
    /// Address of the first.
    at: u64,
    trees: [Tree; TREES],
    /// Which are in use.
    pub slots: Slots<TREES>,
}

impl Trees {
    /// None in use.
    #[must_use]
    pub const fn new() -> Trees {
        Trees { at: 0, trees: [Tree::NONE; TREES], slots: Slots::new() }
    }

    /// Where the slots are.
    pub fn locate(&mut self, at: u64) {
        self.at = at;
    }

    /// The tree in slot `i`.
    #[must_use]
    pub fn get(&self, i: u16) -> Option<&Tree> {
        self.trees.get(usize::from(i))
    }

    /// The tree in slot `i`, to be changed.
    #[must_use]
    pub fn get_mut(&mut self, i: u16) -> Option<&mut Tree> {
        self.trees.get_mut(usize::from(i))
    }

    /// Where a site of this tree leads.
    #[must_use]
    pub const fn entry(&self, i: u16, counting: bool) -> u64 {
        self.at + i as u64 * TREE + if counting { COUNTED } else { 0 }
    }

    /// Whether `address` lies in a slot.
    #[must_use]
    pub const fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.at) < TREES as u64 * TREE
    }

    /// Builds the tree for `targets` in a free slot. `None` when there is no free slot, or a target is out of
    /// reach.
    pub fn build(&mut self, machine: &mut impl Machine, reg: Reg, thunk: u64, targets: &[Target]) -> Option<u16> {
        let slot = self.slots.take()?;
        match self.write(machine, slot, reg, thunk, targets) {
            Ok(()) => Some(slot as u16),
            Err(_) => {
                self.slots.leave(slot);
                None
            }
        }
    }

    fn write(
        &mut self,
        machine: &mut impl Machine,
        slot: usize,
        reg: Reg,
        thunk: u64,
        targets: &[Target],
    ) -> Result<(), CodeError> {
        let at = self.entry(slot as u16, false);
        let targets = targets.get(..TARGETS).unwrap_or(targets);
        // The kernel's jumps are tail calls: what has computed gotos is barred. So no flag is live where a
        // tree runs.
        let spec = TreeSpec {
            reg,
            targets,
            chain: TARGETS,
            miss: at + MISS,
            hits_counter: None,
            exits: None,
            keeps_flags: false,
        };
        let mut code = [INT3; CELL];
        // Without a body: a chain of four immediates fits the head. If it did not, the empty body would
        // overflow.
        tree::emit(&spec, &mut code, at, &mut [], 0)?;
        let mut jump = [INT3; 6];
        let mut miss = Code::new(&mut jump, at + MISS_JUMP);
        miss.jmp(thunk);
        miss.finish()?;
        machine.write(at, &code);
        machine.write(at + MISS_JUMP, &jump);
        if let Some(tree) = self.trees.get_mut(slot) {
            *tree = Tree { fingerprint: tree::fingerprint(&spec), ..Tree::NONE };
            for (to, from) in tree.targets.iter_mut().zip(targets) {
                *to = *from;
                tree.len += 1;
            }
            (tree.calls, tree.misses) = (machine.calls(slot), machine.misses(slot));
        }
        Ok(())
    }

    /// What [`Tree::fingerprint`] of a tree for `targets` is.
    #[must_use]
    pub fn fingerprint(reg: Reg, targets: &[Target]) -> u64 {
        let targets = targets.get(..TARGETS).unwrap_or(targets);
        tree::fingerprint(&TreeSpec {
            reg,
            targets,
            chain: TARGETS,
            miss: 0,
            hits_counter: None,
            exits: None,
            keeps_flags: false,
        })
    }
}

impl Default for Trees {
    fn default() -> Trees {
        Trees::new()
    }
}
