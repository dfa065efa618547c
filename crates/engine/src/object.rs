//! What the loader mapped: executables and libraries as they lie in memory.
//!
//! Everything is read from the program headers in memory, never from the file, and every range is checked
//! against the segments before it is read: a malformed object gives fewer findings, not a fault.
//!
//! The headers of the executable are where the kernel says. Those of a library are found by its ELF header,
//! which nearly always lies at its load address: it is the one by whose headers the dynamic section is where
//! the loader says. It is looked for through the kernel, which says so when nothing is there.

use crate::loader;
use crate::maps;
use crate::memory::Reader;
use crate::table::Table;
use core::ffi::{CStr, c_char};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use relpoline_core::scan::Region;
use rustix::fs::{Mode, OFlags};

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_NOTE: u32 = 4;
const PT_PHDR: u32 = 6;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
const DT_DEBUG: u64 = 21;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERSYM: u64 = 0x6fff_fff0;
const AT_NULL: u64 = 0;
const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const AT_HWCAP2: u64 = 26;

/// Segments of an object that are looked at; real ones have four or five.
const SEGMENTS: usize = 16;

/// `Elf64_Phdr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
    align: u64,
}

impl ProgramHeader {
    fn from_bytes(bytes: &[u8; HEADER]) -> ProgramHeader {
        let [offset, vaddr, paddr, filesz, memsz, align] = [8, 16, 24, 32, 40, 48].map(|at| word(bytes, at));
        let kinds = word(bytes, 0);
        ProgramHeader { kind: kinds as u32, flags: (kinds >> 32) as u32, offset, vaddr, paddr, filesz, memsz, align }
    }
}

/// Program headers that are read; real objects have a dozen.
const HEADERS: usize = 64;

/// Address and number of the executable's program headers, as the kernel has told.
static EXECUTABLE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// What the kernel lets programs do with the processor, as it has told; `u64::MAX` while that is not known.
static PROCESSOR: AtomicU64 = AtomicU64::new(u64::MAX);

/// What the kernel lets programs do with the processor (`AT_HWCAP2` of getauxval(3)): as it told the
/// constructor, or, in a process that the engine was attached to, as its file says.
#[must_use]
pub fn processor() -> u64 {
    let told = PROCESSOR.load(Ordering::Relaxed);
    if told != u64::MAX {
        return told;
    }
    let mut words = [0; 1024];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/auxv", flags, Mode::empty());
    let length = file.ok().and_then(|file| rustix::io::pread(file, &mut words, 0).ok()).unwrap_or(0);
    let pairs = words[..length].chunks_exact(16).map(|pair| (word(pair, 0), word(pair, 8)));
    let found = pairs.into_iter().find(|pair| pair.0 == AT_HWCAP2).map_or(0, |pair| pair.1);
    PROCESSOR.store(found, Ordering::Relaxed);
    found
}

/// Notes where the executable's program headers are: behind the environment the kernel has put what it tells
/// the loader.
///
/// # Safety
/// `envp` must be the environment as the process was started with it, which nobody has changed yet.
pub unsafe fn remember_executable(envp: *const *const c_char) {
    // SAFETY: passed on: both arrays end with zeroes.
    unsafe {
        let mut at = envp.cast::<u64>();
        while at.read() != 0 {
            at = at.add(1);
        }
        let mut pair = at.add(1);
        while pair.read() != AT_NULL {
            match pair.read() {
                AT_PHDR => EXECUTABLE[0].store(pair.add(1).read(), Ordering::Relaxed),
                AT_PHNUM => EXECUTABLE[1].store(pair.add(1).read(), Ordering::Relaxed),
                AT_HWCAP2 => PROCESSOR.store(pair.add(1).read(), Ordering::Relaxed),
                _ => {}
            }
            pair = pair.add(2);
        }
    }
}

/// What the kernel has told of the executable's program headers.
fn executable() -> Option<(u64, u16)> {
    let [at, count] = [0, 1].map(|n| EXECUTABLE[n].load(Ordering::Relaxed));
    (at != 0).then_some((at, u16::try_from(count).ok()?))
}

/// An object as the loader's list has it.
#[derive(Clone, Copy)]
pub struct Link {
    /// What is added to the addresses in the file.
    pub base: u64,
    /// Address of its dynamic section.
    pub dynamic: u64,
    /// Its path, a C string.
    pub name: u64,
    /// It is the executable.
    pub is_executable: bool,
}

