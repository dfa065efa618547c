//! Memory through which a call passes on its way from one target to another.
//!
//! A call's four displacement bytes are changed one at a time ([`super::callers`]), so in between it leads to
//! addresses that are made of bytes of both. Here is something at those addresses: *islands*, five bytes `jmp
//! gate` each, in windows that are mapped where nothing else is, a multiple of 16 MiB from the program's
//! text.
//!
//! An island is written once, where nothing was written before, and stays for as long as its window. Windows
//! are private and anonymous, so that a forked child has its own; they are readable and executable from the
//! first moment, never writable, and written the way text is.

use super::text::Text;
use core::ffi::c_void;
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Bytes of a window, which lies at a multiple of them.
const WINDOW: u64 = 256 << 10;
/// Windows there can be.
const WINDOWS: usize = 128;
/// Bytes of the longest island.
pub const LONGEST: usize = 14;
/// The first byte of an island that jumps.
pub const JMP: u8 = 0xe9;
/// The first bytes of one that jumps through the address behind it.
pub const JMP_THROUGH: [u8; 2] = [0xff, 0x25];

/// The windows of this process.
pub struct Mirror {
    windows: [u64; WINDOWS],
    count: usize,
}

impl Mirror {
    /// None yet.
    pub const fn new() -> Mirror {
        Mirror { windows: [0; WINDOWS], count: 0 }
    }

    fn windows(&self) -> &[u64] {
        self.windows.get(..self.count).unwrap_or_default()
    }

    /// Lets the window around `at` be mapped. `None` when something else is there, or there are too many.
    fn window(&mut self, at: u64) -> Option<()> {
        let start = at & !(WINDOW - 1);
        if self.windows().contains(&start) {
            return Some(());
        }
        if self.count == WINDOWS || start == 0 || start >= 1 << 47 {
            return None;
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        let wanted = start as *mut c_void;
        // SAFETY: nothing is replaced; a kernel that does not know the flag takes the address for a wish, and
        // the mapping is given back when it was not granted.
        unsafe {
            let got =
                rustix::mm::mmap_anonymous(wanted, WINDOW as usize, ProtFlags::READ | ProtFlags::EXEC, flags).ok()?;
            if got != wanted {
                let _ = rustix::mm::munmap(got, WINDOW as usize);
                return None;
            }
            let _ = rustix::mm::madvise(got, WINDOW as usize, Advice::LinuxNoHugepage);
        }
        if let Some(entry) = self.windows.get_mut(self.count) {
            *entry = start;
            self.count += 1;
        }
        Some(())
    }

    /// Lets `code`, an island of at most [`LONGEST`] bytes that begins with one of those two, be at `at`. It
    /// may be there already. `None` when something else is there, or has to do with those bytes.
    pub fn put(&mut self, text: &mut Text, at: u64, code: &[u8]) -> Option<()> {
        let before = LONGEST as u64 - 1;
        let first = at.checked_sub(before)?;
        self.window(first)?;
        self.window(at + code.len() as u64)?;
        // SAFETY: both ends are in windows, which lie side by side if they are two; only this code writes
        // there, under the lock.
        let seen = unsafe { core::slice::from_raw_parts(first as *const u8, before as usize + code.len()) };
        let (earlier, here) = seen.split_at(before as usize);
        if here == code {
            return Some(());
        }
        // Free: no byte was written, and no island that begins earlier can reach here. A displacement may end
        // in zeros.
        let is_zero = here.iter().all(|&byte| byte == 0);
        let reached = earlier.iter().rev().take(4).any(|&byte| byte == JMP)
            || earlier.windows(2).any(|bytes| bytes == JMP_THROUGH)
            || earlier.last() == JMP_THROUGH.first();
        if !is_zero || reached {
            return None;
        }
        // SAFETY: in a window of this mirror, where nothing was written before; nobody is led there yet.
        unsafe { text.idle(at, code) }.ok()
    }

    /// Unmaps all windows.
    ///
    /// # Safety
    /// No call may lead there, and nobody be in an island.
    pub unsafe fn give_back(&mut self) {
        for &start in self.windows() {
            // SAFETY: mapped by `window`; nobody needs it any more, says the caller.
            let _ = unsafe { rustix::mm::munmap(start as *mut c_void, WINDOW as usize) };
        }
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Islands lie where they were asked for, are found again, and never touch each other.
    #[test]
    fn islands_are_written_once_and_never_touched() {
        let (mut mirror, mut text) = (Mirror::new(), Text::default());
        // Somewhere free, which the kernel knows.
        // SAFETY: a fresh mapping, which is given back at once.
        let near = unsafe {
            let at = rustix::mm::mmap_anonymous(
                core::ptr::null_mut(),
                4 * WINDOW as usize,
                ProtFlags::READ,
                MapFlags::PRIVATE,
            )
            .unwrap();
            rustix::mm::munmap(at, 4 * WINDOW as usize).unwrap();
            (at as u64 + WINDOW) & !(WINDOW - 1)
        };
        // Its displacement ends in zeros.
        let island = |n: u8| [JMP, n, 0, 0, 0];
        for edge in [0, 1000, WINDOW] {
            let at = near + edge;
            mirror.put(&mut text, at, &island(1)).expect("free");
            mirror.put(&mut text, at, &island(1)).expect("the same again");
            assert_eq!(mirror.put(&mut text, at, &island(2)), None, "another one in its place");
            for beside in 1..5 {
                assert_eq!(mirror.put(&mut text, at + beside, &island(2)), None, "{beside} behind its beginning");
                assert_eq!(mirror.put(&mut text, at - beside, &island(2)), None, "{beside} before it");
            }
            mirror.put(&mut text, at + 16, &[&JMP_THROUGH[..], &[0; 12]].concat()).expect("behind it");
            assert_eq!(mirror.put(&mut text, at + 16 + 13, &island(3)), None, "in what it jumps through");
            mirror.put(&mut text, at + 16 + 14, &island(3)).expect("behind that");
            // SAFETY: written just now.
            assert_eq!(unsafe { (at as *const [u8; 5]).read() }, island(1));
        }
        assert_eq!(mirror.put(&mut text, mirror.windows.as_ptr() as u64, &island(1)), None, "the stack is no place");
        // SAFETY: nobody ever went there.
        unsafe { mirror.give_back() };
    }
}
