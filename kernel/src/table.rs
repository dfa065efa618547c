// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Arrays in memory that the kernel provides: allocated once, while the module loads.

use core::mem::MaybeUninit;

/// A vector of fixed capacity.
#[derive(Debug)]
pub struct Table<T: 'static> {
    memory: &'static mut [MaybeUninit<T>],
    len: usize,
}

impl<T: Copy> Table<T> {
    /// An empty table in `memory`.
    pub const fn new(memory: &'static mut [MaybeUninit<T>]) -> Table<T> {
        Table { memory, len: 0 }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends an element and returns its index, or `None` when the table is full.
    pub fn push(&mut self, value: T) -> Option<usize> {
        self.memory.get_mut(self.len)?.write(value);
        self.len += 1;
        Some(self.len - 1)
    }

    /// Element `i`.
    #[must_use]
    pub fn get(&self, i: usize) -> Option<&T> {
        let element = self.memory.get(i).filter(|_| i < self.len)?;
        // SAFETY: the first `len` elements have been written.
        Some(unsafe { element.assume_init_ref() })
    }

    /// Element `i`, to be changed.
    #[must_use]
    pub fn get_mut(&mut self, i: usize) -> Option<&mut T> {
        if i >= self.len {
            return None;
        }
        // SAFETY: as above.
        self.memory.get_mut(i).map(|element| unsafe { element.assume_init_mut() })
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len).filter_map(|i| self.get(i))
    }

    /// The elements `from..from + n`, or fewer at the end.
    #[must_use]
    pub fn slice(&self, from: usize, n: usize) -> &[T] {
        let end = from.saturating_add(n).min(self.len);
        let Some(part) = self.memory.get(from..end) else { return &[] };
        // SAFETY: `end` is `len` at most, and those before it have been written; `MaybeUninit` changes no
        // layout.
        unsafe { core::slice::from_raw_parts(part.as_ptr().cast(), part.len()) }
    }
}
