//! Memory for the environment of a program that is about to be started.
//!
//! It is taken from the kernel: the stack may be a few kilobytes, and belong to somebody else. When the call
//! fails it is given back; when it succeeds the whole address space goes. But a child made by vfork,
//! posix_spawn or `clone` with `CLONE_VM` only borrows its parent's address space, and what it has mapped
//! there stays when it has become another program. It cannot say when that is, but the kernel can: on exec,
//! and on death, it marks the words in a task's list of robust futexes (set_robust_list(2)). Such a child has
//! no list yet, which is also how it is told from everybody else, for whom libc has set one. So it hands in a
//! list of one word, and whoever needs memory next and finds the word marked takes over what was mapped.

use crate::sandbox::{may_call, raw};
use core::ffi::{c_long, c_ulong};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use relpoline_text::broken;

const SYS_MMAP: c_long = 9;
const SYS_MUNMAP: c_long = 11;
const SYS_GETTID: c_long = 186;
const SYS_SET_ROBUST_LIST: c_long = 273;
const SYS_GET_ROBUST_LIST: c_long = 274;
/// `PROT_READ | PROT_WRITE`, `MAP_PRIVATE | MAP_ANONYMOUS`.
const READ_WRITE: c_ulong = 3;
const PRIVATE: c_ulong = 0x22;
const PAGE: usize = relpoline_text::cells::PAGE;
/// `FUTEX_OWNER_DIED`: what the kernel makes of the word.
const GONE: u32 = 1 << 30;
/// Nobody's word, and one that is being looked at. No thread has such a number.
const FREE: u32 = 0;
const TAKEN: u32 = 1 << 29;
/// Children that are about to become programs at one time, and whose memory is known.
const LENDERS: usize = 64;

/// `struct robust_list_head`, and the one futex in it.
#[repr(C)]
struct Lender {
    first: AtomicU64,
    offset: AtomicU64,
    pending: AtomicU64,
    /// The entry: it leads back to the head.
    entry: AtomicU64,
    word: AtomicU32,
    /// Pages that are lent.
    pages: AtomicU32,
    at: AtomicU64,
}

static LENT: [Lender; LENDERS] = [const {
    Lender {
        first: AtomicU64::new(0),
        offset: AtomicU64::new(0),
        pending: AtomicU64::new(0),
        entry: AtomicU64::new(0),
        word: AtomicU32::new(FREE),
        pages: AtomicU32::new(0),
        at: AtomicU64::new(0),
    }
}; LENDERS];

/// What stands before the bytes of a block.
#[repr(C)]
struct Head {
    pages: u64,
    lender: Option<&'static Lender>,
}

/// Room for `bytes` bytes of anything; `None` when there is none. To be given back by [`give_back`] when the
/// program could not be started.
pub fn take(bytes: usize) -> Option<*mut u8> {
    let wanted = bytes.checked_add(size_of::<Head>())?.div_ceil(PAGE);
    // A filter may not let us ask. The broken variant that the tests must catch: nothing is noted, and
    // nothing comes back.
    let lender = if may_call() && is_visiting() && !broken!("memory-stays-lent") { Some(lender()?) } else { None };
    let Some((at, pages)) = lender.and_then(|lender| lender.reuse(wanted)).or_else(|| Some((map(wanted)?, wanted)))
    else {
        lender.inspect(|lender| lender.word.store(FREE, Ordering::Release));
        return None;
    };
    if let Some(lender) = lender {
        lender.at.store(at as u64, Ordering::Relaxed);
        lender.pages.store(pages as u32, Ordering::Relaxed);
        lender.announce();
    }
    // SAFETY: memory of our own with room for both.
    unsafe {
        at.cast::<Head>().write(Head { pages: pages as u64, lender });
        Some(at.add(size_of::<Head>()))
    }
}

/// Gives back what [`take`] has given.
///
/// # Safety
/// `block` must come from there, and not be used any more.
pub unsafe fn give_back(block: *mut u8) {
    // SAFETY: says the caller.
    unsafe {
        let at = block.sub(size_of::<Head>());
        let Head { pages, lender } = at.cast::<Head>().read();
        if lender.is_some() {
            raw(SYS_SET_ROBUST_LIST, [0, 24, 0, 0, 0, 0]);
        }
        unmap(at, pages as usize);
        if let Some(lender) = lender {
            lender.at.store(0, Ordering::Relaxed);
            lender.word.store(FREE, Ordering::Release);
        }
    }
}

/// Whether this task borrows another one's address space: libc has not set its list of robust futexes.
fn is_visiting() -> bool {
    let (mut list, mut length) = (1u64, 0u64);
    // SAFETY: the kernel writes both words.
    let answer =
        unsafe { raw(SYS_GET_ROBUST_LIST, [0, &raw mut list as c_ulong, &raw mut length as c_ulong, 0, 0, 0]) };
    answer == 0 && list == 0
}

/// A place to note what is lent: a free one, or one whose user has become another program.
fn lender() -> Option<&'static Lender> {
    let take = |lender: &&Lender, from| {
        lender.word.compare_exchange(from, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    };
    LENT.iter().find(|lender| take(lender, GONE)).or_else(|| LENT.iter().find(|lender| take(lender, FREE)))
}

impl Lender {
    /// What was lent before, and its pages, if those are enough; else it is unmapped.
    fn reuse(&self, wanted: usize) -> Option<(*mut u8, usize)> {
        let at = self.at.swap(0, Ordering::Relaxed) as *mut u8;
        let pages = self.pages.load(Ordering::Relaxed) as usize;
        if at.is_null() || pages >= wanted {
            return (!at.is_null()).then_some((at, pages));
        }
        // SAFETY: its user is gone.
        unsafe { unmap(at, pages) };
        None
    }

    /// Lets the kernel mark the word when this task is gone from here.
    fn announce(&'static self) {
        let entry = (&raw const self.entry) as u64;
        self.first.store(entry, Ordering::Relaxed);
        self.entry.store((&raw const self.first) as u64, Ordering::Relaxed);
        self.offset.store((offset_of!(Lender, word) - offset_of!(Lender, entry)) as u64, Ordering::Relaxed);
        // SAFETY: asks for this task's number. The list is as the kernel wants it, and stays.
        unsafe {
            let me = raw(SYS_GETTID, [0; 6]);
            self.word.store(me as u32, Ordering::Release);
            raw(SYS_SET_ROBUST_LIST, [(&raw const self.first) as c_ulong, 24, 0, 0, 0, 0]);
        }
    }
}

fn map(pages: usize) -> Option<*mut u8> {
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let at = unsafe { raw(SYS_MMAP, [0, (pages * PAGE) as c_ulong, READ_WRITE, PRIVATE, c_ulong::MAX, 0]) };
    (!(-4095..0).contains(&at)).then_some(at as *mut u8)
}

/// # Safety
/// The pages must be [`map`]'s, and nobody use them any more.
unsafe fn unmap(at: *mut u8, pages: usize) {
    // SAFETY: says the caller.
    unsafe { raw(SYS_MUNMAP, [at as c_ulong, (pages * PAGE) as c_ulong, 0, 0, 0, 0]) };
}
