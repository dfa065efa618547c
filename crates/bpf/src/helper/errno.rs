//! Error numbers as programs see them: negative, in 64 bits.

const fn minus(number: i64) -> u64 {
    (-number).cast_unsigned()
}

pub const NO_ENTRY: u64 = minus(2);
pub const TOO_BIG: u64 = minus(7);
pub const AGAIN: u64 = minus(11);
pub const NO_MEMORY: u64 = minus(12);
pub const ACCESS: u64 = minus(13);
pub const FAULT: u64 = minus(14);
pub const INVALID: u64 = minus(22);
pub const NO_SPACE: u64 = minus(28);
pub const RANGE: u64 = minus(34);
pub const NO_SUCH_DEVICE: u64 = minus(19);
pub const PROTOCOL: u64 = minus(71);
pub const OPERATION: u64 = minus(95);
pub const FAMILY: u64 = minus(97);
/// The kernel's own `ENOTSUPP`.
pub const NOT_SUPPORTED: u64 = minus(524);
