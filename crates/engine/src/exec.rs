//! Going along over exec, or staying behind quietly.
//!
//! A preload that cannot be loaded kills a program (musl) or litters its stderr (another ELF class). So the
//! functions that start programs are interposed: before the call, the program's file is looked at, and the
//! preload is taken out of the environment, left in, or put back if the caller made a new environment.
//! Everything else about the call is libc's own. What was put into an environment that the caller made is taken out
//! again by the engine that it starts, before its program looks.
//!
//! These functions run in vfork children too: what they need lies on the stack.

use crate::config;
use crate::control;
use crate::sandbox::{as_libc, fail, may_call, raw};
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int, c_long, c_ulong, c_void};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use relpoline_stats::Refusal;
use relpoline_stats::options;
use relpoline_stats::program::{self, Program, SCRIPT_LINE};
use rustix::fs::{Access, Mode, OFlags};

const SYS_EXECVE: c_long = 59;
const SYS_EXECVEAT: c_long = 322;
const PATH_MAX: usize = 4096;
const PRELOAD: &[u8] = b"LD_PRELOAD=";
/// Longest `LD_PRELOAD=…` that is put together.
const ENTRY_MAX: usize = 2 * PATH_MAX;
/// Longest `RELPOLINE_OPTS=…,hidden`.
const OPTIONS_MAX: usize = PATH_MAX + 32;

type Strings = *const *const c_char;

/// What the engine needs to know to go along, set once by the constructor.
struct Companion {
    /// Path of the engine, zero-terminated.
    path: UnsafeCell<[u8; PATH_MAX]>,
    /// `RELPOLINE_OPTS=…,hidden`, zero-terminated.
    options: UnsafeCell<[u8; OPTIONS_MAX]>,
    known: AtomicBool,
    follow: AtomicBool,
}

// SAFETY: written by the constructor before `known` is set; only read afterwards.
unsafe impl Sync for Companion {}

static COMPANION: Companion = Companion {
    path: UnsafeCell::new([0; PATH_MAX]),
    options: UnsafeCell::new([0; OPTIONS_MAX]),
    known: AtomicBool::new(false),
    follow: AtomicBool::new(true),
};

/// Notes where the engine lies and with which options, so that children can get it.
///
/// # Safety
/// To be called once, by the constructor. `envp` must be the process' environment.
pub unsafe fn remember(path: &[u8], envp: Strings, follow: bool) {
    // SAFETY: nobody reads before `known` is set.
    let (own_path, own_options) = unsafe { (&mut *COMPANION.path.get(), &mut *COMPANION.options.get()) };
    let Some(room) = own_path[..PATH_MAX - 1].get_mut(..path.len()) else { return };
    room.copy_from_slice(path);
    // SAFETY: passed on.
    let value = unsafe { config::lookup(envp, options::VARIABLE.as_bytes()) }.unwrap_or_default();
    let mut entry = Concat::new(&mut own_options[..]);
    entry.push(options::VARIABLE.as_bytes());
    entry.push(b"=");
    entry.push(value);
    if !options::parse(value).hidden {
        entry.push(b",");
        entry.push(options::key::HIDDEN.as_bytes());
    }
    if entry.finish().is_none() {
        own_options[0] = 0;
    }
    COMPANION.follow.store(follow, Ordering::Release);
    COMPANION.known.store(!path.is_empty(), Ordering::Release);
}

fn engine_path() -> &'static [u8] {
    // SAFETY: written before `known` was set, which the callers checked.
    until_zero(unsafe { &*COMPANION.path.get() })
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

/// Puts strings together in a buffer that ends up zero-terminated.
struct Concat<'a> {
    buffer: &'a mut [u8],
    len: usize,
    fits: bool,
}

impl<'a> Concat<'a> {
    fn new(buffer: &'a mut [u8]) -> Concat<'a> {
        Concat { buffer, len: 0, fits: true }
    }

    fn push(&mut self, part: &[u8]) {
        match self.buffer.get_mut(self.len..self.len + part.len()) {
            Some(room) => {
                room.copy_from_slice(part);
                self.len += part.len();
            }
            None => self.fits = false,
        }
    }

    fn finish(mut self) -> Option<&'a [u8]> {
        self.push(b"\0");
        self.fits.then_some(&self.buffer[..])
    }
}

