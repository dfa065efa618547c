//! Files that are known to have no retpolines: the user's list of them ([`relpoline_stats::live`]).
//!
//! To look through libc takes longer than all else that the engine does in a short program. So whoever has
//! done it adds the file to the list: not by its path, but by all that tells one state of a file from
//! another. A file that has just been changed or put in place is not added: what lies at its path may not be
//! what the loader has mapped.

use crate::sandbox::raw;
use crate::share::{self, LIVE_PATH};
use core::ffi::{c_long, c_ulong};
use core::mem::MaybeUninit;
use relpoline_stats::live::{CLEAN, CLEAN_BYTES, CLEAN_ROW, CLEAN_ROWS, run_id};
use relpoline_text::broken;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, Stat};

/// What is meant by the words: other rules for what a retpoline is are another meaning.
const MEANING: u64 = 1;
/// Seconds that a file must have been as it is.
const SETTLED: i64 = 2;

/// The list, opened when it is first asked for.
pub struct List {
    /// Whether that was tried.
    tried: bool,
    file: Option<OwnedFd>,
}

/// A file as it is.
#[derive(Clone, Copy)]
pub struct File {
    /// Stands for it.
    word: u64,
    /// Seconds of the last change.
    changed: i64,
}

impl List {
    pub const fn new() -> List {
        List { tried: false, file: None }
    }

    /// The file at `path`; `None` where there is no list, or no file.
    pub fn identify(&mut self, path: &[u8]) -> Option<File> {
        if !self.tried {
            self.tried = true;
            self.file = open();
        }
        self.file.as_ref()?;
        let stat = rustix::fs::stat(path).ok()?;
        // The broken variant that the tests must catch: a file is what its path says.
        let word = if broken!("clean-by-name") { run_id(path.iter().copied()) } else { word(&stat) };
        let changed = (stat.st_ctime as i64).max(stat.st_mtime as i64);
        (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(File { word, changed })
    }

    /// Whether a file is known to have no retpolines.
    pub fn has(&self, file: File) -> bool {
        self.row(file).is_some_and(|row| row.contains(&file.word))
    }

    /// Adds a file.
    pub fn add(&self, file: File) {
        let Some((list, row)) = self.file.as_ref().zip(self.row(file)) else { return };
        if now().is_none_or(|now| now - file.changed < SETTLED) {
            return;
        }
        // Whichever goes when there is no room: not always the same one.
        let free = row.iter().position(|word| *word == 0);
        let place = free.unwrap_or((file.word >> 32) as usize % CLEAN_ROW);
        let _ = rustix::io::pwrite(list, &file.word.to_ne_bytes(), offset(file) + place as u64 * 8);
    }

    fn row(&self, file: File) -> Option<[u64; CLEAN_ROW]> {
        let mut bytes = [0; CLEAN_ROW * 8];
        let got = rustix::io::pread(self.file.as_ref()?, &mut bytes, offset(file)).ok()?;
        let mut words =
            bytes.chunks_exact(8).map(|word| word.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word)));
        (got == bytes.len()).then(|| core::array::from_fn(|_| words.next().unwrap_or(0)))
    }
}

fn offset(file: File) -> u64 {
    (file.word % CLEAN_ROWS as u64) * (CLEAN_ROW * 8) as u64
}

/// Opens the list, if it is this user's alone.
fn open() -> Option<OwnedFd> {
    let mut buffer = [0; LIVE_PATH];
    let directory = share::live_directory(&mut buffer)?;
    let directory = share::open_private(directory)?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, CLEAN, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    let is_it = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size as u64 == CLEAN_BYTES;
    is_it.then_some(file)
}

/// All that tells one state of a file from another, in one word that is not 0.
fn word(stat: &Stat) -> u64 {
    let parts = [
        MEANING,
        stat.st_dev,
        stat.st_ino,
        stat.st_size as u64,
        stat.st_mtime as u64,
        stat.st_mtime_nsec,
        stat.st_ctime as u64,
        stat.st_ctime_nsec,
    ];
    let mixed = parts.iter().fold(0u64, |word, part| {
        // SplitMix64's steps: every bit of what went in changes half of what comes out.
        let word = (word ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    });
    mixed.max(1)
}

/// Seconds since 1970.
fn now() -> Option<i64> {
    const SYS_CLOCK_GETTIME: c_long = 228;
    let mut time = MaybeUninit::<[i64; 2]>::uninit();
    // SAFETY: the kernel fills both words, or says that it did not.
    unsafe {
        let answer = raw(SYS_CLOCK_GETTIME, [0, time.as_mut_ptr() as c_ulong, 0, 0, 0, 0]);
        (answer == 0).then(|| time.assume_init()[0])
    }
}
