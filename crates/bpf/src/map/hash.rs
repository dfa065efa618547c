//! The index of a hash map: keys to numbers of preallocated values.
//!
//! An LRU map gives every entry a mark that lookups set. When it is full, a hand goes round the entries,
//! clears marks, and evicts the first entry that had none: second chance.

use super::values::zeroed;
use super::{MapError, Mode};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

#[derive(Debug)]
struct Entries {
    by_key: HashMap<Box<[u8]>, u32>,
    /// The key of each value that was ever in use, if it is.
    keys: Vec<Option<Box<[u8]>>>,
    /// Those that are in use no more.
    free: Vec<u32>,
    hand: usize,
    most: usize,
}

/// See the module's text.
#[derive(Debug)]
pub struct Hash {
    entries: RwLock<Entries>,
    /// Marks of lookups, a bit each, where they matter.
    used: Box<[AtomicU64]>,
}

/// Room for a copy of a key.
fn room(key: &[u8]) -> Result<Vec<u8>, MapError> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(key.len()).map_err(|_| MapError::NoMemory)?;
    Ok(copy)
}

impl Hash {
    /// An index of at most `most` keys.
    /// `None` when there is no memory for it. What entries take beside their values is taken when they are made.
    pub fn new(most: u32, evicts: bool) -> Option<Hash> {
        let most = most as usize;
        let entries = Entries { by_key: HashMap::new(), keys: Vec::new(), free: Vec::new(), hand: 0, most };
        let used = if evicts { zeroed(most.div_ceil(64))? } else { Box::default() };
        Some(Hash { entries: RwLock::new(entries), used })
    }

    fn evicts(&self) -> bool {
        !self.used.is_empty()
    }

    fn mark(&self, index: usize) -> (&AtomicU64, u64) {
        (&self.used[index / 64], 1 << (index % 64))
    }

    /// The number of the value of `key`.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let index = *entries.by_key.get(key)? as usize;
        if self.evicts() {
            let (word, bit) = self.mark(index);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Some(index)
    }

    /// Finds or makes the entry of `key` and has `store` fill the value, of a new entry or an old one, before
    /// others can find it.
    pub fn insert(&self, key: &[u8], mode: Mode, store: impl FnOnce(usize, bool)) -> Result<(), MapError> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        match (entries.by_key.get(key).copied(), mode) {
            (Some(_), Mode::Create) => Err(MapError::Exists),
            (None, Mode::Replace) => Err(MapError::NotFound),
            (Some(index), _) => {
                store(index as usize, false);
                Ok(())
            }
            (None, _) => {
                let entries = &mut *entries;
                let (mut own, mut found) = (room(key)?, room(key)?);
                entries.by_key.try_reserve(1).map_err(|_| MapError::NoMemory)?;
                let index = match entries.free.pop() {
                    Some(index) => index,
                    None if entries.keys.len() < entries.most => {
                        entries.keys.try_reserve(1).map_err(|_| MapError::NoMemory)?;
                        entries.keys.push(None);
                        entries.keys.len() as u32 - 1
                    }
                    None if self.evicts() => self.evict(entries),
                    None => return Err(MapError::Full),
                };
                store(index as usize, true);
                own.extend_from_slice(key);
                found.extend_from_slice(key);
                entries.keys[index as usize] = Some(own.into());
                entries.by_key.insert(found.into(), index);
                Ok(())
            }
        }
    }

    /// Frees the entry that was not used for longest, roughly.
    fn evict(&self, entries: &mut Entries) -> u32 {
        loop {
            let at = entries.hand;
            entries.hand = (at + 1) % entries.keys.len();
            let (word, bit) = self.mark(at);
            if word.fetch_and(!bit, Ordering::Relaxed) & bit == 0
                && let Some(key) = entries.keys[at].take()
            {
                entries.by_key.remove(&key);
                return at as u32;
            }
        }
    }

    /// Deletes the entry of `key`: the number of its value.
    pub fn remove(&self, key: &[u8]) -> Result<usize, MapError> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let index = entries.by_key.remove(key).ok_or(MapError::NotFound)?;
        entries.keys[index as usize] = None;
        entries.free.push(index);
        Ok(index as usize)
    }

    /// The first entry from the value of number `at` on: that number, and the key.
    pub fn next(&self, at: usize) -> Option<(usize, Vec<u8>)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let found = |(index, key): (usize, &Option<Box<[u8]>>)| Some((index, key.as_deref()?.to_vec()));
        entries.keys.iter().enumerate().skip(at).find_map(found)
    }

    /// All keys.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.by_key.keys().map(|key| key.to_vec()).collect()
    }
}