/// `struct dl_phdr_info`.
#[repr(C)]
pub struct PhdrInfo {
    addr: u64,
    name: *const c_char,
    phdr: *const ProgramHeader,
    phnum: u16,
    adds: u64,
    subs: u64,
    tls_modid: u64,
    tls_data: u64,
}

/// A list of objects that came from elsewhere than the loader's own functions.
pub struct Listed<'a>(&'a [PhdrInfo]);

impl Listed<'_> {
    /// # Safety
    /// `first` must be the address of `count` entries as `dl_iterate_phdr(3)` passes them, of objects that
    /// stay mapped.
    #[must_use]
    pub unsafe fn new(first: u64, count: u64) -> Self {
        if count == 0 {
            return Self(&[]);
        }
        // SAFETY: passed on.
        Self(unsafe { core::slice::from_raw_parts(first as *const PhdrInfo, count as usize) })
    }

    /// Calls `visit` for every object.
    pub fn each(&self, visit: &mut dyn FnMut(&Object<'_>)) {
        // SAFETY: entries are as the loader's, says who made the list.
        self.0.iter().for_each(|info| visit(&unsafe { Object::read(info) }));
    }

    /// Notes where the executable's program headers are: it is the first one.
    pub fn remember_executable(&self) {
        if let Some(first) = self.0.first() {
            EXECUTABLE[0].store(first.phdr as u64, Ordering::Relaxed);
            EXECUTABLE[1].store(u64::from(first.phnum), Ordering::Relaxed);
        }
    }
}

/// A mapped piece of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// First address.
    pub start: u64,
    /// Bytes in memory.
    pub len: u64,
    /// Whether it is executable.
    pub executable: bool,
    /// Whether it is writable too, as that of programs linked in one piece.
    pub writable: bool,
    /// Whether it can be read: text that may only be executed cannot.
    pub readable: bool,
}

impl Segment {
    const NONE: Segment = Segment { start: 0, len: 0, executable: false, writable: false, readable: false };

    /// Whether it holds `len` bytes from `address` on.
    #[must_use]
    pub fn contains(&self, address: u64, len: u64) -> bool {
        address >= self.start && address.checked_add(len).is_some_and(|end| end <= self.start + self.len)
    }
}

/// An object while it is mapped. Borrowing from one is only sound until it is unmapped, so nothing keeps it
/// beyond the callback of [`each`].
#[derive(Clone, Copy)]
pub struct Object<'a> {
    /// What is added to the addresses in the file.
    pub base: u64,
    /// The path as the loader has it; empty for the executable.
    pub name: &'a [u8],
    segments: [Segment; SEGMENTS],
    count: usize,
    dynamic: Option<(u64, u64)>,
    eh_frame_hdr: Option<(u64, u64)>,
    notes: [(u64, u64); 4],
}

/// An ELF header and the program headers that mostly follow it.
const FIRST: usize = 64 + 12 * HEADER;
const HEADER: usize = size_of::<ProgramHeader>();

/// Adds the headers of the library that `link` names to `object`; `None` when they lie in no segment.
fn add_headers(object: &mut Object<'_>, link: &Link, memory: &Reader) -> Option<()> {
    if let found @ Some(()) = add_headers_at(link.base, object, link, memory) {
        return found;
    }
    // Its first segment has another address than 0 in the file: the header is the nearest one below.
    let mut nearest = None;
    maps::each(|mapping| {
        let mut first = [0; 4];
        if mapping.readable && mapping.start <= link.dynamic && memory.read(mapping.start, &mut first) == 4 {
            nearest = if first == *b"\x7fELF" { Some(mapping.start) } else { nearest };
        }
    });
    add_headers_at(nearest?, object, link, memory)
}

