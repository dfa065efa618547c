//! Counters within reach of code: stubs and trees count with 32-bit displacements, while code itself is not
//! writable where it runs.

use relpoline_patch::word::rel32;
use relpoline_text::arena::Counters;
use rustix::mm::{MapFlags, ProtFlags};
use std::sync::{Mutex, PoisonError};

/// Counters of one runtime.
const PLACES: usize = 1 << 14;
/// Bytes from one site's counters to the next, so that sites share no cache line.
const STRIDE: usize = 64;

const _: () = assert!(size_of::<Counters>() <= STRIDE);

/// Memory for the counters of a runtime's sites.
#[derive(Debug)]
pub struct Near {
    /// 0 when nothing was free within reach.
    start: usize,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    idle: Vec<usize>,
    used: usize,
}

impl Near {
    /// Counters for the code from `start` to `end`. The pages are populated as they are used.
    pub fn to(start: u64, end: u64) -> Near {
        let bytes = PLACES * STRIDE;
        let hints = [end, start - bytes as u64];
        let at = hints.into_iter().find_map(|hint| map(hint as usize, bytes, start, end));
        Near { start: at.unwrap_or(0), places: Mutex::default() }
    }

    /// Counters for a site; `None` when there are none left.
    pub fn take(&self) -> Option<&Counters> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.idle.pop().or_else(|| {
            let next = places.used;
            (self.start != 0 && next < PLACES).then(|| {
                places.used += 1;
                next
            })
        })?;
        // SAFETY: inside the mapping, which lives as long as `self`; zeroes, and whatever was counted, are
        // valid.
        Some(unsafe { &*((self.start + place * STRIDE) as *const Counters) })
    }

    /// Takes counters back, which no code may touch any more.
    pub fn give_back(&self, counters: &Counters) {
        let place = (std::ptr::from_ref(counters) as usize - self.start) / STRIDE;
        self.places.lock().unwrap_or_else(PoisonError::into_inner).idle.push(place);
    }
}

/// A mapping near `hint`, if all of it and all code reach each other.
fn map(hint: usize, bytes: usize, code: u64, end: u64) -> Option<usize> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the address is a hint only, nothing is replaced.
    let at = unsafe { rustix::mm::mmap_anonymous(hint as *mut _, bytes, prot, MapFlags::PRIVATE) }.ok()? as usize;
    let (first, last) = (at as u64, (at + bytes) as u64);
    if rel32(code, last).is_some() && rel32(end, first).is_some() {
        return Some(at);
    }
    // SAFETY: made a moment ago, and nobody knows it.
    let _ = unsafe { rustix::mm::munmap(at as *mut _, bytes) };
    None
}

impl Drop for Near {
    fn drop(&mut self) {
        if self.start != 0 {
            // SAFETY: ours; the code that counts there is gone with its runtime.
            let _ = unsafe { rustix::mm::munmap(self.start as *mut _, PLACES * STRIDE) };
        }
    }
}
