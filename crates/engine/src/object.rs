//! What the loader mapped: executables and libraries as they lie in memory.
//!
//! Everything is read from the program headers in memory, never from the file, and every range is checked
//! against the segments before it is read: a malformed object gives fewer findings, not a fault.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ops::Range;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const NT_GNU_BUILD_ID: u32 = 3;
const DT_DEBUG: u64 = 21;

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
    /// `first` must be the address of `count` entries as `dl_iterate_phdr(3)` passes them, of objects that stay mapped.
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
}

type Callback = unsafe extern "C" fn(*mut PhdrInfo, usize, *mut c_void) -> c_int;

unsafe extern "C" {
    fn dl_iterate_phdr(callback: Callback, data: *mut c_void) -> c_int;
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
}

impl Segment {
    const NONE: Segment = Segment { start: 0, len: 0, executable: false };

    fn contains(&self, address: u64, len: u64) -> bool {
        address >= self.start && address.checked_add(len).is_some_and(|end| end <= self.start + self.len)
    }
}

/// An object while it is mapped. Borrowing from one is only sound until it is unmapped, so nothing keeps it
/// beyond the callback of [`each`].
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

impl<'a> Object<'a> {
    /// # Safety
    /// `info` must be what the loader passes to a callback.
    unsafe fn read(info: &'a PhdrInfo) -> Object<'a> {
        let mut object = Object {
            base: info.addr,
            // SAFETY: the loader's names are C strings, or null.
            name: if info.name.is_null() { &[] } else { unsafe { CStr::from_ptr(info.name) }.to_bytes() },
            segments: [Segment::NONE; SEGMENTS],
            count: 0,
            dynamic: None,
            eh_frame_hdr: None,
            notes: [(0, 0); 4],
        };
        // SAFETY: the loader's header array has `phnum` entries.
        for header in unsafe { core::slice::from_raw_parts(info.phdr, usize::from(info.phnum)) } {
            object.add(header);
        }
        object
    }

    fn add(&mut self, header: &ProgramHeader) {
        let at = self.base.wrapping_add(header.vaddr);
        match header.kind {
            PT_LOAD => {
                if let Some(slot) = self.segments.get_mut(self.count) {
                    *slot = Segment { start: at, len: header.memsz, executable: header.flags & PF_X != 0 };
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

    /// `len` bytes at `address` if one segment holds them all.
    #[must_use]
    pub fn bytes(&self, address: u64, len: u64) -> Option<&'a [u8]> {
        let held = self.segments().iter().any(|s| s.contains(address, len));
        // SAFETY: inside a segment that is mapped readable while the object is; execute-only text does not
        // occur on x86-64 Linux.
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

    /// From `address` to the end of the segment that holds it.
    #[must_use]
    pub fn bytes_from(&self, address: u64) -> Option<&'a [u8]> {
        let segment = self.segments().iter().find(|s| s.contains(address, 1))?;
        self.bytes(address, segment.start + segment.len - address)
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
}

/// Eight little-endian bytes of `bytes` at `at`; 0 when they are not there.
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

fn build_id_in(mut notes: &[u8]) -> Option<&[u8]> {
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

/// Calls `visit` for every object that the loader has mapped, the executable first.
pub fn each(visit: &mut dyn FnMut(&Object<'_>)) {
    unsafe extern "C" fn callback(info: *mut PhdrInfo, _size: usize, data: *mut c_void) -> c_int {
        // SAFETY: `data` is the reference below, and `info` the loader's.
        unsafe {
            let visit = &mut *data.cast::<&mut dyn FnMut(&Object<'_>)>();
            visit(&Object::read(&*info));
        }
        0
    }
    let mut visit = visit;
    // SAFETY: the callback matches what dl_iterate_phdr(3) calls.
    unsafe { dl_iterate_phdr(callback, (&raw mut visit).cast()) };
}

/// Address of the loader's `struct r_debug`, by the executable's DT_DEBUG.
#[must_use]
pub fn loader_debug() -> Option<u64> {
    let mut found = None;
    each(&mut |object| {
        if found.is_none() && object.name.is_empty() {
            found = object.dynamic_value(DT_DEBUG).filter(|&at| at != 0);
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_itself_is_read() {
        let mut seen = 0;
        each(&mut |object| {
            seen += 1;
            for text in object.texts() {
                assert_eq!(object.segment_bytes(text).len() as u64, text.len);
            }
            assert!(object.bytes(object.span().end, 1).is_none());
        });
        assert!(seen >= 2, "the executable and libc at least");
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
