//! Memory for code that is generated, run, and freed again.
//!
//! It is one memfd mapped twice, writable here and executable there, then
//! sealed (FUTURE_WRITE, SHRINK, GROW, SEAL) and its descriptor closed: nothing is ever writable and
//! executable at one address, and nobody can make it so. The file is sparse, so its size costs address space
//! only. Which bytes are in use is the owner's business; what is free, it fills with `int3`.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

const PAGE: usize = 4096;

/// Why there is no memory for code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MemoryError {
    /// `memfd_create` was refused.
    Memfd,
    /// A mapping was refused.
    Map,
    /// The file could not be sealed, so others could make the code writable.
    Seal,
}

impl core::fmt::Display for MemoryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            MemoryError::Memfd => "memfd_create is refused",
            MemoryError::Map => "executable memory is refused",
            MemoryError::Seal => "code memory cannot be sealed against writing (Linux 5.1 or later is needed)",
        })
    }
}

impl std::error::Error for MemoryError {}

/// Doubly mapped, sealed code memory. See the module's text.
#[derive(Debug)]
pub struct CodeMemory {
    code: *mut c_void,
    alias: *mut c_void,
    bytes: usize,
}

// SAFETY: both mappings belong to this value; writing through it takes `unsafe` or an atomic store.
unsafe impl Send for CodeMemory {}
// SAFETY: as above.
unsafe impl Sync for CodeMemory {}

fn memfd() -> Result<OwnedFd, MemoryError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // vm.memfd_noexec wants to be told (Linux 6.3); older kernels do not know the flag.
    rustix::fs::memfd_create(c"relpoline-code", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(c"relpoline-code", flags))
        .map_err(|_| MemoryError::Memfd)
}

fn map(fd: &OwnedFd, bytes: usize, prot: ProtFlags) -> Result<*mut c_void, MemoryError> {
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    unsafe { rustix::mm::mmap(core::ptr::null_mut(), bytes, prot, MapFlags::SHARED, fd, 0) }
        .map_err(|_| MemoryError::Map)
}

/// As [`map`], within reach of the code at `near`, where there is room.
fn map_near(fd: &OwnedFd, bytes: usize, prot: ProtFlags, near: u64) -> Result<*mut c_void, MemoryError> {
    /// How far apart places are that are tried, and how many on each side: less than 2 GiB away.
    const STEP: u64 = 96 << 20;
    const STEPS: u64 = 16;
    let begin = near - near % PAGE as u64;
    // Below first: above a program's own code its heap may want to grow.
    let below = (1..=STEPS).filter_map(|n| begin.checked_sub(n * STEP + bytes as u64));
    let above = (1..=STEPS).filter_map(|n| begin.checked_add(n * STEP));
    for at in below.chain(above) {
        let flags = MapFlags::SHARED | MapFlags::FIXED_NOREPLACE;
        // SAFETY: FIXED_NOREPLACE replaces nothing.
        match unsafe { rustix::mm::mmap(at as *mut c_void, bytes, prot, flags, fd, 0) } {
            Ok(got) if got as u64 == at => return Ok(got),
            // A kernel that does not know the flag took the address as a hint.
            // SAFETY: the mapping was made a moment ago and nobody knows it.
            Ok(got) => drop(unsafe { rustix::mm::munmap(got, bytes) }),
            Err(_) => {}
        }
    }
    map(fd, bytes, prot)
}

impl CodeMemory {
    /// `bytes` of code memory, rounded up to pages; at most 1 GiB, so that all of it reaches all of it.
    ///
    /// # Errors
    /// Why the kernel does not let us have it.
    pub fn create(bytes: usize) -> Result<CodeMemory, MemoryError> {
        CodeMemory::create_by(bytes, map)
    }

    /// As [`CodeMemory::create`], and where there is room near enough to the code at `near` that direct calls
    /// reach it.
    ///
    /// # Errors
    /// As there.
    pub fn create_near(bytes: usize, near: u64) -> Result<CodeMemory, MemoryError> {
        CodeMemory::create_by(bytes, |fd, bytes, prot| map_near(fd, bytes, prot, near))
    }

