//! A window of executable memory within a direct jump's reach of an object.
//!
//! ```text
//! base                    + 16 MiB             + map             + frames           + data
//! | code, r-x: 512 halves | cell map, r--      | frames, r--      | counters, rw-   |
//! ```
//!
//! Code, cell map and [frames](crate::frames) are one memfd, mapped twice: here, without write permission,
//! and at a *writable alias* elsewhere, which forked children do not get. Once both mappings exist the file
//! is sealed and its descriptor closed: nobody, not even a child that still runs as the same user, can make
//! the executable mapping writable (rule 6). The counters are ordinary private memory, so a forked child
//! counts for itself.
//!
//! # After fork
//! The child still executes its parent's pages. [`Arena::privatise`] gives it a file of its own: first its
//! gate pages are replaced by private copies (under running threads: a page's content is the same before
//! and after); from then on nothing the parent publishes is entered, so what the parent has taken *then* is
//! left alone for ever, and new cells come from pages that were free.

use crate::broken;
use crate::cells::{CELL, CODE_BYTES, CODE_PAGES, Cell, CellMap, PAGE, PageKind, Parity};
use crate::frames::{FRAMES_BYTES, Frame, Frames, Shape};
use crate::sync::{self, AtomicU32, AtomicU64};
use core::ffi::c_void;
use core::ops::Range;
use core::sync::atomic::Ordering;
use relpoline_core::scan::Row;
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Bytes of the mapped cell map.
const MAP_BYTES: usize = core::mem::size_of::<CellMap>().next_multiple_of(PAGE);
const FRAMES_AT: usize = CODE_BYTES + MAP_BYTES;
const FILE_BYTES: usize = FRAMES_AT + FRAMES_BYTES;
/// Sites an arena has counters for.
pub const SITES: usize = 128 * 1024;
const DATA_BYTES: usize = SITES * core::mem::size_of::<Counters>();
/// Bytes of address space an arena reserves.
pub const ARENA_BYTES: usize = FILE_BYTES + DATA_BYTES;
/// How far a direct branch reaches, less a margin for the instruction itself.
const REACH: u64 = (1 << 31) - PAGE as u64;

/// What a site's generated code counts. Private to the process; plain memory that several threads may
/// count in at once: a lost count is a late judgement, nothing more.
#[repr(C)]
pub struct Counters {
    /// Where the next observed target goes.
    pub cursor: AtomicU64,
    /// Calls through the tree, when exact counting is on.
    pub calls: AtomicU64,
    /// Counts down calls that reach the counting stub: all of them while the site is cold, misses later.
    pub misses: AtomicU32,
    /// Counts down walks past the hot chain.
    pub exits: AtomicU32,
    /// Counts down calls through the gate until the site is linked.
    pub settle: AtomicU32,
    /// Times the counting stub's countdown was restarted, for exact counts.
    pub rounds: AtomicU32,
}

/// Why an arena could not be made or taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ArenaError {
    /// No free address space within reach of the object.
    NoRoom = 1,
    /// `memfd_create` was refused.
    Memfd = 2,
    /// A mapping was refused.
    Map = 3,
    /// The file could not be sealed, so others could make the code writable.
    Seal = 4,
}

impl core::fmt::Display for ArenaError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            ArenaError::NoRoom => "no free address space within 2 GiB of the object",
            ArenaError::Memfd => "memfd_create is refused",
            ArenaError::Map => "executable memory is refused",
            ArenaError::Seal => "the arena cannot be sealed against writing (Linux 5.1 or later is needed)",
        })
    }
}

/// Sealed, doubly mapped code memory beside one or more objects. See the module's text.
pub struct Arena {
    base: u64,
    alias: *mut u8,
    sites: AtomicU32,
}

// SAFETY: the alias is memory that belongs to the arena for ever; every access to it goes through atomics
// or to cells that one caller took.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

