//! Maps of a run: filled before it, shown after it, their records while it goes on.
//!
//! A map is a list of entries in JSON. Keys and values are the bytes in hexadecimal digits, as they lie in
//! memory; a per-CPU map has a value for each slot that was written, by its number.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use relpoline_bpf::{Map, MapKind, Mode, Object};
use serde::de::{Deserializer as _, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::hex;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// Of a per-CPU map, by slot; those that are zero are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    values: Option<BTreeMap<usize, String>>,
    /// Of a map of maps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    map: Option<String>,
}

/// A larger file is no list of entries for a map.
const MOST_BYTES: u64 = 1 << 28;

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The map called `name`.
///
/// # Errors
/// There is none.
pub fn find<'a>(object: &'a Object, name: &str) -> Result<&'a Map> {
    let names = || object.maps().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    object.map(name).with_context(|| format!("no map '{name}' with values; the file has {}", names()))
}

/// Fills the map that `NAME=FILE` says.
///
/// # Errors
/// What is wrong with the file or an entry.
pub fn fill(object: &Object, preset: &str) -> Result<()> {
    let (name, file) = preset.split_once('=').with_context(|| format!("--map {preset} is not NAME=FILE"))?;
    let map = find(object, name)?;
    let file = Path::new(file);
    let text = super::read(file, MOST_BYTES)?;
    enter(object, map, &text).with_context(|| file.display().to_string())
}

/// Fills a map with the entries of a list in JSON.
///
/// # Errors
/// What is wrong with the list or an entry.
pub fn enter(object: &Object, map: &Map, text: &[u8]) -> Result<()> {
    each(text, |entry| set(object, map, &entry))
}

/// Does something with each entry of a list, as it is read: a short one takes many times its length.
fn each(text: &[u8], one: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    reader.deserialize_seq(Each(one))?;
    Ok(reader.end()?)
}

struct Each<F>(F);

impl<'de, F: FnMut(Entry) -> Result<()>> Visitor<'de> for Each<F> {
    type Value = ();

    fn expecting(&self, what: &mut fmt::Formatter<'_>) -> fmt::Result {
        what.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let mut at = 0;
        while let Some(entry) = list.next_element()? {
            (self.0)(entry).map_err(|error| A::Error::custom(format_args!("entry {at}: {error:#}")))?;
            at += 1;
        }
        Ok(())
    }
}

fn set(object: &Object, map: &Map, entry: &Entry) -> Result<()> {
    let key = hex(&entry.key).context("key")?;
    if let Some(inner) = &entry.map {
        return Ok(map.put(&key, find(object, inner)?, Mode::Any)?);
    }
    ensure!(entry.values.is_none(), "slots of a per-CPU map belong to threads, and cannot be filled");
    let value = hex(entry.value.as_deref().context("it has no value")?).context("value")?;
    match map.spec().kind {
        MapKind::Queue | MapKind::Stack | MapKind::BloomFilter => map.push(&value)?,
        _ => map.set(&key, &value, Mode::Any)?,
    }
    Ok(())
}

/// The entries of a map as JSON; of arrays, those that are not zero.
///
/// # Errors
/// A kind of map that has none to show.
pub fn shown(object: &Object, map: &Map) -> Result<serde_json::Value> {
    let spec = map.spec();
    let size = spec.value_size as usize;
    let mut keys = map.keys();
    keys.sort_unstable();
    let entry = |key: Vec<u8>| {
        let bytes = map.get(&key).ok()?;
        let is_array = matches!(spec.kind, MapKind::Array | MapKind::PerCpuArray);
        if is_array && bytes.iter().all(|byte| *byte == 0) {
            return None;
        }
        let key = digits(&key);
        if bytes.len() == size {
            return Some(Entry { key, value: Some(digits(&bytes)), values: None, map: None });
        }
        let written = |(_, value): &(usize, &[u8])| value.iter().any(|byte| *byte != 0);
        let slots = bytes.chunks(size).enumerate().filter(written);
        let values = Some(slots.map(|(slot, value)| (slot, digits(value))).collect());
        Some(Entry { key, value: None, values, map: None })
    };
    let entries: Vec<Entry> = match spec.kind {
        MapKind::ArrayOfMaps | MapKind::HashOfMaps => {
            keys.into_iter().filter_map(|key| inner(object, map, &key)).collect()
        }
        MapKind::Queue | MapKind::Stack => {
            let entry =
                |value: Vec<u8>| Entry { key: String::new(), value: Some(digits(&value)), values: None, map: None };
            map.queued().into_iter().map(entry).collect()
        }
        MapKind::RingBuf | MapKind::PerfEventArray | MapKind::BloomFilter => {
            bail!("map {} has no entries to show (records: --records)", spec.name)
        }
        _ => keys.into_iter().filter_map(entry).collect(),
    };
    Ok(serde_json::to_value(entries)?)
}

/// The entry of a map of maps, if it is a map that has a name.
fn inner(object: &Object, outer: &Map, key: &[u8]) -> Option<Entry> {
    let handle = outer.entry(key)?.handle();
    let named = |(name, _): &&(String, _)| object.map(name).is_some_and(|map| map.handle() == handle);
    let name = object.maps().iter().find(named).map_or("?", |(name, _)| name.as_str());
    Some(Entry { key: digits(key), value: None, values: None, map: Some(name.into()) })
}

/// Prints the records that programs have left since the last time: how many.
pub fn print_records(object: &Object) -> usize {
    let has_records = |map: &&Map| matches!(map.spec().kind, MapKind::RingBuf | MapKind::PerfEventArray);
    let maps = object.maps().iter().filter_map(|(name, _)| object.map(name)).filter(has_records);
    maps.map(|map| map.consume(|record| println!("{} {}", crate::shown::line(&map.spec().name), digits(record)))).sum()
}