/// What to do with the environment of a new program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// It is fine as it is, or nothing is known.
    Leave,
    /// The engine goes along: see to it that it is named.
    Include,
    /// The engine must stay behind.
    Exclude(Refusal),
}

/// Looks at the program at `path`.
fn judge(path: &CStr) -> Verdict {
    if !COMPANION.known.load(Ordering::Acquire) {
        return Verdict::Leave;
    }
    if !may_call() {
        return Verdict::Exclude(Refusal::Sandbox);
    }
    if !COMPANION.follow.load(Ordering::Acquire) {
        return Verdict::Exclude(Refusal::Off);
    }
    let mut line;
    let mut at = path;
    // A script's interpreter may be a script; Linux follows four of them.
    for _ in 0..5 {
        match examine(at) {
            None => return Verdict::Leave,
            Some(Program::Script(interpreter, len)) => {
                line = [0; SCRIPT_LINE + 1];
                line[..len].copy_from_slice(&interpreter[..len]);
                match CStr::from_bytes_until_nul(&line) {
                    Ok(next) => at = next,
                    Err(_) => return Verdict::Leave,
                }
            }
            Some(Program::Fit { .. }) => return reachable(),
            Some(Program::Unfit(refusal)) => return Verdict::Exclude(refusal),
        }
    }
    Verdict::Leave
}

fn examine(path: &CStr) -> Option<Program> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    Some(program::examine(&mut |offset, buffer| rustix::io::pread(&fd, buffer, offset).unwrap_or(0)))
}

/// Whether the engine's file can be read here: after chroot, or as another user, it may not be.
fn reachable() -> Verdict {
    // SAFETY: written before `known` was set.
    let path = CStr::from_bytes_until_nul(unsafe { &*COMPANION.path.get() });
    let readable = path.is_ok_and(|path| rustix::fs::access(path, Access::READ_OK).is_ok());
    if readable { Verdict::Include } else { Verdict::Exclude(Refusal::Unreachable) }
}

/// Runs `go` with `envp` as the verdict wants it.
///
/// # Safety
/// `envp` must be a null-terminated array of C strings, or null.
unsafe fn with_environment(
    verdict: Verdict,
    path: &[u8],
    envp: Strings,
    go: &mut dyn FnMut(Strings) -> c_long,
) -> c_long {
    if let Verdict::Exclude(refusal) = verdict {
        crate::engine::child_refused(refusal, path);
    }
    // SAFETY: passed on.
    if unsafe { is_as_wanted(verdict, envp) } {
        return go(envp);
    }
    // SAFETY: passed on.
    let count = unsafe { config::entries(envp) }.count();
    // Two entries may be added, and the end.
    // SAFETY: passed on; each buffer is large enough.
    unsafe {
        match count + 3 {
            0..=128 => rebuilt::<128>(verdict, envp, go),
            129..=1024 => rebuilt::<1024>(verdict, envp, go),
            // Led here from libc's own execve, it runs in children of posix_spawn, on 32 KiB of stack.
            1025..=8192 if !control::is_attached() => rebuilt::<8192>(verdict, envp, go),
            _ => go(envp),
        }
    }
}

/// Takes out of a program's environment what another engine put there.
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
    let mut buffer = [0; ENTRY_MAX];
    let Some(kept) = preload_entry(Verdict::Exclude(Refusal::Off), value, &mut buffer) else { return false };
    let length = until_zero(kept).len() + 1;
    // SAFETY: no longer than what was there, its terminator included.
    unsafe { core::ptr::copy_nonoverlapping(kept.as_ptr(), entry.cast_mut().cast(), length) };
    true
}