fn memfd() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // vm.memfd_noexec wants to be told (Linux 6.3); older kernels do not know the flag.
    rustix::fs::memfd_create(c"relpoline", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(c"relpoline", flags))
}

/// Whether a file may become that large: going beyond the limit is not refused but punished by a signal that
/// ends the program, and files in memory count too.
#[must_use]
pub fn may_grow_to(bytes: u64) -> bool {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
    limit.current.is_none_or(|most| bytes <= most)
}

/// Children shall not inherit the alias. In the broken variant that the tests must catch they do.
fn advice() -> Advice {
    if broken!("child-shares-arena") { Advice::Normal } else { Advice::LinuxDontFork }
}

/// Leaves memory of an arena out of core dumps: a core would be larger by all that is reserved, and debuggers
/// find their way out of an arena's code without reading it. In the broken variant that the tests must catch
/// it is in them.
///
/// # Safety
/// The range must be an arena's.
unsafe fn keep_out_of_cores(start: *mut c_void, bytes: usize) {
    if !broken!("dumped") {
        // SAFETY: passed on to the caller; no content changes. Without the advice cores are larger.
        let _ = unsafe { rustix::mm::madvise(start, bytes, Advice::LinuxDontDump) };
    }
}

/// Nobody shall make the code writable. In the broken variant that the tests must catch anybody can.
fn seals() -> SealFlags {
    let size = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    if broken!("unsealed") { size } else { size | SealFlags::FUTURE_WRITE }
}

/// A new file with its writable alias.
fn new_file() -> Result<(OwnedFd, *mut u8), ArenaError> {
    let fd = memfd().map_err(|_| ArenaError::Memfd)?;
    if !may_grow_to(FILE_BYTES as u64) {
        return Err(ArenaError::Memfd);
    }
    rustix::fs::ftruncate(&fd, FILE_BYTES as u64).map_err(|_| ArenaError::Memfd)?;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let alias = unsafe { rustix::mm::mmap(core::ptr::null_mut(), FILE_BYTES, prot, MapFlags::SHARED, &fd, 0) };
    let alias = alias.map_err(|_| ArenaError::Map)?;
    // SAFETY: `alias` is ours; children shall not inherit it.
    let hidden = unsafe { rustix::mm::madvise(alias, FILE_BYTES, advice()) };
    // SAFETY: likewise.
    unsafe { keep_out_of_cores(alias, FILE_BYTES) };
    let sealed = rustix::fs::fcntl_add_seals(&fd, seals());
    if hidden.is_err() || sealed.is_err() {
        // SAFETY: nothing refers to the mapping yet.
        let _ = unsafe { rustix::mm::munmap(alias, FILE_BYTES) };
        return Err(ArenaError::Seal);
    }
    Ok((fd, alias.cast()))
}

/// Maps `bytes` of `fd` from `offset` at exactly `at`, replacing what is there.
///
/// # Safety
/// What is there must be ours to replace.
unsafe fn map_at(at: u64, bytes: usize, prot: ProtFlags, fd: &OwnedFd, offset: usize) -> Result<(), ArenaError> {
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    // SAFETY: passed on to the caller.
    let mapped = unsafe { rustix::mm::mmap(at as *mut c_void, bytes, prot, flags, fd, offset as u64) };
    mapped.map(|_| ()).map_err(|_| ArenaError::Map)
}

/// Reserves address space at exactly `at`; false when something lies there.
fn reserve(at: u64) -> bool {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: FIXED_NOREPLACE replaces nothing.
    let got = unsafe { rustix::mm::mmap_anonymous(at as *mut c_void, ARENA_BYTES, ProtFlags::empty(), flags) };
    match got {
        Ok(p) if p as u64 == at => true,
        Ok(p) => {
            // A kernel that does not know the flag took the address as a hint.
            // SAFETY: the mapping was made a moment ago and nobody knows it.
            let _ = unsafe { rustix::mm::munmap(p, ARENA_BYTES) };
            false
        }
        Err(_) => false,
    }
}

