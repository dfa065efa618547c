//! Going along over exec, or staying behind quietly.
//!
//! The engine is in the environment of what a program starts, as any preload is, and that is all it needs.
//! Three things it has to see to. A program goes without that a preload would harm (AddressSanitizer's), or
//! make write complaints (one of another class or machine; one that cannot see the engine's file), or that
//! may start others in ways nobody sees (a static one: an emulator, valgrind). So does what a sandboxed
//! program starts. And to an environment that the caller made anew the engine is added, to be taken out again
//! by the engine that it starts, before its program looks.
//!
//! All of libc's functions that start programs come to its `execve` in the end, in the new program's process,
//! with its directory and root, and with the path as the kernel will get it. So that is where the engine
//! looks ([`crate::entries`]), and nothing is interposed: whoever else has an `execve` of his own, before us
//! or behind us, is called as without us.
//!
//! What is called here runs in children that share their parent's memory, on stacks of a few kilobytes, with
//! whatever pointers the program passes. So little stack is needed, whatever the environment; memory comes
//! from the kernel (`block.rs`); the path is read by the kernel alone; and no page of the environment is read
//! before the kernel has said that it can be. A file is opened only when it is a regular one.

use crate::block;
use crate::config;
use crate::control;
use crate::memory::is_readable;
use crate::sandbox::{may_call, raw};
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int, c_long, c_ulong};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use relpoline_stats::Refusal;
use relpoline_stats::control::hook;
use relpoline_stats::options;
use relpoline_stats::program::{self, Program, SCRIPT_LINE};
use relpoline_text::broken;

const SYS_STAT: c_long = 4;
const SYS_OPEN: c_long = 2;
const SYS_CLOSE: c_long = 3;
const SYS_PREAD64: c_long = 17;
const SYS_ACCESS: c_long = 21;
const SYS_EXECVE: c_long = 59;
/// `O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC`.
const QUIETLY: c_ulong = 0o2_004_400;
const READABLE: c_ulong = 4;
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const SET_ID: u32 = 0o6_000;
const PAGE: usize = relpoline_text::cells::PAGE;

const PATH_MAX: usize = 4096;
const PRELOAD: &[u8] = b"LD_PRELOAD=";
/// Longest `RELPOLINE_OPTS=…,hidden`.
const OPTIONS_MAX: usize = PATH_MAX + 32;
/// Interpreters of interpreters that Linux follows.
const SCRIPTS_DEEP: usize = 5;

type Strings = *const *const c_char;

/// What the engine needs to know to go along, set once by the constructor.
#[repr(C)]
struct Companion {
    known: AtomicBool,
    /// Path of the engine, zero-terminated, and its length.
    length: AtomicUsize,
    path: UnsafeCell<[u8; PATH_MAX]>,
    /// `RELPOLINE_OPTS=…,hidden`, zero-terminated.
    options: UnsafeCell<[u8; OPTIONS_MAX]>,
}

// SAFETY: written by the constructor before `known` is set; only read afterwards.
unsafe impl Sync for Companion {}

static COMPANION: Companion = Companion {
    known: AtomicBool::new(false),
    length: AtomicUsize::new(0),
    path: UnsafeCell::new([0; PATH_MAX]),
    options: UnsafeCell::new([0; OPTIONS_MAX]),
};