    fn create_by(
        bytes: usize,
        place: impl FnOnce(&OwnedFd, usize, ProtFlags) -> Result<*mut c_void, MemoryError>,
    ) -> Result<CodeMemory, MemoryError> {
        let bytes = bytes.clamp(PAGE, 1 << 30).next_multiple_of(PAGE);
        let fd = memfd()?;
        rustix::fs::ftruncate(&fd, bytes as u64).map_err(|_| MemoryError::Memfd)?;
        let alias = map(&fd, bytes, ProtFlags::READ | ProtFlags::WRITE)?;
        let mut memory = CodeMemory { code: core::ptr::null_mut(), alias, bytes };
        // SAFETY: the mapping is ours; children shall not inherit the writable one.
        unsafe { rustix::mm::madvise(alias, bytes, Advice::LinuxDontFork) }.map_err(|_| MemoryError::Map)?;
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals).map_err(|_| MemoryError::Seal)?;
        memory.code = place(&fd, bytes, ProtFlags::READ | ProtFlags::EXEC)?;
        Ok(memory)
    }

    /// Bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Never: there is at least a page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Address at which the byte at `offset` runs.
    #[must_use]
    pub fn address(&self, offset: usize) -> u64 {
        self.code as u64 + offset as u64
    }

    /// Writes code at `offset`.
    ///
    /// # Panics
    /// When it does not fit.
    ///
    /// # Safety
    /// Nobody may be able to execute those bytes yet or any more.
    pub unsafe fn write(&self, offset: usize, code: &[u8]) {
        assert!(offset <= self.bytes && code.len() <= self.bytes - offset);
        // SAFETY: inside the alias, as just checked; exclusive by the caller's promise.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), self.alias.cast::<u8>().add(offset), code.len()) }
    }

    /// Replaces the aligned word at `offset`, which any number of threads may be executing, and returns what
    /// was there.
    ///
    /// # Panics
    /// When `offset` is not a multiple of 8 within the memory.
    ///
    /// # Safety
    /// Each word must be right for every thread that may fetch it: the old one until
    /// [`crate::grace::sync_cores`] returns, the new one from now on.
    pub unsafe fn replace_word(&self, offset: usize, word: u64) -> u64 {
        assert!(offset.is_multiple_of(8) && offset < self.bytes);
        // SAFETY: inside the alias and aligned, as just checked; everybody changes words atomically.
        let at = unsafe { &*self.alias.cast::<u8>().add(offset).cast::<AtomicU64>() };
        at.swap(word, Ordering::AcqRel)
    }

    /// Replaces the byte at `offset`, likewise, wherever it lies.
    ///
    /// # Panics
    /// When `offset` is not within the memory.
    ///
    /// # Safety
    /// As for [`CodeMemory::replace_word`].
    pub unsafe fn replace_byte(&self, offset: usize, byte: u8) -> u8 {
        assert!(offset < self.bytes);
        // SAFETY: inside the alias, as just checked; everybody changes bytes atomically.
        let at = unsafe { &*self.alias.cast::<u8>().add(offset).cast::<AtomicU8>() };
        at.swap(byte, Ordering::AcqRel)
    }

    /// The byte at `offset`, as it is now.
    ///
    /// # Panics
    /// When `offset` is not within the memory.
    #[must_use]
    pub fn byte(&self, offset: usize) -> u8 {
        assert!(offset < self.bytes);
        // SAFETY: inside the mapping, as just checked, which is readable; only atomics change what may be
        // read.
        unsafe { &*self.code.cast::<u8>().add(offset).cast::<AtomicU8>() }.load(Ordering::Acquire)
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        for mapping in [self.code, self.alias] {
            if !mapping.is_null() {
                // SAFETY: ours, and with this value the last who knew how to enter or write it is gone.
                let _ = unsafe { rustix::mm::munmap(mapping, self.bytes) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two of them beside each other, both within reach of this code.
    #[test]
    fn there_is_room_near_code() {
        let near = there_is_room_near_code as *const () as u64;
        let both = [1, 2].map(|_| CodeMemory::create_near(64 << 20, near).unwrap());
        for memory in &both {
            let far = memory.address(0).abs_diff(near).max(memory.address(memory.len()).abs_diff(near));
            assert!(far < 1 << 31, "{far:#x}");
        }
    }

    #[test]
    fn code_runs_and_its_mapping_cannot_be_made_writable() {
        let memory = CodeMemory::create(1).unwrap();
        // mov eax, 42; ret
        // SAFETY: nobody runs it yet.
        unsafe { memory.write(64, &[0xb8, 42, 0, 0, 0, 0xc3]) };
        // SAFETY: the bytes just written are a function of this type.
        let f: extern "C" fn() -> u32 = unsafe { core::mem::transmute(memory.address(64) as *const ()) };
        assert_eq!(f(), 42);
        let flags = rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE;
        // SAFETY: it is expected to fail; should it not, the page is ours.
        assert!(unsafe { rustix::mm::mprotect(memory.address(0) as *mut c_void, PAGE, flags) }.is_err());
    }
}
