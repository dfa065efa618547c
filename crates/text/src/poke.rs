//! The program's own text.
//!
//! Two kinds of change, and no third: many displacements of an object that nobody is running yet
//! ([`Repoint`]), and one byte of an instruction that everybody may be running ([`link`], [`poke_byte`]).
//!
//! What is there is looked at before that byte is written, the whole displacement and not only the byte that
//! changes: text that was put back, or is another object's by now, is left alone. Between the two a thread
//! may be put off for any time; so whoever pokes holds the lock under which text is put back and unmapped,
//! and nobody breaks it meanwhile.
//!
//! Both go through `/proc/self/mem`, opened anew each time: an inherited descriptor would write the parent's
//! text, and a remembered number may have become one of the program's own files. Page protections stay as
//! they are, so no page is ever writable and executable.

use crate::broken;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::MprotectFlags;

use crate::cells::PAGE;
use crate::lock::TryLock;
use crate::{mask, sync};
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

/// Why text could not be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PokeError {
    /// `/proc/self/mem` cannot be opened for writing: no /proc, or the process is not dumpable.
    NoMem = 1,
    /// The write itself was refused.
    Refused = 2,
    /// The bytes there are not those that were expected, or nothing is there; nothing was written.
    Unexpected = 3,
    /// This thread was overtaken by another holder of the lock. Nothing was written.
    Overtaken = 4,
    /// This is a child that shares its parent's memory. Nothing was written; its parent may.
    NotHere = 5,
}

impl core::fmt::Display for PokeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            PokeError::NoMem => "/proc/self/mem cannot be opened",
            PokeError::Refused => "writing to the program's text is refused",
            PokeError::Unexpected => "the program's text is not what was expected",
            PokeError::Overtaken => "another thread has taken over",
            PokeError::NotHere => "the program's text is another process' to change",
        })
    }
}

fn open_mem() -> Result<OwnedFd, PokeError> {
    rustix::fs::open(c"/proc/self/mem", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|_| PokeError::NoMem)
}

fn write_all(mem: &OwnedFd, at: u64, bytes: &[u8]) -> Result<(), PokeError> {
    match rustix::io::pwrite(mem, bytes, at) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(_) | Err(Errno::INTR) => match rustix::io::pwrite(mem, bytes, at) {
            Ok(n) if n == bytes.len() => Ok(()),
            _ => Err(PokeError::Refused),
        },
        Err(_) => Err(PokeError::Refused),
    }
}

/// The byte of a displacement that links change. A [column](crate::cells)'s cells differ in no other.
const LINK: usize = 1;

/// Whether two displacements differ, at most, in the byte that links change: both lead to one column of an
/// arena.
#[must_use]
pub fn same_column(a: [u8; 4], b: [u8; 4]) -> bool {
    (0..4).all(|n| n == LINK || a[n] == b[n])
}

/// Lets the displacement at `field` be `to`, while any number of threads may be executing it, if it leads to
/// the same column now and is not `own`, which is the program's. `thread` must hold `lock`. Signals are held
/// back, for seven system calls.
///
/// # Errors
/// Nothing is changed then.
pub fn link(lock: &TryLock, thread: u64, field: u64, to: [u8; 4], own: Option<[u8; 4]>) -> Result<(), PokeError> {
    with_pen(lock, thread, |pen| pen.link(field, to, own))?
}

/// Changes the byte at `at` from `old` to `new`, likewise.
///
/// # Errors
/// Nothing is changed then.
pub fn poke_byte(lock: &TryLock, thread: u64, at: u64, old: u8, new: u8) -> Result<(), PokeError> {
    with_pen(lock, thread, |pen| pen.change(at, 0, |seen: [u8; 1]| (seen[0] == old).then_some(new)))?
}

/// Changes the first bytes of many instructions, each from what is there to what `new` makes of it, behind
/// one open. `None` is not what was expected: that one stays.
///
/// # Errors
/// Some are unchanged then.
pub fn poke_bytes(
    lock: &TryLock,
    thread: u64,
    sites: impl Iterator<Item = u64> + Clone,
    new: impl Fn(u8) -> Option<u8>,
) -> Result<(), PokeError> {
    if sites.clone().next().is_none() {
        return Ok(());
    }
    with_pen(lock, thread, |pen| {
        let mut outcome = Ok(());
        for at in sites.clone() {
            if let Err(error) = pen.change(at, 0, |seen: [u8; 1]| new(seen[0])) {
                outcome = Err(error);
            }
        }
        outcome
    })?
}

/// Text of which several bytes are changed one after the other: to open the file costs more than each of
/// them.
pub struct Pen(OwnedFd);

