//! A growing array at a fixed address: reserved address space of which only what is used is populated.

use crate::memory;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;
use relpoline_text::sync::{self, AtomicUsize};

/// Up to `capacity` values of `T`, all zero bytes to begin with. Values never move and are never dropped.
pub struct Table<T> {
    start: *mut T,
    capacity: usize,
    len: AtomicUsize,
    _owns: PhantomData<T>,
}

// SAFETY: the memory is the table's own; `T` decides the rest.
unsafe impl<T: Send> Send for Table<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Table<T> {}

impl<T: Copy> Table<T> {
    /// A table without any room, for a static that is filled in later.
    #[must_use]
    pub const fn none() -> Table<T> {
        Table { start: core::ptr::null_mut(), capacity: 0, len: AtomicUsize::new(0), _owns: PhantomData }
    }

    /// Reserves address space for `capacity` values; `None` when the kernel refuses it.
    #[must_use]
    pub fn reserve(capacity: usize) -> Option<Table<T>> {
        Self::by(memory::reserve, capacity)
    }

    /// Likewise, for values that are cleared before they are used again: a forked child has none of them.
    #[must_use]
    pub fn scratch(capacity: usize) -> Option<Table<T>> {
        Self::by(memory::reserve_scratch, capacity)
    }

    fn by(reserve: fn(usize) -> Option<*mut u8>, capacity: usize) -> Option<Table<T>> {
        let bytes = capacity.checked_mul(size_of::<T>())?;
        Some(Table { start: reserve(bytes)?.cast(), capacity, len: AtomicUsize::new(0), _owns: PhantomData })
    }

    /// Whether there is any room.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        !self.start.is_null()
    }

    /// Values pushed so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Values there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `value` and returns its index; `None` when the table is full.
    pub fn push(&mut self, value: T) -> Option<usize> {
        self.extend(&[value])
    }

    /// Appends `values` in a row and returns the first one's index; `None` when there is no room for them.
    ///
    /// The room is claimed first: if the engine's lock was broken while its holder stood still, two callers
    /// still get places of their own, which hold zeroes until they are filled.
    pub fn extend(&mut self, values: &[T]) -> Option<usize> {
        let claim = |len: usize| len.checked_add(values.len()).filter(|&end| end <= self.capacity);
        let first = self.len.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim).ok()?;
        sync::step();
        // SAFETY: inside the reservation, and claimed a moment ago.
        unsafe { core::ptr::copy_nonoverlapping(values.as_ptr(), self.start.add(first), values.len()) };
        Some(first)
    }

    /// The values.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        if self.start.is_null() {
            return &[];
        }
        // SAFETY: `len` values were written.
        unsafe { core::slice::from_raw_parts(self.start, self.len()) }
    }

    /// The values, to change.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        if self.start.is_null() {
            return &mut [];
        }
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.len()) }
    }

    /// The value at `index`.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.as_mut_slice().get_mut(index)
    }

    /// Forgets the values from number `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len.fetch_min(len, Ordering::AcqRel);
    }

    /// Forgets all values; the memory stays for the next ones.
    pub fn clear(&mut self) {
        self.len.store(0, Ordering::Release);
    }
}
