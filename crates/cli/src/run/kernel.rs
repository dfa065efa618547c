//! Whether the kernel has what the engine's arena needs: a memory file that can be sealed against later
//! writers and mapped executable. It is missing before Linux 5.1, and where a policy (`vm.memfd_noexec`, a
//! security module, a seccomp filter) forbids it. Then the program had better run without a preload at all.

use std::ptr;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// More than any page.
const BYTES: usize = 1 << 16;

/// Tries it on a small file; costs some ten microseconds.
pub fn serves() -> bool {
    try_arena().is_ok()
}

/// The same, with what the system says when it refuses.
///
/// # Errors
/// The first step that fails.
pub fn try_arena() -> rustix::io::Result<()> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know EXEC; later ones may want it.
    let fd = rustix::fs::memfd_create("relpoline", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("relpoline", flags))?;
    rustix::fs::ftruncate(&fd, BYTES as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW)?;
    let executable = ProtFlags::READ | ProtFlags::EXEC;
    // SAFETY: a new mapping where there is none, of a file nobody else has; unmapped at once, unused.
    unsafe {
        let mapped = rustix::mm::mmap(ptr::null_mut(), BYTES, executable, MapFlags::SHARED, &fd, 0)?;
        rustix::mm::munmap(mapped, BYTES)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_probe_leaves_nothing_behind() {
        let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:relpoline").count();
        let _ = super::serves();
        assert_eq!(maps(), 0);
    }
}
