//! The functions and variables that an object in another process offers, from its dynamic symbols as they lie
//! in memory.

use std::collections::HashMap;

use anyhow::Context;

use super::loader::{Loaded, dynamic_value};
use super::memory::{Space, half_in, word_in};

const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERSYM: u64 = 0x6fff_fff0;
/// Bytes of a symbol.
const SYMBOL: usize = 24;
/// Set in the version of a symbol that is there for old programs only.
const OLD: u16 = 0x8000;
/// Larger tables, and longer names, are not believed: none that is looked for here comes near.
const MOST: usize = 1 << 20;
const LONGEST: usize = 256;
/// Words of the hash table that are read at once.
const BLOCK: usize = 1024;

/// Where an object's symbols are, and how long they are.
#[derive(Debug, Default)]
pub struct Symbols(HashMap<String, (u64, u64)>);

impl Symbols {
    /// Reads those of `object`.
    pub fn read(memory: &impl Space, object: &Loaded) -> anyhow::Result<Self> {
        Self::try_read(memory, object).with_context(|| format!("the symbols of {} cannot be read", object.file_name()))
    }

    fn try_read(memory: &impl Space, object: &Loaded) -> anyhow::Result<Self> {
        // The dynamic section ends by itself; 4 KiB hold it.
        let entries = memory.bytes(object.dynamic, 2048)?;
        let value = |tag| dynamic_value(&entries, tag);
        // The loader may or may not have relocated the pointers in it.
        let address = |tag| value(tag).map(|at| if at < object.base { at.wrapping_add(object.base) } else { at });
        let symbols = address(DT_SYMTAB).context("no symbols")?;
        let count = count(memory, address(DT_GNU_HASH).context("no hash table")?)?;
        let names = memory
            .bytes(address(DT_STRTAB).context("no names")?, value(DT_STRSZ).unwrap_or(0).min(MOST as u64) as usize)?;
        let table = memory.bytes(symbols, count * SYMBOL)?;
        let versions = match address(DT_VERSYM) {
            Some(at) => memory.bytes(at, count * 2)?,
            None => vec![0; count * 2],
        };
        let mut found = HashMap::new();
        for (symbol, version) in table.chunks_exact(SYMBOL).zip(versions.chunks_exact(2)) {
            let defined = half_in(symbol, 4) >> 16 != 0;
            let old = u16::from_le_bytes([version[0], version[1]]) & OLD != 0;
            let rest = names.get(half_in(symbol, 0) as usize..).unwrap_or_default();
            let Some(length) = rest.iter().take(LONGEST).position(|&byte| byte == 0) else { continue };
            let name = rest.get(..length).unwrap_or_default();
            if defined && !old && !name.is_empty() {
                let place = (object.base.wrapping_add(word_in(symbol, 8)), word_in(symbol, 16));
                found.insert(String::from_utf8_lossy(name).into_owned(), place);
            }
        }
        Ok(Self(found))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Address of a symbol.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).map(|place| place.0)
    }

    /// Address and size of a symbol.
    pub fn extent(&self, name: &str) -> Option<(u64, u64)> {
        self.0.get(name).copied()
    }
}

/// How many symbols there are, which only the hash table tells: its last chain ends with the last symbol.
fn count(memory: &impl Space, hash: u64) -> anyhow::Result<usize> {
    let head: [u8; 16] = memory.array(hash)?;
    let (buckets, first, blooms) = (half_in(&head, 0) as usize, half_in(&head, 4) as usize, half_in(&head, 8) as usize);
    anyhow::ensure!(buckets < MOST && first < MOST && blooms < MOST, "the hash table is damaged");
    let at = hash.wrapping_add(16 + blooms as u64 * 8);
    let table = memory.bytes(at, buckets * 4)?;
    let last = table.chunks_exact(4).map(|bucket| half_in(bucket, 0) as usize).max().unwrap_or(0);
    if last < first {
        return Ok(first);
    }
    let chains = at.wrapping_add(buckets as u64 * 4);
    let word = |n: usize| chains.wrapping_add((n - first) as u64 * 4);
    let mut n = last;
    while n < MOST {
        // The end of the table may be the end of what is mapped.
        let block = memory.bytes(word(n), BLOCK * 4).or_else(|_| memory.bytes(word(n), 4))?;
        if let Some(end) = block.chunks_exact(4).position(|chunk| half_in(chunk, 0) & 1 == 1) {
            return Ok(n + end + 1);
        }
        n += block.len() / 4;
    }
    anyhow::bail!("the hash table is damaged")
}

#[cfg(test)]
mod tests {
    use super::super::memory::Piece;
    use super::*;

    /// A hash table of one bucket, whose chain has so many words.
    fn table(words: usize) -> Vec<u8> {
        let mut bytes = vec![0_u8; 16 + 4 + words * 4];
        (bytes[0], bytes[4]) = (1, 1);
        bytes[16] = 1;
        let end = bytes.len() - 4;
        bytes[end] = 1;
        bytes
    }

    fn counted(bytes: &[u8], at: u64) -> anyhow::Result<usize> {
        count(&Piece { at: 0x1000, bytes }, at)
    }

    #[test]
    fn the_last_chain_ends_the_table() {
        for words in [1, 2, BLOCK, BLOCK + 1, 3 * BLOCK] {
            assert_eq!(counted(&table(words), 0x1000).unwrap(), words + 1);
        }
        assert!(counted(&table(4), u64::MAX - 8).is_err());
    }

    #[test]
    fn a_chain_that_does_not_end_is_damaged() {
        let mut endless = table(2 * MOST);
        let end = endless.len() - 4;
        endless[end] = 0;
        assert!(counted(&endless, 0x1000).is_err());
        let mut huge = table(1);
        huge[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(counted(&huge, 0x1000).is_err());
    }
}