/// Notes where the engine lies and with which options, so that children can get it; if they are to.
///
/// # Safety
/// To be called once, by the constructor. `envp` must be the process' environment.
pub unsafe fn remember(path: &[u8], envp: Strings, follow: bool) {
    // SAFETY: nobody reads before `known` is set.
    let (own_path, own_options) = unsafe { (&mut *COMPANION.path.get(), &mut *COMPANION.options.get()) };
    let Some(room) = own_path[..PATH_MAX - 1].get_mut(..path.len()) else { return };
    room.copy_from_slice(path);
    COMPANION.length.store(path.len(), Ordering::Relaxed);
    // SAFETY: passed on.
    let value = unsafe { config::lookup(envp, options::VARIABLE.as_bytes()) }.unwrap_or_default();
    let hidden = if options::parse(value).hidden { &[][..] } else { options::key::HIDDEN.as_bytes() };
    let parts = [options::VARIABLE.as_bytes(), b"=", value, if hidden.is_empty() { b"" } else { b"," }, hidden, b"\0"];
    let mut length = 0;
    let fits = parts.iter().all(|part| {
        let room = own_options.get_mut(length..length + part.len());
        length += part.len();
        room.map(|room| room.copy_from_slice(part)).is_some()
    });
    if !fits {
        own_options[0] = 0;
    }
    COMPANION.known.store(follow && !path.is_empty(), Ordering::Release);
}

/// The engine's path, without the zero that ends it.
fn engine_path() -> &'static [u8] {
    // SAFETY: written before `known` was set, or by the thread that asks.
    unsafe { &(&*COMPANION.path.get())[..COMPANION.length.load(Ordering::Relaxed)] }
}

/// What to do with the environment of a new program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// It is fine as it is, or nothing is known.
    Leave,
    /// The engine goes along: see to it that it is named.
    Include,
    /// The engine must stay behind.
    Exclude,
}

/// Looks at the program at `path`, which may be any pointer.
#[inline(never)]
fn judge(path: *const c_char) -> Verdict {
    if !may_call() {
        crate::engine::child_refused(Refusal::Sandbox, b"(started in a sandbox)");
        return Verdict::Exclude;
    }
    let refusal = match look(path) {
        None if is_reachable() => return Verdict::Leave,
        // One that may be started and not read, say. Its loader would complain.
        None => return Verdict::Exclude,
        Some(Program::Fit | Program::Script) if is_reachable() => return Verdict::Include,
        Some(Program::Fit | Program::Script) => Refusal::Unreachable,
        Some(Program::Unfit(refusal)) => refusal,
    };
    // SAFETY: the kernel has read it.
    crate::engine::child_refused(refusal, unsafe { CStr::from_ptr(path) }.to_bytes());
    match refusal {
        // What else may be there: a program of another C library, one that the kernel has somebody else run.
        Refusal::OtherLoader | Refusal::NotElf | Refusal::SetId if is_reachable() => Verdict::Leave,
        _ => Verdict::Exclude,
    }
}

/// What the program at `path` is; of a script, what its interpreter is. `None` when nobody can tell: it is
/// not there, may not be read, or is no regular file.
#[inline(always)]
fn look(path: *const c_char) -> Option<Program> {
    match look_at_file(path)? {
        (Program::Script, file) => look_at_interpreter(file),
        (other, _) => Some(other),
    }
}

/// What the file at `path` is. It is over before an interpreter is looked at, so that its frame is not below
/// that one's.
#[inline(never)]
fn look_at_file(path: *const c_char) -> Option<(Program, File)> {
    let (file, mode) = File::open(path)?;
    let found = match program::examine(&mut file.reader()) {
        Program::Fit if mode & SET_ID != 0 => Program::Unfit(Refusal::SetId),
        other => other,
    };
    Some((found, file))
}

/// What the interpreter of a script is.
#[inline(never)]
fn look_at_interpreter(script: File) -> Option<Program> {
    let room = block::take(SCRIPT_LINE + 1)?;
    // SAFETY: as much room as was asked for, of bytes that may be anything.
    let line = unsafe { &mut *room.cast::<[u8; SCRIPT_LINE + 1]>() };
    let mut file = script;
    let mut found = None;
    for _ in 0..SCRIPTS_DEEP {
        let Some(path) = program::interpreter(&mut file.reader(), line) else { break };
        let Some((next, _)) = File::open(path.as_ptr()) else { break };
        file = next;
        found = Some(program::examine(&mut file.reader()));
        if found != Some(Program::Script) {
            break;
        }
    }
    // SAFETY: `line` is not used any more.
    unsafe { block::give_back(room) };
    found.filter(|found| *found != Program::Script)
}