/// Address space for an arena that reaches all of `near` both ways: below it if that is possible, since a
/// heap grows above a program; else as high above as reach allows.
fn reserve_near(near: &Range<u64>) -> Option<u64> {
    const STEP: u64 = 1 << 22;
    let size = ARENA_BYTES as u64;
    let lowest = near.end.saturating_sub(REACH).max(1 << 20);
    let mut at = near.start.saturating_sub(size) & !(STEP - 1);
    while at > lowest && at + size <= near.start {
        if reserve(at) {
            return Some(at);
        }
        at = at.checked_sub(STEP)?;
    }
    let mut at = (near.start + REACH - size) & !(STEP - 1);
    while at > near.end {
        if reserve(at) {
            return Some(at);
        }
        at -= STEP;
    }
    None
}

impl Arena {
    /// An arena whose every cell reaches, and is reached from, all of `near`.
    ///
    /// # Errors
    /// Why the kernel does not let us have one; nothing is left behind but reserved address space.
    pub fn create(near: &Range<u64>) -> Result<Arena, ArenaError> {
        Arena::make(reserve_near(near).ok_or(ArenaError::NoRoom)?)
    }

    /// Likewise, at exactly `base`, if nothing is there. It is for the caller to know what it reaches.
    ///
    /// # Errors
    /// As for [`Arena::create`].
    pub fn create_at(base: u64) -> Result<Arena, ArenaError> {
        if reserve(base) { Arena::make(base) } else { Err(ArenaError::NoRoom) }
    }

    /// One in address space that was reserved for it.
    fn make(base: u64) -> Result<Arena, ArenaError> {
        let made = Arena::fill(base);
        if made.is_err() {
            // SAFETY: the reservation is ours and nothing refers to it.
            let _ = unsafe { rustix::mm::munmap(base as *mut c_void, ARENA_BYTES) };
        }
        made
    }

    fn fill(base: u64) -> Result<Arena, ArenaError> {
        let (fd, alias) = new_file()?;
        let rx = ProtFlags::READ | ProtFlags::EXEC;
        // SAFETY: all three ranges lie in the reservation that the caller just made.
        unsafe {
            map_at(base, CODE_BYTES, rx, &fd, 0)?;
            map_at(base + CODE_BYTES as u64, MAP_BYTES + FRAMES_BYTES, ProtFlags::READ, &fd, CODE_BYTES)?;
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            let data = (base + FILE_BYTES as u64) as *mut c_void;
            rustix::mm::mmap_anonymous(data, DATA_BYTES, prot, flags).map_err(|_| ArenaError::Map)?;
            // Counters are sparse; a kernel without huge pages refuses this.
            let _ = rustix::mm::madvise(data, DATA_BYTES, Advice::LinuxNoHugepage);
            keep_out_of_cores(base as *mut c_void, ARENA_BYTES);
        }
        Ok(Arena { base, alias, sites: AtomicU32::new(0) })
    }

    /// Address of the first byte of code.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Address at which `cell` runs.
    #[must_use]
    pub fn address(&self, cell: Cell) -> u64 {
        self.base + cell.offset() as u64
    }

    /// The cell in which `address` lies, if it lies in this arena's code.
    #[must_use]
    pub fn cell_at(&self, address: u64) -> Option<Cell> {
        let offset = address.checked_sub(self.base)?;
        (offset < CODE_BYTES as u64).then(|| Cell((offset / CELL as u64) as u32))
    }

    /// Whether every cell reaches `address` by a direct branch, and can be reached from it.
    #[must_use]
    pub fn reaches(&self, address: u64) -> bool {
        address < self.base + REACH && address + REACH > self.base + ARENA_BYTES as u64
    }

    /// In which halves the instruction whose displacement ends at `next` can be linked by one byte.
    #[must_use]
    pub fn parity(&self, next: u64) -> Parity {
        Parity::of(next.wrapping_sub(self.base))
    }

