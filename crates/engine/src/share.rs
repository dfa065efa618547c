//! The statistics file: what tools read of this process.
//!
//! It is a shared mapping of a file that only its owner may open, written with plain stores on the slow path;
//! where it lies is agreed on in [`relpoline_stats::live`]. Without a file the same records live in private
//! memory, so the rest of the engine does not care. A forked child gets a file of its own, or private memory,
//! in place of its parent's mapping, when it begins to learn; before that the engine in it writes nothing.
//!
//! Until then, though, the mapping is there, and whoever rules the child may write to it. So it is write-only
//! as far as it matters: nothing that is read back from it decides where anything is written, or where a call
//! goes.

use crate::calibrate;
use crate::leftovers;
use crate::memory;
use crate::sandbox;
use crate::site::NONE;
use crate::table::Table;
use core::ffi::{CStr, c_void};
use relpoline_stats::live::{self, Name};
use relpoline_stats::options::Escaped;
use relpoline_stats::record::{EventRecord, LastTargetRecord, MAGIC, ObjectRecord, SampleRecord, SiteRecord};
use relpoline_stats::{Header, Layout, Plain as _};
use relpoline_text::broken;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// Room in the file. Sparse: what is not used takes no memory.
const LAYOUT: Layout = Layout::MOST;

const PATH_MAX: usize = 512;
const PAGE: usize = relpoline_text::cells::PAGE;
/// The file is claimed in pieces of this size.
const CLAIM: usize = 16 * PAGE;
/// What is claimed of it at once: the header, the objects of most programs, and a few sites.
const FIRST: usize = 4 * PAGE;
/// Sites whose records are claimed when no more can be claimed later.
const SITES_IN_SANDBOX: usize = 1024;

/// The parts of the file, which grow on their own.
#[derive(Clone, Copy)]
enum Part {
    /// The header and the object records.
    Objects,
    Events,
    Samples,
    Targets,
    Sites,
}

const PARTS: usize = 5;
/// Where the parts begin, and where the last one ends.
const STARTS: [usize; PARTS + 1] = [
    0,
    LAYOUT.event_offset(),
    LAYOUT.sample_offset(),
    LAYOUT.target_offset(),
    LAYOUT.site_offset(),
    LAYOUT.file_size(),
];

/// Ends of the bytes that hold records, from the start of the file: object records, and site records.
#[derive(Clone, Copy)]
struct Used {
    objects: usize,
    sites: usize,
}

/// Whose file it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nobody's: there is none.
    Nowhere,
    /// In the directory that the options name: who named it collects it.
    Run,
    /// Among those of the user's living processes.
    Live,
}

/// How many records there are. The file's header has copies of it.
#[derive(Clone, Copy)]
struct Counts {
    objects: u32,
    sites: u32,
    targets: u32,
    samples: u32,
    events: u64,
}

impl Counts {
    const NONE: Counts = Counts { objects: 0, sites: 0, targets: 0, samples: 0, events: 0 };
}

/// The mapped records.
pub struct Share {
    base: *mut u8,
    counts: Counts,
    /// Path of the run's directory: kept here, since a slow path's stack may be small.
    path: [u8; PATH_MAX],
    /// Bytes of that path; 0 when there is no such directory.
    run: usize,
    place: Place,
    /// What the file is called, in its place.
    name: Name,
    listing: leftovers::Listing,
    /// Up to where each part is known to be there; everything is in private memory.
    claimed: [usize; PARTS],
    /// For each site record: the next one of its chain.
    next: Table<u32>,
    /// The chain of records that can be used again.
    free: u32,
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

/// The text `before`, `n`, `after` as a C string in `buffer`.
fn numbered<'a>(buffer: &'a mut [u8], before: &[u8], n: u32, after: &[u8]) -> Option<&'a CStr> {
    let mut len = append(buffer, 0, before)?;
    len = append_number(buffer, len, n)?;
    len = append(buffer, len, after)?;
    len = append(buffer, len, b"\0")?;
    CStr::from_bytes_with_nul(buffer.get(..len)?).ok()
}

