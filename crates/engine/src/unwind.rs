//! What unwinders and debuggers are told of code that no file holds.
//!
//! How each instruction of an arena unwinds is [`relpoline_text::frames`]' business. Here it is said to
//! whoever asks, by as many ways as there are kinds of them:
//!
//! | who | asks | told by |
//! |---|---|---|
//! | libgcc since 12, LLVM's libunwind since 19, Rust | `_dl_find_object` | [`find`] |
//! | libgcc before 12, LLVM's libunwind before 19, libunwind | `dl_iterate_phdr` | [`iterate`] |
//! | GDB | the JIT interface | [`jit`] |
//!
//! libgcc's `__register_frame_info` would reach the first of these too, but takes a lock that the thread
//! which is interrupted may hold. perf unwinds later, in another process: by frame pointers, which the slow
//! path has.
//!
//! When the engine is detached, `dl_iterate_phdr` is put back with the text, but not the pointer: threads may
//! stand in an arena for any time, and who unwinds from there is to find his way. The engine, like its
//! arenas, stays mapped.
//!
//! Nothing of it is done before there is an arena, but that `dl_iterate_phdr` is led here while there is one
//! thread.

pub mod find;
pub mod iterate;
pub mod jit;

use crate::object::Object;
use crate::state::ARENAS;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use relpoline_text::arena::Arena;
use relpoline_text::frames::Frames;

/// Code, and the header of the unwind data that covers it.
pub struct Covered {
    start: AtomicU64,
    end: AtomicU64,
    header: AtomicU64,
    /// Where the code begins of an arena, which has a table for some addresses; 0 for others.
    arena: AtomicU64,
}

/// Every arena, and an engine of which the loader does not know. Ranges without an end are not in use.
static COVERED: [Covered; ARENAS + 1] = [const {
    Covered { start: AtomicU64::new(0), end: AtomicU64::new(0), header: AtomicU64::new(0), arena: AtomicU64::new(0) }
}; ARENAS + 1];

/// What is covered, with the number of its place.
fn covered() -> impl Iterator<Item = (usize, Range<u64>, u64)> {
    COVERED.iter().enumerate().filter_map(|(n, covered)| {
        let end = covered.end.load(Ordering::Acquire);
        let range = covered.start.load(Ordering::Relaxed)..end;
        (end != 0).then(|| (n, range, covered.header.load(Ordering::Relaxed)))
    })
}

/// What is covered there, and the header that holds at `pc`.
fn covered_at(pc: u64) -> Option<(Range<u64>, u64)> {
    let (n, range, header) = covered().find(|(_, range, _)| range.contains(&pc))?;
    let arena = COVERED[n].arena.load(Ordering::Relaxed);
    // SAFETY: an arena's frames are mapped for ever, at its header.
    let frames = (arena != 0).then(|| unsafe { &*(header as *const Frames) });
    Some((range, frames.map_or(header, |frames| frames.header(header, arena, pc))))
}

fn cover(code: Range<u64>, header: u64, arena: u64) {
    let is_free = |covered: &&Covered| covered.end.load(Ordering::Acquire) == 0;
    let is_known = |(_, range, _): (usize, Range<u64>, u64)| range.start == code.start;
    if covered().any(is_known) {
        return;
    }
    if let Some(free) = COVERED.iter().find(is_free) {
        free.start.store(code.start, Ordering::Relaxed);
        free.header.store(header, Ordering::Relaxed);
        free.arena.store(arena, Ordering::Relaxed);
        free.end.store(code.end, Ordering::Release);
    }
}

/// Announces `arena`, whose slow paths lie in `slow`. The caller holds the lock, or is the constructor.
pub fn announce(arena: &Arena, slow: &Range<u64>) {
    if arena.set_up_frames(slow).is_some() {
        let code = arena.code();
        // The byte before an address may be looked up instead of it.
        cover(code.start - 1..code.end, arena.frames_at(), code.start);
    }
    jit::announce(arena, slow);
}

/// Notes where the functions are in the C library by which unwinders ask. To be called by the constructor.
pub fn note_libc(libc: &Object<'_>) {
    find::prepare(libc.function(b"_dl_find_object").map_or(0, |(at, _)| at));
    iterate::note(libc);
}

/// Lets unwinders hear of arenas from now on, if there are any. The caller holds the lock, or is the
/// constructor.
pub fn listen() {
    if covered().next().is_some() {
        find::listen();
    }
}

/// Covers the engine itself, which the loader does not know of when it was attached.
#[cfg(feature = "preload")]
pub fn cover_engine() {
    unsafe extern "C" {
        /// The engine's ELF header, by the linker.
        #[link_name = "__ehdr_start"]
        static HEADER: [u8; 64];
    }
    const PT_LOAD: u64 = 1;
    const PT_GNU_EH_FRAME: u64 = 0x6474_e550;
    let base = &raw const HEADER as u64;
    // SAFETY: the engine's header and program headers, which lie in its first page, are mapped as long as it
    // is.
    let word = |at: u64| unsafe { ((base + at) as *const u64).read_unaligned() };
    let (first, count) = (word(32), word(56) & 0xffff);
    let headers = (0..count).map(|n| first + n * 56);
    // Kind and flags share a word.
    let of_kind = |kind: u64| headers.clone().filter(move |&at| word(at) & 0xffff_ffff == kind);
    let text = of_kind(PT_LOAD).find(|&at| word(at) >> 32 & 1 != 0);
    if let (Some(text), Some(data)) = (text, of_kind(PT_GNU_EH_FRAME).next()) {
        cover(base..base + word(text + 16) + word(text + 40), base + word(data + 16), 0);
    }
}

/// A test is known to the loader.
#[cfg(not(feature = "preload"))]
pub fn cover_engine() {}
