//! Who has which bytes of a code memory.

use crate::inherited::Birthmark;
use crate::memory::{CodeMemory, MemoryError};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Blocks begin at multiples of this, so patch sites are aligned and programs share no cache line.
const GRANULE: usize = 64;
/// What free memory holds: `int3`.
const TRAP: u8 = 0xcc;

/// Code memory and its free blocks: first fit, neighbours joined.
#[derive(Debug)]
pub struct Space {
    memory: CodeMemory,
    mark: Birthmark,
    /// Length by offset.
    free: Mutex<BTreeMap<usize, usize>>,
}

/// Bytes that belong to one piece of code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Where.
    pub offset: usize,
    /// How many.
    pub len: usize,
}

impl Space {
    /// `bytes` of code memory, all free; at most 1 GiB, so that all of it reaches all of it. It is address
    /// space: pages are populated as they are used.
    ///
    /// # Errors
    /// Why the kernel does not let us have it.
    pub fn create(bytes: usize) -> Result<Space, MemoryError> {
        Ok(Space::of(CodeMemory::create(bytes)?))
    }

    /// As [`Space::create`], and where there is room near enough to the code at `near` that direct calls
    /// reach it.
    ///
    /// # Errors
    /// As there.
    pub fn create_near(bytes: usize, near: u64) -> Result<Space, MemoryError> {
        Ok(Space::of(CodeMemory::create_near(bytes, near)?))
    }

    fn of(memory: CodeMemory) -> Space {
        crate::fork::prepare();
        let free = Mutex::new(BTreeMap::from([(0, memory.len())]));
        Space { memory, mark: Birthmark::new(), free }
    }

    fn free_blocks(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of at least `len` bytes that begins at a multiple of 64, or `None` when there is no room.
    #[must_use]
    pub fn take(&self, len: usize) -> Option<Block> {
        let len = len.next_multiple_of(GRANULE);
        let mut free = self.free_blocks();
        let (&offset, &room) = free.iter().find(|(_, room)| **room >= len)?;
        free.remove(&offset);
        if room > len {
            free.insert(offset + len, room - len);
        }
        Some(Block { offset, len })
    }

    /// Frees a block. In a forked child, where it is not ours to free, it does nothing.
    ///
    /// # Safety
    /// No thread may be in that code or be able to enter it.
    pub unsafe fn give_back(&self, block: Block) {
        if self.is_inherited() {
            return;
        }
        // SAFETY: nobody executes it, says the caller.
        unsafe { self.memory.write(block.offset, &vec![TRAP; block.len]) };
        let mut free = self.free_blocks();
        let mut joined = block;
        if let Some((&before, &len)) = free.range(..block.offset).next_back()
            && before + len == block.offset
        {
            free.remove(&before);
            joined = Block { offset: before, len: len + joined.len };
        }
        if let Some(len) = free.remove(&(block.offset + block.len)) {
            joined.len += len;
        }
        free.insert(joined.offset, joined.len);
    }

    /// Whether it is another process's, whose code must be neither run nor changed here.
    #[inline]
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.mark.is_inherited()
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.memory.len() - self.free_blocks().values().sum::<usize>()
    }

    /// The memory itself.
    #[must_use]
    pub fn memory(&self) -> &CodeMemory {
        &self.memory
    }
}