/// Whether an entry of an environment is the engine's options.
fn is_options(entry: &[u8]) -> bool {
    entry.strip_prefix(options::VARIABLE.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
}

/// Whether an `LD_PRELOAD` value names the engine.
fn names_engine(value: &[u8]) -> bool {
    value.split(|&b| b == b':' || b == b' ').any(|item| item == engine_path())
}

/// # Safety
/// As for [`with_environment`].
unsafe fn is_as_wanted(verdict: Verdict, envp: Strings) -> bool {
    // SAFETY: passed on.
    let (preload, switch) =
        unsafe { (config::lookup(envp, b"LD_PRELOAD"), config::lookup(envp, options::SWITCH.as_bytes())) };
    let named = preload.is_some_and(names_engine);
    match verdict {
        Verdict::Leave => true,
        Verdict::Include => named || switch == Some(options::OFF.as_bytes()),
        Verdict::Exclude(_) => !named,
    }
}

/// # Safety
/// As for [`with_environment`]; `N` must be at least three more than there are entries.
#[inline(never)]
unsafe fn rebuilt<const N: usize>(verdict: Verdict, envp: Strings, go: &mut dyn FnMut(Strings) -> c_long) -> c_long {
    let mut list = [core::ptr::null::<c_char>(); N];
    let mut preload = [0u8; ENTRY_MAX];
    let mut len = 0;
    let mut others: &[u8] = &[];
    let mut has_options = false;
    // SAFETY: passed on.
    for entry in unsafe { config::entries(envp) } {
        if let Some(value) = entry.strip_prefix(PRELOAD) {
            others = value;
            continue;
        }
        has_options |= is_options(entry);
        list[len] = entry.as_ptr().cast();
        len += 1;
    }
    if let Some(entry) = preload_entry(verdict, others, &mut preload) {
        list[len] = entry.as_ptr().cast();
        len += 1;
    }
    // SAFETY: written before `known` was set.
    let own_options = unsafe { &*COMPANION.options.get() };
    if verdict == Verdict::Include && !has_options && own_options[0] != 0 {
        list[len] = own_options.as_ptr().cast();
    }
    go(list.as_ptr())
}

/// The new `LD_PRELOAD=…`, or `None` when nothing is left to preload.
fn preload_entry<'a>(verdict: Verdict, others: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut entry = Concat::new(buffer);
    entry.push(PRELOAD);
    let mut any = false;
    let engine = (verdict == Verdict::Include).then(engine_path);
    let kept = others.split(|&b| b == b':' || b == b' ').filter(|item| !item.is_empty() && *item != engine_path());
    for item in engine.into_iter().chain(kept) {
        if any {
            entry.push(b":");
        }
        entry.push(item);
        any = true;
    }
    if any { entry.finish() } else { None }
}

/// # Safety
/// `path` must be a C string or null.
unsafe fn verdict_for<'a>(path: *const c_char) -> (Verdict, &'a [u8]) {
    if path.is_null() {
        return (Verdict::Leave, &[]);
    }
    // SAFETY: the caller's C string.
    let path = unsafe { CStr::from_ptr(path) };
    (judge(path), path.to_bytes())
}

/// Finds `file` as execvp(3) does, to look at it; the search itself is left to libc.
///
/// # Safety
/// `file` must be a C string or null.
unsafe fn verdict_on_path<'a>(file: *const c_char) -> (Verdict, &'a [u8]) {
    // SAFETY: passed on.
    let name = if file.is_null() { &[][..] } else { unsafe { CStr::from_ptr(file) }.to_bytes() };
    if name.is_empty() || name.contains(&b'/') || !may_call() {
        // SAFETY: passed on.
        return unsafe { verdict_for(file) };
    }
    // SAFETY: libc's environment.
    let path = unsafe { config::lookup(environ, b"PATH") }.unwrap_or(b"/bin:/usr/bin");
    for directory in path.split(|&b| b == b':') {
        let mut buffer = [0u8; PATH_MAX];
        let mut candidate = Concat::new(&mut buffer);
        candidate.push(if directory.is_empty() { b"." } else { directory });
        candidate.push(b"/");
        candidate.push(name);
        let Some(bytes) = candidate.finish() else { continue };
        let Ok(candidate) = CStr::from_bytes_until_nul(bytes) else { continue };
        if rustix::fs::access(candidate, Access::EXEC_OK).is_ok() {
            return (judge(candidate), name);
        }
    }
    (Verdict::Leave, name)
}

