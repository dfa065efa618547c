//! What maps an object file defines: by BTF in `.maps`, by `struct bpf_map_def` in `maps`, and, one each, by
//! its data sections.

use super::btf::Btf;
use super::{File, MOST_MAPS, ObjectError};
use crate::map::{MapKind, MapSpec};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionIndex};
use std::collections::HashMap;

/// Where a map definition is, and what it defines.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The section it lies in.
    pub section: SectionIndex,
    /// From where to where in that section.
    pub range: std::ops::Range<u64>,
    /// What.
    pub spec: MapSpec,
    /// Initial content of the only value of a data section.
    pub content: Option<Vec<u8>>,
    /// Where the pointers to initial programs or maps begin in the section.
    pub values_at: Option<u64>,
    /// What the maps are like that a map of maps holds.
    pub inner: Option<MapSpec>,
    /// Whether it is one for all objects of a runtime (`LIBBPF_PIN_BY_NAME`).
    pub pinned: bool,
    /// Why there is no such map: programs that refer to it cannot be loaded.
    pub refused: Option<ObjectError>,
}

impl Definition {
    /// A map called `name` that cannot be made.
    fn refused(section: SectionIndex, range: std::ops::Range<u64>, name: &str, why: ObjectError) -> Definition {
        let spec = MapSpec {
            name: name.into(),
            kind: MapKind::Array,
            key_size: 4,
            value_size: 0,
            max_entries: 0,
            read_only: false,
            hashes: 0,
        };
        Definition { refused: Some(why), ..Definition::of(section, range, spec) }
    }

    /// A map without content.
    pub fn of(section: SectionIndex, range: std::ops::Range<u64>, spec: MapSpec) -> Definition {
        let (content, values_at, inner, refused) = (None, None, None, None);
        Definition { section, range, spec, content, values_at, inner, pinned: false, refused }
    }
}

/// Members of a map's definition; there are about a dozen that mean something. A thousand maps may share one
/// structure.
const MOST_MEMBERS: usize = 64;
/// `BPF_F_RDONLY_PROG` of a map's flags.
const RDONLY_PROG: u32 = 1 << 7;
/// `LIBBPF_PIN_BY_NAME`.
const PIN_BY_NAME: u32 = 1;

/// Kinds by their number in `enum bpf_map_type`.
fn kind(number: u32) -> Option<MapKind> {
    Some(match number {
        1 => MapKind::Hash,
        2 => MapKind::Array,
        3 => MapKind::ProgArray,
        4 => MapKind::PerfEventArray,
        5 => MapKind::PerCpuHash,
        6 => MapKind::PerCpuArray,
        9 => MapKind::LruHash,
        10 => MapKind::LruPerCpuHash,
        11 => MapKind::LpmTrie,
        12 => MapKind::ArrayOfMaps,
        13 => MapKind::HashOfMaps,
        14 => MapKind::DevMap,
        16 => MapKind::CpuMap,
        17 => MapKind::XskMap,
        22 => MapKind::Queue,
        23 => MapKind::Stack,
        25 => MapKind::DevMapHash,
        27 => MapKind::RingBuf,
        30 => MapKind::BloomFilter,
        _ => return None,
    })
}

/// A kind of map that there is in the kernel, and not here.
fn unsupported(map: &str, number: u32) -> ObjectError {
    const NAMES: [&str; 34] = [
        "unspec",
        "hash",
        "array",
        "prog_array",
        "perf_event_array",
        "percpu_hash",
        "percpu_array",
        "stack_trace",
        "cgroup_array",
        "lru_hash",
        "lru_percpu_hash",
        "lpm_trie",
        "array_of_maps",
        "hash_of_maps",
        "devmap",
        "sockmap",
        "cpumap",
        "xskmap",
        "sockhash",
        "cgroup_storage",
        "reuseport_sockarray",
        "percpu_cgroup_storage",
        "queue",
        "stack",
        "sk_storage",
        "devmap_hash",
        "struct_ops",
        "ringbuf",
        "inode_storage",
        "task_storage",
        "bloom_filter",
        "user_ringbuf",
        "cgrp_storage",
        "arena",
    ];
    let name = NAMES.get(number as usize).map_or_else(|| number.to_string(), |name| (*name).to_string());
    ObjectError::map(map, &format!("maps of kind {name} are not supported"))
}

