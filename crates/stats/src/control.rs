//! How the tool asks an engine in a living process to do something, and what it is answered.
//!
//! The tool lets a short-lived thread of the process run the engine's function [`ENTRY`] on a stack of the
//! engine's own. What is wanted, and what came of it, is in one [`Control`] at the engine's symbol [`AREA`],
//! which the tool writes and reads from outside. So no signal handler, no lock and no allocator of the
//! program is touched, and an engine behaves the same whether it was preloaded or attached.
//!
//! Fields are atomics, since two processes use them; the tool reaches them by their offsets.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// Symbol of the engine's [`Area`]. Its number changes with the layout.
pub const AREA: &str = "relpoline_control_2";
/// Symbol of the function that a thread of the tool's runs.
pub const ENTRY: &str = "relpoline_control_entry";
/// What an attached engine's image has in the padding of its ELF header (`EI_PAD`), to be found by.
pub const IMAGE_MARK: [u8; 7] = *b"RLPLINE";

/// Bytes for lists that the tool hands over.
pub const SCRATCH: usize = 256 * 1024;
/// Bytes of the stack on which the engine serves.
pub const STACK: usize = 256 * 1024;
/// Functions that can be led to the engine: the loader's notice, and some of the C library's.
pub const HOOKS: usize = 5;
/// Symbol of what the loader's notice is led to.
pub const LOADER_ENTRY: &str = "relpoline_loader_entry";
/// The C library's functions that are led to the engine, all of them or none, and the symbols of what they
/// are led to.
pub const ENTRIES: [(&str, &str); 3] =
    [("prctl", "relpoline_prctl"), ("syscall", "relpoline_syscall"), ("execve", "relpoline_execve")];
/// Likewise its function by which some unwinders look for code, which is led to the engine if that can be.
pub const ITERATE: (&str, &str) = ("dl_iterate_phdr", "relpoline_iterate_entry");
/// `push %r15; push %r14; push %r13`: how that function has to begin.
pub const PUSHES: [u8; 6] = [0x41, 0x57, 0x41, 0x56, 0x41, 0x55];

/// Numbers of the hooks. Those of [`ENTRIES`] are there all three, or none, in that order.
pub mod hook {
    /// The loader's notice.
    pub const NOTICE: usize = 0;
    /// `prctl`.
    pub const PRCTL: usize = 1;
    /// `syscall`.
    pub const SYSCALL: usize = 2;
    /// `execve`.
    pub const EXECVE: usize = 3;
    /// `dl_iterate_phdr`.
    pub const ITERATE: usize = 4;
}

/// What is wanted.
pub mod command {
    /// Look at the listed objects and prepare their sites; nothing of the program's text is changed. Waits
    /// for [`super::Control::go`].
    pub const PREPARE: u32 = 1;
    /// List the displacements of all sites.
    pub const LIST: u32 = 2;
    /// Leave all sites to their thunks and list their displacements, which the tool then puts back.
    pub const SLEEP: u32 = 3;
    /// Switch promotion on, everywhere or for some sites.
    pub const ENABLE: u32 = 4;
    /// Switch promotion off, everywhere or for some sites.
    pub const DISABLE: u32 = 5;
    /// Forget what was learned, everywhere or for some sites.
    pub const RELEARN: u32 = 6;
}

/// How far the engine is with it.
pub mod phase {
    /// Nothing was asked yet.
    pub const NONE: u32 = 0;
    /// Being served.
    pub const BUSY: u32 = 1;
    /// Served: see [`super::Control::outcome`].
    pub const DONE: u32 = 2;
    /// Guarded against the loader, and waiting for [`super::Control::go`].
    pub const WAITING: u32 = 3;
}

/// How it ended: 0, a [`crate::Refusal`] (below 256), or one of these.
pub mod outcome {
    /// The tool did not say go in time.
    pub const GAVE_UP: u32 = 256;
    /// The engine was never started here.
    pub const NOT_STARTED: u32 = 257;
    /// It may change nothing in this process: a forked child that could not get an arena of its own.
    pub const FROZEN: u32 = 258;
    /// A command of another version.
    pub const UNKNOWN: u32 = 259;
}

/// Bits of [`Control::flags`].
pub mod flag {
    /// Programs that are started by exec may get the engine: `execve` is led to it.
    pub const FOLLOW: u32 = 1;
    /// The engine would not hear of a sandbox: it must make no system call on the program's threads.
    pub const SEALED: u32 = 1 << 1;
}

