//! What is remembered of a table, and of the trees it was given.

use super::contest::Contest;
use crate::imp::sites::Site;
use relpoline_core::arch::Reg;
use relpoline_core::tree::Target;
use relpoline_learn::Memory;
use relpoline_learn::trees::{self, List};
use relpoline_text::arena::Counters;
use relpoline_text::cells::Cell;
use relpoline_text::gate::Gate;

pub use relpoline_learn::trees::NONE;

/// A table of a dynamic call.
#[derive(Clone, Copy)]
pub struct Table {
    /// Address of its gate in the module's text.
    pub text_gate: u64,
    /// Its sites in that module, while it is loaded.
    pub own: &'static [Site],
    /// Address of its [`Counters`].
    pub counters: u64,
    /// Its gate word's cell.
    pub gate: Gate,
    /// What the learner remembers.
    pub memory: Memory,
    /// The tree in place, or the one from before learning again.
    pub tree: u32,
    /// The tree that lost the last contest, or is in one.
    pub rejected: u32,
    /// Its last tree that was built: the head of the list through [`trees::Tree::older`].
    pub newest_tree: u32,
    /// The cell of its recording stub.
    pub recording: u32,
    /// Times its gate was re-pointed.
    pub patches: u32,
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

/// Where a tree's code lies.
#[derive(Clone, Copy)]
pub struct Code {
    /// The cell of its head.
    pub head: Cell,
    /// The cell of its settling stub.
    pub settling: Cell,
    /// Calls to none of its targets leave by the table's miss gate; else straight for the counting stub.
    pub by_miss_gate: bool,
}

/// All trees.
pub type Trees = trees::Trees<Fixed<trees::Tree<Code>>, Fixed<Target>>;

/// A list that has its final capacity from the start: it never moves, and nothing is allocated.
pub struct Fixed<T>(Vec<T>);

impl<T> Fixed<T> {
    /// An empty one.
    pub fn with_capacity(capacity: usize) -> Fixed<T> {
        Fixed(Vec::with_capacity(capacity))
    }
}

impl<T: Copy> List<T> for Fixed<T> {
    fn as_slice(&self) -> &[T] {
        &self.0
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.0
    }

    fn extend(&mut self, values: &[T]) -> Option<usize> {
        let first = self.0.len();
        if values.len() > self.0.capacity() - first {
            return None;
        }
        self.0.extend_from_slice(values);
        Some(first)
    }
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

    /// With the feature `retpoline` there is no indirect jump, whatever the register; without it there is
    /// one.
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
