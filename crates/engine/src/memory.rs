//! Memory of the engine's own, and how to look at memory that may not be there. The former is private: reserved address space that is populated page by page as it is used.

use core::ffi::c_void;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::mm::{Advice, MapFlags, MsyncFlags, ProtFlags};

/// Reserves `bytes` of zeroes at an address of the kernel's choice; `None` when it is refused.
///
/// Huge pages are declined: tables are sparse, and zeroing two megabytes for a few records would be the
/// largest part of a short program's start. Debuggers need none of it: it would be the largest part of a core, too.
#[must_use]
pub fn reserve(bytes: usize) -> Option<*mut u8> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a fresh mapping; the advices concern it alone, and a kernel without huge pages refuses the first.
    unsafe {
        let start = rustix::mm::mmap_anonymous(core::ptr::null_mut::<c_void>(), bytes, prot, flags).ok()?;
        let _ = rustix::mm::madvise(start, bytes, Advice::LinuxNoHugepage);
        keep_out_of_cores(start, bytes);
        Some(start.cast())
    }
}

/// Leaves memory of ours out of core dumps. In the broken variant that the tests must catch it is in them.
///
/// # Safety
/// The range must be ours.
pub unsafe fn keep_out_of_cores(start: *mut c_void, bytes: usize) {
    if !cfg!(relpoline_broken = "dumped") {
        // SAFETY: passed on to the caller; no content changes. Without the advice cores are larger.
        let _ = unsafe { rustix::mm::madvise(start, bytes, Advice::LinuxDontDump) };
    }
}

/// Reads this process' memory through the kernel, which says so when nothing is there.
///
/// Without /proc, or where the process may not open its own memory, the kernel can only say whether something is mapped.
#[derive(Debug)]
pub struct Reader(Option<OwnedFd>);

impl Reader {
    /// Opens the memory of this process, for as long as the value lives.
    #[must_use]
    pub fn open() -> Reader {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Reader(rustix::fs::open(c"/proc/self/mem", flags, Mode::empty()).ok())
    }

    /// Fills `buffer` with what is at `address`, as far as something is; the number of bytes.
    #[must_use]
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        if let Some(memory) = &self.0 {
            return rustix::io::pread(memory, buffer, address).unwrap_or(0);
        }
        let page = relpoline_text::cells::PAGE as u64;
        let start = address & !(page - 1);
        let len = (address - start).saturating_add(buffer.len() as u64).next_multiple_of(page);
        // SAFETY: nothing is changed: an asynchronous msync(2) only looks whether all of it is mapped.
        if unsafe { rustix::mm::msync(start as *mut c_void, len as usize, MsyncFlags::ASYNC) }.is_err() {
            return 0;
        }
        // SAFETY: mapped, and where headers are looked for it can be read.
        unsafe { core::ptr::copy_nonoverlapping(address as *const u8, buffer.as_mut_ptr(), buffer.len()) };
        buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_read() {
        let text = *b"something that is there";
        for reader in [Reader::open(), Reader(None)] {
            let mut buffer = [0; 9];
            assert_eq!(reader.read(text.as_ptr() as u64, &mut buffer), 9);
            assert_eq!(&buffer, b"something");
            assert_eq!(reader.read(0x10, &mut buffer), 0);
            assert_eq!(reader.read(u64::MAX - 3, &mut buffer), 0);
        }
    }
}
