//! How a run ends that could not go on.

use std::sync::Arc;

/// Why a run was ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TrapKind {
    /// Memory that the run may not touch, or not write.
    #[error("{} of {size} bytes at {address:#x} is out of bounds", if *.write { "write" } else { "read" })]
    OutOfBounds {
        /// First byte.
        address: u64,
        /// Bytes.
        size: u32,
        /// Whether it was a write (atomics are).
        write: bool,
    },
    /// An atomic operation on an address that is not a multiple of its size.
    #[error("atomic access at {address:#x} is not aligned")]
    Misaligned {
        /// First byte.
        address: u64,
    },
    /// The instruction budget is used up.
    #[error("the instruction budget is used up")]
    Budget,
    /// A helper was given a map handle that is none, or one of another kind.
    #[error("{value:#x} is not a map of the kind that the helper needs")]
    NotAMap {
        /// What the program passed.
        value: u64,
    },
    /// A call by register to what is neither a function of the program nor a helper.
    #[error("{value:#x} is neither a function nor a helper")]
    NotAFunction {
        /// What the register held.
        value: u64,
    },
    /// Calls by register nest too deep.
    #[error("calls by register are nested deeper than {limit}", limit = crate::check::MAX_BY_REGISTER)]
    NestedCalls,
    /// A helper refused its arguments.
    #[error("a helper refused its arguments")]
    Refused,
    /// A helper was called, or a program begun, that needs a context of another kind than the run's:
    /// `xdp_md`, or `__sk_buff`.
    #[error("it needs a context of another kind than this run has")]
    WrongContext,
    /// What the kernel's types, or its functions, do not have was needed (a CO-RE relocation, a weak
    /// external).
    #[error("it needs a type, member or function that the given kernel does not have")]
    Unresolved,
    /// A helper panicked. (Where the host is built with `panic = "abort"`, the process ends instead.)
    #[error("a helper panicked")]
    Panicked,
    /// There is no memory for what a helper copies.
    #[error("there is no memory for what a helper copies")]
    NoMemory,
    /// More threads use per-CPU maps than there are slots: see [`crate::slots`].
    #[error("more threads use per-CPU maps than there are slots")]
    NoSlot,
    /// A helper ran a program whose helper ran a program, and so on, for ever perhaps.
    #[error("runs are nested deeper than {limit}", limit = crate::stack::NESTED)]
    TooDeep,
    /// A tail call passed its open bypass and found no target: the poke protocol was broken.
    #[error("a tail call lost its target between its two patch sites")]
    LostTarget,
}

/// A run that could not go on: where, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("program {program}, instruction {instruction}: {kind}")]
pub struct Trap {
    /// Name of the program that was running, which after tail calls need not be the one that was started.
    pub program: Arc<str>,
    /// Slot of the instruction.
    pub instruction: u32,
    /// Why.
    pub kind: TrapKind,
}