/// The file's name as the system calls want it.
fn file_name<'a>(name: &Name, buffer: &'a mut [u8; Name::MOST + 1]) -> Option<&'a CStr> {
    let length = name.write(buffer)?;
    let end = append(buffer, length, b"\0")?;
    CStr::from_bytes_with_nul(buffer.get(..end)?).ok()
}

/// The name of this process' file. What /proc does not tell is 0: without it, names are as good as numbers.
fn own_name() -> Name {
    let mut stat = [0; 1024];
    let read = rustix::fs::open(c"/proc/self/stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut stat));
    // The broken variant that the tests must catch: a process is its number.
    if broken!("named-by-number") {
        return Name { pid: pid(), namespace: 0, started: 0 };
    }
    let started = read.ok().and_then(|length| live::started(stat.get(..length)?));
    let namespace = rustix::fs::stat(c"/proc/self/ns/pid").map_or(0, |found| found.st_ino);
    Name { pid: pid(), namespace, started: started.unwrap_or(0) }
}

/// A new, empty file in `directory`, called `name`. One that was there goes: this process' from before an
/// exec. But should somebody have that one, as where two processes in different namespaces cannot tell in
/// which they are, this one passes for a later one.
fn create_in(directory: &OwnedFd, name: &mut Name) -> Option<OwnedFd> {
    const NAMESAKES: u64 = 16;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    for _ in 0..NAMESAKES {
        let mut buffer = [0; Name::MOST + 1];
        let path = file_name(name, &mut buffer)?;
        if !leftovers::is_held(directory, path) {
            let _ = rustix::fs::unlinkat(directory, path, AtFlags::empty());
            let fd = rustix::fs::openat(directory, path, flags, Mode::RUSR | Mode::WUSR).ok()?;
            return leftovers::hold(&fd).then_some(fd);
        }
        name.started = name.started.wrapping_add(1);
    }
    None
}

/// Whether the pages of a mapping from `from` on, `len` bytes, are there, or could be made so now. Kernels
/// before 5.14 cannot tell; there, as with any mapped file, a full file system shows at the store.
fn is_there(base: *mut u8, from: usize, len: usize) -> bool {
    // SAFETY: inside the mapping; the advice changes no content.
    let populated = unsafe { rustix::mm::madvise(base.add(from).cast(), len, rustix::mm::Advice::LinuxPopulateWrite) };
    populated.is_ok() || populated == Err(rustix::io::Errno::INVAL)
}

fn pid() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get().cast_unsigned()
}

/// Bytes of the longest path of a user's directory.
pub const LIVE_PATH: usize = live::PREFIX.len() + 16;

/// Opens a directory that is this user's alone. All that is done in it is done by the descriptor: whatever
/// takes its place by then is not touched. In the broken variant that the tests must catch nobody looks whose
/// it is, and links are followed.
pub fn open_private(path: &CStr) -> Option<OwnedFd> {
    let is_broken = broken!("trusts-directories");
    let follow = if is_broken { OFlags::empty() } else { OFlags::NOFOLLOW };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | follow;
    let directory = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let found = rustix::fs::fstat(&directory).ok()?;
    let is_ours = live::is_private(found.st_uid, found.st_mode, rustix::process::geteuid().as_raw());
    (is_ours || is_broken).then_some(directory)
}

/// The directory for the files of this user's living processes.
pub fn live_directory(buffer: &mut [u8; LIVE_PATH]) -> Option<&CStr> {
    numbered(buffer, live::PREFIX.as_bytes(), rustix::process::geteuid().as_raw(), b"")
}

impl Share {
    /// No records yet, for a static.
    #[must_use]
    pub const fn none() -> Share {
        Share {
            base: core::ptr::null_mut(),
            counts: Counts::NONE,
            path: [0; PATH_MAX],
            run: 0,
            place: Place::Nowhere,
            name: Name { pid: 0, namespace: 0, started: 0 },
            listing: [core::mem::MaybeUninit::uninit(); size_of::<leftovers::Listing>()],
            claimed: [usize::MAX; PARTS],
            next: Table::none(),
            free: NONE,
        }
    }