    fn map(&self) -> &CellMap {
        // SAFETY: the alias covers code and map; the map is all atomics, and any bytes are a valid one.
        unsafe { &*self.alias.add(CODE_BYTES).cast::<CellMap>() }
    }

    fn frames(&self) -> &Frames {
        // SAFETY: the alias covers code, map and frames; frames are all atomics, and any bytes are valid
        // ones.
        unsafe { &*self.alias.add(FRAMES_AT).cast::<Frames>() }
    }

    /// Where what unwinders look up is read.
    #[must_use]
    pub fn frames_at(&self) -> u64 {
        self.base + FRAMES_AT as u64
    }

    /// Where code lies.
    #[must_use]
    pub fn code(&self) -> Range<u64> {
        self.base..self.base + CODE_BYTES as u64
    }

    /// Writes down how its code unwinds, but for single cells; its slow paths lie in `slow`. `None` when that
    /// fails.
    pub fn set_up_frames(&self, slow: &Range<u64>) -> Option<()> {
        self.frames().set_up(self.frames_at(), &self.code(), slow)
    }

    /// Says how `count` cells from `cell` on, which were taken by the caller and are not published yet,
    /// unwind.
    pub fn describe(&self, cell: Cell, count: u32, shape: Shape, frame: Frame) {
        self.frames().describe(cell, count, shape, frame);
    }

    /// Writes down what `row` says, as number `n`. `None` when there is no room for that.
    pub fn know_row(&self, n: usize, row: &Row) -> Option<()> {
        self.frames().know_row(n, row, self.frames_at(), &self.code())
    }

    /// A cell for a gate, in a column for gates of this `kind`; in one from which nothing can be linked if
    /// there is no other.
    pub fn take_gate(&self, parity: Parity, kind: usize) -> Option<Cell> {
        self.map().take_gate(parity, kind).or_else(|| self.map().take_gate(parity.other(), kind))
    }

    /// The cell for a column's copy of the thunk, once.
    pub fn take_thunk(&self, column: u32) -> Option<Cell> {
        self.map().take_thunk(column)
    }

    /// A cell for a gate that no site is linked past, or for other words that change.
    pub fn take_loose(&self) -> Option<Cell> {
        self.map().take_loose()
    }

    /// A tree cell in `column`.
    pub fn take_in_column(&self, column: u32) -> Option<Cell> {
        self.map().take_in_column(column)
    }

    /// `count` neighbouring tree cells.
    pub fn take_run(&self, count: u32) -> Option<Cell> {
        self.map().take_run(count)
    }

    /// Counters for one more site; `None` when there are none left.
    pub fn take_counters(&self) -> Option<u64> {
        self.take_data(core::mem::size_of::<Counters>() / 8)
    }

    /// `words` of data that generated code can read, all zero; `None` when there is no room left.
    pub fn take_data(&self, words: usize) -> Option<u64> {
        let count = (words * 8).div_ceil(core::mem::size_of::<Counters>()) as u32;
        let take = |taken: u32| taken.checked_add(count).filter(|&end| end <= SITES as u32);
        let first = self.sites.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        Some(self.base + FILE_BYTES as u64 + u64::from(first) * core::mem::size_of::<Counters>() as u64)
    }

    /// Of 64 parts of the room for runs of cells, how many were gone through.
    #[must_use]
    pub fn spent(&self) -> u32 {
        self.map().spent()
    }

    /// Bytes of code pages that this process populated.
    #[must_use]
    pub fn populated_bytes(&self) -> usize {
        self.map().populated_bytes()
    }

    /// The word `index` of `cell`, to publish a gate by one aligned store.
    ///
    /// # Panics
    /// Never: an index beyond the cell is brought into it.
    #[must_use]
    pub fn word(&self, cell: Cell, index: usize) -> &AtomicU64 {
        let offset = cell.offset() + (index % (CELL / 8)) * 8;
        // SAFETY: inside the alias, 8-byte aligned, accessed as an atomic by everybody.
        unsafe { &*self.alias.add(offset).cast::<AtomicU64>() }
    }

