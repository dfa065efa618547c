// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What is known of a site.

use relpoline_core::arch::Reg;
use relpoline_core::policy::{Phase, Reason, SiteState};

/// For "no tree", "no recording stub".
pub const NONE: u16 = u16::MAX;

/// What kind of branch a site is. Its number is its opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// `call thunk`.
    Call = 0xe8,
    /// `jmp thunk`: a tail call.
    Jump = 0xe9,
}

/// A branch of kernel text that names a thunk.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Its opcode byte (after a `cs` prefix).
    pub address: u64,
    /// Whether a `cs` prefix stands before the opcode.
    pub is_padded: bool,
    /// Call or jump.
    pub kind: Kind,
    /// The register that holds the target.
    pub reg: Reg,
    /// Its thunk: where it leads by itself.
    pub thunk: u64,
    /// Where it leads now.
    pub to: u64,
    /// Where it shall lead. The two differ until the change has been made, which may have to wait for a
    /// kprobe.
    pub want: u64,
    /// Whose text it stands in: 0 for the kernel.
    pub owner: u64,
    /// The policy's memory.
    pub state: SiteState,
    /// Its tree, in place or kept while it learns.
    pub tree: u16,
    /// A tree that it leaves with the next change.
    pub old_tree: u16,
    /// Its recording stub while it learns.
    pub recorder: u16,
    /// What `awaited` is counted from: a reading of its counter.
    pub reading: u32,
    /// Calls or misses until the policy wants to hear of them; records, while it learns.
    pub awaited: u32,
    /// Reading of its counting stub when calls were last added up.
    pub cold_reading: u32,
    /// When it began to learn.
    pub learns_since: u64,
    /// Trees that were put in place.
    pub promotions: u32,
    /// Learnings that began from a tree.
    pub relearned: u32,
    /// Since counting began: calls through trees, those that missed, and calls seen elsewhere.
    pub counts: Counts,
    /// The hottest target of the tree before, and whether it was ever another: what a change of traffic shows
    /// by.
    pub before: u64,
    /// Whether its counting stub has been written.
    pub has_stub: bool,
    /// Whether its text has gone with its module.
    pub gone: bool,
}

/// Calls, by what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Counts {
    /// Entered a tree.
    pub calls: u64,
    /// Left a tree by its end.
    pub misses: u64,
    /// Went through a counting stub, a recording stub, or the bare thunk.
    pub plain: u64,
}

impl Site {
    /// A site that leads to its thunk and is not known any better.
    #[must_use]
    pub const fn new(address: u64, kind: Kind, reg: Reg, thunk: u64, owner: u64) -> Site {
        Site {
            address,
            is_padded: false,
            kind,
            reg,
            thunk,
            to: thunk,
            want: thunk,
            owner,
            state: SiteState::new(),
            tree: NONE,
            old_tree: NONE,
            recorder: NONE,
            reading: 0,
            awaited: 0,
            cold_reading: 0,
            learns_since: 0,
            promotions: 0,
            relearned: 0,
            counts: Counts { calls: 0, misses: 0, plain: 0 },
            before: 0,
            has_stub: false,
            gone: false,
        }
    }

    /// The same, with a `cs` prefix or without.
    #[must_use]
    pub const fn padded(self, is_padded: bool) -> Site {
        Site { is_padded, ..self }
    }

    /// The same, left alone for good.
    #[must_use]
    pub const fn barred(self, reason: Reason) -> Site {
        Site { state: SiteState::barred(reason), ..self }
    }

    /// Whether a change of it waits to be made.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        self.to != self.want && !self.gone
    }

    /// Whether it is left alone for good.
    #[must_use]
    pub fn is_barred(&self) -> bool {
        self.state.phase() == Phase::Barred
    }

    /// Its five bytes when it leads to `to`.
    #[must_use]
    pub fn bytes(&self, to: u64) -> [u8; 5] {
        // All kernel text lies within two gigabytes: the displacement is the low half of the distance.
        let rel = (to.wrapping_sub(self.address.wrapping_add(5)) as u32).to_le_bytes();
        [self.kind as u8, rel[0], rel[1], rel[2], rel[3]]
    }
}
