//! `dl_iterate_phdr`: all objects, as unwinders walk through them that do not ask `_dl_find_object`.
//!
//! An arena is told to whoever walks as one more object, behind all others: with a name that is no path, one
//! loadable segment, and unwind data. The engine itself comes behind it where the loader does not know it.
//!
//! libc's function is led here by a jump over its first instructions, which are done here instead: by the
//! engine while the process has one thread, or by the tool when all threads stand still. Only functions that
//! begin with pushes that are known are led; where they begin otherwise, such unwinders see what they saw
//! before.
//!
//! A callback may throw, as libc allows: nothing here has anything to clean up, so unwinders pass through
//! these functions by their unwind data alone.

use super::{COVERED, covered};
use crate::control;
use crate::entries::set_apart;
use crate::object::Object;
use crate::sandbox;
use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicU64, Ordering};
use relpoline_core::arch::encode::rel32;
use relpoline_stats::control::{HOOK_BYTES, ITERATE, PUSHES, hook, room_in_entry};
use relpoline_text::cells::PAGE;
use relpoline_text::poke::Idle;

/// `Elf64_Phdr`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProgramHeader {
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
    const NONE: ProgramHeader = ProgramHeader::new(0, 0, 0, 0);

    const fn new(kind: u32, flags: u32, vaddr: u64, size: u64) -> ProgramHeader {
        ProgramHeader { kind, flags, offset: 0, vaddr, paddr: vaddr, filesz: size, memsz: size, align: PAGE as u64 }
    }
}

/// Larger functions are not what is looked for.
const MOST: u64 = 4096;
const PT_LOAD: u32 = 1;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const PF_R: u32 = 4;

/// `struct dl_phdr_info`.
#[repr(C)]
pub struct Info {
    addr: u64,
    name: *const c_char,
    phdr: *const ProgramHeader,
    phnum: u16,
    adds: u64,
    subs: u64,
    tls_modid: u64,
    tls_data: u64,
}

/// What arenas are called: no path, so that nobody looks for a file.
pub const NAME: &core::ffi::CStr = c"[relpoline]";

/// What is called for each object.
pub type Callback = unsafe extern "C" fn(*mut Info, usize, *mut c_void) -> c_int;

/// Where libc's function goes on behind the instructions that are done here.
static REST: AtomicU64 = AtomicU64::new(0);

/// Program headers of what is told: programs may keep their addresses.
struct Headers(UnsafeCell<[[ProgramHeader; 2]; COVERED.len()]>);

// SAFETY: whoever fills a pair writes what is there already, or what nobody was told of yet.
unsafe impl Sync for Headers {}

static HEADERS: Headers = Headers(UnsafeCell::new([[ProgramHeader::NONE; 2]; COVERED.len()]));

/// A walk: whom to tell, and what libc said last.
struct Walk {
    callback: Callback,
    data: *mut c_void,
    counts: (u64, u64),
    size: usize,
}

/// Tells of one object that libc knows.
unsafe extern "C" fn tell(info: *mut Info, size: usize, data: *mut c_void) -> c_int {
    // SAFETY: libc's object, and the walk that `iterate` has begun.
    unsafe {
        let walk = &mut *data.cast::<Walk>();
        walk.counts = ((*info).adds, (*info).subs);
        walk.size = size;
        (walk.callback)(info, size, walk.data)
    }
}

/// What libc's function is led to.
///
/// # Safety
/// As for `dl_iterate_phdr`.
#[cfg_attr(feature = "preload", unsafe(export_name = "relpoline_iterate_entry"))]
pub unsafe extern "C" fn iterate(callback: Callback, data: *mut c_void) -> c_int {
    let mut walk = Walk { callback, data, counts: (0, 0), size: core::mem::size_of::<Info>() };
    // SAFETY: libc's function, with a callback that suits it.
    let stopped = unsafe { begin(tell, (&raw mut walk).cast()) };
    if stopped != 0 {
        return stopped;
    }
    for (n, range, header) in covered() {
        // SAFETY: in range; see `Headers`.
        let headers = unsafe { &raw mut (*HEADERS.0.get())[n] };
        // SAFETY: the callback is the caller's; the headers are the arena's own pair.
        let stopped = unsafe {
            let base = range.start.next_multiple_of(PAGE as u64);
            let at = header.wrapping_sub(base);
            (*headers)[0] = ProgramHeader::new(PT_LOAD, PF_R | PF_X, 0, range.end - base);
            (*headers)[1] = ProgramHeader::new(PT_GNU_EH_FRAME, PF_R, at, PAGE as u64);
            let mut info = Info {
                addr: base,
                name: NAME.as_ptr(),
                phdr: headers.cast(),
                phnum: 2,
                adds: walk.counts.0,
                subs: walk.counts.1,
                tls_modid: 0,
                tls_data: 0,
            };
            callback(&raw mut info, walk.size, data)
        };
        if stopped != 0 {
            return stopped;
        }
    }
    0
}

/// libc's function, whose first instructions are done here.
///
/// # Safety
/// As for `dl_iterate_phdr`; [`REST`] must be known.
#[unsafe(naked)]
unsafe extern "C" fn begin(callback: Callback, data: *mut c_void) -> c_int {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "push r15",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r15, 0",
        "push r14",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r14, 0",
        "push r13",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r13, 0",
        "jmp [rip + {rest}]",
        ".cfi_endproc",
        rest = sym REST,
    )
}

/// Whether libc's function at `at` begins with the instructions that [`begin`] does; if so it goes on behind
/// them.
fn is_known(at: u64) -> bool {
    // SAFETY: a function's first bytes.
    let code = unsafe { *(at as *const [u8; PUSHES.len()]) };
    if code == PUSHES {
        REST.store(at + PUSHES.len() as u64, Ordering::Release);
    }
    code == PUSHES
}

/// Prepares for the tool, which has found libc's function at `at`, and leads it here when all threads stand
/// still.
pub fn prepare(at: u64) {
    if at != 0 {
        is_known(at);
    }
}

/// Where libc's function can be led here, or 0.
static FUNCTION: AtomicU64 = AtomicU64::new(0);

/// Notes where libc's function is. To be called by the constructor.
pub fn note(libc: &Object<'_>) {
    let room = || {
        let (function, size) = libc.function(ITERATE.0.as_bytes())?;
        let skip = room_in_entry(hook::ITERATE, libc.bytes(function, size.min(MOST))?)?;
        Some(function + skip).filter(|at| at / PAGE as u64 == (at + HOOK_BYTES as u64 - 1) / PAGE as u64)
    };
    FUNCTION.store(room().unwrap_or(0), Ordering::Release);
}

/// Leads libc's function here. To be called by the constructor, in a process of one thread.
pub fn listen(text: &Idle) {
    let at = FUNCTION.load(Ordering::Acquire);
    if at == 0 || !sandbox::may_call() {
        return;
    }
    let rel = rel32(at + HOOK_BYTES as u64, iterate as *const () as u64).map(i32::to_le_bytes);
    let (true, Some(rel)) = (is_known(at), rel) else { return };
    let jump = [0xe9, rel[0], rel[1], rel[2], rel[3]];
    set_apart(&[at]);
    if text.write(at, &jump).is_ok() {
        let mut own = [0; HOOK_BYTES];
        own.copy_from_slice(&PUSHES[..HOOK_BYTES]);
        control::note_hook(hook::ITERATE, at, own, jump);
    }
}