/// A regular file, open for reading.
struct File(c_long);

impl File {
    /// Opens the file at `path`, which may be any pointer, and tells its mode. What is not a regular file is
    /// not opened.
    #[inline(never)]
    fn open(path: *const c_char) -> Option<(File, u32)> {
        /// `struct stat`, of which the mode is the seventh word.
        const WORDS: usize = 36;
        const MODE: usize = 6;
        let mut stat = [0u32; WORDS];
        // SAFETY: the kernel checks the path, and fills the structure.
        unsafe {
            if raw(SYS_STAT, [path as c_ulong, stat.as_mut_ptr() as c_ulong, 0, 0, 0, 0]) != 0 {
                return None;
            }
            let fd =
                if stat[MODE] & KIND == REGULAR { raw(SYS_OPEN, [path as c_ulong, QUIETLY, 0, 0, 0, 0]) } else { -1 };
            (fd >= 0).then_some((File(fd), stat[MODE]))
        }
    }

    fn reader(&self) -> impl FnMut(u64, &mut [u8]) -> usize {
        |offset, buffer| {
            let (start, length) = (buffer.as_mut_ptr() as c_ulong, buffer.len() as c_ulong);
            // SAFETY: the kernel writes into the buffer.
            let got = unsafe { raw(SYS_PREAD64, [self.0 as c_ulong, start, length, offset, 0, 0]) };
            usize::try_from(got).unwrap_or(0)
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: a descriptor of our own.
        unsafe { raw(SYS_CLOSE, [self.0 as c_ulong, 0, 0, 0, 0, 0]) };
    }
}

/// Whether the engine's file can be read here: in another root or mount namespace, or as another user, it may
/// not be.
fn is_reachable() -> bool {
    // The broken variant that the tests must catch: it can be read everywhere.
    if broken!("reaches-everywhere") {
        return true;
    }
    // SAFETY: a path of our own.
    unsafe { raw(SYS_ACCESS, [engine_path().as_ptr() as c_ulong, READABLE, 0, 0, 0, 0]) == 0 }
}

/// Reads memory of the program's that may not be there.
struct Reader {
    /// The last page of which the kernel has said that it can be read.
    page: usize,
}

impl Reader {
    const fn new() -> Reader {
        Reader { page: 1 }
    }

    /// Whether the byte at `at` can be read.
    fn may(&mut self, at: usize) -> bool {
        // The broken variant that the tests must catch: the kernel is not asked.
        if broken!("reads-unasked") {
            return true;
        }
        let page = at & !(PAGE - 1);
        if page == 0 {
            return false;
        }
        // Under a filter nobody is asked.
        if page != self.page && may_call() && !is_readable(page as u64) {
            return false;
        }
        self.page = page;
        true
    }

    /// Whether the string at `text` begins with `start`; `None` when it cannot be read so far.
    fn begins(&mut self, text: *const c_char, start: &[u8]) -> Option<bool> {
        for (n, byte) in start.iter().enumerate() {
            let at = text as usize + n;
            if !self.may(at) {
                return None;
            }
            // SAFETY: it can be read.
            if unsafe { *(at as *const u8) } != *byte {
                return Some(false);
            }
        }
        Some(true)
    }

    /// The bytes of the string at `text`.
    fn string(&mut self, text: *const c_char) -> Option<&'static [u8]> {
        let mut end = text as usize;
        // SAFETY: what is read can be read.
        unsafe {
            while self.may(end) && *(end as *const u8) != 0 {
                end += 1;
            }
            let length = end - text as usize;
            self.may(end).then(|| core::slice::from_raw_parts(text.cast(), length))
        }
    }
}

/// What an environment says.
struct Seen {
    entries: usize,
    /// Bytes of all its `LD_PRELOAD=…`.
    preload: usize,
    /// The engine is in the last of them, which counts, …
    named: bool,
    /// … or in any.
    named_anywhere: bool,
    has_options: bool,
    /// Promotion is switched off.
    off: bool,
}