    /// Fills fresh cells, from byte `at` of `cell` on.
    ///
    /// # Safety
    /// The cells must have been taken by the caller and not be published yet.
    pub unsafe fn write(&self, cell: Cell, at: usize, code: &[u8]) {
        debug_assert!(cell.offset() + at + code.len() <= CODE_BYTES);
        sync::step();
        // SAFETY: the caller owns the cells; nobody executes or reads them before they are published.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), self.alias.add(cell.offset() + at), code.len()) }
    }

    /// The cells from `cell` on as bytes to emit code into.
    ///
    /// # Safety
    /// As for [`Arena::write`], and for one caller at a time.
    #[must_use]
    #[expect(clippy::mut_from_ref, reason = "cells are handed out once; the bitmap guarantees exclusiveness")]
    pub unsafe fn fresh(&self, cell: Cell, count: usize) -> &mut [u8] {
        sync::step();
        // SAFETY: the caller owns the cells.
        unsafe { core::slice::from_raw_parts_mut(self.alias.add(cell.offset()), count * CELL) }
    }

    /// In a forked child that may go on writing through the alias, which it does not have: memory to throw
    /// away in its place. Nothing of it is ever executed.
    pub fn stand_in(&self) {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: FIXED_NOREPLACE replaces nothing. Should something lie there, the alias was inherited after
        // all.
        let _ = unsafe { rustix::mm::mmap_anonymous(self.alias.cast(), FILE_BYTES, prot, flags) };
    }

    /// In a forked child: gives it an arena file of its own. `self` must be the child's copy of the parent's
    /// struct, whose alias the child does not have.
    ///
    /// # Errors
    /// As for [`Arena::create`]; the child then goes on with what its parent knew and must not learn.
    ///
    /// # Safety
    /// To be called once in a child, under the engine's lock, before anything uses the alias.
    pub unsafe fn privatise(&mut self) -> Result<(), ArenaError> {
        let (fd, alias) = new_file()?;
        // SAFETY: the read-only mapping of the parent's map and frames is still in place.
        let (theirs, their_frames) =
            unsafe { (&*((self.base + CODE_BYTES as u64) as *const CellMap), &*(self.frames_at() as *const Frames)) };
        self.alias = alias;
        let rx = ProtFlags::READ | ProtFlags::EXEC;
        let base = self.base;
        self.map().inherit_gates(theirs, |page, count| {
            let (offset, bytes) = (page * PAGE, count * PAGE);
            copy_words(base + offset as u64, alias, offset, bytes);
            // SAFETY: these pages are ours; their content does not change by this.
            unsafe { map_at(base + offset as u64, bytes, rx, &fd, offset) }
        })?;
        self.map().inherit_trees(theirs);
        self.frames().inherit_tables(their_frames);
        let in_use = (0..CODE_PAGES).filter(|&page| theirs.page_kind(page) != PageKind::Free);
        in_use.for_each(|page| self.frames().inherit_page(their_frames, page));
        self.map().each_free_run(|page, count| {
            let (offset, bytes) = (page * PAGE, count * PAGE);
            // SAFETY: nothing in these pages can be entered in this process.
            unsafe { map_at(base + offset as u64, bytes, rx, &fd, offset) }
        })?;
        // SAFETY: nobody holds a reference to the parent's map any more.
        unsafe {
            map_at(base + CODE_BYTES as u64, MAP_BYTES + FRAMES_BYTES, ProtFlags::READ, &fd, CODE_BYTES)?;
            keep_out_of_cores(base as *mut c_void, FILE_BYTES);
        }
        Ok(())
    }

    /// Gives all of it back.
    ///
    /// # Safety
    /// Nobody may be in its code, or come there any more, and the alias must be this process' own: not that
    /// of a forked child that has no arena of its own yet.
    pub unsafe fn unmap(self) {
        // SAFETY: both mappings are the arena's, and nobody's any more, says the caller.
        unsafe {
            let _ = rustix::mm::munmap(self.base as *mut c_void, ARENA_BYTES);
            let _ = rustix::mm::munmap(self.alias.cast(), FILE_BYTES);
        }
    }
}

