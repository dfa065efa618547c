//! Which memory programs may touch besides their input and stack: the values of their runtime's maps.
//!
//! The table is immutable and sorted; a change publishes a new one and retires the old. Runs look it up
//! inside their read section.

use relpoline_patch::reclaim;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A range of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Whether programs may write it.
    pub writable: bool,
}

impl Region {
    /// Whether `size` bytes at `address` lie in it, and may be accessed so.
    #[must_use]
    pub fn allows(&self, address: u64, size: u64, write: bool) -> bool {
        let offset = address.wrapping_sub(self.start);
        offset <= self.len && size <= self.len - offset && (self.writable || !write)
    }
}

/// The published table.
pub struct Regions {
    current: AtomicPtr<Vec<Region>>,
    changing: Mutex<()>,
}

impl Regions {
    /// An empty table.
    pub fn new() -> Regions {
        Regions { current: AtomicPtr::new(Box::into_raw(Box::default())), changing: Mutex::new(()) }
    }

    /// The region that allows the access. To be called inside a read section.
    pub fn find(&self, address: u64, size: u64, write: bool) -> Option<Region> {
        // SAFETY: always a valid table; the caller's read section keeps it from being freed.
        let table = unsafe { &*self.current.load(Ordering::Acquire) };
        let after = table.partition_point(|r| r.start <= address);
        let region = table.get(after.checked_sub(1)?)?;
        region.allows(address, size, write).then_some(*region)
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<Region>)) {
        let _held = self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: only replaced under the lock, which is held.
        let mut table = unsafe { &*self.current.load(Ordering::Acquire) }.clone();
        edit(&mut table);
        table.sort_unstable_by_key(|r| r.start);
        let old = self.current.swap(Box::into_raw(Box::new(table)), Ordering::AcqRel);
        // SAFETY: made by `Box::into_raw`, and unpublished just now.
        reclaim::retire(unsafe { Box::from_raw(old) });
    }

    /// Adds a region. Empty ones are left out.
    pub fn add(&self, region: Region) {
        if region.len != 0 {
            self.change(|table| table.push(region));
        }
    }

    /// Takes the region that begins at `start` out.
    pub fn remove(&self, start: u64) {
        self.change(|table| table.retain(|r| r.start != start));
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`; with its runtime gone, no run can look it up.
        drop(unsafe { Box::from_raw(*self.current.get_mut()) });
    }
}
