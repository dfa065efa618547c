//! The memory of a map's values.
//!
//! Programs read and write it with plain machine accesses at any time. The host does so word by word, as
//! atomics: each word is whole, a value of several words need not be.

use std::alloc::{Layout, alloc_zeroed};
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes of one map.
const MOST: usize = 1 << 30;
/// Most bytes of all copies of one map: address space, of which pages are populated as they are used.
const MOST_OF_COPIES: usize = 8 << 30;
/// Words of a cache line, and of the one that is fetched with it.
const LINE: usize = 16;

/// Values of one size, in one block, 8-byte aligned.
#[derive(Debug)]
pub struct Values {
    words: Box<[AtomicU64]>,
    size: usize,
    /// Words from one value to the next.
    stride: usize,
    count: usize,
    copies: usize,
    /// Words from one copy to the next.
    apart: usize,
}

/// `count` zeroes, on pages that stay untouched; `None` when there is no memory for them.
pub fn zeroed(count: usize) -> Option<Box<[AtomicU64]>> {
    let layout = Layout::array::<AtomicU64>(count).ok().filter(|layout| layout.size() != 0)?;
    // SAFETY: the layout has a size; all zero is a valid atomic; a box of the slice is freed with the same
    // layout.
    unsafe {
        let words = alloc_zeroed(layout).cast::<AtomicU64>();
        (!words.is_null()).then(|| Box::from_raw(std::ptr::slice_from_raw_parts_mut(words, count)))
    }
}

impl Values {
    /// `count` zeroed values of `size` bytes in each of `copies`; `None` when that is too much.
    pub fn new(size: usize, count: usize, copies: usize) -> Option<Values> {
        let stride = size.div_ceil(8);
        let one = stride.checked_mul(count)?;
        // Copies of several threads share no cache line.
        let apart = if copies > 1 { one.checked_next_multiple_of(LINE)? } else { one };
        let words = apart.checked_mul(copies)?;
        if one > MOST / 8 || words > MOST_OF_COPIES / 8 {
            return None;
        }
        Some(Values { words: zeroed(words)?, size, stride, count, copies, apart })
    }

    fn at(&self, index: usize, copy: usize) -> usize {
        // Within the memory, whatever is asked.
        copy.min(self.copies - 1) * self.apart + index.min(self.count - 1) * self.stride
    }

    /// Bytes from one value to the next, and from one copy to the next.
    pub fn distances(&self) -> (u64, u64) {
        (self.stride as u64 * 8, self.apart as u64 * 8)
    }

    /// Address of a value.
    pub fn address(&self, index: usize, copy: usize) -> u64 {
        self.words.as_ptr() as u64 + self.at(index, copy) as u64 * 8
    }

    /// Bytes of all values.
    pub fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Sets a value. `bytes` beyond its size are left out.
    pub fn store(&self, index: usize, copy: usize, bytes: &[u8]) {
        let at = self.at(index, copy);
        for (word, chunk) in self.words[at..at + self.stride].iter().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
        }
    }

    /// The first 8 bytes of a value.
    pub fn first_word(&self, index: usize) -> u64 {
        self.words[self.at(index, 0)].load(Ordering::Relaxed)
    }

    /// Zeroes a value in all copies.
    pub fn clear(&self, index: usize) {
        for copy in 0..self.copies {
            let at = self.at(index, copy);
            self.words[at..at + self.stride].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    /// All copies of a value, one after the other.
    pub fn load(&self, index: usize) -> Vec<u8> {
        (0..self.copies).flat_map(|copy| self.bytes_at(self.at(index, copy) * 8, self.size)).collect()
    }

    /// `len` bytes from `offset` (a multiple of 8) on.
    pub fn bytes_at(&self, offset: usize, len: usize) -> Vec<u8> {
        let words = self.words.get(offset / 8..offset / 8 + len.div_ceil(8)).unwrap_or_default();
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}