/// Copies gate pages word by word: the parent may change a gate meanwhile, and each word must be whole.
fn copy_words(from: u64, alias: *mut u8, offset: usize, bytes: usize) {
    for i in (0..bytes).step_by(8) {
        // SAFETY: both sides are mapped for all of `bytes` and 8-byte aligned.
        unsafe {
            let word = (*((from + i as u64) as *const AtomicU64)).load(Ordering::Acquire);
            (*alias.add(offset + i).cast::<AtomicU64>()).store(word, Ordering::Release);
        }
    }
}

/// Pages of code, for those who account for them.
pub const PAGES: usize = CODE_PAGES;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::{COLUMNS, HALF};

    /// Some arena and some instruction within its reach.
    fn places() -> impl Iterator<Item = (Arena, u64)> {
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            state >> 20
        };
        let edges = [0, 1, 0xffff, 0x1_0000, 0x7f_0000, 0x80_0000, 0x80_ffff, 0x81_0000, 0xff_0000, 0xff_ffff];
        let somewhere = (0..20_000).map(move |_| random());
        edges.into_iter().chain(somewhere).map(|distance| {
            let arena = Arena { base: 0x5555_0040_0000, alias: core::ptr::null_mut(), sites: AtomicU32::new(0) };
            let next = arena.base + ARENA_BYTES as u64 + distance % (REACH - ARENA_BYTES as u64);
            (arena, next)
        })
    }

    fn displacement(arena: &Arena, next: u64, cell: Cell) -> [u8; 4] {
        i32::try_from(arena.address(cell).wrapping_sub(next).cast_signed()).expect("out of reach").to_le_bytes()
    }

    /// Also where the instruction begins or ends a half, or an arena.
    #[test]
    fn gates_and_heads_differ_in_the_second_byte_alone() {
        for (arena, next) in places() {
            let parity = arena.parity(next);
            for half in [0, 1, 7, 127, 128, 254, 255].map(|pair| 2 * pair + u32::from(parity.is_odd())) {
                for column in [4 * half, 4 * half + 3] {
                    let thunk = displacement(&arena, next, Cell::of_thunk(column));
                    let first = half * (HALF / CELL) as u32 + column % 4;
                    for cell in (0..128).map(|slot| Cell(first + 4 * slot)) {
                        assert!(cell.column() == column && cell.parity() == parity);
                        let other = displacement(&arena, next, cell);
                        let same = (thunk[0], thunk[2], thunk[3]) == (other[0], other[2], other[3]);
                        assert!(same, "{next:#x}, {cell:?} in column {column}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_full_arena_says_so() {
        let here = a_full_arena_says_so as *const () as u64 & !0xf_ffff;
        let arena = Arena::create(&(here..here + 0x10_0000)).unwrap();
        while arena.take_run(100).is_some() {}
        while arena.take_loose().is_some() {}
        let parities = [0, HALF as u64].map(Parity::of);
        let gates = parities.map(|parity| core::iter::from_fn(|| arena.take_gate(parity, 3)).count());
        assert!(gates[0] > 60_000 && gates[1] == 0, "the other parity's are taken too: {gates:?}");
        for _ in 0..3 {
            assert!(parities.iter().all(|&parity| arena.take_gate(parity, 9).is_none()));
            assert!(arena.take_loose().is_none() && arena.take_run(100).is_none());
        }
        let in_column = |column| core::iter::from_fn(|| arena.take_in_column(column)).count();
        let taken = (0..COLUMNS as u32).map(in_column).sum::<usize>();
        assert!(taken > 0 && taken < CODE_BYTES / CELL);
        assert_eq!(core::iter::from_fn(|| arena.take_counters()).count(), SITES);
    }
}
