//! Where an object's functions begin and end, where no table of unwind rules lists them.
//!
//! ```text
//! .eh_frame_hdr's table    searched in place: what nearly every object has
//! .eh_frame                read from its start, where there is no table
//! symbols                  .symtab of the object's file, .dynsym in memory
//! ```
//! Each is asked only about branches that those before it know nothing of; mostly none is left after the
//! first.
//!
//! A symbol table says what somebody wrote into it. Functions that overlap are not believed, and of one that
//! only a symbol names every instruction must be known, up to its end and not beyond.
//!
//! The file is that which is mapped: its device and inode are those of the text's mapping, or it has the
//! build-id that lies in memory. Only what is needed of it is read, and not mapped: whoever cuts it off
//! meanwhile harms nobody.

use crate::discover;
use crate::object::{self, Object};
use crate::state::Engine;
use crate::table::Table;
use core::ffi::CStr;
use relpoline_core::arch::decode::length;
use relpoline_core::scan::{self, EhFrameHdr, Function, Functions, Region};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags};

/// Bytes of a section header, a symbol, a program header.
const SECTION: usize = 64;
const SYMBOL: usize = 24;
const PROGRAM_HEADER: usize = 56;
/// Sections of a file that are looked at.
const SECTIONS: u64 = 4096;
/// Symbols of one table that are looked at.
const SYMBOLS: u64 = 1 << 22;
const SHT_PROGBITS: u64 = 1;
const SHT_SYMTAB: u64 = 2;
const SHT_X86_64_UNWIND: u64 = 0x7000_0001;
const STT_FUNC: u8 = 2;
const PT_NOTE: u64 = 4;

/// All that is known of an object's functions, the best first.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The table of its unwind rules.
    pub table: Option<EhFrameHdr<'a>>,
    /// Functions that have rules, but stand in no table.
    pub framed: &'a [Function],
    /// Functions that have symbols only.
    pub named: &'a [Function],
}

impl Functions for Sources<'_> {
    fn containing(&self, address: u64) -> Option<Function> {
        self.with_rules(address).or_else(|| self.named.containing(address))
    }
}

impl Sources<'_> {
    fn with_rules(&self, address: u64) -> Option<Function> {
        self.table.and_then(|table| table.containing(address)).or_else(|| self.framed.containing(address))
    }

    /// Whether only a symbol says which function a site stands in.
    #[must_use]
    pub fn is_named_only(&self, site: &scan::Site) -> bool {
        !self.named.is_empty() && self.with_rules(site.address).is_none()
    }
}

/// Whether every instruction of a function is known, from its first byte up to its end.
#[must_use]
pub fn is_whole(text: Region<'_>, function: &Function) -> bool {
    let Some(mut bytes) = text.from(function.start) else { return false };
    let mut left = function.end.wrapping_sub(function.start);
    while left != 0 {
        let Some(len) = length(bytes) else { return false };
        let Some(rest) = left.checked_sub(u64::from(len)) else { return false };
        (left, bytes) = (rest, bytes.get(usize::from(len)..).unwrap_or_default());
    }
    true
}

/// Lists the functions that have unwind rules, where no table does; whether there are any.
pub fn list_frames(engine: &mut Engine, object: &Object<'_>) -> bool {
    if discover::table_of_frames(object).is_some_and(|table| !table.is_empty()) {
        return false;
    }
    let header = object.eh_frame_hdr().map(|(address, bytes)| Region { address, bytes });
    let start = header.and_then(EhFrameHdr::frames).or_else(|| {
        let file = File::of(engine, object)?;
        file.section(|section, name| {
            let kind = section_word(section, 4) & 0xffff_ffff;
            name == b".eh_frame\0" && matches!(kind, SHT_PROGBITS | SHT_X86_64_UNWIND)
        })
        .map(|section| object.base.wrapping_add(section_word(&section, 16)))
    });
    let Some(start) = start else { return false };
    let Some(frames) = object.region_around(start) else { return false };
    scan::each_frame(frames, start, &mut |function| add(&mut engine.functions, object, function));
    let count = tidy(&mut engine.functions, 0);
    engine.framed = count;
    count != 0
}