unsafe extern "C" {
    static environ: Strings;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The next definition of a function behind ours, found once.
struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static CStr) -> Next {
        Next { name, found: AtomicPtr::new(core::ptr::null_mut()) }
    }

    fn address(&self) -> *mut c_void {
        const RTLD_NEXT: *mut c_void = -1isize as *mut c_void;
        let known = self.found.load(Ordering::Acquire);
        if !known.is_null() {
            return known;
        }
        // SAFETY: a name of ours; the loader's lock is taken, which a vfork child shares with its waiting
        // parent: the constructor has therefore asked for every name already.
        let found = unsafe { dlsym(RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Release);
        found
    }
}

static EXECVPE: Next = Next::new(c"execvpe");
static POSIX_SPAWN: Next = Next::new(c"posix_spawn");
static POSIX_SPAWNP: Next = Next::new(c"posix_spawnp");

/// Finds libc's own functions while that is certainly safe.
pub fn prepare() {
    for next in [&EXECVPE, &POSIX_SPAWN, &POSIX_SPAWNP] {
        next.address();
    }
}

/// execve(2).
///
/// # Safety
/// As for the call.
#[cfg_attr(feature = "preload", unsafe(no_mangle))]
pub unsafe extern "C" fn execve(path: *const c_char, argv: Strings, envp: Strings) -> c_int {
    // SAFETY: passed on.
    unsafe {
        let (verdict, name) = verdict_for(path);
        let answer = with_environment(verdict, name, envp, &mut |envp| {
            raw(SYS_EXECVE, [path as c_ulong, argv as c_ulong, envp as c_ulong, 0, 0, 0])
        });
        as_libc(answer) as c_int
    }
}

/// execv(3).
///
/// # Safety
/// As for the call.
#[cfg_attr(feature = "preload", unsafe(no_mangle))]
pub unsafe extern "C" fn execv(path: *const c_char, argv: Strings) -> c_int {
    // SAFETY: passed on.
    unsafe { execve(path, argv, environ) }
}

/// execvpe(3).
///
/// # Safety
/// As for the call.
#[cfg_attr(feature = "preload", unsafe(no_mangle))]
pub unsafe extern "C" fn execvpe(file: *const c_char, argv: Strings, envp: Strings) -> c_int {
    type Function = unsafe extern "C" fn(*const c_char, Strings, Strings) -> c_int;
    // SAFETY: passed on; the function found is libc's of that name.
    unsafe {
        let (verdict, name) = verdict_on_path(file);
        let real = core::mem::transmute::<*mut c_void, Function>(EXECVPE.address());
        with_environment(verdict, name, envp, &mut |envp| c_long::from(real(file, argv, envp))) as c_int
    }
}

/// execvp(3).
///
/// # Safety
/// As for the call.
#[cfg_attr(feature = "preload", unsafe(no_mangle))]
pub unsafe extern "C" fn execvp(file: *const c_char, argv: Strings) -> c_int {
    // SAFETY: passed on.
    unsafe { execvpe(file, argv, environ) }
}

/// fexecve(3).
///
/// # Safety
/// As for the call.
#[cfg_attr(feature = "preload", unsafe(no_mangle))]
pub unsafe extern "C" fn fexecve(fd: c_int, argv: Strings, envp: Strings) -> c_int {
    const AT_EMPTY_PATH: c_ulong = 0x1000;
    const EINVAL: c_long = 22;
    if fd < 0 || argv.is_null() || envp.is_null() {
        // As libc has it.
        return fail(-EINVAL) as c_int;
    }
    // SAFETY: passed on.
    unsafe {
        let path = c"".as_ptr();
        let verdict = judge_descriptor(fd);
        let answer = with_environment(verdict, b"(descriptor)", envp, &mut |envp| {
            raw(SYS_EXECVEAT, [fd as c_ulong, path as c_ulong, argv as c_ulong, envp as c_ulong, AT_EMPTY_PATH, 0])
        });
        as_libc(answer) as c_int
    }
}