/// Lets `work` change text. `thread` must hold `lock`, which nobody breaks meanwhile; signals are held back.
///
/// # Errors
/// Nothing is done then.
pub fn with_pen<R>(lock: &TryLock, thread: u64, work: impl FnOnce(&Pen) -> R) -> Result<R, PokeError> {
    let write = || {
        sync::step();
        Ok(work(&Pen(open_mem()?)))
    };
    mask::held_back(|| {
        if !lock.is_at_home() {
            return Err(PokeError::NotHere);
        }
        lock.pinned(thread, write).unwrap_or(Err(PokeError::Overtaken))
    })
}

impl Pen {
    /// As [`link`].
    ///
    /// # Errors
    /// Nothing is changed then.
    pub fn link(&self, field: u64, to: [u8; 4], own: Option<[u8; 4]>) -> Result<(), PokeError> {
        self.change(field, LINK, |seen: [u8; 4]| (same_column(seen, to) && Some(seen) != own).then_some(to[LINK]))
    }

    /// Changes byte `which` of those at `at` to what `new` makes of them; `None` is not what was expected.
    /// They are read through the file too: in a child that was forked while a library was being unmapped,
    /// they may be nowhere.
    fn change<const N: usize>(
        &self,
        at: u64,
        which: usize,
        new: impl FnOnce([u8; N]) -> Option<u8>,
    ) -> Result<(), PokeError> {
        let mut seen = [0u8; N];
        let read = rustix::io::pread(&self.0, &mut seen, at) == Ok(N);
        let new = read.then_some(seen).and_then(new).ok_or(PokeError::Unexpected)?;
        if seen[which] == new {
            return Ok(());
        }
        sync::step();
        linger();
        write_all(&self.0, at + which as u64, &[new])
    }
}

/// Nothing, but where tests want to see what comes of a thread that is put off between looking and writing:
/// every fourth is.
fn linger() {
    static TIMES: AtomicU32 = AtomicU32::new(0);
    if broken!("linger") && TIMES.fetch_add(1, Ordering::Relaxed).is_multiple_of(4) {
        // Longer than anybody waits for a lock.
        let long = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
        let _ = rustix::thread::nanosleep(&long);
    }
}

/// Text that no thread is executing, for some bytes here and there. Whoever has several to write opens the
/// file once: that costs more than all of them.
pub struct Idle(Result<OwnedFd, PokeError>);

impl Idle {
    /// Opens the memory of this process for as long as the value lives.
    #[must_use]
    pub fn open() -> Idle {
        Idle(open_mem())
    }

    /// Writes `bytes` at `at`.
    ///
    /// # Errors
    /// Text is unchanged or, after a partial write that the kernel then refused to complete, partly changed.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), PokeError> {
        write_all(self.0.as_ref().map_err(|error| *error)?, at, bytes)
    }

    /// Puts jumps to other code at several places, each inside one page, all or none.
    ///
    /// # Errors
    /// Nothing is changed then, unless the kernel stops accepting writes half-way.
    ///
    /// # Safety
    /// No thread may execute those pages, nor write to them, meanwhile.
    pub unsafe fn lead(&self, jumps: &[(u64, [u8; 5])]) -> Result<(), PokeError> {
        let mut mem = self.0.as_ref().ok();
        for (n, (at, jump)) in jumps.iter().enumerate() {
            match mem.map(|mem| write_all(mem, *at, jump)) {
                Some(Ok(())) => {}
                Some(Err(error)) if n > 0 => return Err(error),
                // SAFETY: says the caller; the bytes lie in that page, which is writable then.
                _ => unsafe {
                    mem = None;
                    let page = at & !(PAGE as u64 - 1);
                    let _way = unprotect(page, PAGE, false)?;
                    core::ptr::copy_nonoverlapping(jump.as_ptr(), *at as *mut u8, jump.len());
                    protect(page, PAGE, MprotectFlags::READ | MprotectFlags::EXEC)?;
                },
            }
        }
        Ok(())
    }
}

/// How the displacements of an idle object are written.
enum Way {
    Mem(OwnedFd),
    /// The object's text is writable, and not executable, for the time being.
    Unprotected {
        start: u64,
        len: usize,
        /// What it is to be again.
        again: MprotectFlags,
    },
}

/// Writes many displacements of one object's text while no thread runs it.
pub struct Repoint {
    way: Way,
    /// The page being gathered, for [`Way::Mem`]: each page is written once, from its first change to its
    /// last.
    page: u64,
    changed: Range<usize>,
    buf: [u8; PAGE],
}

