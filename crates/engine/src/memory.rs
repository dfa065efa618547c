//! Memory of the engine's own, and how to look at memory that may not be there. The former is private:
//! reserved address space that is populated page by page as it is used.

use crate::sandbox::raw;
use core::ffi::{c_long, c_ulong, c_void};
use core::sync::atomic::{AtomicU64, Ordering};
use relpoline_text::broken;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

const PAGE: u64 = relpoline_text::cells::PAGE as u64;

/// Reserves `bytes` of zeroes at an address of the kernel's choice; `None` when it is refused.
///
/// Huge pages are declined: tables are sparse, and zeroing two megabytes for a few records would be the
/// largest part of a short program's start. Debuggers need none of it: it would be the largest part of a
/// core, too.
///
/// What is reserved lies below what was reserved before, if there is room. Then it is one mapping to the
/// kernel, which copies each for every forked child.
#[must_use]
pub fn reserve(bytes: usize) -> Option<*mut u8> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    let below = LAST.load(Ordering::Relaxed).saturating_sub((bytes as u64).next_multiple_of(PAGE)) as *mut c_void;
    // SAFETY: a fresh mapping; the advices concern it alone, and a kernel without huge pages refuses the
    // first.
    unsafe {
        let start = rustix::mm::mmap_anonymous(below, bytes, prot, flags).ok()?;
        LAST.store(start as u64, Ordering::Relaxed);
        let _ = rustix::mm::madvise(start, bytes, Advice::LinuxNoHugepage);
        keep_out_of_cores(start, bytes);
        Some(start.cast())
    }
}

/// Likewise, for what nobody needs any more once the look is over for which it was written: forked children
/// find zeroes in it, and nothing is copied for them. (A kernel that cannot do that copies.)
#[must_use]
pub fn reserve_scratch(bytes: usize) -> Option<*mut u8> {
    let start = reserve(bytes)?;
    // SAFETY: memory of our own.
    let _ = unsafe { rustix::mm::madvise(start.cast(), bytes, Advice::LinuxWipeOnFork) };
    Some(start)
}

/// Leaves memory of ours out of core dumps. In the broken variant that the tests must catch it is in them.
///
/// # Safety
/// The range must be ours.
pub unsafe fn keep_out_of_cores(start: *mut c_void, bytes: usize) {
    if !broken!("dumped") {
        // SAFETY: passed on to the caller; no content changes. Without the advice cores are larger.
        let _ = unsafe { rustix::mm::madvise(start, bytes, Advice::LinuxDontDump) };
    }
}

/// Whether the page of the byte at `at` can be read.
#[must_use]
pub fn is_readable(at: u64) -> bool {
    const SYS_RT_SIGPROCMASK: c_long = 14;
    const NO_SUCH_WAY: c_ulong = 99;
    const EFAULT: c_long = -14;
    let page = at & !(PAGE - 1);
    // It reads the mask before it looks what it is for, and changes nothing.
    // SAFETY: the kernel reads eight bytes, or cannot.
    page != 0 && unsafe { raw(SYS_RT_SIGPROCMASK, [NO_SUCH_WAY, page, 0, 8, 0, 0]) } != EFAULT
}

/// Reads this process' memory, of which it is not known whether it is there.
///
/// The kernel reads it, from a file, and says when nothing is there. Without /proc, or where the process may
/// not open its own memory, it can only say so beforehand.
#[derive(Debug)]
pub struct Reader(Option<OwnedFd>);

impl Reader {
    /// Opens the memory of this process, for as long as the value lives.
    #[must_use]
    pub fn open() -> Reader {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Reader(rustix::fs::open(c"/proc/self/mem", flags, Mode::empty()).ok())
    }

    /// For a process with one thread: nothing goes between the kernel's answer and the look, and no file is
    /// needed, which costs more than all that is read from it.
    #[must_use]
    pub const fn alone() -> Reader {
        Reader(None)
    }

    /// Fills `buffer` with what is at `address`, as far as something is; the number of bytes.
    #[must_use]
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        if let Some(memory) = &self.0 {
            return rustix::io::pread(memory, buffer, address).unwrap_or(0);
        }
        let mut read = 0;
        while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
            let Some(at) = address.checked_add(read as u64).filter(|&at| is_readable(at)) else { break };
            let piece = rest.len().min((PAGE - at % PAGE) as usize);
            // SAFETY: the rest of a page that can be read.
            unsafe { core::ptr::copy_nonoverlapping(at as *const u8, rest.as_mut_ptr(), piece) };
            read += piece;
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_read() {
        let text = *b"something that is there";
        let page = PAGE as usize;
        let pages = reserve(2 * page).unwrap();
        let edge = pages as u64 + PAGE;
        // SAFETY: two pages of our own, of which the second is taken away.
        unsafe {
            pages.add(page - 4).copy_from_nonoverlapping(b"edge".as_ptr(), 4);
            rustix::mm::mprotect(pages.add(page).cast(), page, rustix::mm::MprotectFlags::empty()).unwrap();
        }
        for reader in [Reader::open(), Reader::alone()] {
            let mut buffer = [0; 9];
            assert_eq!(reader.read(text.as_ptr() as u64, &mut buffer), 9);
            assert_eq!(&buffer, b"something");
            assert_eq!(reader.read(0x10, &mut buffer), 0);
            assert_eq!(reader.read(u64::MAX - 3, &mut buffer), 0);
        }
        // Through the file, what the kernel may not give others can be read.
        let mut buffer = [0; 9];
        assert_eq!(Reader::alone().read(edge - 4, &mut buffer), 4);
        assert_eq!(&buffer[..4], b"edge");
    }
}
