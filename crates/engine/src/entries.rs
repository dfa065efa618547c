//! Functions of the C library that are led to the engine by their first instruction.
//!
//! There are three. `execve`: all of libc's ways to start a program end there ([`crate::exec`]). `prctl` and
//! `syscall`: by them a program asks for a seccomp filter ([`crate::sandbox`]). The engine could offer
//! functions of the same names, which the loader would prefer. But then it would stand before every other
//! library that does so (fakechroot, noexec wrappers, sandboxes), and would have to be each of `execl`,
//! `execv`, `posix_spawn`, … as well, with their searches and attributes; and libc's own calls of them
//! (`system`, `popen`) would pass it by. Led by their first instruction, libc's functions do all that they
//! do, and are called by whom they were called.
//!
//! That is done once, while the process has one thread, for all three or none. An attached engine is led to
//! by the tool in the same way.

use crate::control;
use crate::exec;
use crate::memory::keep_out_of_cores;
use crate::object::Object;
use crate::sandbox;
use core::ffi::c_void;
use relpoline_core::arch::encode::rel32;
use relpoline_stats::control::{ENTRIES, HOOK_BYTES, hook, room_in_entry};
use relpoline_text::poke::Idle;

const PAGE: u64 = relpoline_text::cells::PAGE as u64;

/// A function that is to be led here.
#[derive(Clone, Copy)]
struct Entry {
    at: u64,
    own: [u8; HOOK_BYTES],
    jump: [u8; HOOK_BYTES],
}

/// All of them.
#[derive(Clone, Copy)]
pub struct Entries([Entry; ENTRIES.len()]);

impl Entries {
    /// Those of the C library; `None` when they do not look as expected.
    #[must_use]
    pub fn of(libc: &Object<'_>) -> Option<Entries> {
        /// Larger functions are not what is looked for.
        const MOST: u64 = 4096;
        let to: [*const (); ENTRIES.len()] =
            [sandbox::prctl as *const (), sandbox::syscall as *const (), exec::execve as *const ()];
        let mut entries = [Entry { at: 0, own: [0; HOOK_BYTES], jump: [0; HOOK_BYTES] }; ENTRIES.len()];
        for (n, ((name, _), to)) in ENTRIES.iter().zip(to).enumerate() {
            let (function, size) = libc.function(name.as_bytes())?;
            let code = libc.bytes(function, size.min(MOST))?;
            let skip = room_in_entry(hook::PRCTL + n, code)?;
            let at = function + skip;
            let rel = rel32(at + HOOK_BYTES as u64, to as u64)?.to_le_bytes();
            let own = *code.get(skip as usize..)?.first_chunk()?;
            let is_in_one_page = at / PAGE == (at + HOOK_BYTES as u64 - 1) / PAGE;
            *entries.get_mut(n).filter(|_| is_in_one_page)? =
                Entry { at, own, jump: [0xe9, rel[0], rel[1], rel[2], rel[3]] };
        }
        Some(Entries(entries))
    }

    /// Leads them to the engine. False when they cannot be changed: then the engine would not hear of a
    /// sandbox. To be called while the process has one thread.
    #[must_use]
    pub fn lead(&self, text: &Idle) -> bool {
        for (n, entry) in self.0.iter().enumerate() {
            control::note_hook(hook::PRCTL + n, entry.at, entry.own, entry.jump);
        }
        set_apart(&self.0.map(|entry| entry.at));
        // SAFETY: there is one thread, and it is here.
        unsafe { text.lead(&self.0.map(|entry| (entry.at, entry.jump))) }.is_ok()
    }
}

/// Makes the pages of some instructions of libc's a mapping of their own: once a page of a mapping was
/// changed, fork copies the page table of all of it, and that of libc's text is most of what there is. They
/// stay out of cores, since the rest of the text does: debuggers read it from the file.
pub fn set_apart(instructions: &[u64]) {
    let page = |at: &u64| at & !(PAGE - 1);
    let (first, last) = (instructions.iter().min().map_or(0, page), instructions.iter().max().map_or(0, page));
    // SAFETY: libc's text, which stays as it is.
    unsafe { keep_out_of_cores(first as *mut c_void, (last + PAGE - first) as usize) };
}
