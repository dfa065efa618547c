//! Object files: what clang makes of C for `-target bpf`.
//!
//! | part | module |
//! |---|---|
//! | map definitions | [`maps`] |
//! | type information | [`btf`] |
//! | relocations against types of the kernel | [`core`] |
//! | the kernel's configuration | [`externals`] |
//! | programs, calls, references | [`link`] |
//!
//! A file is loaded as a whole: maps first, then programs, then what program arrays hold initially. Nothing
//! in it is trusted; whatever is malformed is an [`ObjectError`] that names the place.

mod btf;
mod core;
mod externals;
mod link;
mod maps;

use crate::array::{ProgArray, UpdateError};
use crate::map::{Map, MapError, MapKind, MapSpec, Mode};
use crate::program::{LoadError, MapHandle, Options, Program, Source};
use crate::runtime::Runtime;
use link::{Code, Linked};
use maps::Definition;
use object::read::elf::{FileHeader as _, SectionHeader as _};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex};
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes that an object file may have, and symbols, sections, maps, and bytes of a name in it: several times
/// what the largest have. Tables that overlap would let a small file stand for more than there is memory.
pub const LARGEST: usize = 1 << 24;
const MOST_SYMBOLS: usize = 1 << 16;
const MOST_SECTIONS: usize = 1 << 13;
const MOST_MAPS: usize = 1 << 10;
const LONGEST_NAME: usize = 512;

type File<'a> = object::read::elf::ElfFile64<'a, object::Endianness>;

/// Why an object file was not loaded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ObjectError {
    /// Not an ELF file of 64 bits, or a malformed one.
    #[error("not an eBPF object, or a damaged one: {0} (clang -target bpf -c makes them)")]
    Elf(String),
    /// An ELF file for another machine.
    #[error("not an eBPF object: it is for another machine (clang -target bpf -c makes them)")]
    OtherMachine,
    /// Big-endian eBPF.
    #[error("big-endian eBPF objects are not supported (clang -target bpfel makes little-endian ones)")]
    BigEndian,
    /// Something is wrong with a section.
    #[error("section {section}: {reason}")]
    Section {
        /// Its name.
        section: String,
        /// What.
        reason: String,
    },
    /// Something is wrong with a reference.
    #[error("section {section}, instruction {instruction}: {reason}")]
    Reference {
        /// The section that refers.
        section: String,
        /// The slot there.
        instruction: usize,
        /// What.
        reason: String,
    },
    /// Something is wrong with a map's definition.
    #[error("map {map}: {reason}")]
    MapDefinition {
        /// Its name.
        map: String,
        /// What.
        reason: String,
    },
    /// A map could not be made.
    #[error("map {map}: {error}")]
    Map {
        /// Its name.
        map: String,
        /// Why.
        error: MapError,
    },
    /// A program was refused.
    #[error(transparent)]
    Program(#[from] LoadError),
    /// A map that is to be shared is not what the file says it is.
    #[error("map {map} is to be shared, but is {there}, and not {here}")]
    Shared {
        /// Its name.
        map: String,
        /// What there is.
        there: String,
        /// What the file says.
        here: String,
    },
    /// An initial program of an array was refused.
    #[error("map {map}: {error}")]
    Initial {
        /// The array's name.
        map: String,
        /// Why.
        error: UpdateError,
    },
}

impl ObjectError {
    fn elf(error: object::Error) -> ObjectError {
        ObjectError::Elf(error.to_string())
    }

    fn section(section: &str, reason: &str) -> ObjectError {
        ObjectError::Section { section: section.into(), reason: reason.into() }
    }

    fn map(map: &str, reason: &str) -> ObjectError {
        ObjectError::MapDefinition { map: map.into(), reason: reason.into() }
    }

    fn reference(section: &str, instruction: usize, reason: &str) -> ObjectError {
        ObjectError::Reference { section: section.into(), instruction, reason: reason.into() }
    }
}

/// What an object finds around it when it is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Around<'a> {
    /// Maps that are to be used instead of new ones of the same name: see [`Object::load_sharing`].
    pub shared: &'a [(String, MapHandle)],
    /// Helpers by the names under which files call functions that they do not define.
    pub functions: &'a [(String, u32)],
    /// Types of the kernel that CO-RE relocations are resolved against: what `/sys/kernel/btf/vmlinux` holds,
    /// or an ELF file with a `.BTF` section.
    pub types: Option<&'a [u8]>,
    /// Entries of maps whose number is the host's to decide, by the maps' names: files say 0 there, or too
    /// few.
    pub entries: &'a [(String, u32)],
    /// The kernel's configuration, for externals of `.kconfig`: lines `CONFIG_NAME=value`.
    /// `LINUX_KERNEL_VERSION` is this machine's unless a line of that name says otherwise.
    pub config: Option<&'a str>,
}

