//! The index of a map of prefixes: a hash of prefixes, which is asked for each length that is in use, the
//! longest first. Lengths in use have a bit each.
//!
//! A key is `struct bpf_lpm_trie_key`: the length in bits, 32 bits of the machine's order, then the bits, the
//! most significant first.

use super::hash::Hash;
use super::values::zeroed;
use super::{MapError, Mode};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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
    /// Lengths of which there are any, a bit each. Changed with the hash's lock held.
    lengths: Box<[AtomicU64]>,
}

impl Lpm {
    /// An index of at most `most` prefixes of up to `bytes` bytes. `None` when there is no memory for it.
    pub fn new(most: u32, bytes: u32) -> Option<Lpm> {
        let counts: Box<[AtomicU32]> = (0..=bytes * 8).map(|_| AtomicU32::new(0)).collect();
        let lengths = zeroed(counts.len().div_ceil(64))?;
        Some(Lpm { prefixes: Hash::new(most, LENGTH as u32 + bytes, false)?, counts, lengths })
    }

    /// The length that `key` says, if it is one.
    fn length(&self, key: &[u8]) -> Option<usize> {
        let length = u32::from_le_bytes(key.get(..LENGTH)?.try_into().ok()?) as usize;
        (length < self.counts.len()).then_some(length)
    }

    /// The length that `key` says, and the key in `room`, cut to that length.
    fn parse<'a>(&self, key: &[u8], room: &'a mut Key) -> Option<(usize, &'a mut [u8])> {
        let length = self.length(key)?;
        let cut = room.get_mut(..key.len())?;
        cut.copy_from_slice(key);
        trim(cut, length);
        Some((length, cut))
    }

    /// The number of the value of the longest prefix of `key`.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        /// Bytes of most keys: IPv6, or IPv4 and a little.
        const MOSTLY: usize = LENGTH + 16;
        let (mut small, mut large);
        let cut = if key.len() <= MOSTLY {
            small = [0; MOSTLY];
            small.get_mut(..key.len())?
        } else {
            large = [0; ROOM];
            large.get_mut(..key.len())?
        };
        cut.copy_from_slice(key);
        let length = self.length(key)?;
        let mut bits = self.lengths[length / 64].load(Ordering::Relaxed) & u64::MAX >> (63 - length % 64);
        for word in (0..=length / 64).rev() {
            if word != length / 64 {
                bits = self.lengths[word].load(Ordering::Relaxed);
            }
            while let Some(bit) = bits.checked_ilog2() {
                bits &= !(1 << bit);
                trim(cut, word * 64 + bit as usize);
                if let Some(index) = self.prefixes.find(cut) {
                    return Some(index);
                }
            }
        }
        None
    }

    /// As [`Hash::insert`].
    pub fn insert(&self, key: &[u8], mode: Mode, store: impl FnOnce(usize, bool)) -> Result<(), MapError> {
        let mut room = [0; ROOM];
        let (length, cut) = self.parse(key, &mut room).ok_or(MapError::BadKey)?;
        let counted = |index: usize, fresh: bool| {
            // Inside the hash's lock.
            if fresh && self.counts[length].fetch_add(1, Ordering::Relaxed) == 0 {
                self.lengths[length / 64].fetch_or(1 << (length % 64), Ordering::Relaxed);
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
        self.prefixes.remove(cut, |_| {
            // Inside the hash's lock.
            if self.counts[length].fetch_sub(1, Ordering::Relaxed) == 1 {
                self.lengths[length / 64].fetch_and(!(1 << (length % 64)), Ordering::Relaxed);
            }
        })
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
