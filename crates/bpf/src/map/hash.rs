//! The index of a hash map: keys to numbers of preallocated values.
//!
//! An LRU map gives every entry a mark that lookups set. When it is full, a hand goes round the entries,
//! clears marks, and evicts the first entry that had none: second chance.

use super::{MapError, Mode};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

#[derive(Debug)]
struct Entries {
    by_key: HashMap<Box<[u8]>, u32>,
    /// The key of each value in use.
    keys: Vec<Option<Box<[u8]>>>,
    free: Vec<u32>,
    hand: usize,
}

/// See the module's text.
#[derive(Debug)]
pub struct Hash {
    entries: RwLock<Entries>,
    used: Box<[AtomicBool]>,
    evicts: bool,
}

impl Hash {
    /// An index of at most `most` keys.
    pub fn new(most: u32, evicts: bool) -> Hash {
        let entries = Entries {
            by_key: HashMap::new(),
            keys: vec![None; most as usize],
            free: (0..most).rev().collect(),
            hand: 0,
        };
        Hash { entries: RwLock::new(entries), used: (0..most).map(|_| AtomicBool::new(false)).collect(), evicts }
    }

    /// The number of the value of `key`.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let index = *entries.by_key.get(key)? as usize;
        if self.evicts {
            self.used[index].store(true, Ordering::Relaxed);
        }
        Some(index)
    }

    /// Finds or makes the entry of `key` and has `store` fill the value before others can find it.
    pub fn insert(&self, key: &[u8], mode: Mode, store: impl FnOnce(usize)) -> Result<(), MapError> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        match (entries.by_key.get(key).copied(), mode) {
            (Some(_), Mode::Create) => Err(MapError::Exists),
            (None, Mode::Replace) => Err(MapError::NotFound),
            (Some(index), _) => {
                store(index as usize);
                Ok(())
            }
            (None, _) => {
                let index = match entries.free.pop() {
                    Some(index) => index,
                    None if self.evicts => self.evict(&mut entries),
                    None => return Err(MapError::Full),
                };
                store(index as usize);
                entries.keys[index as usize] = Some(key.into());
                entries.by_key.insert(key.into(), index);
                Ok(())
            }
        }
    }

    /// Frees the entry that was not used for longest, roughly.
    fn evict(&self, entries: &mut Entries) -> u32 {
        loop {
            let at = entries.hand;
            entries.hand = (at + 1) % entries.keys.len();
            if !self.used[at].swap(false, Ordering::Relaxed)
                && let Some(key) = entries.keys[at].take()
            {
                entries.by_key.remove(&key);
                return at as u32;
            }
        }
    }

    /// Deletes the entry of `key`.
    pub fn remove(&self, key: &[u8]) -> Result<(), MapError> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let index = entries.by_key.remove(key).ok_or(MapError::NotFound)?;
        entries.keys[index as usize] = None;
        entries.free.push(index);
        Ok(())
    }

    /// All keys.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.by_key.keys().map(|key| key.to_vec()).collect()
    }
}