    /// Maps the records: from a file in the run's `directory`, else in the user's; when no file can be made
    /// there, in private memory.
    #[must_use]
    pub fn create(directory: Option<Escaped<'_>>) -> Option<Share> {
        let mut share = Share::none();
        if let Some(escaped) = directory {
            share.run = escaped.copy_to(&mut share.path).map_or(0, |path| path.len());
        }
        share.next = Table::reserve(LAYOUT.sites as usize)?;
        share.base = share.map(None)?;
        share.write_header();
        Some(share)
    }

    /// Whether somebody waits for the last figures.
    #[must_use]
    pub fn is_collected(&self) -> bool {
        self.run != 0 && self.place != Place::Nowhere
    }

    /// A new file for this process, sized; `None` when it cannot be made.
    fn create_file(&mut self) -> Option<OwnedFd> {
        if !relpoline_text::arena::may_grow_to(LAYOUT.file_size() as u64) {
            return None;
        }
        self.name = own_name();
        let fd = self.create_in_run().or_else(|| self.create_among_living())?;
        rustix::fs::ftruncate(&fd, LAYOUT.file_size() as u64).ok()?;
        Some(fd)
    }

    /// An empty file in the run's directory.
    fn create_in_run(&mut self) -> Option<OwnedFd> {
        let end = append(&mut self.path, self.run, b"\0").filter(|_| self.run != 0)?;
        let directory = open_private(CStr::from_bytes_with_nul(self.path.get(..end)?).ok()?)?;
        let fd = create_in(&directory, &mut self.name)?;
        self.place = Place::Run;
        Some(fd)
    }

    /// An empty file in the user's directory, which is made if need be.
    fn create_among_living(&mut self) -> Option<OwnedFd> {
        let mut buffer = [0; LIVE_PATH];
        let path = live_directory(&mut buffer)?;
        let _ = rustix::fs::mkdir(path, Mode::RWXU);
        let directory = open_private(path)?;
        leftovers::sweep(&directory, &self.name, &mut self.listing);
        let fd = create_in(&directory, &mut self.name)?;
        self.place = Place::Live;
        Some(fd)
    }

    /// Maps fresh records: from a file if there is a place for one. `used` is what is about to be written
    /// besides the header.
    fn map(&mut self, used: Option<Used>) -> Option<*mut u8> {
        self.place = Place::Nowhere;
        if let Some(file) = self.map_file(used) {
            return Some(file);
        }
        self.place = Place::Nowhere;
        self.claimed = [usize::MAX; PARTS];
        memory::reserve(LAYOUT.file_size())
    }

    /// A fresh file, of which that which is about to be written is certainly there.
    fn map_file(&mut self, used: Option<Used>) -> Option<*mut u8> {
        let fd = self.create_file()?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice; given back if it is of no use.
        unsafe {
            let at =
                rustix::mm::mmap(core::ptr::null_mut(), LAYOUT.file_size(), prot, MapFlags::SHARED, &fd, 0).ok()?;
            memory::keep_out_of_cores(at, LAYOUT.file_size());
            self.claimed = [STARTS[0], STARTS[1], STARTS[2], STARTS[3], STARTS[4]];
            let used = used.unwrap_or(Used { objects: FIRST, sites: STARTS[4] + FIRST });
            let begun = self.claim_at(at.cast(), Part::Objects, used.objects)
                && self.claim_at(at.cast(), Part::Sites, used.sites);
            if !begun {
                let _ = rustix::mm::munmap(at, LAYOUT.file_size());
                return None;
            }
            Some(at.cast())
        }
    }

    /// Removes the file: the process ends.
    pub fn remove(&mut self) {
        let mut buffer = [0; LIVE_PATH];
        if self.place != Place::Live || !sandbox::may_call() {
            return;
        }
        let Some(directory) = live_directory(&mut buffer).and_then(open_private) else { return };
        if let Some(name) = file_name(&self.name, &mut [0; Name::MOST + 1]) {
            let _ = rustix::fs::unlinkat(&directory, name, AtFlags::empty());
        }
    }