/// Begins with zeroes; see the module's text.
#[repr(C)]
#[derive(Debug)]
pub struct Control {
    /// A [`command`].
    pub command: AtomicU32,
    /// Bits of [`flag`].
    pub flags: AtomicU32,
    /// A [`phase`].
    pub phase: AtomicU32,
    /// An [`outcome`].
    pub outcome: AtomicU32,
    /// The thread that serves; the kernel puts it here, and 0 when it has ended.
    pub tid: AtomicU32,
    /// 1 when the lists are complete and the loader's notice leads to the engine.
    pub go: AtomicU32,
    /// 1 while the program's sites are led to the engine.
    pub live: AtomicU32,
    /// Counts changes of the list of objects that the engine has seen.
    pub generation: AtomicU32,
    /// What `generation` was when displacements were listed.
    pub listed: AtomicU32,
    /// Reserved, zero.
    pub reserved: AtomicU32,
    /// The sites meant: those at `from..to`.
    pub from: AtomicU64,
    /// See `from`.
    pub to: AtomicU64,
    /// Objects: address and length of an array of `struct dl_phdr_info`.
    pub objects: AtomicU64,
    /// See `objects`.
    pub object_count: AtomicU64,
    /// Environment block from which the engine takes its options ([`crate::options`]) instead of the
    /// program's.
    pub environment: AtomicU64,
    /// The loader's `struct r_debug` (link.h).
    pub loader: AtomicU64,
    /// Path of the engine's file, zero-terminated, for programs that are started by exec.
    pub path: AtomicU64,
    /// Address of libc's `_dl_find_object`, and where its `dl_iterate_phdr` is led to the engine; or 0.
    pub find_object: AtomicU64,
    /// See `find_object`.
    pub iterate: AtomicU64,
    /// Answer: address of the engine's lock, a word that is 0 while it is free.
    pub lock: AtomicU64,
    /// Answer: address of the statistics.
    pub statistics: AtomicU64,
    /// Answer: address and length of an array of [`Displacement`].
    pub displacements: AtomicU64,
    /// See `displacements`.
    pub displacement_count: AtomicU64,
    /// Answer: sites that the command changed.
    pub sites: AtomicU64,
    /// What was changed besides sites.
    pub hooks: [Hook; HOOKS],
}

/// A site's displacement.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Displacement {
    /// Where it is.
    pub at: u64,
    /// As the compiler wrote it: to the thunk.
    pub own: i32,
    /// To the site's gate.
    pub gate: i32,
}

/// Bytes of a jump.
pub const HOOK_BYTES: usize = 5;

/// The first bytes of a function that was led to the engine. They lie in one page.
#[repr(C)]
#[derive(Debug)]
pub struct Hook {
    /// Where; 0 for none.
    pub at: AtomicU64,
    /// The function's own bytes, from the lowest byte on.
    pub own: AtomicU64,
    /// The jump.
    pub jump: AtomicU64,
}

/// What lies at [`AREA`].
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Area {
    /// Questions and answers.
    pub control: Control,
    /// Lists of the tool's.
    pub scratch: [u8; SCRATCH],
    /// The stack.
    pub stack: [u8; STACK],
}

impl Control {
    const fn new() -> Control {
        Control {
            command: AtomicU32::new(0),
            flags: AtomicU32::new(0),
            phase: AtomicU32::new(0),
            outcome: AtomicU32::new(0),
            tid: AtomicU32::new(0),
            go: AtomicU32::new(0),
            live: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            listed: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
            from: AtomicU64::new(0),
            to: AtomicU64::new(0),
            objects: AtomicU64::new(0),
            object_count: AtomicU64::new(0),
            environment: AtomicU64::new(0),
            loader: AtomicU64::new(0),
            path: AtomicU64::new(0),
            find_object: AtomicU64::new(0),
            iterate: AtomicU64::new(0),
            lock: AtomicU64::new(0),
            statistics: AtomicU64::new(0),
            displacements: AtomicU64::new(0),
            displacement_count: AtomicU64::new(0),
            sites: AtomicU64::new(0),
            hooks: [const { Hook { at: AtomicU64::new(0), own: AtomicU64::new(0), jump: AtomicU64::new(0) } }; HOOKS],
        }
    }
}

impl Area {
    /// Of zeroes, for a static.
    #[must_use]
    pub const fn new() -> Area {
        Area { control: Control::new(), scratch: [0; SCRATCH], stack: [0; STACK] }
    }
}

impl Default for Area {
    fn default() -> Self {
        Self::new()
    }
}

/// Where in the loader's empty function, whose first bytes are `code`, a jump can be put in place of its
/// `ret`: behind an `endbr64`, if there is one, and only if bytes follow that are never executed. `None` when
/// it looks otherwise.
///
/// The loader calls that function before and after it changes its list of objects (`r_brk` in
/// `struct r_debug`, link.h).
#[must_use]
pub fn room_in_empty_function(code: &[u8; 12]) -> Option<u64> {
    let skip = if code.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]) { 4 } else { 0 };
    let body = code.get(skip..skip + HOOK_BYTES)?;
    let is_empty = body[0] == 0xc3
        && matches!(
            body[1..],
            [0x66, 0x66, 0x2e, 0x0f]
                | [0x66, 0x2e, 0x0f, 0x1f]
                | [0x0f, 0x1f, _, _]
                | [0x66, 0x0f, 0x1f, _]
                | [0x66, 0x90, _, _]
                | [0x90, 0x90, 0x90, 0x90]
                | [0xcc, 0xcc, 0xcc, 0xcc]
        );
    is_empty.then_some(skip as u64)
}

