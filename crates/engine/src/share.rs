//! The statistics file: what tools read of this process.
//!
//! It is a shared mapping of a file that only its owner may open, written with plain stores on the slow
//! path. Without a file the same records live in private memory, so the rest of the engine does not care. A
//! forked child first gets a private copy in place of its parent's mapping, then, if it can, a file of its
//! own; it never writes to its parent's.

use crate::calibrate;
use core::ffi::{CStr, c_void};
use relpoline_stats::options::Escaped;
use relpoline_stats::record::{MAGIC, ObjectRecord, SiteRecord};
use relpoline_stats::{Header, Layout};
use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// Room in the file. Sparse: what is not used takes no memory.
const LAYOUT: Layout = Layout { objects: 512, sites: 65_536 };

const PATH_MAX: usize = 512;

/// The mapped records.
pub struct Share {
    base: *mut u8,
    /// Path of the directory, zero-terminated; empty without statistics.
    directory: [u8; PATH_MAX],
}

// SAFETY: used under the engine's lock only.
unsafe impl Send for Share {}

/// `directory/PID.stats` in `buffer`, as a C string.
fn file_name<'a>(directory: &[u8], pid: u32, buffer: &'a mut [u8; PATH_MAX + 32]) -> Option<&'a CStr> {
    let mut digits = [0u8; 10];
    let mut n = pid;
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    let mut len = 0;
    for part in [directory, b"/", &digits[at..], b".stats\0"] {
        buffer.get_mut(len..len + part.len())?.copy_from_slice(part);
        len += part.len();
    }
    CStr::from_bytes_with_nul(&buffer[..len]).ok()
}

fn trimmed(directory: &[u8; PATH_MAX]) -> &[u8] {
    directory.split(|&b| b == 0).next().unwrap_or_default()
}

/// A new file for this process, sized; `None` when it cannot be made.
fn create_file(directory: &[u8]) -> Option<rustix::fd::OwnedFd> {
    let pid = rustix::process::getpid().as_raw_nonzero().get().cast_unsigned();
    let mut buffer = [0; PATH_MAX + 32];
    let path = file_name(directory, pid, &mut buffer)?;
    let _ = rustix::fs::unlink(path);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).ok()?;
    rustix::fs::ftruncate(&fd, LAYOUT.file_size() as u64).ok()?;
    Some(fd)
}

/// Maps the records at `at` (or anywhere, when null): from a file if there is a directory for one.
fn map(at: *mut u8, directory: &[u8]) -> Option<*mut u8> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let fixed = if at.is_null() { MapFlags::empty() } else { MapFlags::FIXED };
    let file = if directory.is_empty() { None } else { create_file(directory) };
    // SAFETY: `at` is null or the start of the mapping that is being replaced.
    let mapped = unsafe {
        match &file {
            Some(fd) => rustix::mm::mmap(at.cast::<c_void>(), LAYOUT.file_size(), prot, MapFlags::SHARED | fixed, fd, 0),
            None => rustix::mm::mmap_anonymous(
                at.cast::<c_void>(),
                LAYOUT.file_size(),
                prot,
                MapFlags::PRIVATE | MapFlags::NORESERVE | fixed,
            ),
        }
    };
    let mapped = mapped.ok()?;
    // SAFETY: the mapping made above; a kernel without huge pages refuses the advice.
    let _ = unsafe { rustix::mm::madvise(mapped, LAYOUT.file_size(), rustix::mm::Advice::LinuxNoHugepage) };
    Some(mapped.cast())
}

impl Share {
    /// No records yet, for a static.
    #[must_use]
    pub const fn none() -> Share {
        Share { base: core::ptr::null_mut(), directory: [0; PATH_MAX] }
    }

    /// Maps the records; without a directory, or when no file can be made there, in private memory.
    #[must_use]
    pub fn create(directory: Option<Escaped<'_>>) -> Option<Share> {
        let mut share = Share::none();
        if let Some(escaped) = directory {
            let room = share.directory.len() - 1;
            if escaped.copy_to(&mut share.directory[..room]).is_none() {
                share.directory = [0; PATH_MAX];
            }
        }
        share.base = map(core::ptr::null_mut(), trimmed(&share.directory))?;
        share.write_header(0);
        Some(share)
    }

