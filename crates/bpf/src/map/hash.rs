//! The index of a hash map: keys to numbers of preallocated values.
//!
//! Look-ups take no lock. The index is a table of *places*, twice as many as there may be entries; an entry
//! is at the place that its hash says, or at the next free one behind it, and what is removed leaves no gap.
//! Whoever changes places holds a lock and makes the *version* odd meanwhile. A look-up takes its result back
//! when the version is another one afterwards, and takes the lock itself when that happens again and again,
//! so it ends however much is being changed. Everything that a look-up reads are atomics, and a number that
//! it reads at the wrong time is a number of some entry all the same.
//!
//! An LRU map gives every entry a mark that look-ups set. When it is full, a hand goes round the entries,
//! clears marks, and evicts the first entry that had none: second chance.
//!
//! Whoever chooses the keys must not choose the places: the hash has two random numbers of the map's in it.
//! It is a product of 128 bits for each 8 bytes of the key, folded.

use super::values::zeroed;
use super::{MapError, Mode};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How often a look-up tries without the lock.
const TRIES: usize = 64;

/// What only those who change something need.
#[derive(Debug)]
struct Owned {
    /// Numbers that were never in use begin here.
    fresh: u32,
    /// Those that are in use no more.
    free: Vec<u32>,
    hand: usize,
}

/// See the module's text.
#[derive(Debug)]
pub struct Hash {
    /// 0 where there is nothing; else the hash in the upper half, and the entry's number plus one in the
    /// lower one.
    places: Box<[AtomicU64]>,
    /// Keys by the entry's number, each in whole words whose rest is zero.
    keys: Box<[AtomicU64]>,
    /// Bytes of a key, and words.
    key_size: usize,
    stride: usize,
    secrets: [u64; 2],
    /// Odd while places are being changed.
    version: AtomicU64,
    /// Marks of look-ups, a bit each, where they matter.
    used: Box<[AtomicU64]>,
    /// Which numbers are in use, a bit each.
    live: Box<[AtomicU64]>,
    most: usize,
    owned: Mutex<Owned>,
}

