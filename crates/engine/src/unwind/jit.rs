//! Telling debuggers about arenas: names and unwind data for code that no file holds.
//!
//! Names, and the rules of [`relpoline_text::frames`], are said in a small ELF image per arena, which is
//! handed to GDB by its JIT interface (GDB manual, "JIT Compilation Interface"): a list of images and a
//! function at which GDB stops when the list changes. The list's symbols are hidden, so a JIT compiler of the
//! program's own keeps its.

use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use relpoline_text::arena::Arena;
use relpoline_text::frames;

use crate::state::ARENAS;

core::arch::global_asm!(
    ".pushsection .text.relpoline_jit,\"ax\",@progbits",
    ".globl __jit_debug_register_code",
    ".hidden __jit_debug_register_code",
    ".type __jit_debug_register_code, @function",
    "__jit_debug_register_code: .cfi_startproc; ret; .cfi_endproc",
    ".size __jit_debug_register_code, . - __jit_debug_register_code",
    ".popsection",
    ".pushsection .data.relpoline_jit,\"aw\",@progbits",
    ".balign 8",
    ".globl __jit_debug_descriptor",
    ".hidden __jit_debug_descriptor",
    ".type __jit_debug_descriptor, @object",
    "__jit_debug_descriptor: .long 1, 0; .quad 0, 0",
    ".size __jit_debug_descriptor, . - __jit_debug_descriptor",
    ".popsection",
);

/// `struct jit_descriptor`.
#[repr(C)]
struct Descriptor {
    version: u32,
    action: u32,
    relevant: *mut Entry,
    first: *mut Entry,
}

const REGISTER: u32 = 1;

/// `struct jit_code_entry`.
#[repr(C)]
struct Entry {
    next: *mut Entry,
    prev: *mut Entry,
    image: *const u8,
    size: u64,
}

unsafe extern "C" {
    fn __jit_debug_register_code();
    static mut __jit_debug_descriptor: Descriptor;
}

const IMAGE_BYTES: usize = 4096;

struct Slot {
    entry: UnsafeCell<Entry>,
    image: UnsafeCell<[u8; IMAGE_BYTES]>,
}

// SAFETY: a slot is filled once, under the engine's lock; debuggers read it from outside.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; ARENAS] = [const {
    Slot {
        entry: UnsafeCell::new(Entry {
            next: core::ptr::null_mut(),
            prev: core::ptr::null_mut(),
            image: core::ptr::null(),
            size: 0,
        }),
        image: UnsafeCell::new([0; IMAGE_BYTES]),
    }
}; ARENAS];
static USED: AtomicUsize = AtomicUsize::new(0);

/// Announces `arena`, whose slow paths lie in `slow`. The caller holds the lock.
pub fn announce(arena: &Arena, slow: &Range<u64>) {
    let Some(slot) = SLOTS.get(USED.fetch_add(1, Ordering::AcqRel)) else { return };
    // SAFETY: the slot is fresh; the descriptor is changed under the lock only, and only by this function.
    unsafe {
        let Some(size) = image(&mut *slot.image.get(), arena, slow) else { return };
        let descriptor = &raw mut __jit_debug_descriptor;
        let entry = slot.entry.get();
        (*entry).image = slot.image.get().cast();
        (*entry).size = size as u64;
        (*entry).next = (*descriptor).first;
        if let Some(next) = (*entry).next.as_mut() {
            next.prev = entry;
        }
        (*descriptor).first = entry;
        (*descriptor).relevant = entry;
        (*descriptor).action = REGISTER;
        __jit_debug_register_code();
    }
}

/// Writes little-endian values one after the other; remembers when they did not fit.
struct Writer<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.bytes.get_mut(self.len..self.len + bytes.len())?.copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }

    fn u16s(&mut self, values: &[u16]) -> Option<()> {
        values.iter().try_for_each(|v| self.put(&v.to_le_bytes()))
    }

    fn u32s(&mut self, values: &[u32]) -> Option<()> {
        values.iter().try_for_each(|v| self.put(&v.to_le_bytes()))
    }

    fn u64s(&mut self, values: &[u64]) -> Option<()> {
        values.iter().try_for_each(|v| self.put(&v.to_le_bytes()))
    }

    fn align(&mut self) -> Option<()> {
        while !self.len.is_multiple_of(8) {
            self.put(&[0])?;
        }
        Some(())
    }
}

const NAMES: &[u8] = b"\0.text\0.eh_frame\0.symtab\0.strtab\0relpoline_gates\0relpoline_slow_path\0relpoline_trees\0";
const TEXT: u32 = 1;
const EH_FRAME: u32 = 7;
const SYMTAB: u32 = 17;
const STRTAB: u32 = 25;
const SYMBOLS: [u32; 3] = [33, 49, 69];

/// An ELF image that describes the arena: sections, three symbols, unwind data. Its length.
fn image(buffer: &mut [u8; IMAGE_BYTES], arena: &Arena, slow: &Range<u64>) -> Option<usize> {
    let Range { start, end } = arena.code();
    let ranges = [(start, slow.start), (slow.start, slow.end), (slow.end, end)];
    let mut out = Writer { bytes: buffer, len: 64 };

    let frames_at = out.len;
    let frames_len = frames::debug_section(&mut out.bytes[frames_at..], arena.frames_at(), &arena.code(), slow)?;
    out.len += frames_len;
    out.align()?;
    let symbols_at = out.len;
    out.u64s(&[0, 0, 0])?;
    for (range, name) in ranges.iter().zip(SYMBOLS) {
        out.u32s(&[name])?;
        out.put(&[0x12, 0])?; // global function, default visibility
        out.u16s(&[1])?;
        out.u64s(&[range.0, range.1 - range.0])?;
    }
    let symbols_len = out.len - symbols_at;
    let names_at = out.len;
    out.put(NAMES)?;
    out.align()?;
    let headers_at = out.len;
    section(&mut out, [0; 2], [0; 4], [0; 2], [0; 2])?;
    section(&mut out, [TEXT, 8], [6, start, 0, end - start], [0, 0], [64, 0])?;
    section(&mut out, [EH_FRAME, 1], [2, 0, frames_at as u64, frames_len as u64], [0, 0], [8, 0])?;
    section(&mut out, [SYMTAB, 2], [0, 0, symbols_at as u64, symbols_len as u64], [4, 1], [8, 24])?;
    section(&mut out, [STRTAB, 3], [0, 0, names_at as u64, NAMES.len() as u64], [0, 0], [1, 0])?;
    let len = out.len;

    out.len = 0;
    out.put(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    out.u16s(&[2, 62])?; // an executable for x86-64, so that addresses are taken as they are
    out.u32s(&[1])?;
    out.u64s(&[0, 0, headers_at as u64])?;
    out.u32s(&[0])?;
    out.u16s(&[64, 0, 0, 64, 5, 4])?;
    Some(len)
}

/// `Elf64_Shdr`: name and type; flags, address, offset, size; link and info; alignment and entry size.
fn section(out: &mut Writer<'_>, kind: [u32; 2], place: [u64; 4], link: [u32; 2], rest: [u64; 2]) -> Option<()> {
    out.u32s(&kind)?;
    out.u64s(&place)?;
    out.u32s(&link)?;
    out.u64s(&rest)
}