impl Repoint {
    /// Begins to change the text at `start..start + len` (page-aligned), which must be mapped readable and
    /// executable, and writable too if it `is_writable`, and idle. Tries `/proc/self/mem`, then changing the
    /// protection, after a scratch page has shown that the way back to executable is open.
    ///
    /// # Errors
    /// When both are refused.
    ///
    /// # Safety
    /// No thread may execute in that range, nor write to it, until the value is finished.
    pub unsafe fn begin(start: u64, len: usize, is_writable: bool) -> Result<Repoint, PokeError> {
        let way = match open_mem() {
            Ok(mem) if Repoint::may_write(&mem, start) => Way::Mem(mem),
            // SAFETY: passed on to the caller.
            _ => unsafe { unprotect(start, len, is_writable)? },
        };
        Ok(Repoint { way, page: 0, changed: 0..0, buf: [0; PAGE] })
    }

    /// Whether the kernel lets us force a write to `start` (`proc_mem.force_override` may not): its own byte
    /// is written back.
    fn may_write(mem: &OwnedFd, start: u64) -> bool {
        // SAFETY: the caller of `begin` says that the text is readable.
        let byte = unsafe { *(start as *const u8) };
        rustix::io::pwrite(mem, &[byte], start) == Ok(1)
    }

    /// Sets the displacement at `field` to `rel`. Calls in ascending order of address are cheapest.
    ///
    /// # Errors
    /// When the kernel stops accepting writes half-way; what was written stays, and is right.
    pub fn set(&mut self, field: u64, rel: i32) -> Result<(), PokeError> {
        for (i, byte) in rel.to_le_bytes().into_iter().enumerate() {
            let at = field + i as u64;
            if let Way::Unprotected { .. } = self.way {
                // SAFETY: the range is writable and idle.
                unsafe { *(at as *mut u8) = byte };
                continue;
            }
            let page = at & !(PAGE as u64 - 1);
            if page != self.page {
                self.flush()?;
                let first = (at - page) as usize;
                (self.page, self.changed) = (page, first..first);
            }
            let offset = (at - page) as usize;
            self.gather(offset);
            self.buf[offset] = byte;
        }
        Ok(())
    }

    /// Takes what lies between this byte of the page and those that were changed from the text.
    fn gather(&mut self, offset: usize) {
        let Range { start, end } = self.changed;
        self.changed = start.min(offset)..end.max(offset + 1);
        for missing in [self.changed.start..start, end..self.changed.end] {
            // SAFETY: text is readable, and the range lies in its page.
            let text = unsafe {
                core::slice::from_raw_parts((self.page as usize + missing.start) as *const u8, missing.len())
            };
            self.buf[missing].copy_from_slice(text);
        }
    }

    fn flush(&mut self) -> Result<(), PokeError> {
        match &self.way {
            Way::Mem(mem) if self.page != 0 => {
                let changed = self.changed.clone();
                write_all(mem, self.page + changed.start as u64, &self.buf[changed])
            }
            _ => Ok(()),
        }
    }

    /// Ends the change: everything is written, protections are what they were.
    ///
    /// # Errors
    /// As for [`Repoint::set`].
    pub fn finish(mut self) -> Result<(), PokeError> {
        self.flush()?;
        if let Way::Unprotected { start, len, again } = self.way {
            // SAFETY: restores what `unprotect` changed.
            unsafe { protect(start, len, again) }?;
        }
        Ok(())
    }
}

/// # Safety
/// The range must be the text that the caller of [`Repoint::begin`] vouches for.
unsafe fn protect(start: u64, len: usize, flags: MprotectFlags) -> Result<(), PokeError> {
    // SAFETY: passed on to the caller.
    unsafe { rustix::mm::mprotect(start as *mut core::ffi::c_void, len, flags) }.map_err(|_| PokeError::Refused)
}

/// Makes text writable in place of executable, if a scratch page shows that it can become executable again.
///
/// # Safety
/// As for [`Repoint::begin`].
unsafe fn unprotect(start: u64, len: usize, is_writable: bool) -> Result<Way, PokeError> {
    use rustix::mm::{MapFlags, ProtFlags};
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let executable = MprotectFlags::READ | MprotectFlags::EXEC;
    let again = if is_writable { executable | MprotectFlags::WRITE } else { executable };
    // SAFETY: a scratch page of our own, gone again below.
    unsafe {
        let page = rustix::mm::mmap_anonymous(core::ptr::null_mut(), PAGE, prot, MapFlags::PRIVATE)
            .map_err(|_| PokeError::Refused)?;
        let back = rustix::mm::mprotect(page, PAGE, again);
        let _ = rustix::mm::munmap(page, PAGE);
        if back.is_err() {
            return Err(PokeError::Refused);
        }
        protect(start, len, MprotectFlags::READ | MprotectFlags::WRITE)?;
    }
    Ok(Way::Unprotected { start, len, again })
}