/// Likewise, those that belong to an ELF header at `at`, if by them the dynamic section is where the loader
/// says.
fn add_headers_at(at: u64, object: &mut Object<'_>, link: &Link, memory: &Reader) -> Option<()> {
    let mut buffer = [0; HEADERS * HEADER];
    let read = memory.read(at, &mut buffer[..FIRST]);
    let first = &buffer[..read];
    if !first.starts_with(b"\x7fELF\x02") || half(first, 54)? as usize != HEADER {
        return None;
    }
    let (offset, size) = (word(first, 32) as usize, (half(first, 56)? as usize).min(HEADERS) * HEADER);
    let headers = match offset.checked_add(size) {
        Some(end) if end <= read => buffer.get(offset..end)?,
        _ if memory.read(at.checked_add(offset as u64)?, &mut buffer[..size]) == size => &buffer[..size],
        _ => return None,
    };
    let (headers, _) = headers.as_chunks::<HEADER>();
    let is_it =
        |header: &ProgramHeader| header.kind == PT_DYNAMIC && link.base.wrapping_add(header.vaddr) == link.dynamic;
    if !headers.iter().map(ProgramHeader::from_bytes).any(|header| is_it(&header)) {
        return None;
    }
    headers.iter().map(ProgramHeader::from_bytes).for_each(|header| object.add(&header));
    Some(())
}