/// The key in words, the last filled up with zeroes.
fn words(key: &[u8]) -> impl Iterator<Item = u64> {
    let whole = key.chunks_exact(8);
    let rest = whole.remainder();
    let last = match rest.try_into() {
        Ok(four) => u64::from(u32::from_le_bytes(four)),
        Err(_) => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    let whole = whole.map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    whole.chain((!rest.is_empty()).then_some(last))
}

/// All bits of the product, in 64.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl Hash {
    /// An index of at most `most` keys of `key_size` bytes, neither of which is zero.
    /// `None` when there is no memory for it; pages are populated as they are used.
    pub fn new(most: u32, key_size: u32, evicts: bool) -> Option<Hash> {
        let (most, key_size) = (most as usize, key_size as usize);
        let stride = key_size.div_ceil(8);
        let bits = most.div_ceil(64);
        let random = RandomState::new();
        Some(Hash {
            places: zeroed((2 * most).next_power_of_two())?,
            keys: zeroed(most.checked_mul(stride)?)?,
            key_size,
            stride,
            // The second one is a factor.
            secrets: [random.hash_one(0), random.hash_one(1) | 1],
            version: AtomicU64::new(0),
            used: if evicts { zeroed(bits)? } else { Box::default() },
            live: zeroed(bits)?,
            most,
            owned: Mutex::new(Owned { fresh: 0, free: Vec::new(), hand: 0 }),
        })
    }

    fn owned(&self) -> MutexGuard<'_, Owned> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn evicts(&self) -> bool {
        !self.used.is_empty()
    }

    fn mix(&self, words: impl Iterator<Item = u64>) -> u32 {
        let [first, factor] = self.secrets;
        (words.fold(first, |mixed, word| fold(mixed ^ word, factor)) >> 32) as u32
    }

    fn hash(&self, key: &[u8]) -> u32 {
        self.mix(words(key))
    }

    fn mask(&self) -> usize {
        self.places.len() - 1
    }

    fn is_key(&self, index: usize, key: &[u8]) -> bool {
        let Some(own) = self.keys.get(index * self.stride..(index + 1) * self.stride) else { return false };
        own.iter().zip(words(key)).all(|(own, word)| own.load(Relaxed) == word)
    }

    /// Where `key` is, and its number.
    fn look(&self, hash: u32, key: &[u8]) -> Option<(usize, usize)> {
        self.look_for(hash, |index| self.is_key(index, key))
    }

    /// Where the entry is that has that hash, and is it.
    #[inline]
    fn look_for(&self, hash: u32, is_it: impl Fn(usize) -> bool) -> Option<(usize, usize)> {
        let mask = self.mask();
        let mut at = hash as usize & mask;
        // While it is being changed there need not be an end.
        for _ in 0..self.places.len() {
            let place = self.places[at & mask].load(Relaxed);
            if place == 0 {
                return None;
            }
            let index = (place as u32 as usize).wrapping_sub(1);
            if (place >> 32) as u32 == hash && is_it(index) {
                return Some((at, index));
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// The number of the value of `key`, which has the size that keys here have.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        if self.stride == 1 {
            // Most keys are of one word.
            let word = words(key).next()?;
            let is_it = |index: usize| self.keys.get(index).is_some_and(|own| own.load(Relaxed) == word);
            self.find_by(self.mix(std::iter::once(word)), is_it)
        } else {
            self.find_by(self.hash(key), |index| self.is_key(index, key))
        }
    }

    #[inline]
    fn find_by(&self, hash: u32, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let found = (0..TRIES).find_map(|_| {
            // Pairs with the end of `change`.
            let before = self.version.load(Acquire);
            if before & 1 == 1 {
                std::hint::spin_loop();
                return None;
            }
            let found = self.look_for(hash, &is_it);
            // Pairs with the beginning of `change`: who has seen something of a change sees that there was
            // one. The broken variant that the tests must catch: what was found in the middle of a change is
            // believed.
            fence(Acquire);
            let is_whole = self.version.load(Relaxed) == before || cfg!(relpoline_broken = "finds-anything");
            is_whole.then_some(found)
        });
        let found = found.unwrap_or_else(|| {
            let _held = self.owned();
            self.look_for(hash, &is_it)
        });
        let (_, index) = found?;
        if self.evicts() {
            let (word, bit) = bit_of(&self.used, index);
            if word.load(Relaxed) & bit == 0 {
                word.fetch_or(bit, Relaxed);
            }
        }
        Some(index)
    }

    /// Changes places, with the lock held.
    fn change(&self, change: impl FnOnce()) {
        let version = self.version.load(Relaxed);
        self.version.store(version + 1, Relaxed);
        fence(Release);
        change();
        self.version.store(version + 2, Release);
    }

    /// Takes the entry of that number out of the place where it is.
    fn take_out(&self, at: usize, index: usize) {
        let mask = self.mask();
        self.change(|| {
            let (mut hole, mut next) = (at, (at + 1) & mask);
            loop {
                let place = self.places[next].load(Relaxed);
                if place == 0 {
                    break;
                }
                let home = (place >> 32) as usize & mask;
                // Not before the place that its hash says.
                if next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask {
                    self.places[hole].store(place, Relaxed);
                    hole = next;
                }
                next = (next + 1) & mask;
            }
            self.places[hole].store(0, Relaxed);
        });
        let (word, bit) = bit_of(&self.live, index);
        word.fetch_and(!bit, Relaxed);
    }

    /// Finds or makes the entry of `key` and has `store` fill the value, of a new entry or an old one, before
    /// others can find it.
    pub fn insert(&self, key: &[u8], mode: Mode, store: impl FnOnce(usize, bool)) -> Result<(), MapError> {
        let hash = self.hash(key);
        let mut owned = self.owned();
        match (self.look(hash, key), mode) {
            (Some(_), Mode::Create) => Err(MapError::Exists),
            (None, Mode::Replace) => Err(MapError::NotFound),
            (Some((_, index)), _) => {
                store(index, false);
                Ok(())
            }
            (None, _) => {
                let index = match owned.free.pop() {
                    Some(index) => index as usize,
                    None if (owned.fresh as usize) < self.most => {
                        owned.fresh += 1;
                        owned.fresh as usize - 1
                    }
                    None if self.evicts() => self.evict(&mut owned),
                    None => return Err(MapError::Full),
                };
                store(index, true);
                self.put_in(hash, key, index);
                Ok(())
            }
        }
    }

    /// Makes the entry of that number, which nobody can find, that of `key`.
    fn put_in(&self, hash: u32, key: &[u8], index: usize) {
        let own = &self.keys[index * self.stride..(index + 1) * self.stride];
        own.iter().zip(words(key)).for_each(|(own, word)| own.store(word, Relaxed));
        let mask = self.mask();
        let mut at = hash as usize & mask;
        // More than half of them are free.
        while self.places[at].load(Relaxed) != 0 {
            at = (at + 1) & mask;
        }
        self.change(|| self.places[at].store(u64::from(hash) << 32 | (index as u64 + 1), Relaxed));
        let (word, bit) = bit_of(&self.live, index);
        word.fetch_or(bit, Relaxed);
    }

    /// Frees the entry that was not used for longest, roughly.
    fn evict(&self, owned: &mut Owned) -> usize {
        loop {
            let index = owned.hand;
            owned.hand = (index + 1) % self.most;
            let (word, bit) = bit_of(&self.used, index);
            if word.fetch_and(!bit, Relaxed) & bit == 0 && self.is_live(index) {
                let key = self.key(index);
                if let Some((at, _)) = self.look(self.hash(&key), &key) {
                    self.take_out(at, index);
                    return index;
                }
            }
        }
    }

    fn is_live(&self, index: usize) -> bool {
        let (word, bit) = bit_of(&self.live, index);
        word.load(Relaxed) & bit != 0
    }

    fn key(&self, index: usize) -> Vec<u8> {
        let own = &self.keys[index * self.stride..(index + 1) * self.stride];
        let mut key: Vec<u8> = own.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
        key.truncate(self.key_size);
        key
    }

    /// Deletes the entry of `key`, and tells `gone` the number of its value before others can have it.
    pub fn remove(&self, key: &[u8], gone: impl FnOnce(usize)) -> Result<(), MapError> {
        let hash = self.hash(key);
        let mut owned = self.owned();
        let (at, index) = self.look(hash, key).ok_or(MapError::NotFound)?;
        self.take_out(at, index);
        gone(index);
        owned.free.push(index as u32);
        Ok(())
    }

    /// The first entry from the value of number `at` on: that number, and the key.
    pub fn next(&self, at: usize) -> Option<(usize, Vec<u8>)> {
        let owned = self.owned();
        let index = (at..owned.fresh as usize).find(|index| self.is_live(*index))?;
        Some((index, self.key(index)))
    }

    /// All keys.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let owned = self.owned();
        (0..owned.fresh as usize).filter(|index| self.is_live(*index)).map(|index| self.key(index)).collect()
    }
}

