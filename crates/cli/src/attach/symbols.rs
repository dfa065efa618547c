//! The functions and variables that an object in another process offers, from its dynamic symbols as they lie in
//! memory.

use std::collections::HashMap;

use anyhow::Context;

use super::loader::{Loaded, dynamic_value};
use super::memory::{Memory, half_in, word_in};

const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERSYM: u64 = 0x6fff_fff0;
/// Bytes of a symbol.
const SYMBOL: usize = 24;
/// Set in the version of a symbol that is there for old programs only.
const OLD: u16 = 0x8000;
/// Larger tables are not believed.
const MOST: usize = 1 << 24;

/// Where an object's symbols are, and how long they are.
#[derive(Debug)]
pub struct Symbols(HashMap<String, (u64, u64)>);

impl Symbols {
    /// Reads those of `object`.
    pub fn read(memory: &Memory, object: &Loaded) -> anyhow::Result<Self> {
        Self::try_read(memory, object).with_context(|| format!("the symbols of {} cannot be read", object.file_name()))
    }

    fn try_read(memory: &Memory, object: &Loaded) -> anyhow::Result<Self> {
        // The dynamic section ends by itself; 4 KiB hold it.
        let entries = memory.bytes(object.dynamic, 2048)?;
        let value = |tag| dynamic_value(&entries, tag);
        // The loader may or may not have relocated the pointers in it.
        let address = |tag| value(tag).map(|at| if at < object.base { at + object.base } else { at });
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
            let name = rest.split(|&byte| byte == 0).next().unwrap_or_default();
            if defined && !old && !name.is_empty() {
                let place = (object.base.wrapping_add(word_in(symbol, 8)), word_in(symbol, 16));
                found.insert(String::from_utf8_lossy(name).into_owned(), place);
            }
        }
        Ok(Self(found))
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
fn count(memory: &Memory, hash: u64) -> anyhow::Result<usize> {
    let head: [u8; 16] = memory.array(hash)?;
    let (buckets, first, blooms) = (half_in(&head, 0) as usize, half_in(&head, 4) as usize, half_in(&head, 8) as usize);
    anyhow::ensure!(buckets < MOST && first < MOST && blooms < MOST, "the hash table is damaged");
    let at = hash + 16 + blooms as u64 * 8;
    let table = memory.bytes(at, buckets * 4)?;
    let last = table.chunks_exact(4).map(|bucket| half_in(bucket, 0) as usize).max().unwrap_or(0);
    if last < first {
        return Ok(first);
    }
    let chains = at + buckets as u64 * 4;
    (last..MOST)
        .find(|&n| memory.half(chains + (n - first) as u64 * 4).is_ok_and(|word| word & 1 == 1))
        .map(|n| n + 1)
        .context("the hash table is damaged")
}