impl<'a> Object<'a> {
    /// The object that the loader's list names; without segments when its program headers cannot be found.
    ///
    /// # Safety
    /// `link` must be in the loader's list, and stay mapped.
    #[must_use]
    pub unsafe fn of(link: &Link, memory: &Reader) -> Object<'a> {
        // SAFETY: the loader's names are C strings, or null.
        let mut object = unsafe { Object::named(link.base, link.name as *const c_char) };
        if let Some((at, count)) = executable().filter(|_| link.is_executable) {
            // SAFETY: the kernel has told, of memory that stays as long as the program.
            let headers = unsafe { core::slice::from_raw_parts(at as *const ProgramHeader, usize::from(count)) };
            headers.iter().for_each(|header| object.add(header));
        } else if add_headers(&mut object, link, memory).is_none() {
            // It is known by this; nothing else of it is.
            object.dynamic = Some((link.dynamic, 0));
        }
        object
    }

    /// # Safety
    /// `info` must be as `dl_iterate_phdr(3)` passes it.
    unsafe fn read(info: &'a PhdrInfo) -> Object<'a> {
        // SAFETY: passed on.
        let mut object = unsafe { Object::named(info.addr, info.name) };
        // SAFETY: the array has `phnum` entries, says who made the list.
        for header in unsafe { core::slice::from_raw_parts(info.phdr, usize::from(info.phnum)) } {
            object.add(header);
        }
        object
    }

    /// One without segments yet.
    ///
    /// # Safety
    /// `name` must be a C string that stays, or null.
    unsafe fn named(base: u64, name: *const c_char) -> Object<'a> {
        Object {
            base,
            // SAFETY: passed on.
            name: if name.is_null() { &[] } else { unsafe { CStr::from_ptr(name) }.to_bytes() },
            segments: [Segment::NONE; SEGMENTS],
            count: 0,
            dynamic: None,
            eh_frame_hdr: None,
            notes: [(0, 0); 4],
        }
    }

    fn add(&mut self, header: &ProgramHeader) {
        let at = self.base.wrapping_add(header.vaddr);
        match header.kind {
            PT_LOAD => {
                if let Some(slot) = self.segments.get_mut(self.count) {
                    let has = |flag| header.flags & flag != 0;
                    *slot = Segment {
                        start: at,
                        len: header.memsz,
                        executable: has(PF_X),
                        writable: has(PF_W),
                        readable: has(PF_R),
                    };
                    self.count += 1;
                }
            }
            PT_DYNAMIC => self.dynamic = Some((at, header.memsz)),
            PT_GNU_EH_FRAME => self.eh_frame_hdr = Some((at, header.memsz)),
            PT_NOTE => {
                if let Some(slot) = self.notes.iter_mut().find(|slot| slot.1 == 0) {
                    *slot = (at, header.memsz);
                }
            }
            _ => {}
        }
    }

    /// All mapped segments.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.count]
    }

    /// The executable segments.
    pub fn texts(&self) -> impl Iterator<Item = &Segment> {
        self.segments().iter().filter(|s| s.executable)
    }

    /// From the first to the last byte of anything mapped.
    #[must_use]
    pub fn span(&self) -> Range<u64> {
        let start = self.segments().iter().map(|s| s.start).min().unwrap_or(0);
        let end = self.segments().iter().map(|s| s.start + s.len).max().unwrap_or(0);
        start..end
    }

    /// Address of its dynamic section; 0 when it has none.
    #[must_use]
    pub fn dynamic(&self) -> u64 {
        self.dynamic.map_or(0, |(at, _)| at)
    }

    /// Forgets the segments of which not every byte is mapped readable: the program has put something in
    /// their place.
    pub fn keep_mapped(&mut self, mappings: &Table<maps::Mapping>) {
        let mut kept = 0;
        for n in 0..self.count {
            if let Some(&segment) = self.segments.get(n)
                && maps::is_readable(mappings.as_slice(), segment.start, segment.len)
            {
                self.segments[kept] = segment;
                kept += 1;
            }
        }
        self.count = kept;
    }

    /// `len` bytes at `address` if one segment holds them all.
    #[must_use]
    pub fn bytes(&self, address: u64, len: u64) -> Option<&'a [u8]> {
        let held = self.segments().iter().any(|s| s.readable && s.contains(address, len));
        // SAFETY: inside a segment that the loader has mapped readable, and that stays while the object does.
        held.then(|| unsafe { core::slice::from_raw_parts(address as *const u8, len as usize) })
    }

    /// The bytes of a whole segment.
    #[must_use]
    pub fn segment_bytes(&self, segment: &Segment) -> &'a [u8] {
        self.bytes(segment.start, segment.len).unwrap_or_default()
    }

    /// `.eh_frame_hdr` and its address.
    #[must_use]
    pub fn eh_frame_hdr(&self) -> Option<(u64, &'a [u8])> {
        let (at, len) = self.eh_frame_hdr?;
        Some((at, self.bytes(at, len)?))
    }

    /// The segment that holds `address`, if it can be read.
    #[must_use]
    pub fn region_around(&self, address: u64) -> Option<Region<'a>> {
        let segment = self.segments().iter().find(|s| s.contains(address, 1))?;
        Some(Region { address: segment.start, bytes: self.bytes(segment.start, segment.len)? })
    }

    /// The symbols that the object exports or imports, as they lie in memory.
    #[must_use]
    pub fn dynamic_symbols(&self) -> &'a [u8] {
        const SYMBOL: u64 = 24;
        let symbols = self.dynamic_value(DT_SYMTAB).and_then(|at| self.placed(at));
        symbols.zip(self.count_symbols()).and_then(|(at, n)| self.bytes(at, n * SYMBOL)).unwrap_or_default()
    }

    /// Where an address of the dynamic section lies, which the loader has relocated or not.
    fn placed(&self, address: u64) -> Option<u64> {
        let relocated = self.base.wrapping_add(address);
        [address, relocated].into_iter().find(|&at| self.segments().iter().any(|s| s.contains(at, 1)))
    }

    /// How many symbols there are: only the hash tables say it.
    fn count_symbols(&self) -> Option<u64> {
        if let Some(table) = self.dynamic_value(DT_HASH).and_then(|at| self.placed(at)) {
            return self.bytes(table, 8).map(|table| word(table, 0) >> 32);
        }
        let table = self.dynamic_value(DT_GNU_HASH).and_then(|at| self.placed(at))?;
        let head = self.bytes(table, 16)?;
        let [buckets, first, filters] = [word(head, 0) as u32, (word(head, 0) >> 32) as u32, word(head, 8) as u32];
        let start = table + 16 + u64::from(filters) * 8;
        let heads = self.bytes(start, u64::from(buckets) * 4)?;
        let last = heads.as_chunks::<4>().0.iter().map(|head| u32::from_le_bytes(*head)).max()?;
        if last < first {
            return Some(u64::from(first));
        }
        // The last chain goes on until a hash with its lowest bit set.
        let chains = self.region_around(start)?.from(start + u64::from(buckets) * 4)?.as_chunks::<4>().0;
        let end = chains.get((last - first) as usize..)?.iter().position(|hash| hash[0] & 1 != 0)?;
        Some(u64::from(last) + end as u64 + 1)
    }

    /// The build-id, if there is one.
    #[must_use]
    pub fn build_id(&self) -> Option<&'a [u8]> {
        self.notes.iter().filter(|n| n.1 != 0).find_map(|&(at, len)| build_id_in(self.bytes(at, len)?))
    }

    fn dynamic_value(&self, tag: u64) -> Option<u64> {
        let (at, len) = self.dynamic?;
        let entries = self.bytes(at, len)?;
        entries
            .chunks_exact(16)
            .map(|e| (word(e, 0), word(e, 8)))
            .take_while(|e| e.0 != 0)
            .find(|e| e.0 == tag)
            .map(|e| e.1)
    }

    /// The address that an entry of the dynamic section names. Loaders store it relocated or not.
    fn dynamic_address(&self, tag: u64) -> Option<u64> {
        let at = self.dynamic_value(tag)?;
        let is_inside = |at: &u64| self.bytes(*at, 1).is_some();
        Some(at).filter(is_inside).or_else(|| Some(self.base.wrapping_add(at)).filter(is_inside))
    }

    /// From `address` to the end of the segment that holds it.
    fn rest(&self, address: u64) -> Option<&'a [u8]> {
        let segment = self.segments().iter().find(|segment| segment.contains(address, 1))?;
        self.bytes(address, segment.start + segment.len - address)
    }

    /// Address and size of the function called `name` that this object offers to others.
    #[must_use]
    pub fn function(&self, name: &[u8]) -> Option<(u64, u64)> {
        const SYMBOL: u64 = 24;
        const OLD: u16 = 0x8000;
        let hash = self.rest(self.dynamic_address(DT_GNU_HASH)?)?;
        let (names, symbols) = (self.dynamic_address(DT_STRTAB)?, self.dynamic_address(DT_SYMTAB)?);
        let versions = self.dynamic_address(DT_VERSYM);
        let (buckets, first, blooms) = (four(hash, 0)?, four(hash, 4)?, four(hash, 8)? as usize);
        let wanted = name.iter().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)));
        let table = 16 + blooms * 8;
        let mut number = four(hash, table + 4 * wanted.checked_rem(buckets)? as usize)?;
        loop {
            let chain = table + 4 * (buckets + number.checked_sub(first)?) as usize;
            let found = four(hash, chain)?;
            if found | 1 == wanted | 1 {
                let symbol = self.bytes(symbols + u64::from(number) * SYMBOL, SYMBOL)?;
                let text = self.rest(names + u64::from(four(symbol, 0)?))?;
                let version = versions.and_then(|at| self.bytes(at + u64::from(number) * 2, 2));
                let is_old = version.is_some_and(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]) & OLD != 0);
                let is_defined = four(symbol, 4)? >> 16 != 0;
                if is_defined && !is_old && text.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0)) {
                    return Some((self.base.wrapping_add(word(symbol, 8)), word(symbol, 16)));
                }
            }
            if found & 1 != 0 {
                return None;
            }
            number += 1;
        }
    }
}