/// Reads an environment, which may be any pointer. `None` when it cannot be read: the kernel will say so.
#[inline(never)]
fn read(envp: Strings) -> Option<Seen> {
    let (mut list, mut text) = (Reader::new(), Reader::new());
    let mut seen = Seen { entries: 0, preload: 0, named: false, named_anywhere: false, has_options: false, off: false };
    // The kernel takes none for an empty one.
    while !envp.is_null() {
        let at = envp.wrapping_add(seen.entries);
        if !list.may(at as usize) || !list.may(at as usize + size_of::<usize>() - 1) {
            return None;
        }
        // SAFETY: it can be read.
        let entry = unsafe { at.read_unaligned() };
        if entry.is_null() {
            break;
        }
        seen.entries += 1;
        if text.begins(entry, PRELOAD)? {
            let bytes = text.string(entry)?;
            seen.preload += bytes.len() + 1;
            seen.named = place(&bytes[PRELOAD.len()..]).is_some();
            seen.named_anywhere |= seen.named;
        }
        seen.has_options |= text.begins(entry, options::VARIABLE.as_bytes())? && is_options(text.string(entry)?);
        seen.off |= text.begins(entry, options::SWITCH.as_bytes())? && is_off(text.string(entry)?);
    }
    Some(seen)
}

