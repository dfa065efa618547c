//! The statistics file: what tools read of this process.
//!
//! It is a shared mapping of a file that only its owner may open, written with plain stores on the slow
//! path. Without a file the same records live in private memory, so the rest of the engine does not care. A
//! forked child first gets a private copy in place of its parent's mapping, then, if it can, a file of its
//! own; it never writes to its parent's.

use crate::calibrate;
use crate::memory;
use crate::sandbox;
use core::ffi::{CStr, c_void};
use relpoline_stats::options::Escaped;
use relpoline_stats::record::{MAGIC, ObjectRecord, SiteRecord};
use relpoline_stats::{Header, Layout};
use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// Room in the file. Sparse: what is not used takes no memory.
const LAYOUT: Layout = Layout { objects: 512, sites: 65_536 };

const PATH_MAX: usize = 512;
const PAGE: usize = relpoline_text::cells::PAGE;
/// The file is claimed in pieces of this size.
const CLAIM: usize = 16 * PAGE;

/// The mapped records.
pub struct Share {
    base: *mut u8,
    /// Path of the directory, and room for a file's name in it: kept here, since a slow path's stack may be
    /// small.
    path: [u8; PATH_MAX],
    /// Bytes of the directory's path; 0 without statistics.
    directory: usize,
    /// Bytes of the mapping that are known to be there; all of it in private memory.
    claimed: usize,
}

// SAFETY: used under the engine's lock only.
unsafe impl Send for Share {}

/// Appends `part` to `buffer` at `len`; the new length.
fn append(buffer: &mut [u8], len: usize, part: &[u8]) -> Option<usize> {
    buffer.get_mut(len..len + part.len())?.copy_from_slice(part);
    Some(len + part.len())
}

/// Appends the decimal digits of `n`.
fn append_number(buffer: &mut [u8], len: usize, n: u32) -> Option<usize> {
    let len = if n < 10 { len } else { append_number(buffer, len, n / 10)? };
    append(buffer, len, &[b'0' + (n % 10) as u8])
}

/// Whether the pages of a mapping from `from` on, `len` bytes, are there, or could be made so now. Kernels before
/// 5.14 cannot tell; there, as with any mapped file, a full file system shows at the store.
fn is_there(base: *mut u8, from: usize, len: usize) -> bool {
    // SAFETY: inside the mapping; the advice changes no content.
    let populated = unsafe { rustix::mm::madvise(base.add(from).cast(), len, rustix::mm::Advice::LinuxPopulateWrite) };
    populated.is_ok() || populated == Err(rustix::io::Errno::INVAL)
}

fn pid() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get().cast_unsigned()
}

impl Share {
    /// No records yet, for a static.
    #[must_use]
    pub const fn none() -> Share {
        Share { base: core::ptr::null_mut(), path: [0; PATH_MAX], directory: 0, claimed: 0 }
    }

    /// Maps the records; without a directory, or when no file can be made there, in private memory.
    #[must_use]
    pub fn create(directory: Option<Escaped<'_>>) -> Option<Share> {
        let mut share = Share::none();
        if let Some(escaped) = directory {
            share.directory = escaped.copy_to(&mut share.path).map_or(0, |path| path.len());
        }
        share.base = share.map(LAYOUT.site_offset())?;
        share.write_header(0);
        Some(share)
    }

    /// Whether the records go to a file that somebody may read.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.directory != 0
    }

    /// A new file for this process, sized; `None` when it cannot be made.
    fn create_file(&mut self) -> Option<rustix::fd::OwnedFd> {
        let mut len = append(&mut self.path, self.directory, b"/")?;
        len = append_number(&mut self.path, len, pid())?;
        len = append(&mut self.path, len, b".stats\0")?;
        let path = CStr::from_bytes_with_nul(self.path.get(..len)?).ok()?;
        let _ = rustix::fs::unlink(path);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).ok()?;
        if !relpoline_text::arena::may_grow_to(LAYOUT.file_size() as u64) {
            let _ = rustix::fs::unlink(path);
            return None;
        }
        rustix::fs::ftruncate(&fd, LAYOUT.file_size() as u64).ok()?;
        Some(fd)
    }

    /// Maps fresh records, of which `used` bytes are about to be written: from a file if there is a directory for
    /// one.
    fn map(&mut self, used: usize) -> Option<*mut u8> {
        self.claimed = usize::MAX;
        if self.is_shared()
            && let Some(file) = self.map_file(used)
        {
            return Some(file);
        }
        memory::reserve(LAYOUT.file_size())
    }

    /// A fresh file of which the first `used` bytes are certainly there.
    fn map_file(&mut self, used: usize) -> Option<*mut u8> {
        let fd = self.create_file()?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice; given back if it is of no use.
        unsafe {
            let at =
                rustix::mm::mmap(core::ptr::null_mut(), LAYOUT.file_size(), prot, MapFlags::SHARED, &fd, 0).ok()?;
            if !is_there(at.cast(), 0, used) {
                let _ = rustix::mm::munmap(at, LAYOUT.file_size());
                return None;
            }
            self.claimed = used.next_multiple_of(PAGE);
            Some(at.cast())
        }
    }

    fn write_header(&mut self, forked_from: u32) {
        let mut header = LAYOUT.header();
        header.magic = MAGIC;
        header.pid = pid();
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
        let count = self.header().site_count;
        let end = LAYOUT.site_offset() + (count as usize + 1) * size_of::<SiteRecord>();
        if count >= LAYOUT.sites || !self.claim(end) {
            self.header().sites_lost += 1;
            return None;
        }
        self.header().site_count = count + 1;
        Some(count)
    }

    /// Sees to it that the first `end` bytes can be written: a store to a page of a file that a full file system
    /// cannot hold would kill the program.
    fn claim(&mut self, end: usize) -> bool {
        if end <= self.claimed {
            return true;
        }
        let more = (end - self.claimed).next_multiple_of(CLAIM);
        let grown =
            sandbox::may_call() && is_there(self.base, self.claimed, more.min(LAYOUT.file_size() - self.claimed));
        if grown {
            self.claimed += more;
        }
        grown
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
        let used = LAYOUT.site_offset() + self.header().site_count as usize * size_of::<SiteRecord>();
        let used = used.min(LAYOUT.file_size());
        let Some(copy) = self.map(used) else { return false };
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
        header.pid = pid();
        header.flags |= relpoline_stats::codes::flag::FORKED;
        header.learn_cycles = 0;
        header.judgements = 0;
        header.patches = 0;
        header.links = 0;
        header.links_refused = 0;
        true
    }
}