    fn write_header(&mut self) {
        let mut header = LAYOUT.header();
        header.magic = MAGIC;
        header.pid = pid();
        header.start_tsc = calibrate::now();
        header.enabled = 1;
        if self.run != 0 {
            header.run = live::run_id(self.path.iter().take(self.run).copied());
        }
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
        let end = LAYOUT.object_offset() + (index + 1) * size_of::<ObjectRecord>();
        (self.exists() && index < LAYOUT.objects as usize && self.claim(Part::Objects, end)).then(|| {
            // SAFETY: inside the mapping, aligned by the layout.
            unsafe { &mut *self.base.add(LAYOUT.object_offset()).cast::<ObjectRecord>().add(index) }
        })
    }

    /// The first `count` object records mean something.
    pub fn has_objects(&mut self, count: u32) {
        self.counts.objects = count;
        self.header().object_count = count;
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
        if let Some(next) = self.next.get_mut(self.free as usize).copied() {
            return Some(core::mem::replace(&mut self.free, next));
        }
        let count = self.counts.sites;
        let end = LAYOUT.site_offset() + (count as usize + 1) * size_of::<SiteRecord>();
        if count >= LAYOUT.sites || !self.claim(Part::Sites, end) {
            self.header().sites_lost += 1;
            return None;
        }
        self.counts.sites = count + 1;
        self.header().site_count = count + 1;
        // As many as there are records.
        let _ = self.next.push(NONE);
        Some(count)
    }

    /// Puts site record `record` before the chain that begins with `next`.
    pub fn chain(&mut self, record: u32, next: u32) {
        if let Some(link) = self.next.get_mut(record as usize) {
            *link = next;
        }
    }

    /// Site record `record` means nothing any more, and is used again.
    pub fn release_site(&mut self, record: u32) {
        if let Some(slot) = self.site(record) {
            *slot = SiteRecord::ZERO;
            let free = self.free;
            self.chain(record, free);
            self.free = record;
        }
    }

    /// Likewise for all records of a chain.
    pub fn release_chain(&mut self, mut record: u32) {
        // No chain is longer than there are records.
        for _ in 0..LAYOUT.sites {
            let Some(&next) = self.next.as_slice().get(record as usize) else { return };
            self.release_site(record);
            record = next;
        }
    }

    /// Notes an event; the oldest one makes way.
    pub fn push_event(&mut self, event: EventRecord) {
        if !self.exists() || !self.claim(Part::Events, LAYOUT.sample_offset()) {
            return;
        }
        let count = self.counts.events;
        let slot = (count % u64::from(LAYOUT.events)) as usize;
        // SAFETY: inside the mapping, aligned by the layout, and known to be there.
        unsafe { *self.base.add(LAYOUT.event_offset()).cast::<EventRecord>().add(slot) = event };
        self.counts.events = count + 1;
        self.header().event_count = count + 1;
    }

    /// Notes a sample. When there is no room, every other one makes way and the interval doubles.
    pub fn push_sample(&mut self, sample: SampleRecord) {
        if !self.exists() || !self.claim(Part::Samples, LAYOUT.target_offset()) {
            return;
        }
        // SAFETY: inside the mapping, aligned by the layout, and known to be there.
        let samples = unsafe {
            let first = self.base.add(LAYOUT.sample_offset()).cast::<SampleRecord>();
            core::slice::from_raw_parts_mut(first, LAYOUT.samples as usize)
        };
        if self.counts.samples >= LAYOUT.samples {
            for n in 0..samples.len() / 2 {
                samples[n] = samples[n * 2];
            }
            self.counts.samples = LAYOUT.samples / 2;
            let interval = &mut self.header().sample_interval;
            *interval = interval.wrapping_mul(2);
        }
        if let Some(slot) = samples.get_mut(self.counts.samples as usize) {
            *slot = sample;
            self.counts.samples += 1;
        }
        self.header().sample_count = self.counts.samples;
    }

