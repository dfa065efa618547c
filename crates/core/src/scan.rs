//! Which bytes of a text section are sites, and may each of them be re-pointed.
//!
//! Two steps, each usable by itself and none allocating:
//!
//! 1. [`thunk::find`](crate::arch::thunk::find) finds the thunks by their bytes.
//! 2. [`Sites`] finds every direct call and jump to one of them. Candidates are found by their opcode's first
//!    byte and a displacement that names a thunk to the byte; each is then held against the instruction
//!    boundaries of its function, read from the function's start. What does not stand on a boundary is
//!    refused, with a reason.
//!
//! Whether a jump is a tail call or a computed goto nobody needs to know: what is put between a jump and its
//! target keeps all flags, see [`crate::arch::keep`].
//!
//! Where functions start and end is asked of [`Functions`]. [`EhFrameHdr`] answers from the unwind tables,
//! which even stripped programs carry; a sorted slice of [`Function`]s answers from anything else.

mod frames;
mod sites;

pub use frames::{EhFrameHdr, Frame, ROW_REGISTERS, Row, each_frame};
pub use sites::{Refused, Site, SiteKind, Sites};

/// Bytes and the address at which they are (or will be) mapped.
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    /// The address of the first byte.
    pub address: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl<'a> Region<'a> {
    /// The bytes from `address` on, or `None` when it lies outside. The end itself counts as inside.
    #[must_use]
    pub fn from(&self, address: u64) -> Option<&'a [u8]> {
        let offset = usize::try_from(address.checked_sub(self.address)?).ok()?;
        self.bytes.get(offset..)
    }

    /// Whether `address` is that of one of the bytes.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.address) < self.bytes.len() as u64
    }
}

/// A function's range of addresses, as unwind tables or symbols give it. gcc's cold parts count as
/// functions of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its first byte.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
}

impl Function {
    /// The range from `start` up to `end`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Function {
        Function { start, end }
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub const fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }
}

/// Knows which function an address lies in.
pub trait Functions {
    /// The function that holds `address`, or `None` where none is known.
    fn containing(&self, address: u64) -> Option<Function>;
}

impl<T: Functions + ?Sized> Functions for &T {
    fn containing(&self, address: u64) -> Option<Function> {
        (**self).containing(address)
    }
}

/// Functions sorted by their start, without overlaps.
impl Functions for [Function] {
    fn containing(&self, address: u64) -> Option<Function> {
        let before = self.partition_point(|function| function.start <= address);
        let function = *self.get(before.checked_sub(1)?)?;
        function.contains(address).then_some(function)
    }
}

/// Why a branch to a thunk is left as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No unwind entry or symbol covers it, so instruction boundaries cannot be known.
    NoFunction,
    /// The bytes look like a branch to a thunk, but no instruction starts there.
    NotBoundary,
    /// An instruction before it in the same function is not known.
    Unreadable,
    /// It carries a prefix other than the `cs` that compilers pad with.
    Prefix,
    /// Its bytes go on after its function's end.
    CutOff,
    /// It is a jump to a thunk that begins with no call, so no word below the stack is known to be free.
    PlainThunk,
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Refusal::NoFunction => f.write_str("no unwind entry or symbol says which function it belongs to"),
            Refusal::NotBoundary => f.write_str("it does not start where an instruction starts"),
            Refusal::Unreadable => f.write_str("an instruction before it in its function is not known"),
            Refusal::Prefix => f.write_str("it has a prefix that changes its meaning on some processors"),
            Refusal::CutOff => f.write_str("its function ends in the middle of it"),
            Refusal::PlainThunk => f.write_str("it jumps to a thunk that begins with no call"),
        }
    }
}
