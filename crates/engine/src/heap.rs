//! An arena between an executable and its heap.
//!
//! The break of a program that is not position-independent begins above it, at a random distance of up to 32
//! MB (1 GB since Linux 6.9), and grows until something is in its way (brk(2)). An arena has to lie within 2
//! GiB of the program, and below there is no room. Above the heap it would end it there; so it lies before
//! the heap. Where the distance is too small for it, the heap moves up, which looks like another distance.
//! That is only done before anybody has used the break, while the process has one thread.
//!
//! The kernel moves a break for whoever asks (`PR_SET_MM_MAP` of prctl(2)), if it is built for checkpoints,
//! as distributions' kernels are. Where it is not, and there is no room, the arena lies as far above as it
//! may.

use crate::engine::threads;
use crate::sandbox::{may_call, raw};
use core::ffi::{c_long, c_ulong};
use core::ops::Range;
use relpoline_text::arena::{ARENA_BYTES, Arena};
use relpoline_text::broken;
use rustix::fs::{Mode, OFlags};

const SYS_BRK: c_long = 12;
const SYS_PRCTL: c_long = 157;
const PR_SET_MM: c_ulong = 35;
const PR_SET_MM_MAP: c_ulong = 14;
const PAGE: u64 = relpoline_text::cells::PAGE as u64;
/// Arenas begin at its multiples.
const STEP: u64 = 1 << 22;
/// From the first byte of a program to the last one of an arena: what a direct branch reaches, less a margin.
const FARTHEST: u64 = (1 << 31) - STEP;

/// `struct prctl_mm_map`: where the parts of a program lie.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Layout {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    /// None: it stays as it is.
    auxv: u64,
    auxv_size: u32,
    /// None: likewise.
    exe_fd: u32,
}

impl Layout {
    /// This process', whose break is `brk`.
    fn own(brk: u64) -> Option<Layout> {
        let mut text = [0; 1024];
        let file = rustix::fs::open(c"/proc/self/stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let length = rustix::io::read(&file, &mut text).ok()?;
        Layout::parse(text.get(..length)?, brk)
    }

    /// What `/proc/PID/stat` says. Its fields are counted from 1; the second is a name in parentheses, which
    /// may hold some.
    fn parse(text: &[u8], brk: u64) -> Option<Layout> {
        let behind = text.iter().rposition(|&byte| byte == b')')?;
        let field = |number: usize| {
            let word = text.get(behind + 2..)?.split(|&byte| byte == b' ').nth(number - 3)?;
            core::str::from_utf8(word).ok()?.trim_end().parse::<u64>().ok()
        };
        Some(Layout {
            start_code: field(26)?,
            end_code: field(27)?,
            start_stack: field(28)?,
            start_data: field(45)?,
            end_data: field(46)?,
            start_brk: field(47)?,
            brk,
            arg_start: field(48)?,
            arg_end: field(49)?,
            env_start: field(50)?,
            env_end: field(51)?,
            auxv: 0,
            auxv_size: 0,
            exe_fd: u32::MAX,
        })
    }

    /// Where an arena can lie between a program at `span` and its heap, and the layout with a heap above
    /// that.
    fn with_room(&self, span: &Range<u64>) -> Option<(u64, Layout)> {
        let is_its_heap = span.contains(&self.start_code) && span.end <= self.start_brk;
        if self.brk != self.start_brk || !is_its_heap {
            return None;
        }
        let at = span.end.checked_next_multiple_of(STEP)?;
        let end = at.checked_add(ARENA_BYTES as u64)?;
        if end - span.start > FARTHEST {
            return None;
        }
        // As far behind what is before it as it was. The kernel maps what follows a break from the next page
        // on.
        let moved = end.checked_add(self.start_brk - span.end)?.checked_next_multiple_of(PAGE)?;
        let start_brk = if end <= self.start_brk { self.start_brk } else { moved };
        Some((at, Layout { start_brk, brk: start_brk, ..*self }))
    }
}

/// An arena between the executable at `span` and its heap. `None` where there is room below it, or no way.
pub fn arena_below(span: &Range<u64>) -> Option<Arena> {
    // The broken variant that the tests must catch: the heap ends at the arena.
    if span.start > ARENA_BYTES as u64 + STEP || broken!("heap-ends-early") || !may_call() || threads() != Some(1) {
        return None;
    }
    // SAFETY: asks for the break.
    let brk = unsafe { raw(SYS_BRK, [0; 6]) } as u64;
    let own = Layout::own(brk)?;
    let (at, moved) = own.with_room(span)?;
    let arena = Arena::create_at(at).ok()?;
    if own != moved {
        let layout = [PR_SET_MM, PR_SET_MM_MAP, &raw const moved as c_ulong, size_of::<Layout>() as c_ulong, 0, 0];
        // SAFETY: the kernel reads the structure. Nobody has used the break, and there is no other thread.
        if unsafe { raw(SYS_PRCTL, layout) } != 0 {
            // SAFETY: nobody knows of it.
            unsafe { arena.unmap() };
            return None;
        }
    }
    Some(arena)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_laid_out_as_the_kernel_says() {
        let own = Layout::own(7).unwrap();
        assert!(own.start_code < own.end_code && own.end_code <= own.start_data && own.start_data < own.end_data);
        assert!((own.start_code..own.end_code).contains(&(arena_below as *const () as u64)));
        assert!(own.end_data <= own.start_brk && own.arg_start < own.arg_end && own.env_start <= own.env_end);
        let here = 0u8;
        assert!(own.start_stack != 0 && (&raw const here as u64) != 0);
        assert_eq!((own.brk, own.exe_fd), (7, u32::MAX));
        let text = b"1 (a) b) S 2 3";
        assert_eq!(Layout::parse(text, 0), None);
    }

    #[test]
    fn a_heap_moves_only_while_it_is_empty_and_keeps_its_distance() {
        let span = 0x40_0000..0x40_4ff8;
        let own = Layout { start_code: 0x40_1000, start_brk: 0x140_6000, brk: 0x140_6000, ..Layout::default() };
        let (at, moved) = own.with_room(&span).unwrap();
        assert_eq!(at, 0x80_0000);
        assert_eq!(moved.start_brk, at + ARENA_BYTES as u64 + 0x100_2000);
        assert_eq!((moved.brk, moved.start_code), (moved.start_brk, own.start_code));
        // There is room: nothing moves.
        let far = Layout { start_brk: 0x800_0000, brk: 0x800_0000, ..own };
        assert_eq!(far.with_room(&span), Some((at, far)));
        assert_eq!(Layout { brk: 0x140_7000, ..own }.with_room(&span), None, "it is in use");
        assert_eq!(own.with_room(&(0x40_0000..0x7fff_0000)), None, "it is too large");
        assert_eq!(own.with_room(&(0x7000_0000..0x7000_1000)), None, "it is somebody else's");
    }
}