impl<'a> Around<'a> {
    fn target(&self) -> Result<Option<core::Target<'a>>, ObjectError> {
        let Some(bytes) = self.types else { return Ok(None) };
        let malformed = || ObjectError::section("of the kernel's types", "malformed type information");
        let section = match bytes.get(..4) {
            Some(b"\x7fELF") => {
                let file = File::parse(bytes).map_err(ObjectError::elf)?;
                let section = file.section_by_name(".BTF").ok_or_else(malformed)?;
                section.data().map_err(ObjectError::elf)?
            }
            _ => bytes,
        };
        core::Target::parse(section).map(Some).ok_or_else(malformed)
    }
}

/// The programs and maps of a loaded object file.
#[derive(Clone, Debug)]
pub struct Object {
    programs: Vec<Program>,
    maps: Vec<(String, MapHandle)>,
    refused: Vec<(String, ObjectError)>,
}

impl Object {
    /// Loads the object file `bytes` into a runtime: all programs that can be loaded, and the maps that can
    /// be made. [`Object::refused`] has the others, with their reasons.
    ///
    /// # Errors
    /// What is wrong with the file; or with its first program, when none can be loaded.
    pub fn load(runtime: &Runtime, bytes: &[u8], options: Options) -> Result<Object, ObjectError> {
        Object::load_sharing(runtime, bytes, options, &[])
    }

    /// As [`Object::load`], but maps called like one of `shared` are that map instead of a new one. Arrays
    /// among them keep the programs they have. When one is not what the file says it is (kind, sizes,
    /// entries), nothing is loaded: a program would take its neighbours' values for its own.
    ///
    /// # Errors
    /// As for [`Object::load`]; [`ObjectError::Shared`].
    pub fn load_sharing(
        runtime: &Runtime,
        bytes: &[u8],
        options: Options,
        shared: &[(String, MapHandle)],
    ) -> Result<Object, ObjectError> {
        Object::load_only(runtime, bytes, options, shared, |_| true)
    }

    /// As [`Object::load_sharing`], and only those programs whose names are `wanted`. Slots of program arrays
    /// that were to hold others are empty.
    ///
    /// # Errors
    /// As for [`Object::load_sharing`].
    pub fn load_only(
        runtime: &Runtime,
        bytes: &[u8],
        options: Options,
        shared: &[(String, MapHandle)],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Object, ObjectError> {
        Object::load_within(runtime, bytes, options, &Around { shared, ..Around::default() }, wanted)
    }

    /// As [`Object::load_only`], with all that there is around it.
    ///
    /// # Errors
    /// As for [`Object::load_sharing`]; types that are malformed.
    pub fn load_within(
        runtime: &Runtime,
        bytes: &[u8],
        options: Options,
        around: &Around<'_>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Object, ObjectError> {
        let shared = around.shared;
        let file = parse(bytes)?;
        let mut definitions = maps::definitions(&file)?;
        let (externals, config) = externals::read(&file, around.config)?;
        definitions.extend(config);
        for definition in &mut definitions {
            let spec = &mut definition.spec;
            if let Some((_, entries)) = around.entries.iter().find(|(name, _)| *name == spec.name) {
                spec.max_entries = *entries;
            }
        }
        if definitions.len() > MOST_MAPS {
            return Err(ObjectError::Elf(format!("it has more than {MOST_MAPS} maps")));
        }
        let target = around.target()?;
        let code = Code::read(&file, &definitions, &externals.with(around.functions), target.as_ref())?;
        let found = code.programs(&wanted)?;
        let made = make_maps(runtime, &definitions, shared)?;
        let is_made = |(name, map): &(String, Result<MapHandle, ObjectError>)| Some((name.clone(), map.clone().ok()?));
        let maps: Vec<(String, MapHandle)> = made.iter().filter_map(is_made).collect();
        let keep = Arc::new(maps.iter().map(|(_, map)| map.clone()).collect::<Vec<_>>());
        let load = |one: &Linked| {
            let maps = one.maps.iter().map(|m| made[*m].1.clone()).collect::<Result<Vec<MapHandle>, _>>()?;
            let source = Source { name: &one.name, section: &one.section, insns: &one.insns, maps: &maps };
            Program::load_keeping(runtime, source, options, keep.clone()).map_err(ObjectError::from)
        };
        let (mut programs, mut places, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for (name, linked) in found {
            match linked.and_then(|one| Ok((load(&one)?, one.at))) {
                Ok((program, at)) => {
                    programs.push(program);
                    places.push(at);
                }
                Err(why) => refused.push((name, why)),
            }
        }
        if programs.is_empty() && !refused.is_empty() {
            return Err(refused.swap_remove(0).1);
        }
        refused.extend(made.into_iter().filter_map(|(name, map)| Some((name, map.err()?))));
        let mut object = Object { programs, maps, refused };
        object.fill_arrays(&file, &definitions, &places, shared, wanted)?;
        Ok(object)
    }

    /// Programs that could not be loaded, and maps that could not be made: name and reason. Slots of program
    /// arrays that were to hold such a program are empty.
    #[must_use]
    pub fn refused(&self) -> &[(String, ObjectError)] {
        &self.refused
    }

    /// All programs, in the order of the file.
    #[must_use]
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// The program (C function) called `name`.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|p| p.name() == name)
    }

    /// All maps by name, those of data sections included.
    #[must_use]
    pub fn maps(&self) -> &[(String, MapHandle)] {
        &self.maps
    }

    /// The map called `name`.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<&Map> {
        self.maps.iter().find_map(|(n, map)| match map {
            MapHandle::Map(map) if n == name => Some(map),
            _ => None,
        })
    }