fn bit_of(bits: &[AtomicU64], index: usize) -> (&AtomicU64, u64) {
    (&bits[index / 64], 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::sync::atomic::AtomicBool;

    proptest! {
        /// As a map of the standard library, with few keys, so that they meet often.
        #[test]
        fn it_is_a_map(
            size in prop_oneof![Just(1u32), Just(3), Just(4), Just(8), Just(13), Just(64)],
            most in 1..40u32,
            steps in proptest::collection::vec((0..60u8, 0..3u8), 0..300),
        ) {
            let (hash, mut model) = (Hash::new(most, size, false).unwrap(), HashMap::new());
            let mut values = vec![0; most as usize];
            for (n, (number, what)) in steps.into_iter().enumerate() {
                let mut key = vec![0; size as usize];
                *key.last_mut().unwrap() = number;
                match what {
                    0 => {
                        let done = hash.insert(&key, Mode::Any, |index, fresh| {
                            assert_eq!(fresh, !model.contains_key(&key));
                            values[index] = n;
                        });
                        if model.contains_key(&key) || model.len() < most as usize {
                            prop_assert_eq!(done, Ok(()));
                            model.insert(key, n);
                        } else {
                            prop_assert_eq!(done, Err(MapError::Full));
                        }
                    }
                    1 => prop_assert_eq!(hash.remove(&key, |_| ()).is_ok(), model.remove(&key).is_some()),
                    _ => prop_assert_eq!(hash.find(&key).map(|index| values[index]), model.get(&key).copied()),
                }
            }
            let mut keys = hash.keys();
            keys.sort();
            let mut wanted: Vec<_> = model.into_keys().collect();
            wanted.sort();
            prop_assert_eq!(keys, wanted);
        }
    }

    /// Between a look-up's comparison and its end, its entry goes and comes back under another number.
    #[test]
    fn a_look_up_that_saw_a_change_begins_anew() {
        let hash = Hash::new(4, 8, false).unwrap();
        let (key, other) = (7u64.to_le_bytes(), 8u64.to_le_bytes());
        let number = |key: &[u8]| {
            let mut number = None;
            hash.insert(key, Mode::Create, |index, _| number = Some(index)).unwrap();
            number
        };
        let before = number(&key);
        let changed = std::cell::Cell::new(None);
        let found = hash.find_by(hash.hash(&key), |index| {
            let is_it = hash.is_key(index, &key);
            if changed.get().is_none() {
                hash.remove(&key, |_| ()).unwrap();
                assert_eq!(number(&other), before, "it belongs to another");
                changed.set(Some(number(&key)));
            }
            is_it
        });
        assert_eq!(Some(found), changed.get());
        assert_ne!(found, before);
    }

    /// Entries that stay are found, with their own number, however much comes and goes around them.
    #[test]
    fn what_stays_is_found_whatever_is_changed() {
        let hash = Hash::new(64, 8, false).unwrap();
        let key = |n: u64| (n * 0x1_0001).to_le_bytes();
        let mut numbers = [0; 32];
        for (n, number) in numbers.iter_mut().enumerate() {
            hash.insert(&key(n as u64), Mode::Any, |index, _| *number = index).unwrap();
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looks = (0..2).map(|_| {
                scope.spawn(|| {
                    let mut count = 0u64;
                    while !stop.load(Relaxed) {
                        for (n, number) in numbers.iter().enumerate() {
                            assert_eq!(hash.find(&key(n as u64)), Some(*number), "key {n}");
                        }
                        count += 1;
                    }
                    count
                })
            });
            let looks: Vec<_> = looks.collect();
            let begin = std::time::Instant::now();
            let mut n = 0;
            while begin.elapsed().as_millis() < 500 {
                n += 1;
                let other = key(1000 + n % 1000);
                if hash.insert(&other, Mode::Create, |_, _| ()).is_err() {
                    let _ = hash.remove(&other, |_| ());
                }
                let _ = hash.remove(&key(1000 + n * 7 % 1000), |_| ());
            }
            stop.store(true, Relaxed);
            looks.into_iter().for_each(|thread| assert!(thread.join().unwrap() > 0));
        });
    }
}
