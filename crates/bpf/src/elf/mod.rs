//! Object files: what clang makes of C for `-target bpf`.
//!
//! | part | module |
//! |---|---|
//! | map definitions | [`maps`] |
//! | type information | [`btf`] |
//! | programs, calls, references | [`link`] |
//!
//! A file is loaded as a whole: maps first, then programs, then what program arrays hold initially. Nothing in
//! it is trusted; whatever is malformed is an [`ObjectError`] that names the place.

mod btf;
mod link;
mod maps;

use crate::array::{ProgArray, UpdateError};
use crate::map::{Map, MapError, MapKind, Mode};
use crate::program::{LoadError, MapHandle, Options, Program, Source};
use crate::runtime::Runtime;
use link::{Code, Linked};
use maps::Definition;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};
use std::sync::Arc;

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

/// The programs and maps of a loaded object file.
#[derive(Clone, Debug)]
pub struct Object {
    programs: Vec<Program>,
    maps: Vec<(String, MapHandle)>,
}

impl Object {
    /// Loads the object file `bytes` into a runtime.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn load(runtime: &Runtime, bytes: &[u8], options: Options) -> Result<Object, ObjectError> {
        Object::load_sharing(runtime, bytes, options, &[])
    }

    /// As [`Object::load`], but maps called like one of `shared` are that map instead of a new one. Arrays among
    /// them keep the programs they have.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn load_sharing(
        runtime: &Runtime,
        bytes: &[u8],
        options: Options,
        shared: &[(String, MapHandle)],
    ) -> Result<Object, ObjectError> {
        let file = parse(bytes)?;
        let definitions = maps::definitions(&file)?;
        let code = Code::read(&file, &definitions)?;
        let linked = code.programs()?;
        let maps = make_maps(runtime, &definitions, shared)?;
        let keep = Arc::new(maps.iter().map(|(_, map)| map.clone()).collect::<Vec<_>>());
        let load = |one: &Linked| {
            let maps: Vec<MapHandle> = one.maps.iter().map(|m| maps[*m].1.clone()).collect();
            let source = Source { name: &one.name, section: &one.section, insns: &one.insns, maps: &maps };
            Program::load_keeping(runtime, source, options, keep.clone())
        };
        let programs = linked.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        let object = Object { programs, maps };
        object.fill_arrays(&file, &definitions, &linked, shared)?;
        Ok(object)
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

    /// Puts in place what `__array(values, …)` says program arrays hold.
    fn fill_arrays(
        &self,
        file: &File<'_>,
        definitions: &[Definition],
        linked: &[Linked],
        shared: &[(String, MapHandle)],
    ) -> Result<(), ObjectError> {
        let Some(section) = file.section_by_name(".maps") else { return Ok(()) };
        for (offset, relocation) in section.relocations() {
            let holds = |d: &&Definition| d.section == section.index() && d.range.contains(&offset);
            let Some(definition) = definitions.iter().find(holds) else { continue };
            let name = &definition.spec.name;
            let (Some(array), Some(first)) = (self.array(name), definition.programs_at) else { continue };
            if shared.iter().any(|(n, _)| n == name) {
                continue;
            }
            let program = initial(file, &relocation, linked).and_then(|at| self.programs.get(at));
            let program = program.ok_or_else(|| ObjectError::map(name, "an initial value is not a program"))?;
            let index = offset.checked_sub(first).map_or(u64::MAX, |bytes| bytes / 8);
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            array.update(index, Some(program)).map_err(|error| ObjectError::Initial { map: name.clone(), error })?;
        }
        Ok(())
    }
}

/// The program that an initial value's relocation names.
fn initial(file: &File<'_>, relocation: &object::Relocation, linked: &[Linked]) -> Option<usize> {
    let RelocationTarget::Symbol(index) = relocation.target() else { return None };
    let symbol = file.symbol_by_index(index).ok()?;
    let at = (symbol.section_index()?, symbol.address());
    linked.iter().position(|program| program.at == at)
}

fn parse(bytes: &[u8]) -> Result<File<'_>, ObjectError> {
    let file = File::parse(bytes).map_err(ObjectError::elf)?;
    if file.architecture() != object::Architecture::Bpf {
        return Err(ObjectError::OtherMachine);
    }
    if file.endianness() == object::Endianness::Big {
        return Err(ObjectError::BigEndian);
    }
    Ok(file)
}

fn make_maps(
    runtime: &Runtime,
    definitions: &[Definition],
    shared: &[(String, MapHandle)],
) -> Result<Vec<(String, MapHandle)>, ObjectError> {
    let make = |definition: &Definition| {
        let spec = &definition.spec;
        let fail = |error| ObjectError::Map { map: spec.name.clone(), error };
        if let Some((name, map)) = shared.iter().find(|(name, _)| *name == spec.name && !name.starts_with('.')) {
            return Ok((name.clone(), map.clone()));
        }
        let map = if spec.kind == MapKind::ProgArray {
            MapHandle::Array(ProgArray::from_spec(runtime, spec).map_err(fail)?)
        } else {
            let map = Map::new(runtime, spec).map_err(fail)?;
            if let Some(content) = &definition.content {
                map.set(&[0; 4], content, Mode::Any).map_err(fail)?;
            }
            if spec.read_only && spec.name.starts_with('.') {
                map.freeze();
            }
            MapHandle::Map(map)
        };
        Ok((spec.name.clone(), map))
    };
    definitions.iter().map(make).collect()
}
