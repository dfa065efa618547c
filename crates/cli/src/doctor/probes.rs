//! What is tried, on memory of this process' own.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// At least a page.
const BYTES: usize = 1 << 16;
const SHADOW_STACK_STATUS: libc::c_int = 0x5005;
const MEMBARRIER_QUERY: libc::c_int = 0;
const MEMBARRIER_SYNC_CORE: libc::c_long = 1 << 5;

/// A page that is unmapped again.
struct Page(*mut libc::c_void);

impl Page {
    fn new(prot: ProtFlags) -> io::Result<Self> {
        // SAFETY: a new mapping where there is none.
        let at = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), BYTES, prot, MapFlags::PRIVATE)? };
        Ok(Self(at))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: ours, and nothing refers to it.
        let _ = unsafe { rustix::mm::munmap(self.0, BYTES) };
    }
}

/// Whether pages can be wiped in forked children.
pub fn wipe_on_fork() -> io::Result<()> {
    let page = Page::new(ProtFlags::READ | ProtFlags::WRITE)?;
    // SAFETY: our own page, which holds nothing.
    unsafe { rustix::mm::madvise(page.0, BYTES, Advice::LinuxWipeOnFork)? };
    Ok(())
}

/// Whether executable memory that is not writable can be changed through /proc/self/mem, as a link does.
pub fn poke_through_proc() -> io::Result<()> {
    let page = Page::new(ProtFlags::READ | ProtFlags::EXEC)?;
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    memory.write_all_at(&[0xcc], page.0 as u64)?;
    // SAFETY: our own page; nothing else writes it.
    let written = unsafe { page.0.cast::<u8>().read_volatile() };
    if written == 0xcc { Ok(()) } else { Err(io::Error::other("what was written is not there")) }
}

/// Whether code can be made writable and executable again, which is the other way of re-pointing it at start.
pub fn unlock_text() -> io::Result<()> {
    let page = Page::new(ProtFlags::READ | ProtFlags::EXEC)?;
    for prot in [libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC] {
        // SAFETY: our own page, which nobody executes.
        if unsafe { libc::mprotect(page.0, BYTES, prot) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether this process runs with a shadow stack.
pub fn has_shadow_stack() -> bool {
    let mut features = 0_u64;
    // SAFETY: the kernel writes one word, or refuses.
    let asked = unsafe { libc::syscall(libc::SYS_arch_prctl, SHADOW_STACK_STATUS, &raw mut features) };
    asked == 0 && features & 1 != 0
}

/// Whether threads can be made to see changed code at once.
pub fn has_membarrier() -> bool {
    // SAFETY: asks for a set of bits.
    let known = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_QUERY, 0) };
    known > 0 && known & MEMBARRIER_SYNC_CORE != 0
}

/// Version of the C library.
pub fn libc_version() -> String {
    // SAFETY: returns a constant string.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    version.to_string_lossy().into_owned()
}

/// A line of this process' status, by its name.
pub fn status(name: &str) -> Option<String> {
    let all = fs::read_to_string("/proc/self/status").ok()?;
    let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// A setting below /proc/sys or /sys.
pub fn setting(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}
