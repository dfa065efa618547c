//! What is remembered of a table, and of the trees it was given.

use super::contest::Contest;
use relpoline_core::arch::Reg;
use relpoline_core::policy::SiteState;
use relpoline_text::arena::Counters;
use relpoline_text::cells::Cell;
use relpoline_text::gate::Gate;

/// No index.
pub const NONE: u32 = u32::MAX;
/// No ring.
pub const NO_RING: u16 = u16::MAX;

/// A table of a dynamic call.
#[derive(Clone, Copy)]
pub struct Table {
    /// Address of its gate in the module's text.
    pub text_gate: u64,
    /// Address of its [`Counters`].
    pub counters: u64,
    /// Its gate word's cell.
    pub gate: Gate,
    /// What the policy remembers.
    pub state: SiteState,
    /// The tree in place, or the one from before learning again.
    pub tree: u32,
    /// The tree that lost the last contest, or is in one.
    pub rejected: u32,
    /// Its last tree that was built: the head of the list through [`Tree::older`].
    pub newest_tree: u32,
    /// The cell of its recording stub.
    pub recording: u32,
    /// Calls in the current learning window.
    pub window: u32,
    /// The countdowns that are running, as they were started.
    pub misses: u32,
    /// See `misses`.
    pub exits: u32,
    /// Times it went back to learning.
    pub relearned: u32,
    /// Times its gate was re-pointed.
    pub patches: u32,
    /// Misses counted so far, the running window left out.
    pub missed: u64,
    /// The ring it records into, or [`NO_RING`].
    pub ring: u16,
    /// Its arena.
    pub group: u8,
    /// The register that holds the target.
    pub reg: Reg,
    /// A tree and the plain jump are taking turns.
    pub contest: Option<Contest>,
    /// Trees go in place without a contest.
    pub unchallenged: bool,
    /// Trees count their calls.
    pub counted: bool,
    /// Its targets were given, not learned.
    pub pinned: bool,
    /// Its text gate names its tree's head.
    pub linked: bool,
    /// Its text gate falls through to the jump through the register.
    pub resting: bool,
    /// Its module was unloaded.
    pub gone: bool,
}

impl Table {
    /// What its generated code counts.
    pub fn counters(&self) -> &'static Counters {
        // SAFETY: in the counters of its arena, which are never unmapped.
        unsafe { &*(self.counters as *const Counters) }
    }

    /// Address of the text gate's displacement to the arena.
    pub fn field(&self) -> u64 {
        self.text_gate + 1
    }

    /// Where the text gate jumps through the register.
    pub fn plain_at(&self) -> u64 {
        self.text_gate + 5
    }
}

/// A tree that was built. Trees stay for ever, so that an equal one can be used again.
#[derive(Clone, Copy)]
pub struct Tree {
    /// What it does, as a number.
    pub fingerprint: u64,
    /// The cell of its head.
    pub head: Cell,
    /// The cell of its settling stub.
    pub settling: Cell,
    /// The table's tree before it.
    pub older: u32,
    /// Its targets: the first of them in the learner's list, and how many.
    pub first_target: u32,
    /// See `first_target`.
    pub targets: u16,
    /// Length of its chain.
    pub chain: u16,
}

/// The code that jumps through a register: what a tree leads to when no target matched.
pub struct PlainJump {
    bytes: [u8; 17],
    len: usize,
}

impl std::ops::Deref for PlainJump {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The jump through `reg`, as the text gate has it: see [`__jump_through`](crate::__jump_through).
pub fn plain_jump(reg: Reg) -> PlainJump {
    let mut bytes = [0xcc; 17];
    if cfg!(feature = "retpoline") {
        let (rex, modrm) = (0x48 | (u8::from(reg.is_extended()) << 2), 0x04 | (reg.low3() << 3));
        let head = [0xe8, 7, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, rex, 0x89, modrm, 0x24, 0xc3];
        return PlainJump { bytes: head, len: head.len() };
    }
    for (to, from) in bytes.iter_mut().zip([0x40 | u8::from(reg.is_extended()), 0xff, 0xe0 | reg.low3(), 0xcc]) {
        *to = from;
    }
    PlainJump { bytes, len: 4 }
}

#[cfg(test)]
mod tests {
    use super::plain_jump;
    use iced_x86::{Decoder, DecoderOptions, FlowControl};
    use relpoline_core::arch::Reg;

    /// With the feature `retpoline` there is no indirect jump, whatever the register; without it there is one.
    #[test]
    fn the_plain_jump_is_what_the_feature_says() {
        for reg in [7, 6, 2, 1, 8, 9, 11].into_iter().filter_map(Reg::new) {
            let code = plain_jump(reg);
            let flows: Vec<_> =
                Decoder::new(64, &code, DecoderOptions::NONE).iter().map(|i| i.flow_control()).collect();
            let indirect = flows.contains(&FlowControl::IndirectBranch);
            assert_eq!(indirect, !cfg!(feature = "retpoline"), "{flows:?}");
            assert!(indirect || flows.contains(&FlowControl::Return), "{flows:?}");
        }
    }
}