    /// The program array called `name`.
    #[must_use]
    pub fn array(&self, name: &str) -> Option<&ProgArray> {
        self.maps.iter().find_map(|(n, map)| match map {
            MapHandle::Array(array) if n == name => Some(array),
            _ => None,
        })
    }

    /// Puts in place what `__array(values, …)` says arrays of programs and of maps hold.
    fn fill_arrays(
        &mut self,
        file: &File<'_>,
        definitions: &[Definition],
        places: &[Place],
        shared: &[(String, MapHandle)],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), ObjectError> {
        let Some(section) = file.section_by_name(".maps") else { return Ok(()) };
        let numbers: HashMap<Place, usize> = places.iter().enumerate().map(|(number, at)| (*at, number)).collect();
        for (offset, relocation) in section.relocations() {
            let holds = |d: &&Definition| d.section == section.index() && d.range.contains(&offset);
            let Some(definition) = definitions.iter().find(holds) else { continue };
            let (name, Some(first)) = (&definition.spec.name, definition.values_at) else { continue };
            if shared.iter().any(|(n, _)| n == name) {
                continue;
            }
            let index = offset.checked_sub(first).map_or(u64::MAX, |bytes| bytes / 8);
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let Some((called, at)) = initial(file, &relocation) else {
                return Err(ObjectError::map(name, "an initial value has no symbol"));
            };
            if let Some(outer) = self.map(name) {
                self.put_initial(outer, index, definitions, &at)?;
                continue;
            }
            let Some(array) = self.array(name) else { continue };
            let program = numbers.get(&at).and_then(|found| self.programs.get(*found));
            let Some(program) = program else {
                if !wanted(&called) || self.refused.iter().any(|(name, _)| *name == called) {
                    continue;
                }
                return Err(ObjectError::map(name, "an initial value is not a program"));
            };
            array.update(index, Some(program)).map_err(|error| ObjectError::Initial { map: name.clone(), error })?;
        }
        Ok(())
    }

    /// Makes the map whose definition is at `at` an entry of `outer`, unless it could not be made.
    fn put_initial(&self, outer: &Map, index: u32, definitions: &[Definition], at: &Place) -> Result<(), ObjectError> {
        let name = &outer.spec().name;
        let is_there = |d: &&Definition| d.section == at.0 && d.range.contains(&at.1);
        let inner = definitions.iter().find(is_there);
        let inner = inner.ok_or_else(|| ObjectError::map(name, "an initial value is not a map"))?;
        let Some(map) = self.map(&inner.spec.name) else { return Ok(()) };
        let mut key = index.to_le_bytes().to_vec();
        key.resize(outer.spec().key_size as usize, 0);
        outer.put(&key, map, Mode::Any).map_err(|error| ObjectError::Map { map: name.clone(), error })
    }
}

/// Section and first instruction of a program.
type Place = (SectionIndex, u64);

/// The program or map that an initial value's relocation names: its name, and where it is.
fn initial(file: &File<'_>, relocation: &object::Relocation) -> Option<(String, Place)> {
    let RelocationTarget::Symbol(index) = relocation.target() else { return None };
    let symbol = file.symbol_by_index(index).ok()?;
    Some((symbol.name().ok()?.into(), (symbol.section_index()?, symbol.address())))
}

fn parse(bytes: &[u8]) -> Result<File<'_>, ObjectError> {
    let file = File::parse(bytes).map_err(ObjectError::elf)?;
    if file.architecture() != object::Architecture::Bpf {
        return Err(ObjectError::OtherMachine);
    }
    if file.endianness() == object::Endianness::Big {
        return Err(ObjectError::BigEndian);
    }
    check_sizes(&file, bytes)?;
    Ok(file)
}