/// Whether an entry of an environment is the engine's options.
fn is_options(entry: &[u8]) -> bool {
    entry.strip_prefix(options::VARIABLE.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
}

fn is_off(entry: &[u8]) -> bool {
    let value = entry.strip_prefix(options::SWITCH.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
    value == Some(options::OFF.as_bytes())
}

/// Where in an `LD_PRELOAD` value the engine is named, with the separator behind it, or else that before it.
fn place(value: &[u8]) -> Option<core::ops::Range<usize>> {
    let separates = |byte: &u8| matches!(byte, b':' | b' ');
    let mut start = 0;
    for item in value.split(separates) {
        let end = start + item.len();
        if item == engine_path() {
            return Some(if end < value.len() { start..end + 1 } else { start.saturating_sub(1)..end });
        }
        start = end + 1;
    }
    None
}

/// What is called when a program is about to be started: the environment that it is to get.
///
/// # Safety
/// `path` and `envp` are the program's, and may be anything.
unsafe extern "C" fn before(path: *const c_char, envp: Strings) -> Strings {
    if !COMPANION.known.load(Ordering::Acquire) {
        return envp;
    }
    let verdict = judge(path);
    if verdict == Verdict::Leave {
        return envp;
    }
    let Some(seen) = read(envp) else { return envp };
    let is_as_wanted = match verdict {
        Verdict::Exclude => !seen.named_anywhere,
        _ => seen.named || seen.off,
    };
    if is_as_wanted { envp } else { rebuild(verdict, envp, &seen).unwrap_or(envp) }
}

/// An environment like `envp`, with the engine or without it.
#[inline(never)]
fn rebuild(verdict: Verdict, envp: Strings, seen: &Seen) -> Option<Strings> {
    let path = engine_path();
    // Two entries may be added, and the end.
    let list_bytes = (seen.entries + 3) * size_of::<usize>();
    let block = block::take(list_bytes + seen.preload + PRELOAD.len() + path.len() + 2)?;
    let mut new = New { list: block.cast(), text: block.wrapping_add(list_bytes) };
    let mut text = Reader::new();
    let mut is_in = verdict == Verdict::Exclude;
    // SAFETY: there is room for as much as was counted: every entry, every preload once more, and what is
    // added.
    unsafe {
        for n in 0..seen.entries {
            // Of other strings, more than their beginning may be nowhere.
            let entry = envp.add(n).read_unaligned();
            if text.begins(entry, PRELOAD) != Some(true) {
                new.push(entry);
                continue;
            }
            let value = text.string(entry).and_then(|entry| entry.get(PRELOAD.len()..)).unwrap_or_default();
            if verdict == Verdict::Exclude {
                match place(value) {
                    None => new.push(entry),
                    Some(place) if place.len() < value.len() => {
                        new.write(&[PRELOAD, &value[..place.start], &value[place.end..]]);
                    }
                    Some(_) => {}
                }
            } else {
                new.write(&[PRELOAD, path, b":", value]);
                is_in = true;
            }
        }
        if !is_in {
            new.write(&[PRELOAD, path]);
        }
        let own_options = COMPANION.options.get().cast::<c_char>();
        if verdict == Verdict::Include && !seen.has_options && *own_options != 0 {
            new.push(own_options);
        }
        new.push(core::ptr::null());
    }
    Some(block.cast())
}

/// An environment that is being put together.
struct New {
    list: *mut *const c_char,
    text: *mut u8,
}

impl New {
    /// # Safety
    /// There must be room.
    unsafe fn push(&mut self, entry: *const c_char) {
        // SAFETY: says the caller.
        unsafe {
            self.list.write(entry);
            self.list = self.list.add(1);
        }
    }

    /// Adds an entry made of `parts`.
    ///
    /// # Safety
    /// There must be room.
    unsafe fn write(&mut self, parts: &[&[u8]]) {
        // SAFETY: says the caller.
        unsafe {
            self.push(self.text.cast());
            for part in parts.iter().chain([&&b"\0"[..]]) {
                core::ptr::copy_nonoverlapping(part.as_ptr(), self.text, part.len());
                self.text = self.text.add(part.len());
            }
        }
    }
}

/// What is called when a program that was to get the environment `new` could not be started.
///
/// # Safety
/// It must be one that [`before`] has made.
unsafe extern "C" fn after(new: *mut u8) {
    // SAFETY: says the caller.
    unsafe { block::give_back(new) };
}

/// Takes out of this program's environment what an engine put there.
///
/// # Safety
/// To be called by the constructor, with the process' environment, whose strings are its own to change.
pub unsafe fn hide(envp: Strings) {
    let (mut from, mut to) = (envp, envp.cast_mut());
    // SAFETY: passed on. The array ends with a null pointer; `to` is never ahead of `from`.
    unsafe {
        while !(*from).is_null() {
            if is_for_program(*from) {
                *to = *from;
                to = to.add(1);
            }
            from = from.add(1);
        }
        *to = core::ptr::null();
    }
}

/// Whether an entry of the environment is left when the engine is taken out of it.
///
/// # Safety
/// `entry` must be a C string that may be changed.
unsafe fn is_for_program(entry: *const c_char) -> bool {
    // SAFETY: passed on.
    let bytes = unsafe { CStr::from_ptr(entry) }.to_bytes();
    if is_options(bytes) {
        return false;
    }
    let Some(value) = bytes.strip_prefix(PRELOAD) else { return true };
    let Some(place) = place(value) else { return true };
    let rest = value.len() - place.end;
    let left = place.start + rest;
    // SAFETY: what stands behind the place moves there, its terminator included.
    unsafe {
        let value = entry.cast_mut().cast::<u8>().add(PRELOAD.len());
        core::ptr::copy(value.add(place.end), value.add(place.start), rest + 1);
    }
    left > 0
}

/// What the `mov $59, %eax` of libc's `execve` is led to: with the arguments in their registers, and nothing
/// else of the function done.
///
/// # Safety
/// To be jumped to from there alone.
#[unsafe(naked)]
#[cfg_attr(feature = "preload", unsafe(export_name = "relpoline_execve"))]
pub unsafe extern "C" fn execve() -> c_int {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "sub rsp, 24", ".cfi_adjust_cfa_offset 24",
        "mov [rsp], rdx", "mov [rsp + 8], rsi", "mov [rsp + 16], rdi",
        "mov rsi, rdx",
        "call {before}",
        "mov r11, rax",
        "mov rdx, [rsp]", "mov rsi, [rsp + 8]", "mov rdi, [rsp + 16]",
        "add rsp, 24", ".cfi_adjust_cfa_offset -24",
        "cmp r11, rdx", "jne 2f",
        // What a system call destroys may be destroyed before it.
        "mov rcx, [rip + {control}@GOTPCREL]", "mov rcx, [rcx + {hook}]", "add rcx, 5",
        "mov eax, {number}",
        "jmp rcx",
        "2:",
        "push r11", ".cfi_adjust_cfa_offset 8",
        "mov rdx, r11", "mov eax, {number}",
        "syscall",
        "mov rdi, [rsp]",
        "mov [rsp], rax",
        "call {after}",
        "pop rax", ".cfi_adjust_cfa_offset -8",
        // Behind libc's own: it sets errno.
        "mov rcx, [rip + {control}@GOTPCREL]", "mov rcx, [rcx + {hook}]", "add rcx, 7",
        "jmp rcx",
        ".cfi_endproc",
        before = sym before, after = sym after, control = sym control::SHARED,
        hook = const control::address_of_hook(hook::EXECVE), number = const SYS_EXECVE,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::string::String;
    use std::vec::Vec;

    /// What becomes of an environment.
    fn rebuilt(verdict: Verdict, entries: &[&str]) -> Vec<String> {
        let strings: Vec<CString> = entries.iter().map(|entry| CString::new(*entry).unwrap()).collect();
        let mut list: Vec<*const c_char> = strings.iter().map(|string| string.as_ptr()).collect();
        list.push(core::ptr::null());
        let seen = read(list.as_ptr()).unwrap();
        assert_eq!(seen.entries, entries.len());
        let new = rebuild(verdict, list.as_ptr(), &seen).unwrap();
        // SAFETY: an environment, and given back after it was copied.
        unsafe {
            let text = |entry: &[u8]| String::from_utf8(entry.to_vec()).unwrap();
            let copy = config::entries(new).map(text).collect();
            after(new.cast_mut().cast());
            copy
        }
    }

    #[test]
    fn an_environment_keeps_its_order_and_everything_that_is_not_the_engine() {
        let environment: Strings = [core::ptr::null()].as_ptr();
        // SAFETY: the only test that uses it.
        unsafe { remember(b"/e.so", environment, true) };
        let own = "RELPOLINE_OPTS=,hidden";
        assert_eq!(rebuilt(Verdict::Include, &["A=1"]), ["A=1", "LD_PRELOAD=/e.so", own]);
        assert_eq!(
            rebuilt(Verdict::Include, &["LD_PRELOAD=a.so  b.so:", "RELPOLINE_OPTS=x", "Z"]),
            ["LD_PRELOAD=/e.so:a.so  b.so:", "RELPOLINE_OPTS=x", "Z"]
        );
        let without = |value: &str| rebuilt(Verdict::Exclude, &["A=1", &std::format!("LD_PRELOAD={value}"), "B"]);
        assert_eq!(without("/e.so"), ["A=1", "B"]);
        assert_eq!(without("/e.so:a.so  b.so:"), ["A=1", "LD_PRELOAD=a.so  b.so:", "B"]);
        assert_eq!(without("a.so:/e.so"), ["A=1", "LD_PRELOAD=a.so", "B"]);
        assert_eq!(without("a.so /e.so b.so"), ["A=1", "LD_PRELOAD=a.so b.so", "B"]);
        assert_eq!(without("/e.so2:x/e.so"), ["A=1", "LD_PRELOAD=/e.so2:x/e.so", "B"]);
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_kernel() {
        assert!(read(8 as Strings).is_none());
        assert!(read([8 as *const c_char, core::ptr::null()].as_ptr()).is_none());
        assert_eq!(read(core::ptr::null()).map(|seen| seen.entries), Some(0));
        assert!(look(8 as *const c_char).is_none());
        assert!(look(c"/dev/zero".as_ptr()).is_none());
    }
}
