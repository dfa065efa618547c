//! The state of one run: what interpreter and compiled code share.
//!
//! Compiled code keeps a pointer to it in a register and reads the fields up to `hits` at fixed offsets; the
//! rest is for the slow paths in Rust.
//!
//! # Bounds checks
//! An access of `size` bytes at `a` is allowed by a [`Window`] when `a - start < limit[size]` (unsigned),
//! with `limit[size] = len - size + 1`, or 0 when nothing of that size fits: one subtraction and one
//! comparison. There are two windows per direction: the first is the run's input, the second whatever else
//! was touched last. What neither allows, [`Run::check`] looks up among all regions of the run, and moves the
//! second window there.

use crate::check::MAX_BY_REGISTER;
use crate::frame::Frame;
use crate::op::Size;
use crate::packet::ContextKind;
use crate::redirect::Redirect;
use crate::region::Region;
use crate::runtime::Shared;
use crate::trap::TrapKind;
use std::cell::Cell;

/// A range of memory in the form that compiled code compares against.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// First byte.
    pub start: u64,
    /// By the logarithm of the access size: one more than the greatest offset allowed.
    pub limit: [u64; 4],
}

impl Window {
    /// The window of `len` bytes at `start`.
    pub fn new(start: u64, len: u64) -> Window {
        Window { start, limit: [1, 2, 4, 8].map(|size| (len + 1).saturating_sub(size)) }
    }

    fn allows(&self, address: u64, size: Size) -> bool {
        address.wrapping_sub(self.start) < self.limit[size as usize]
    }
}

/// How often a run may pass a `may_goto`, as in the kernel (`BPF_MAX_LOOPS`).
pub const PATIENCE: i64 = 8 << 20;

/// Buffers a run may have besides its input.
pub const BUFFERS: usize = 3;

/// See the module's text.
#[repr(C)]
pub struct Run {
    /// First and second window for reads (0, 2) and writes (1, 3).
    pub windows: [Window; 4],
    /// Stack pointer of the machine at the run's beginning, to return to from anywhere.
    pub native_stack: u64,
    /// One past the stack of programs.
    pub stack_end: u64,
    /// Instructions left. A cell, which is laid out like what is in it: helpers share the run.
    pub budget: Cell<i64>,
    /// What went wrong: see [`Run::fail`]; 0 while nothing did.
    pub failed: u32,
    /// Instruction, program, and helper that compiled code is about to leave itself at.
    pub instruction: u32,
    /// See `instruction`.
    pub program: u32,
    /// See `instruction`.
    pub helper: u32,
    /// Counters of programs' starts in this thread, by program number.
    pub hits: *mut u64,
    /// What a call by register is to call, if it is no function.
    pub callee: u64,
    /// How many more times `may_goto` goes on.
    pub patience: i64,
    /// Calls by register that are under way.
    pub nested: u32,
    /// The thread's slot of per-CPU maps, or [`crate::slot::UNKNOWN`].
    pub slot: u32,
    /// The context, by its kind ([`ContextKind`]), and 0 for the other kind.
    pub contexts: [u64; 2],
    /// Where the packet begins and ends, where there is a context.
    pub data: u64,
    /// See `data`.
    pub data_end: u64,

    /// The runtime.
    pub shared: *const Shared,
    /// First byte of the stack of programs.
    pub stack_start: u64,
    /// Further memory the run may touch.
    pub buffers: [Region; BUFFERS],
    /// The packet, for helpers that load from it.
    pub packet: Region,
    /// The same, and how far it may move, where there is a context.
    pub frame: Option<Frame>,
    /// Where the packet is to go, as helpers have it so far.
    pub redirect: Option<Redirect>,
    /// What the packet is to be put into, and the flags that say how.
    pub tunnel: Option<Tunnel>,
    /// The ring buffer that was used last.
    pub ring: u64,
    /// What went wrong.
    pub kind: Option<TrapKind>,
}

/// `struct bpf_tunnel_key` as a program has set it, and whether it is of IPv6, and the flags that tell of it.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// Its bytes.
    pub key: [u8; 44],
    /// Whether addresses are of IPv6.
    pub wide: bool,
    /// What `tunnel_flags` says.
    pub flags: u16,
}