/// Looks at the program behind a descriptor. Scripts are left as they are.
fn judge_descriptor(fd: c_int) -> Verdict {
    if !COMPANION.known.load(Ordering::Acquire) || fd < 0 {
        return Verdict::Leave;
    }
    if !may_call() {
        return Verdict::Exclude(Refusal::Sandbox);
    }
    if !COMPANION.follow.load(Ordering::Acquire) {
        return Verdict::Exclude(Refusal::Off);
    }
    // SAFETY: the caller's descriptor, borrowed for this look.
    let fd = unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) };
    match program::examine(&mut |offset, buffer| rustix::io::pread(fd, buffer, offset).unwrap_or(0)) {
        Program::Script(..) => Verdict::Leave,
        Program::Fit { .. } => reachable(),
        Program::Unfit(refusal) => Verdict::Exclude(refusal),
    }
}

type Spawn = unsafe extern "C" fn(*mut c_int, *const c_char, *const c_void, *const c_void, Strings, Strings) -> c_int;

/// posix_spawn(3).
///
/// # Safety
/// As for the call.
#[cfg_attr(feature = "preload", unsafe(no_mangle))]
pub unsafe extern "C" fn posix_spawn(
    pid: *mut c_int,
    path: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    argv: Strings,
    envp: Strings,
) -> c_int {
    // SAFETY: passed on; the function found is libc's of that name.
    unsafe {
        let (verdict, name) = verdict_for(path);
        let real = core::mem::transmute::<*mut c_void, Spawn>(POSIX_SPAWN.address());
        let mut go = |envp| c_long::from(real(pid, path, actions, attributes, argv, envp));
        with_environment(verdict, name, envp, &mut go) as c_int
    }
}

/// posix_spawnp(3).
///
/// # Safety
/// As for the call.
#[cfg_attr(feature = "preload", unsafe(no_mangle))]
pub unsafe extern "C" fn posix_spawnp(
    pid: *mut c_int,
    file: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    argv: Strings,
    envp: Strings,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let (verdict, name) = verdict_on_path(file);
        let real = core::mem::transmute::<*mut c_void, Spawn>(POSIX_SPAWNP.address());
        let mut go = |envp| c_long::from(real(pid, file, actions, attributes, argv, envp));
        with_environment(verdict, name, envp, &mut go) as c_int
    }
}

/// Calls `execv` or `execvp` on behalf of a variadic caller, whose arguments lie in a row from the second on.
/// The return address is taken off the stack, the four or five argument registers are put in front of the
/// arguments that lie there already, and on failure (the only way back) everything is put back.
macro_rules! variadic {
    ($(#[$doc:meta])* $name:ident => $to:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As for the call.
        #[unsafe(naked)]
        #[cfg_attr(feature = "preload", unsafe(no_mangle))]
        pub unsafe extern "C" fn $name() -> c_int {
            core::arch::naked_asm!(
                "pop rax",
                "push r9", "push r8", "push rcx", "push rdx", "push rsi",
                "mov rsi, rsp",
                "push rax", "push rbp", "mov rbp, rsp",
                "and rsp, -16",
                "call {to}",
                "mov rsp, rbp", "pop rbp",
                "pop rcx", "add rsp, 40", "push rcx",
                "ret",
                to = sym $to,
            )
        }
    };
}

variadic! {
    /// execl(3).
    execl => execv
}
variadic! {
    /// execlp(3).
    execlp => execvp
}
variadic! {
    /// execle(3).
    execle => execle_array
}

/// The environment of execle(3) stands behind the null that ends its arguments.
unsafe extern "C" fn execle_array(path: *const c_char, argv: Strings) -> c_int {
    // SAFETY: the caller's argument list, as execle wants it.
    unsafe {
        let mut end = argv;
        while !(*end).is_null() {
            end = end.add(1);
        }
        execve(path, argv, *end.add(1).cast::<Strings>())
    }
}
