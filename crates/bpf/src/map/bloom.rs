//! A Bloom filter: whether a value was perhaps pushed.

use super::values::zeroed;
use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};

/// Hashes of a value, where the map's definition does not say how many (`map_extra`).
pub const HASHES: u32 = 5;
/// The most that it may say.
pub const MOST_HASHES: u32 = 15;

/// See the module's text.
#[derive(Debug)]
pub struct Bloom {
    bits: Box<[AtomicU64]>,
    hashes: u32,
}

impl Bloom {
    /// A filter for `most` values; as large as the kernel's. `None` when there is no memory for it.
    pub fn new(most: u32, hashes: u32) -> Option<Bloom> {
        // Hashes times values by the natural logarithm of 2, then a power of two.
        let bits = (u64::from(most) * u64::from(hashes) * 7 / 5).next_power_of_two().clamp(64, 1 << 32);
        Some(Bloom { bits: zeroed(bits as usize / 64)?, hashes })
    }

    fn places(&self, value: &[u8]) -> impl Iterator<Item = (usize, u64)> {
        // Fixed keys: whoever chooses the values can make it err anyhow.
        #[allow(deprecated, reason = "the hasher without a random key")]
        let hash = |seed: u64| {
            let mut hasher = std::hash::SipHasher::new_with_keys(seed, 0);
            hasher.write(value);
            hasher.finish()
        };
        // The second hash, made odd, walks through all places.
        let (first, step) = (hash(1), hash(2) | 1);
        let count = self.bits.len() as u64 * 64;
        (0..u64::from(self.hashes)).map(move |i| {
            let bit = first.wrapping_add(i.wrapping_mul(step)) % count;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    /// Adds a value.
    pub fn push(&self, value: &[u8]) {
        for (word, bit) in self.places(value) {
            self.bits[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether it was perhaps added.
    pub fn has(&self, value: &[u8]) -> bool {
        self.places(value).all(|(word, bit)| self.bits[word].load(Ordering::Relaxed) & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_hashes_as_the_definition_says() {
        let bits = |hashes| {
            let bloom = Bloom::new(1000, hashes).unwrap();
            bloom.push(b"value");
            assert!(bloom.has(b"value"));
            bloom.bits.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum::<u32>()
        };
        assert_eq!(bits(1), 1);
        assert!(bits(3) > 1 && bits(3) <= 3);
        assert!(bits(15) > 3 && bits(15) <= 15);
    }
}