    /// Whether the records go to a file that somebody may read.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.directory[0] != 0
    }

    fn write_header(&mut self, forked_from: u32) {
        let pid = rustix::process::getpid().as_raw_nonzero().get().cast_unsigned();
        let mut header = LAYOUT.header();
        header.magic = MAGIC;
        header.pid = pid;
        header.forked_from = forked_from;
        header.start_tsc = calibrate::now();
        header.enabled = 1;
        relpoline_stats::file::set_text(&mut header.engine_version, env!("CARGO_PKG_VERSION").as_bytes());
        *self.header() = header;
    }

    /// Whether there are records at all.
    #[must_use]
    pub fn exists(&self) -> bool {
        !self.base.is_null()
    }

    /// The header.
    ///
    /// # Panics
    /// When the records were never mapped; the engine does not get that far then.
    pub fn header(&mut self) -> &mut Header {
        debug_assert!(self.exists());
        // SAFETY: the mapping begins with the header, holds plain integers, and one thread writes at a time.
        unsafe { &mut *self.base.cast::<Header>() }
    }

    /// Object record `index`.
    pub fn object(&mut self, index: usize) -> Option<&mut ObjectRecord> {
        (self.exists() && index < LAYOUT.objects as usize).then(|| {
            // SAFETY: inside the mapping, aligned by the layout.
            unsafe { &mut *self.base.add(LAYOUT.object_offset()).cast::<ObjectRecord>().add(index) }
        })
    }

    /// Site record `index`.
    pub fn site(&mut self, index: u32) -> Option<&mut SiteRecord> {
        (self.exists() && index < LAYOUT.sites).then(|| {
            // SAFETY: as above.
            unsafe { &mut *self.base.add(LAYOUT.site_offset()).cast::<SiteRecord>().add(index as usize) }
        })
    }

    /// A fresh site record; `None` when there are none left, which is counted.
    pub fn new_site(&mut self) -> Option<u32> {
        let header = self.header();
        if header.site_count >= header.site_capacity {
            header.sites_lost += 1;
            return None;
        }
        header.site_count += 1;
        Some(header.site_count - 1)
    }

    /// In a forked child: takes the records over into a file, or private memory, of its own.
    ///
    /// The address stays the same. False when even private memory is refused: then nothing may be written.
    pub fn take_over(&mut self) -> bool {
        if !self.exists() {
            return true;
        }
        let old_base = self.base;
        let parent = self.header().pid;
        // The parent's records are copied out of its mapping into a new one, which then replaces it.
        let directory = self.directory;
        let Some(copy) = map(core::ptr::null_mut(), trimmed(&directory)) else { return false };
        let used = LAYOUT.site_offset() + self.header().site_count as usize * size_of::<SiteRecord>();
        let used = used.min(LAYOUT.file_size());
        // SAFETY: both mappings are of the layout's size; the move puts the new one in place of the old one.
        unsafe {
            core::ptr::copy_nonoverlapping(old_base, copy, used);
            let flags = rustix::mm::MremapFlags::MAYMOVE;
            let (from, to, size) = (copy.cast::<c_void>(), old_base.cast::<c_void>(), LAYOUT.file_size());
            if rustix::mm::mremap_fixed(from, size, size, flags, to).is_err() {
                let _ = rustix::mm::munmap(from, size);
                return false;
            }
        }
        let header = self.header();
        header.forked_from = parent;
        header.pid = rustix::process::getpid().as_raw_nonzero().get().cast_unsigned();
        header.flags |= relpoline_stats::codes::flag::FORKED;
        header.learn_cycles = 0;
        header.judgements = 0;
        header.patches = 0;
        header.links = 0;
        header.links_refused = 0;
        true
    }
}