/// What a function's number looks like in a register: its first slot, with an upper half that no address has.
pub const FUNCTION: u64 = 0xb9f0_66aa << 32;

impl Run {
    /// The context of that kind, or 0.
    pub fn context(&self, kind: ContextKind) -> u64 {
        self.contexts[kind as usize]
    }

    /// Begins a call by register, if there may be one more.
    pub fn nest(&mut self) -> bool {
        self.nested += 1;
        // The broken variant that the tests must catch: calls by register use up the stack.
        let too_deep = self.nested as usize > MAX_BY_REGISTER && !cfg!(relpoline_broken = "calls-nest-for-ever");
        !too_deep || self.fail(TrapKind::NestedCalls)
    }

    /// Whether the access is allowed; moves the second window there if so.
    pub fn allows(&mut self, address: u64, size: Size, write: bool) -> bool {
        let way = usize::from(write);
        self.windows[way].allows(address, size)
            || self.windows[way + 2].allows(address, size)
            || self.find(address, size.bytes() as u64, write).is_some_and(|region| {
                self.windows[way + 2] = Window::new(region.start, region.len);
                true
            })
    }

    /// The region in which `size` bytes at `address` lie.
    fn find(&self, address: u64, size: u64, write: bool) -> Option<Region> {
        let stack = Region { start: self.stack_start, len: self.stack_end - self.stack_start, writable: true };
        if stack.allows(address, size, write) {
            // Keys and the like mostly lie there.
            return Some(stack);
        }
        let input = Region { start: self.windows[0].start, len: self.windows[0].limit[0], writable: true };
        [input]
            .iter()
            .chain(&self.buffers)
            .find(|r| r.allows(address, size, write))
            .copied()
            // SAFETY: the runtime outlives its runs.
            .or_else(|| unsafe { &*self.shared }.regions.find(address, size, write))
    }

    /// Checks one access of an instruction, and notes what is wrong with it.
    pub fn check(&mut self, address: u64, size: Size, write: bool, aligned: bool) -> bool {
        if aligned && !address.is_multiple_of(size.bytes() as u64) {
            return self.fail(TrapKind::Misaligned { address });
        }
        self.allows(address, size, write)
            || self.fail(TrapKind::OutOfBounds { address, size: size.bytes() as u32, write })
    }

    /// `len` bytes at `address` for a helper to read.
    pub fn bytes(&self, address: u64, len: u64) -> Result<*const u8, TrapKind> {
        self.range(address, len, false).map(|p| p.cast_const())
    }

    /// `len` bytes at `address` for a helper to write.
    pub fn bytes_mut(&self, address: u64, len: u64) -> Result<*mut u8, TrapKind> {
        self.range(address, len, true)
    }

    /// The packet as it is now.
    pub fn packet_bytes(&self) -> Vec<u8> {
        let Region { start, len, .. } = self.packet;
        // SAFETY: the run's own packet.
        (0..len).map(|i| unsafe { ((start + i) as *const u8).read_volatile() }).collect()
    }

    fn range(&self, address: u64, len: u64, write: bool) -> Result<*mut u8, TrapKind> {
        let size = u32::try_from(len).unwrap_or(u32::MAX);
        match self.find(address, len, write) {
            Some(_) => Ok(address as *mut u8),
            None => Err(TrapKind::OutOfBounds { address, size, write }),
        }
    }

    /// Notes the reason why the run cannot go on. Always false.
    pub fn fail(&mut self, kind: TrapKind) -> bool {
        self.kind = Some(kind);
        self.failed = 1;
        false
    }

    /// Takes `cost` from the budget.
    ///
    /// # Errors
    /// It is used up.
    pub fn spend(&self, cost: i64) -> Result<(), TrapKind> {
        let left = self.budget.get().saturating_sub(cost);
        self.budget.set(left);
        if left >= 0 { Ok(()) } else { Err(TrapKind::Budget) }
    }

    /// Takes `cost` from the budget; false when it is used up.
    pub fn charge(&mut self, cost: i64) -> bool {
        self.spend(cost).is_ok() || self.fail(TrapKind::Budget)
    }
}
