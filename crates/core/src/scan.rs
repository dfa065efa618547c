//! Which bytes of a text section are sites, and may each of them be re-pointed.
//!
//! Three steps, each usable by itself and none allocating:
//!
//! 1. [`thunk::find`](crate::arch::thunk::find) finds the thunks by their bytes.
//! 2. [`Sites`] finds every direct call and jump to one of them. Candidates are found by their opcode's first byte and
//!    a displacement that names a thunk to the byte; each is then held against the instruction boundaries of its
//!    function, read from the function's start. What does not stand on a boundary is refused, with a reason.
//! 3. [`Gotos`] tells tail calls from computed gotos among the jumps, and refuses the gotos at whose labels
//!    a status flag may be live: a branch tree changes the flags.
//!
//! Where functions start and end is asked of [`Functions`]. [`EhFrameHdr`] answers from the unwind tables,
//! which even stripped programs carry; a sorted slice of [`Function`]s answers from anything else.

mod flags;
mod frames;
// The kernel's sites are calls and tail calls; what tells them from computed gotos stays out of the module.
#[cfg(not(relpoline_kernel))]
mod gotos;
mod sites;
mod sources;

pub use frames::EhFrameHdr;
#[cfg(not(relpoline_kernel))]
pub use gotos::{Gotos, Object, Verdicts};
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
    /// Whether it is a part of another function, such as gcc's cold parts: it is entered by jumps, with
    /// the frame set up, and so its first byte is a label rather than an entry. `false` means unknown.
    pub is_part: bool,
}

impl Function {
    /// The range from `start` up to `end`, as a function by itself.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Function {
        Function { start, end, is_part: false }
    }

    /// Whether `address` is a place in it that no call leads to.
    #[must_use]
    pub const fn is_interior(&self, address: u64) -> bool {
        self.contains(address) && (self.is_part || address != self.start)
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
    /// It is a computed goto, and at this label a status flag may be read before all are written.
    FlagsLive {
        /// The label's address.
        label: u64,
    },
    /// It may be a computed goto, and code in its function takes a label's address: labels reached by
    /// adding an offset to it cannot be enumerated.
    LabelTaken {
        /// The label's address.
        label: u64,
    },
    /// The register it jumps through was computed by an addition, as tables of relative offsets do: where
    /// it may go cannot be enumerated.
    ComputedTarget,
    /// There are more labels than the scratch memory holds.
    TooManyLabels,
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Refusal::NoFunction => f.write_str("no unwind entry or symbol says which function it belongs to"),
            Refusal::NotBoundary => f.write_str("it does not start where an instruction starts"),
            Refusal::Unreadable => f.write_str("an instruction before it in its function is not known"),
            Refusal::Prefix => f.write_str("it has a prefix that changes its meaning on some processors"),
            Refusal::CutOff => f.write_str("its function ends in the middle of it"),
            Refusal::FlagsLive { label } => {
                write!(f, "it is a computed goto, and the status flags may be live at its label {label:#x}")
            }
            Refusal::LabelTaken { label } => {
                write!(
                    f,
                    "its function takes the address of the label {label:#x} in code, so its labels cannot all be known"
                )
            }
            Refusal::ComputedTarget => {
                f.write_str("its target is computed from an offset, so its labels cannot be known")
            }
            Refusal::TooManyLabels => f.write_str("the object holds more labels than there is room to check"),
        }
    }
}
