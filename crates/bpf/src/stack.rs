//! What a thread keeps for its runs: the stack of programs and counters.
//!
//! The stack is sized so that no run can leave it: a program's functions nest at most
//! [`MAX_FRAMES`] deep, a tail call replaces the frame of its function, and there are at most
//! [`LIMIT`] tail calls. Nothing needs to be checked while running.
//!
//! It is not cleared between runs of the same runtime; before another runtime's programs use it, it is, so
//! runtimes do not see each other's data.

use crate::check::{FRAME, MAX_BY_REGISTER, MAX_FRAMES};
use crate::trap::TrapKind;
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::cell::Cell;

/// Most tail calls in one run; the next one falls through (the kernel's `MAX_TAIL_CALL_CNT`).
pub const LIMIT: u32 = 33;

/// Bytes of stack.
pub const BYTES: usize = (LIMIT as usize + 1 + MAX_BY_REGISTER) * MAX_FRAMES * FRAME;

/// One thread's stack of programs.
#[repr(C, align(64))]
pub struct Stack {
    bytes: [u8; BYTES],
}

/// A stack and who used it last.
pub struct Scratch {
    stack: Box<Stack>,
    user: u64,
}

thread_local! {
    static IDLE: Cell<Option<Scratch>> = const { Cell::new(None) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Runs that may be nested in one thread, helpers running programs: each takes some of the thread's own
/// stack.
pub const NESTED: u32 = 32;

/// A zeroed stack, which never lies on the thread's own: that may be small.
fn zeroed() -> Box<Stack> {
    let layout = Layout::new::<Stack>();
    // SAFETY: the layout has a size; all zero is a valid stack; a box of it is freed with the same layout.
    unsafe {
        let new = alloc_zeroed(layout);
        if new.is_null() {
            handle_alloc_error(layout)
        }
        Box::from_raw(new.cast())
    }
}

/// A stack taken for a run, given back when dropped. Runs that nest in one thread have one each.
pub struct Taken(Option<Scratch>);

impl Taken {
    /// The stack for a run of the runtime numbered `user`.
    ///
    /// # Errors
    /// Too many runs are nested.
    pub fn take(user: u64) -> Result<Taken, TrapKind> {
        if DEPTH.get() >= NESTED && !cfg!(relpoline_broken = "runs-nest-for-ever") {
            return Err(TrapKind::TooDeep);
        }
        // A thread that ends may run programs in destructors, when this is gone.
        let idle = IDLE.try_with(Cell::take).ok().flatten();
        let mut scratch = idle.unwrap_or_else(|| Scratch { stack: zeroed(), user });
        DEPTH.set(DEPTH.get() + 1);
        if scratch.user != user {
            scratch.stack.bytes.fill(0);
            scratch.user = user;
        }
        Ok(Taken(Some(scratch)))
    }

    /// First byte and one past the last.
    pub fn bounds(&mut self) -> (u64, u64) {
        let start = self.0.as_mut().map_or(0, |s| s.stack.bytes.as_mut_ptr() as u64);
        (start, start + BYTES as u64)
    }

    /// Clears it, so that a run does not depend on earlier ones.
    pub fn clear(&mut self) {
        if let Some(scratch) = &mut self.0 {
            scratch.stack.bytes.fill(0);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        let mut scratch = self.0.take();
        let _ = IDLE.try_with(|idle| idle.set(scratch.take()));
    }
}
