//! The index of a map of prefixes: a hash of prefixes, which is asked for each length that is in use, the longest first.
//!
//! A key is `struct bpf_lpm_trie_key`: the length in bits, 32 bits of the machine's order, then the bits, the most
//! significant first.

use super::hash::Hash;
use super::{MapError, Mode};
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes before the bits.
const LENGTH: usize = 4;
/// Most bytes of the bits (`LPM_DATA_SIZE_MAX`).
pub const MOST_BYTES: u32 = 256;

/// See the module's text.
#[derive(Debug)]
pub struct Lpm {
    prefixes: Hash,
    /// Entries by length.
    counts: Box<[AtomicU32]>,
}

impl Lpm {
    /// An index of at most `most` prefixes of up to `bytes` bytes. `None` when there is no memory for it.
    pub fn new(most: u32, bytes: u32) -> Option<Lpm> {
        let counts = (0..=bytes * 8).map(|_| AtomicU32::new(0)).collect();
        Some(Lpm { prefixes: Hash::new(most, false)?, counts })
    }

    /// The length that `key` says, and room for the key, cut to that length.
    fn parse<'a>(&self, key: &[u8], room: &'a mut Key) -> Option<(usize, &'a mut [u8])> {
        let length = u32::from_le_bytes(key.get(..LENGTH)?.try_into().ok()?) as usize;
        if length >= self.counts.len() {
            return None;
        }
        let cut = room.get_mut(..key.len())?;
        cut.copy_from_slice(key);
        trim(cut, length);
        Some((length, cut))
    }

    /// The number of the value of the longest prefix of `key`.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let mut room = [0; ROOM];
        let (length, cut) = self.parse(key, &mut room)?;
        (0..=length).rev().filter(|l| self.counts[*l].load(Ordering::Relaxed) != 0).find_map(|length| {
            trim(cut, length);
            self.prefixes.find(cut)
        })
    }

    /// As [`Hash::insert`].
    pub fn insert(&self, key: &[u8], mode: Mode, store: impl FnOnce(usize, bool)) -> Result<(), MapError> {
        let mut room = [0; ROOM];
        let (length, cut) = self.parse(key, &mut room).ok_or(MapError::BadKey)?;
        let count = &self.counts[length];
        let counted = |index: usize, fresh: bool| {
            // Inside the hash's lock.
            if fresh {
                count.fetch_add(1, Ordering::Relaxed);
            }
            store(index, fresh);
        };
        let done = self.prefixes.insert(cut, mode, counted);
        done.map_err(|error| if error == MapError::Full { MapError::NoSpace } else { error })
    }

    /// Deletes exactly the prefix `key`.
    pub fn remove(&self, key: &[u8]) -> Result<(), MapError> {
        let mut room = [0; ROOM];
        let (length, cut) = self.parse(key, &mut room).ok_or(MapError::BadKey)?;
        self.prefixes.remove(cut)?;
        self.counts[length].fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// All prefixes.
    pub fn entries(&self) -> &Hash {
        &self.prefixes
    }
}

const ROOM: usize = LENGTH + MOST_BYTES as usize;
type Key = [u8; ROOM];

/// Makes `key` the prefix of `length` bits.
fn trim(key: &mut [u8], length: usize) {
    key[..LENGTH].copy_from_slice(&(length as u32).to_le_bytes());
    let bits = &mut key[LENGTH..];
    let whole = length / 8;
    if let Some(last) = bits.get_mut(whole) {
        *last &= !(0xff >> (length % 8));
    }
    if let Some(rest) = bits.get_mut(whole + 1..) {
        rest.fill(0);
    }
}