/// Where in the C library's function number `hook`, whose bytes are `code`, a jump to the engine can be put:
/// behind an `endbr64`, if there is one. `None` when the function does not look as it does in every glibc so
/// far.
///
/// The engine goes on behind the jump in `syscall`, `execve` and `dl_iterate_phdr`, and never goes on in
/// `prctl`; no branch of that one may lead into the jump.
#[must_use]
pub fn room_in_entry(hook: usize, code: &[u8]) -> Option<u64> {
    const EXECVE: [u8; 7] = [0xb8, 59, 0, 0, 0, 0x0f, 0x05];
    const PRCTL: [u8; 7] = [0xb8, 157, 0, 0, 0, 0x0f, 0x05];
    const SYSCALL: [u8; 6] = [0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7];
    let skip = if code.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]) { 4 } else { 0 };
    let body = code.get(skip..)?;
    let is_known = match hook {
        hook::EXECVE => body.starts_with(&EXECVE),
        hook::SYSCALL => body.starts_with(&SYSCALL),
        // No branch leads into what a function saves first.
        hook::ITERATE => body.starts_with(&PUSHES),
        // Neither somebody else's jump, nor a breakpoint.
        hook::PRCTL => {
            !matches!(body.first()?, 0xe8 | 0xe9 | 0xeb | 0xcc | 0xff)
                && body.windows(PRCTL.len()).any(|bytes| bytes == PRCTL)
                && !branches_into(code, skip + 1..skip + HOOK_BYTES)
        }
        _ => false,
    };
    is_known.then_some(skip as u64)
}

/// Whether anything in `code` that might be a branch leads to an offset in `taken`.
fn branches_into(code: &[u8], taken: core::ops::Range<usize>) -> bool {
    let leads =
        |end: usize, distance: i64| usize::try_from(end as i64 + distance).is_ok_and(|target| taken.contains(&target));
    code.iter().enumerate().any(|(at, byte)| {
        let near = || code.get(at + 1).is_some_and(|rel| leads(at + 2, i64::from(rel.cast_signed())));
        let far = || {
            let rel = code.get(at + 1..).and_then(|rest| rest.first_chunk());
            rel.is_some_and(|rel| leads(at + HOOK_BYTES, i64::from(i32::from_le_bytes(*rel))))
        };
        match byte {
            0x70..=0x7f | 0xe0..=0xe3 | 0xeb => near(),
            // The second byte of a far conditional jump among them.
            0x80..=0x8f | 0xe8 | 0xe9 => far(),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lone_ret_is_taken_for_an_empty_function() {
        let padded = [0xc3, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
        assert_eq!(room_in_empty_function(&padded), Some(0));
        assert_eq!(room_in_empty_function(&[0xf3, 0x0f, 0x1e, 0xfa, 0xc3, 0x0f, 0x1f, 0, 0, 0, 0, 0]), Some(4));
        assert_eq!(room_in_empty_function(&[0xc3, 0x48, 0x8d, 0x05, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(room_in_empty_function(&[0xcc, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn entries_are_known_by_their_bytes() {
        let execve = [0xb8, 59, 0, 0, 0, 0x0f, 0x05, 0xc3];
        let with_mark = [&[0xf3, 0x0f, 0x1e, 0xfa][..], &execve].concat();
        assert_eq!(room_in_entry(hook::EXECVE, &execve), Some(0));
        assert_eq!(room_in_entry(hook::EXECVE, &with_mark), Some(4));
        assert_eq!(room_in_entry(hook::EXECVE, &[0xcc, 59, 0, 0, 0, 0x0f, 0x05]), None);
        assert_eq!(room_in_entry(hook::SYSCALL, &execve), None);
        assert_eq!(room_in_entry(hook::ITERATE, &PUSHES), Some(0));
        assert_eq!(room_in_entry(hook::ITERATE, &[&[0xf3, 0x0f, 0x1e, 0xfa][..], &PUSHES].concat()), Some(4));
        assert_eq!(room_in_entry(hook::ITERATE, &[0xe9, 0x57, 0x41, 0x56, 0x41, 0x55]), None);
        // glibc 2.31: mov %rcx, %r10; mov $157, %eax; syscall; cmp; jae; ret
        let mut prctl = [0x49, 0x89, 0xca, 0xb8, 157, 0, 0, 0, 0x0f, 0x05, 0x73, 1, 0xc3].to_vec();
        assert_eq!(room_in_entry(hook::PRCTL, &prctl), Some(0));
        // A loop into the jump.
        prctl[10..12].copy_from_slice(&[0x73, 0xf7]);
        assert_eq!(room_in_entry(hook::PRCTL, &prctl), None);
    }
}
