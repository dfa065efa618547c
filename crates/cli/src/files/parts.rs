//! Parts of a file that is not worth reading whole, for the parsers of the crate `object`.
//!
//! A file says itself where its tables are and how long; whoever made it may lie. So no more is read than a
//! budget allows, and not much more than the file has on its disk: a sparse file of 4 GiB costs nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use object::ReadRef;

/// Strings are read in blocks of this size, with so much of the next block that the longest string is in one.
const BLOCK: u64 = 1 << 20;
const LONGEST_STRING: u64 = 1 << 13;
/// Bytes of strings that are looked at: millions of names may be one and the same long string.
const MOST_OF_STRINGS: u64 = 1 << 31;
/// Bytes of a block of `st_blocks`.
const DISK_BLOCK: u64 = 512;
/// A file that is compressed on its disk may be so many times larger.
const COMPRESSED: u64 = 16;

/// A file of which parts are read.
#[derive(Debug)]
pub struct Parts {
    file: File,
    length: u64,
    left: Cell<u64>,
    most: u64,
    left_of_strings: Cell<u64>,
    /// Nothing is ever taken out.
    read: RefCell<Read>,
}

/// What was read: by offset and size.
type Read = HashMap<(u64, u64), Box<[u8]>>;

impl Parts {
    /// Of `file`, of which at most `most` bytes are read.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn new(file: File, most: u64) -> io::Result<Self> {
        let meta = file.metadata()?;
        let on_disk = meta.blocks().saturating_mul(DISK_BLOCK * COMPRESSED).saturating_add(BLOCK + LONGEST_STRING);
        let most = most.min(on_disk);
        Ok(Self {
            file,
            length: meta.len(),
            left: Cell::new(most),
            most,
            left_of_strings: Cell::new(MOST_OF_STRINGS),
            read: RefCell::default(),
        })
    }

    /// Bytes that were read so far.
    pub fn spent(&self) -> u64 {
        self.most - self.left.get()
    }

    /// The bytes of a range, read when they are asked for the first time.
    fn bytes(&self, offset: u64, size: u64) -> Result<&[u8], ()> {
        if size == 0 {
            return Ok(&[]);
        }
        offset.checked_add(size).filter(|end| *end <= self.length).ok_or(())?;
        let mut read = self.read.borrow_mut();
        let entry = match read.entry((offset, size)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.left.set(self.left.get().checked_sub(size).ok_or(())?);
                let mut bytes = vec![0; usize::try_from(size).map_err(drop)?].into_boxed_slice();
                self.file.read_exact_at(&mut bytes, offset).map_err(drop)?;
                entry.insert(bytes)
            }
        };
        let bytes: *const [u8] = &raw const **entry;
        // SAFETY: `read` only ever grows, and moving a box does not move its bytes: they live, unchanged, as
        // long as self.
        Ok(unsafe { &*bytes })
    }
}

impl<'a> ReadRef<'a> for &'a Parts {
    fn len(self) -> Result<u64, ()> {
        Ok(self.length)
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        self.bytes(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        let start = range.start - range.start % BLOCK;
        let end = start.saturating_add(BLOCK + LONGEST_STRING).min(self.length);
        let block = self.bytes(start, end.checked_sub(start).ok_or(())?)?;
        let within = |at: u64| usize::try_from(at.saturating_sub(start)).map_err(drop);
        let rest = block.get(within(range.start)?..within(range.end)?.min(block.len())).ok_or(())?;
        let longest = usize::try_from(LONGEST_STRING).map_err(drop)?;
        let left = self.left_of_strings.get();
        if left == 0 {
            return Err(());
        }
        let rest = rest.get(..rest.len().min(longest)).ok_or(())?;
        let length = memchr::memchr(delimiter, rest);
        let looked_at = length.unwrap_or(rest.len()) as u64;
        self.left_of_strings.set(left.saturating_sub(looked_at));
        rest.get(..length.ok_or(())?).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_the_budget_allows() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 1000], 0).unwrap();
        let parts = Parts::new(file, 600).unwrap();
        let parts = &parts;
        assert_eq!(parts.read_bytes_at(0, 400).unwrap(), [7; 400]);
        assert!(parts.read_bytes_at(100, 400).is_err());
        // What was read is there, and costs nothing.
        assert!(parts.read_bytes_at(0, 400).is_ok() && parts.spent() == 400);
        assert!(parts.read_bytes_at(900, 101).is_err() && parts.read_bytes_at(u64::MAX, 2).is_err());
    }

    #[test]
    fn a_sparse_file_costs_nothing() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(1 << 32).unwrap();
        let parts = Parts::new(file, u64::MAX).unwrap();
        assert!((&parts).read_bytes_at(0, 1 << 31).is_err());
        assert!(parts.most <= BLOCK + LONGEST_STRING && parts.spent() == 0);
    }

    #[test]
    fn strings_are_found_over_the_ends_of_blocks() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![b'x'; 3 << 20];
        for at in [BLOCK - 3, BLOCK + 5, BLOCK + 9] {
            bytes[usize::try_from(at).unwrap()] = 0;
        }
        file.write_all_at(&bytes, 0).unwrap();
        let parts = Parts::new(file, u64::MAX).unwrap();
        let parts = &parts;
        let end = 3 << 20;
        assert_eq!(parts.read_bytes_at_until(BLOCK - 2..end, 0).unwrap(), b"xxxxxxx");
        assert_eq!(parts.read_bytes_at_until(BLOCK + 6..end, 0).unwrap(), b"xxx");
        assert!(parts.read_bytes_at_until(BLOCK + 6..BLOCK + 8, 0).is_err());
        // Longer than any name.
        assert!(parts.read_bytes_at_until(0..end, 0).is_err());
        // As often as one likes, but not for ever.
        parts.left_of_strings.set(5);
        assert!(parts.read_bytes_at_until(BLOCK + 6..end, 0).is_ok());
        assert!(parts.read_bytes_at_until(BLOCK + 6..end, 0).is_ok());
        assert!(parts.read_bytes_at_until(BLOCK + 6..end, 0).is_err());
    }
}