/// Two little-endian bytes of `bytes` at `at`.
#[must_use]
pub fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

/// Eight little-endian bytes of `bytes` at `at`; 0 when they are not there.
#[must_use]
pub fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

/// Four little-endian bytes of `bytes` at `at`.
fn four(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The build-id among notes.
#[must_use]
pub fn build_id_in(mut notes: &[u8]) -> Option<&[u8]> {
    loop {
        let field = |i: usize| notes.get(i..i + 4).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b));
        let (name_len, len, kind) = (field(0)? as usize, field(4)? as usize, field(8)?);
        let description = 12 + name_len.checked_next_multiple_of(4)?;
        let end = description.checked_add(len)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..16) == Some(b"GNU\0".as_slice()) {
            return notes.get(description..end);
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}

/// Calls `visit` for every object that the loader has mapped, in whichever namespace, the executable first.
/// Nothing may be mapped or unmapped meanwhile.
pub fn each(memory: &Reader, visit: &mut dyn FnMut(&Object<'_>)) {
    // SAFETY: the list does not change, sees the caller to.
    loader::each(&mut |link| visit(&unsafe { Object::of(link, memory) }));
}

/// Where the executable's dynamic section says that the loader's `struct r_debug` is.
#[must_use]
pub fn loader_debug() -> Option<u64> {
    let (at, count) = executable()?;
    let mut object = Object {
        base: 0,
        name: &[],
        segments: [Segment::NONE; SEGMENTS],
        count: 0,
        dynamic: None,
        eh_frame_hdr: None,
        notes: [(0, 0); 4],
    };
    // SAFETY: the kernel has told, of memory that stays as long as the program.
    let headers = unsafe { core::slice::from_raw_parts(at as *const ProgramHeader, usize::from(count)) };
    // Where there is no PT_PHDR it is not relocated.
    object.base = headers.iter().find(|header| header.kind == PT_PHDR).map_or(0, |h| at.wrapping_sub(h.vaddr));
    headers.iter().for_each(|header| object.add(header));
    object.dynamic_value(DT_DEBUG).filter(|&at| at != 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What libc makes of the same: every object with its dynamic section.
    fn listed_by_libc() -> std::vec::Vec<(u64, u64, usize)> {
        type Callback = unsafe extern "C" fn(*mut PhdrInfo, usize, *mut core::ffi::c_void) -> core::ffi::c_int;
        unsafe extern "C" {
            fn dl_iterate_phdr(callback: Callback, data: *mut core::ffi::c_void) -> core::ffi::c_int;
        }
        unsafe extern "C" fn note(info: *mut PhdrInfo, _: usize, all: *mut core::ffi::c_void) -> core::ffi::c_int {
            // SAFETY: the list below, and what libc passes.
            let (all, object) = unsafe { (&mut *all.cast::<std::vec::Vec<_>>(), Object::read(&*info)) };
            all.push((object.base, object.dynamic(), object.segments().len()));
            0
        }
        let mut all = std::vec::Vec::new();
        // SAFETY: the callback matches.
        unsafe { dl_iterate_phdr(note, (&raw mut all).cast()) };
        all
    }

    /// Finds the loader's list, as the constructor does.
    pub fn find_list() {
        let auxiliary = std::fs::read("/proc/self/auxv").unwrap();
        let words: std::vec::Vec<u64> = auxiliary.chunks_exact(8).map(|w| word(w, 0)).collect();
        let block: std::vec::Vec<u64> = [1, 1, 0].into_iter().chain(words).collect();
        // SAFETY: an array as the kernel makes it: two strings that nobody reads, a zero, pairs of numbers.
        unsafe { remember_executable(block.as_ptr().cast()) };
        loader::attend(loader_debug().expect("the tests are linked dynamically"));
    }

    #[test]
    fn the_loaders_list_is_what_libc_says() {
        find_list();
        let mut found = std::vec::Vec::new();
        let reader = Reader::open();
        loader::each(&mut |link| {
            // SAFETY: nothing is unloaded while the tests run.
            let object = unsafe { Object::of(link, &reader) };
            assert_eq!((object.base, object.dynamic()), (link.base, link.dynamic));
            for segment in object.segments().iter().filter(|segment| segment.readable) {
                assert_eq!(object.segment_bytes(segment).len() as u64, segment.len);
            }
            assert!(object.bytes(object.span().end, 1).is_none());
            found.push((object.base, object.dynamic(), object.segments().len()));
        });
        assert!(found.len() >= 2, "the executable and libc at least");
        let mut listed = listed_by_libc();
        found.sort_unstable();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }

    #[test]
    fn headers_that_say_something_else_are_not_believed() {
        let link = Link { base: 0x10_0000, dynamic: 0x20_0000, name: 0, is_executable: false };
        // SAFETY: no name.
        let mut object = unsafe { Object::named(link.base, core::ptr::null()) };
        assert_eq!(add_headers(&mut object, &link, &Reader::open()), None);
        assert!(object.segments().is_empty());
        // SAFETY: no name.
        assert_eq!(unsafe { Object::of(&link, &Reader::open()) }.dynamic(), link.dynamic);
    }

    #[test]
    fn functions_of_the_c_library_are_found_by_name() {
        unsafe extern "C" {
            fn execve();
        }
        find_list();
        let mut found = None;
        each(&Reader::open(), &mut |object| {
            if object.name.ends_with(b"/libc.so.6") {
                found = object.function(b"execve");
                assert!(object.function(b"execv").is_some() && object.function(b"execvee").is_none());
            }
        });
        assert_eq!(found.map(|(at, _)| at), Some(execve as *const () as u64));
    }

    #[test]
    fn truncated_notes_have_no_build_id() {
        let whole = [4, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0, 0xab, 0xcd, 0, 0];
        assert_eq!(build_id_in(&whole), Some([0xab, 0xcd].as_slice()));
        for len in 0..18 {
            assert_eq!(build_id_in(&whole[..len]), None);
        }
    }
}