/// Refuses what is larger than any object, or stands for more than it is.
fn check_sizes(file: &File<'_>, bytes: &[u8]) -> Result<(), ObjectError> {
    let refuse = |what: String| Err(ObjectError::Elf(what));
    if bytes.len() > LARGEST {
        return refuse(format!("it is larger than {} MiB", LARGEST >> 20));
    }
    let table = file.elf_section_table();
    if table.len() > MOST_SECTIONS {
        return refuse(format!("it has more than {MOST_SECTIONS} sections"));
    }
    if file.elf_symbol_table().len() > MOST_SYMBOLS {
        return refuse(format!("it has more than {MOST_SYMBOLS} symbols"));
    }
    let endian = file.endian();
    let names = file.elf_header().shstrndx(endian, bytes).map_err(ObjectError::elf)? as usize;
    let mut all = 0_usize;
    for (index, section) in table.iter().enumerate() {
        // What has no bytes, like .bss, has none in common with others.
        let Some((start, size)) = section.file_range(endian) else { continue };
        let range = usize::try_from(start).ok().zip(usize::try_from(size).ok());
        let data = range.and_then(|(start, size)| bytes.get(start..start.checked_add(size)?)).unwrap_or_default();
        all += data.len();
        let is_names = section.sh_type(endian) == object::elf::SHT_STRTAB || index == names;
        if is_names && data.split(|byte| *byte == 0).any(|name| name.len() > LONGEST_NAME) {
            return refuse(format!("a name in it has more than {LONGEST_NAME} bytes"));
        }
    }
    if all > bytes.len() {
        return refuse("its sections overlap".into());
    }
    Ok(())
}

/// Maps of a file by name, or why one could not be made.
type Made = Vec<(String, Result<MapHandle, ObjectError>)>;

fn make_maps(
    runtime: &Runtime,
    definitions: &[Definition],
    shared: &[(String, MapHandle)],
) -> Result<Made, ObjectError> {
    let make = |definition: &Definition| {
        let spec = &definition.spec;
        let name = spec.name.clone();
        if let Some(why) = &definition.refused {
            return Ok((name, Err(why.clone())));
        }
        match shared.iter().find(|(other, _)| *other == name && !other.starts_with('.')) {
            Some((_, map)) => same(spec, map).map(|()| (name, Ok(map.clone()))),
            None if definition.pinned => Ok((name, make_pinned(runtime, definition)?)),
            None => Ok((name, make_one(runtime, definition))),
        }
    };
    definitions.iter().map(make).collect()
}

/// The runtime's map of that name that was loaded to be one for all, or a new one.
fn make_pinned(runtime: &Runtime, definition: &Definition) -> Result<Result<MapHandle, ObjectError>, ObjectError> {
    let mut pins = runtime.shared().pins();
    if let Some(owner) = pins.get(&definition.spec.name).and_then(std::sync::Weak::upgrade) {
        let map = MapHandle::Map(Map(owner));
        return same(&definition.spec, &map).map(|()| Ok(map));
    }
    let made = make_one(runtime, definition);
    if let Ok(MapHandle::Map(map)) = &made {
        pins.insert(definition.spec.name.clone(), Arc::downgrade(&map.0));
    }
    Ok(made)
}

fn make_one(runtime: &Runtime, definition: &Definition) -> Result<MapHandle, ObjectError> {
    let spec = &definition.spec;
    let fail = |error| ObjectError::Map { map: spec.name.clone(), error };
    if spec.kind == MapKind::ProgArray {
        return Ok(MapHandle::Array(ProgArray::from_spec(runtime, spec).map_err(fail)?));
    }
    let map = Map::new(runtime, spec).map_err(fail)?;
    if let Some(inner) = &definition.inner {
        map.set_inner(inner.clone());
    }
    if let Some(content) = &definition.content {
        map.set(&[0; 4], content, Mode::Any).map_err(fail)?;
    }
    if spec.read_only && spec.name.starts_with('.') {
        map.freeze();
    }
    Ok(MapHandle::Map(map))
}

/// Whether `map` is what the file says of a map of that name.
fn same(spec: &MapSpec, map: &MapHandle) -> Result<(), ObjectError> {
    let text = |spec: &MapSpec| {
        let MapSpec { kind, key_size, value_size, max_entries, read_only, .. } = spec;
        let access = if *read_only { ", read-only" } else { "" };
        format!("{kind:?} of {max_entries} entries with keys of {key_size} and values of {value_size} bytes{access}")
    };
    let there = match map {
        MapHandle::Map(map) => map.spec().clone(),
        // Keys and values of program arrays are numbers, however the file says so.
        MapHandle::Array(array) => MapSpec { kind: MapKind::ProgArray, max_entries: array.entries(), ..spec.clone() },
    };
    let differs = MapSpec { name: spec.name.clone(), ..there.clone() } != *spec;
    if differs && !cfg!(relpoline_broken = "shares-anything") {
        return Err(ObjectError::Shared { map: spec.name.clone(), there: text(&there), here: text(spec) });
    }
    Ok(())
}
