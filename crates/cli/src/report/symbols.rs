//! Names for addresses, from the ELF files on disk.
//!
//! The process may be gone, so its memory cannot be asked. A file is only believed if its build-id is the one
//! the engine saw in memory: a package upgrade under a running server must not yield plausible wrong names.
//! For a stripped file the separate debug file of the same build-id is tried.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _, SymbolKind};
use relpoline_stats::ObjectRecord;
use relpoline_stats::file::text;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Larger files are not read.
const MOST_BYTES: u64 = 1 << 32;

/// The files read so far.
#[derive(Default)]
pub struct Symbols {
    files: HashMap<PathBuf, Table>,
}

/// Where a file was mapped.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    base: u64,
}

/// What is known of a file.
#[derive(Default)]
struct Table {
    /// Addresses it occupies when loaded at 0.
    end: u64,
    /// By address.
    functions: Vec<Function>,
}

struct Function {
    address: u64,
    size: u64,
    name: String,
}

impl Symbols {
    /// Reads an object's file, unless it has been read.
    pub fn map(&mut self, record: &ObjectRecord) -> Mapped {
        let path = PathBuf::from(OsStr::from_bytes(text(&record.path)));
        let build_id = record.build_id.get(..usize::from(record.build_id_len)).unwrap_or_default();
        if !self.files.contains_key(&path) {
            let table = Table::read(&path, build_id).unwrap_or_default();
            self.files.insert(path.clone(), table);
        }
        Mapped { path, base: record.base }
    }

    /// `function` or `function+0xoffset` for an address in memory.
    pub fn name(&self, mapped: &[Mapped], address: u64) -> Option<String> {
        mapped.iter().find_map(|object| {
            let table = self.files.get(&object.path)?;
            let offset = address.checked_sub(object.base).filter(|offset| *offset < table.end)?;
            table.name(offset)
        })
    }
}

impl Table {
    fn read(path: &Path, build_id: &[u8]) -> Option<Self> {
        // Not a fifo or something endless (/proc/kcore), which the path in a hostile record might name.
        fs::metadata(path).ok().filter(|meta| meta.is_file() && meta.len() <= MOST_BYTES)?;
        let bytes = fs::read(path).ok()?;
        let file = object::File::parse(&*bytes).ok()?;
        // Without one in memory there is nothing to compare.
        if !build_id.is_empty() && file.build_id().ok()?.unwrap_or_default() != build_id {
            return None;
        }
        let end = file.segments().map(|segment| segment.address().saturating_add(segment.size())).max()?;
        let mut functions = functions(&file);
        if file.symbol_table().is_none() {
            functions.extend(debug_functions(build_id));
        }
        functions.sort_by_key(|function| (function.address, function.size == 0));
        functions.dedup_by_key(|function| function.address);
        Some(Self { end, functions })
    }

    fn name(&self, offset: u64) -> Option<String> {
        let after = self.functions.partition_point(|function| function.address <= offset);
        let function = self.functions.get(after.checked_sub(1)?)?;
        let within = offset - function.address;
        if function.size != 0 && within >= function.size {
            return None;
        }
        let name = demangle(&function.name);
        Some(if within == 0 { name } else { format!("{name}+{within:#x}") })
    }
}

/// The functions that a file names.
fn functions(file: &object::File<'_>) -> Vec<Function> {
    let symbols = file.symbols().chain(file.dynamic_symbols());
    let code = symbols.filter(|symbol| symbol.is_definition() && symbol.kind() == SymbolKind::Text);
    code.filter_map(|symbol| {
        let name = symbol.name().ok().filter(|name| !name.is_empty())?.to_owned();
        Some(Function { address: symbol.address(), size: symbol.size(), name })
    })
    .collect()
}

/// The functions in the separate debug file of a build-id, where distributions put it.
fn debug_functions(build_id: &[u8]) -> Vec<Function> {
    let Some((first, rest)) = build_id.split_first() else {
        return Vec::new();
    };
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = format!("/usr/lib/debug/.build-id/{first:02x}/{rest}.debug");
    let bytes = fs::read(path).unwrap_or_default();
    object::File::parse(&*bytes).map(|file| functions(&file)).unwrap_or_default()
}

/// The name as it was in the source: Rust, C++, or as it stands.
fn demangle(name: &str) -> String {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}");
    }
    let cpp = name.starts_with("_Z").then(|| cpp_demangle::Symbol::new(name).ok()?.demangle().ok());
    cpp.flatten().unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_in_the_source() {
        assert_eq!(demangle("_ZN3foo3barEi"), "foo::bar(int)");
        assert_eq!(demangle("_RNvC4core3run"), "core::run");
        assert_eq!(demangle("main"), "main");
    }

    #[test]
    fn an_address_is_named_by_the_function_around_it() {
        let function = |address, size, name: &str| Function { address, size, name: name.into() };
        let table = Table { end: 99, functions: vec![function(16, 16, "f"), function(64, 0, "g")] };
        let names: Vec<_> = [15, 16, 20, 32, 70].map(|at| table.name(at)).into();
        assert_eq!(names, [None, Some("f".into()), Some("f+0x4".into()), None, Some("g+0x6".into())]);
    }
}