/// Lists the functions that have symbols; whether there are any.
pub fn list_symbols(engine: &mut Engine, object: &Object<'_>) -> bool {
    let begun = engine.framed;
    engine.functions.truncate(begun);
    if let Some(file) = File::of(engine, object)
        && let Some(table) = file.section(|section, _| section_word(section, 4) & 0xffff_ffff == SHT_SYMTAB)
    {
        let (offset, size) = (section_word(&table, 24), section_word(&table, 32));
        file.records::<SYMBOL>(offset, (size / SYMBOL as u64).min(SYMBOLS), |symbol| {
            add_symbol(&mut engine.functions, object, symbol);
        });
    }
    let (symbols, _) = object.dynamic_symbols().as_chunks::<SYMBOL>();
    symbols.iter().for_each(|symbol| add_symbol(&mut engine.functions, object, symbol));
    tidy(&mut engine.functions, begun) != 0
}

fn add_symbol(functions: &mut Table<Function>, object: &Object<'_>, symbol: &[u8; SYMBOL]) {
    let (start, size) = (object.base.wrapping_add(object::word(symbol, 8)), object::word(symbol, 16));
    let is_function = symbol[4] & 0xf == STT_FUNC && (symbol[6] | symbol[7]) != 0;
    if is_function && size != 0 {
        add(functions, object, Function::new(start, start.saturating_add(size)));
    }
}

/// Adds a function that lies in the object's text.
fn add(functions: &mut Table<Function>, object: &Object<'_>, function: Function) {
    let Some(size) = function.end.checked_sub(function.start) else { return };
    if object.texts().any(|text| text.contains(function.start, size)) {
        let _ = functions.push(function);
    }
}

/// Sorts the functions from number `begun` on, keeps one of equal ones and none of those that overlap; how
/// many are left.
fn tidy(functions: &mut Table<Function>, begun: usize) -> usize {
    let all = functions.as_mut_slice().get_mut(begun..).unwrap_or_default();
    all.sort_unstable_by_key(|function| (function.start, function.end));
    let (mut kept, mut n) = (0, 0);
    while let Some(&first) = all.get(n) {
        // All that begin before those before them have ended.
        let (mut end, mut next, mut is_one) = (first.end, n + 1, true);
        while let Some(other) = all.get(next).filter(|other| other.start < end) {
            is_one &= (other.start, other.end) == (first.start, first.end);
            end = end.max(other.end);
            next += 1;
        }
        if is_one {
            all[kept] = first;
            kept += 1;
        }
        n = next;
    }
    functions.truncate(begun + kept);
    kept
}

/// The file that an object is mapped from.
struct File {
    fd: OwnedFd,
    header: [u8; 64],
}

fn section_word(section: &[u8; SECTION], at: usize) -> u64 {
    object::word(section, at)
}

impl File {
    /// Opens it; `None` when what its path names now is not what is mapped.
    fn of(engine: &Engine, object: &Object<'_>) -> Option<File> {
        let mapped = discover::file_of(engine, object);
        let mut path = [0u8; 4096];
        let name = if object.name.is_empty() { b"/proc/self/exe" } else { object.name };
        path.get_mut(..name.len())?.copy_from_slice(name);
        let path = CStr::from_bytes_with_nul(path.get(..=name.len())?).ok()?;
        // Whatever lies there: nothing is waited for, and no terminal becomes the process' own.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&fd).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let device = crate::maps::device(rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        let is_mapped = mapped == (device, stat.st_ino);
        let mut file = File { fd, header: [0; 64] };
        file.header = file.array(0)?;
        let is_elf = file.header.starts_with(b"\x7fELF\x02");
        (is_elf && (is_mapped || file.has_build_id(object.build_id()))).then_some(file)
    }

    fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (rustix::io::pread(&self.fd, &mut bytes[..], offset) == Ok(N)).then_some(bytes)
    }

    fn half(&self, at: usize) -> u64 {
        object::half(&self.header, at).map_or(0, u64::from)
    }

    /// Whether the file has that build-id, which lies in memory.
    fn has_build_id(&self, wanted: Option<&[u8]>) -> bool {
        let Some(wanted) = wanted.filter(|id| !id.is_empty()) else { return false };
        (0..self.half(56).min(64)).any(|n| {
            let at = object::word(&self.header, 32).wrapping_add(n * PROGRAM_HEADER as u64);
            let Some(header) = self.array::<PROGRAM_HEADER>(at) else { return false };
            let (offset, size) = (object::word(&header, 8), object::word(&header, 32));
            let mut notes = [0; 1024];
            let Some(notes) = notes.get_mut(..(size as usize).min(1024)) else { return false };
            let is_note = object::word(&header, 0) & 0xffff_ffff == PT_NOTE;
            is_note
                && rustix::io::pread(&self.fd, &mut *notes, offset) == Ok(notes.len())
                && object::build_id_in(notes) == Some(wanted)
        })
    }

    /// The first section header for which `is_wanted` says yes, given the first bytes of its name.
    fn section(&self, is_wanted: impl Fn(&[u8; SECTION], &[u8]) -> bool) -> Option<[u8; SECTION]> {
        let (start, count) = (object::word(&self.header, 40), self.half(60).min(SECTIONS));
        let names: [u8; SECTION] = self.array(start.checked_add(self.half(62) * SECTION as u64)?)?;
        let names = section_word(&names, 24);
        (0..count).find_map(|n| {
            let section: [u8; SECTION] = self.array(start.checked_add(n * SECTION as u64)?)?;
            let name: [u8; 10] = self.array(names.checked_add(section_word(&section, 0) & 0xffff_ffff)?)?;
            is_wanted(&section, &name).then_some(section)
        })
    }

    /// Calls `each` for `count` records of `N` bytes, as far as they are there.
    fn records<const N: usize>(&self, offset: u64, count: u64, mut each: impl FnMut(&[u8; N])) {
        let mut buffer = [0; 4096];
        let at_once = buffer.len() / N * N;
        let (mut at, mut left) = (offset, count.saturating_mul(N as u64));
        while left >= N as u64 {
            let wanted = at_once.min(usize::try_from(left).unwrap_or(at_once));
            let Ok(read) = rustix::io::pread(&self.fd, &mut buffer[..wanted], at) else { return };
            let (records, _) = buffer[..read].as_chunks::<N>();
            if records.is_empty() {
                return;
            }
            records.iter().for_each(&mut each);
            at = at.saturating_add((records.len() * N) as u64);
            left -= (records.len() * N) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Reader;
    use std::vec::Vec;

    fn tidied(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut table = Table::reserve(64).unwrap();
        ranges.iter().for_each(|&(start, end)| _ = table.push(Function::new(start, end)));
        let kept = tidy(&mut table, 0);
        assert_eq!(kept, table.len());
        table.as_slice().iter().map(|function| (function.start, function.end)).collect()
    }

    #[test]
    fn functions_that_contradict_each_other_are_not_believed() {
        assert_eq!(tidied(&[(20, 30), (0, 10), (10, 20)]), [(0, 10), (10, 20), (20, 30)]);
        assert_eq!(tidied(&[(0, 10), (0, 10), (0, 10)]), [(0, 10)]);
        assert_eq!(tidied(&[(0, 10), (5, 8), (20, 30)]), [(20, 30)]);
        assert_eq!(tidied(&[(0, 10), (9, 12), (11, 15), (15, 16)]), [(15, 16)]);
        assert_eq!(tidied(&[]), []);
    }

    #[test]
    fn rules_read_from_their_start_are_those_in_the_table() {
        crate::object::tests::find_list();
        let mut compared = 0;
        object::each(&Reader::open(), &mut |object| {
            let Some(table) = discover::table_of_frames(object) else { return };
            let (address, bytes) = object.eh_frame_hdr().unwrap();
            let start = EhFrameHdr::frames(Region { address, bytes }).unwrap();
            let mut all = Vec::new();
            scan::each_frame(object.region_around(start).unwrap(), start, &mut |function| all.push(function));
            all.sort_by_key(|function| function.start);
            for function in (0..table.len()).filter_map(|n| table.get(n)) {
                let found = all.binary_search_by_key(&function.start, |function| function.start);
                assert_eq!(found.map(|n| all[n]), Ok(function));
                compared += 1;
            }
        });
        assert!(compared > 1000, "libc alone has thousands");
    }

    #[test]
    fn symbols_in_memory_are_counted() {
        crate::object::tests::find_list();
        let mut most = 0;
        object::each(&Reader::open(), &mut |object| {
            let (symbols, rest) = object.dynamic_symbols().as_chunks::<SYMBOL>();
            assert!(rest.is_empty());
            most = most.max(symbols.len());
        });
        assert!(most > 1000, "libc alone has thousands");
    }

    #[test]
    fn a_function_is_whole_when_it_ends_with_an_instruction() {
        let bytes = [0x90, 0x48, 0x89, 0xc2, 0xc3, 0x06];
        let text = Region { address: 100, bytes: &bytes };
        assert!(is_whole(text, &Function::new(100, 105)));
        assert!(is_whole(text, &Function::new(101, 104)));
        for (start, end) in [(100, 103), (100, 102), (100, 106), (90, 105), (104, 120)] {
            assert!(!is_whole(text, &Function::new(start, end)), "{start}..{end}");
        }
    }
}