    /// Notes one of all targets of a site; false when there is no room for more.
    pub fn push_target(&mut self, target: LastTargetRecord) -> bool {
        let count = self.counts.targets;
        let end = LAYOUT.target_offset() + (count as usize + 1) * size_of::<LastTargetRecord>();
        if count >= LAYOUT.targets || !self.claim(Part::Targets, end) {
            return false;
        }
        // SAFETY: inside the mapping, aligned by the layout, and known to be there.
        unsafe { *self.base.add(LAYOUT.target_offset()).cast::<LastTargetRecord>().add(count as usize) = target };
        self.counts.targets = count + 1;
        self.header().target_count = count + 1;
        true
    }

    /// Sees to it that a part can be written up to the byte `end` of the file: a store to a page of a file
    /// that a full file system cannot hold would kill the program.
    fn claim(&mut self, part: Part, end: usize) -> bool {
        end <= self.claimed[part as usize] || (sandbox::may_call() && self.claim_at(self.base, part, end))
    }

    /// Claims what is likely to be needed, since nothing can be claimed any more soon.
    pub fn claim_for_sandbox(&mut self) {
        if !self.exists() {
            return;
        }
        let used = self.counts.sites as usize + SITES_IN_SANDBOX;
        let sites = LAYOUT.site_offset() + used * size_of::<SiteRecord>();
        for (part, end) in [(Part::Events, STARTS[2]), (Part::Samples, STARTS[3]), (Part::Sites, sites)] {
            // What cannot be claimed is not written.
            let _ = self.claim(part, end);
        }
    }

    /// The same in a mapping at `base`, whoever allows it, and not more than is asked for the first time.
    fn claim_at(&mut self, base: *mut u8, part: Part, end: usize) -> bool {
        let n = part as usize;
        let from = self.claimed[n] & !(PAGE - 1);
        let more = if self.claimed[n] == STARTS[n] { 0 } else { CLAIM };
        let to = end.max(self.claimed[n] + more).min(STARTS[n + 1]);
        let grown = is_there(base, from, (to - from).next_multiple_of(PAGE));
        if grown {
            self.claimed[n] = to;
        }
        grown
    }

    /// In a forked child that may go on writing records: empty ones, to throw away, in place of its parent's.
    pub fn stand_in(&self) {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        if self.exists() {
            // SAFETY: replaces our own mapping by one of the same size; records are read as numbers only.
            let _ = unsafe { rustix::mm::mmap_anonymous(self.base.cast(), LAYOUT.file_size(), prot, flags) };
        }
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
        let objects = LAYOUT.object_offset() + self.counts.objects as usize * size_of::<ObjectRecord>();
        let sites = LAYOUT.site_offset() + self.counts.sites as usize * size_of::<SiteRecord>();
        let used = Used { objects: objects.min(LAYOUT.event_offset()), sites: sites.min(LAYOUT.file_size()) };
        let claimed = self.claimed;
        let Some(copy) = self.map(Some(used)) else {
            self.claimed = claimed;
            return false;
        };
        // SAFETY: both mappings are of the layout's size; the move puts the new one in place of the old one.
        unsafe {
            core::ptr::copy_nonoverlapping(old_base, copy, used.objects);
            let first = LAYOUT.site_offset();
            core::ptr::copy_nonoverlapping(old_base.add(first), copy.add(first), used.sites - first);
            let flags = rustix::mm::MremapFlags::MAYMOVE;
            let (from, to, size) = (copy.cast::<c_void>(), old_base.cast::<c_void>(), LAYOUT.file_size());
            if rustix::mm::mremap_fixed(from, size, size, flags, to).is_err() {
                let _ = rustix::mm::munmap(from, size);
                return false;
            }
        }
        let Counts { objects, sites, .. } = self.counts;
        self.counts = Counts { objects, sites, ..Counts::NONE };
        let header = self.header();
        (header.object_count, header.site_count) = (objects, sites);
        header.forked_from = parent;
        header.pid = pid();
        header.flags |= relpoline_stats::codes::flag::FORKED;
        header.learn_cycles = 0;
        header.judgements = 0;
        header.patches = 0;
        header.links = 0;
        header.links_refused = 0;
        header.event_count = 0;
        header.target_count = 0;
        header.sample_count = 0;
        header.sample_interval = 0;
        header.last_sample = 0;
        true
    }
}
