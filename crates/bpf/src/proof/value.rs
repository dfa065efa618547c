//! What a register, or a word of the stack, may hold.

use crate::op::Width;

/// Farther from the packet's beginning than this nothing is followed.
pub(super) const FAR: u64 = 1 << 20;

/// What a register or word may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value {
    Unknown,
    /// A number between these.
    Number {
        least: u64,
        most: u64,
    },
    /// The context's address, plus this.
    Context(i64),
    /// r10, plus this.
    Stack(i64),
    /// A base's address, plus this.
    Packet {
        base: u32,
        offset: i64,
    },
    /// One past the packet.
    End,
    /// A map's handle.
    Map(u32),
    /// An address inside `size` bytes of a map, from the first between these on.
    Inside {
        least: i64,
        most: i64,
        size: u64,
        writable: bool,
    },
    /// The first address of those, or null: what the call in slot `at` returned.
    Perhaps {
        size: u64,
        writable: bool,
        at: u32,
    },
}

pub(super) const ZERO: Value = Value::Number { least: 0, most: 0 };
pub(super) const MOST_32: u64 = u32::MAX as u64;

impl Value {
    pub(super) fn number(least: u64, most: u64) -> Value {
        if (least, most) == (0, u64::MAX) { Value::Unknown } else { Value::Number { least, most } }
    }

    pub(super) fn constant(self) -> Option<u64> {
        if let Value::Number { least, most } = self { (least == most).then_some(least) } else { None }
    }

    /// Between which numbers the low `width` is.
    pub(super) fn range(self, width: Width) -> (u64, u64) {
        match (self, width) {
            (Value::Number { least, most }, Width::W64) => (least, most),
            (Value::Number { least, most }, Width::W32) if most <= MOST_32 => (least, most),
            (_, Width::W32) => (0, MOST_32),
            (_, Width::W64) => (0, u64::MAX),
        }
    }
}