/// All maps of `file`.
pub fn definitions(file: &File<'_>) -> Result<Vec<Definition>, ObjectError> {
    let mut all = Vec::new();
    for section in file.sections() {
        let name = section.name().map_err(ObjectError::elf)?;
        match name {
            ".maps" => btf_maps(file, &section, &mut all)?,
            "maps" => legacy_maps(file, &section, &mut all)?,
            _ if is_data(name) && section.size() > 0 => all.push(
                data_map(name, &section)
                    .unwrap_or_else(|why| Definition::refused(section.index(), 0..section.size(), name, why)),
            ),
            _ => {}
        }
    }
    Ok(all)
}

fn is_data(name: &str) -> bool {
    [".data", ".rodata", ".bss"]
        .iter()
        .any(|base| name == *base || name.strip_prefix(base).is_some_and(|r| r.starts_with('.')))
}

type Section<'a, 'f> = object::read::elf::ElfSection64<'a, 'f, object::Endianness>;

fn data_map(name: &str, section: &Section<'_, '_>) -> Result<Definition, ObjectError> {
    let size = section.size();
    // What is beyond a file's size is not believed.
    let value_size = u32::try_from(size).ok().filter(|s| *s <= 64 << 20);
    let value_size = value_size.ok_or_else(|| ObjectError::section(name, "data of more than 64 MiB"))?;
    if section.relocations().next().is_some() {
        return Err(ObjectError::section(name, "initial values that are addresses are not supported"));
    }
    let content = section.data().map_err(ObjectError::elf)?.to_vec();
    let spec = MapSpec {
        name: name.into(),
        kind: MapKind::Array,
        key_size: 4,
        value_size,
        max_entries: 1,
        read_only: name.starts_with(".rodata"),
        hashes: 0,
    };
    let content = (!content.is_empty()).then_some(content);
    Ok(Definition { content, ..Definition::of(section.index(), 0..size, spec) })
}

fn legacy_maps(file: &File<'_>, section: &Section<'_, '_>, all: &mut Vec<Definition>) -> Result<(), ObjectError> {
    let data = section.data().map_err(ObjectError::elf)?;
    let symbols = file.symbols().filter(|s| s.section_index() == Some(section.index()));
    for symbol in symbols.filter(|s| s.kind() != object::SymbolKind::Section).take(MOST_MAPS + 1) {
        let name = symbol.name().map_err(ObjectError::elf)?;
        let at = symbol.address();
        let bytes = usize::try_from(at).ok().and_then(|at| data.get(at..)?.get(..16));
        let bytes = bytes.ok_or_else(|| ObjectError::map(name, "its definition is cut off"))?;
        let word = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        let range = at..at.saturating_add(16);
        let kind = match kind(word(0)) {
            Some(kind) => kind,
            None => {
                all.push(Definition::refused(section.index(), range, name, unsupported(name, word(0))));
                continue;
            }
        };
        let (key_size, value_size, max_entries) = (word(4), word(8), word(12));
        // Older definitions end before the flags.
        let long = if symbol.size() >= 20 { data.get(at as usize + 16..at as usize + 20) } else { None };
        let flags = long.and_then(|flags| flags.try_into().ok()).map_or(0, u32::from_le_bytes);
        let read_only = flags & RDONLY_PROG != 0;
        let spec = MapSpec { name: name.into(), kind, key_size, value_size, max_entries, read_only, hashes: 0 };
        all.push(Definition::of(section.index(), range, as_libbpf(spec)));
    }
    Ok(())
}

fn btf_maps(file: &File<'_>, section: &Section<'_, '_>, all: &mut Vec<Definition>) -> Result<(), ObjectError> {
    let types =
        file.section_by_name(".BTF").ok_or_else(|| ObjectError::section(".maps", "there is no .BTF section"))?;
    let bytes = types.data().map_err(ObjectError::elf)?;
    let btf = Btf::parse(bytes).ok_or_else(|| ObjectError::section(".BTF", "malformed type information"))?;
    // Offsets in unlinked BTF are zero; symbols know.
    let mut symbols = HashMap::new();
    for symbol in file.symbols().filter(|s| s.section_index() == Some(section.index())) {
        symbols.entry(symbol.name().unwrap_or_default()).or_insert(symbol);
    }
    for (_, name, kind) in btf.section_variables(".maps").into_iter().take(MOST_MAPS + 1) {
        let symbol = symbols.get(name);
        let symbol = symbol.ok_or_else(|| ObjectError::map(name, "it has no symbol"))?;
        let (at, size) = (symbol.address(), symbol.size());
        let range = at..at.saturating_add(size);
        match btf_spec(&btf, name, kind, true) {
            Ok(described) => all.push(Definition {
                values_at: described.values.map(|offset| at.saturating_add(offset.into())),
                inner: described.inner,
                pinned: described.pinned,
                ..Definition::of(section.index(), range, described.spec)
            }),
            Err(why) => all.push(Definition::refused(section.index(), range, name, why)),
        }
    }
    Ok(())
}

/// What a structure says of a map.
struct Described {
    spec: MapSpec,
    /// Where in it the initial programs or maps are.
    values: Option<u32>,
    inner: Option<MapSpec>,
    pinned: bool,
}

/// The map that structure `id` describes. Those within maps are not `outer`.
fn btf_spec(btf: &Btf<'_>, name: &str, id: u32, outer: bool) -> Result<Described, ObjectError> {
    let mut spec = MapSpec {
        name: name.into(),
        kind: MapKind::Array,
        key_size: 0,
        value_size: 0,
        max_entries: 0,
        read_only: false,
        hashes: 0,
    };
    if btf.member_count(id) > MOST_MEMBERS {
        return Err(ObjectError::map(name, &format!("its definition has more than {MOST_MEMBERS} members")));
    }
    let (mut found, mut values, mut pinned, mut extra) = (None, None, false, None);
    for member in btf.members(id) {
        let wrong = || ObjectError::map(name, "a member of its definition has an unexpected type");
        match member.name {
            "type" => found = Some(btf.pointed_count(member.kind).ok_or_else(wrong)?),
            "key_size" => spec.key_size = btf.pointed_count(member.kind).ok_or_else(wrong)?,
            "value_size" => spec.value_size = btf.pointed_count(member.kind).ok_or_else(wrong)?,
            "max_entries" => spec.max_entries = btf.pointed_count(member.kind).ok_or_else(wrong)?,
            "key" => spec.key_size = btf.pointed_size(member.kind).ok_or_else(wrong)?,
            "value" => spec.value_size = btf.pointed_size(member.kind).ok_or_else(wrong)?,
            "values" => values = Some(member),
            "map_flags" => spec.read_only = btf.pointed_count(member.kind).ok_or_else(wrong)? & RDONLY_PROG != 0,
            // Of other kinds of maps it is something else.
            "map_extra" => extra = btf.pointed_count(member.kind),
            "pinning" => pinned = btf.pointed_count(member.kind).ok_or_else(wrong)? == PIN_BY_NAME,
            // Other flags and the like change nothing that matters here.
            _ => {}
        }
    }
    let found = found.ok_or_else(|| ObjectError::map(name, "its definition names no kind"))?;
    spec.kind = kind(found).ok_or_else(|| unsupported(name, found))?;
    if spec.kind == MapKind::BloomFilter {
        spec.hashes = extra.unwrap_or(0);
    }
    let mut inner = None;
    if spec.kind.holds_maps() {
        let structure = values.and_then(|member| btf.pointed_element(member.kind)).filter(|_| outer);
        let structure =
            structure.ok_or_else(|| ObjectError::map(name, "its definition does not say what maps it holds"))?;
        inner = Some(btf_spec(btf, &format!("{name}.inner"), structure, false)?.spec);
    }
    Ok(Described { spec: as_libbpf(spec), values: values.map(|member| member.offset), inner, pinned })
}

/// What libbpf makes of sizes before it asks the kernel for a map.
fn as_libbpf(mut spec: MapSpec) -> MapSpec {
    const PAGE: u32 = 4096;
    let fixed = matches!(spec.kind, MapKind::PerfEventArray | MapKind::ProgArray) || spec.kind.holds_maps();
    if fixed && spec.value_size == 0 {
        spec.value_size = 4;
    }
    if fixed && spec.key_size == 0 {
        spec.key_size = 4;
    }
    if spec.kind == MapKind::RingBuf && spec.max_entries <= 1 << 30 {
        spec.max_entries = spec.max_entries.max(PAGE).next_power_of_two();
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_has_no_thousands_of_members() {
        let why = |members: u32| {
            // A structure whose members have no name and no type.
            let types = [vec![0, 4 << 24 | members, 8], vec![0; 3 * members as usize]].concat();
            let len = 4 * types.len() as u32;
            let words = [vec![0x1_eb9f, 24, 0, len, len, 1], types].concat();
            let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).chain([0]).collect();
            btf_spec(&Btf::parse(&bytes).unwrap(), "map", 1, true).err().unwrap().to_string()
        };
        assert!(why(64).contains("names no kind"), "{}", why(64));
        assert!(why(65).contains("more than 64 members"), "{}", why(65));
    }
}
