//! Names for addresses in a process, from the ELF files on disk.
//!
//! The process may be gone, so its memory cannot be asked. A file is only believed if its build-id is the one
//! the engine saw in memory: a package upgrade under a running server must not yield plausible wrong names.
//! For a stripped file the separate debug file of the same build-id is tried. The files of a process in a container
//! are those below its root directory.

pub mod names;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSegment as _};
use relpoline_stats::ObjectRecord;
use relpoline_stats::file::text;

use names::Names;

/// Larger files are not read.
const MOST_BYTES: u64 = 1 << 32;

/// The files read so far.
#[derive(Default)]
pub struct Symbols {
    /// What comes before the paths.
    root: PathBuf,
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
    names: Names,
}

impl Symbols {
    /// For a process whose paths begin at `root`.
    pub fn below(root: PathBuf) -> Self {
        Self { root, files: HashMap::new() }
    }

    /// Reads an object's file, unless it has been read.
    pub fn map(&mut self, record: &ObjectRecord) -> Mapped {
        let path = PathBuf::from(OsStr::from_bytes(text(&record.path)));
        let build_id = record.build_id.get(..usize::from(record.build_id_len)).unwrap_or_default();
        if !self.files.contains_key(&path) {
            let table = Table::read(&below(&self.root, &path), build_id).unwrap_or_default();
            self.files.insert(path.clone(), table);
        }
        Mapped { path, base: record.base }
    }

    /// `function` or `function+0xoffset` for an address in memory.
    pub fn name(&self, mapped: &[Mapped], address: u64) -> Option<String> {
        mapped.iter().find_map(|object| {
            let table = self.files.get(&object.path)?;
            let offset = address.checked_sub(object.base).filter(|offset| *offset < table.end)?;
            table.names.place(offset)
        })
    }

    /// The object around an address in memory, by its place in `mapped`, and the address' offset in it.
    pub fn object(&self, mapped: &[Mapped], address: u64) -> Option<(usize, u64)> {
        mapped.iter().enumerate().find_map(|(index, object)| {
            let table = self.files.get(&object.path)?;
            let offset = address.checked_sub(object.base).filter(|offset| *offset < table.end)?;
            Some((index, offset))
        })
    }

    /// First address of the function around an address in memory.
    pub fn start(&self, mapped: &[Mapped], address: u64) -> Option<u64> {
        mapped.iter().find_map(|object| {
            let table = self.files.get(&object.path)?;
            let offset = address.checked_sub(object.base).filter(|offset| *offset < table.end)?;
            let (_, within) = table.names.around(offset)?;
            Some(address - within)
        })
    }

    /// First address and size, in memory, of the functions of this name.
    pub fn find(&self, mapped: &[Mapped], name: &str) -> Vec<(u64, u64)> {
        let in_object = |object: &Mapped| {
            let found = self.files.get(&object.path).map(|table| table.names.find(name)).unwrap_or_default();
            found.into_iter().map(|(address, size)| (address.saturating_add(object.base), size)).collect::<Vec<_>>()
        };
        mapped.iter().flat_map(in_object).collect()
    }
}

/// Names for places in files of known builds, wherever they would be mapped.
#[derive(Default)]
pub struct Known(HashMap<Vec<u8>, Table>);

impl Known {
    /// Reads those files, given by build-id and path, that are still of that build.
    pub fn read<'a>(files: impl Iterator<Item = (&'a [u8], &'a str)>) -> Self {
        let table = |(id, path): (&[u8], &str)| Some((id.to_vec(), Table::read(Path::new(path), id)?));
        Self(files.filter_map(table).collect())
    }

    /// Whether the file of a build is there.
    pub fn has(&self, build_id: &[u8]) -> bool {
        self.0.contains_key(build_id)
    }

    /// `function` or `function+0xoffset` for an offset in a file.
    pub fn place(&self, build_id: &[u8], offset: u64) -> Option<String> {
        self.0.get(build_id)?.names.place(offset)
    }

    /// The function around an offset in a file.
    pub fn function(&self, build_id: &[u8], offset: u64) -> Option<String> {
        self.0.get(build_id)?.names.function(offset)
    }

    /// The same as it stands in the file, and how far into it the offset is.
    pub fn raw(&self, build_id: &[u8], offset: u64) -> Option<(String, u64)> {
        self.0.get(build_id)?.names.raw_around(offset)
    }
}

/// The build-id of a file, as far as statistics and profiles keep it.
///
/// # Errors
/// When the file cannot be read or has none.
pub fn build_id_of(path: &Path) -> anyhow::Result<Vec<u8>> {
    use anyhow::Context;
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no ELF file", path.display()))?;
    let id = file.build_id().ok().flatten().with_context(|| format!("{} has no build-id", path.display()))?;
    Ok(id.iter().copied().take(20).collect())
}

/// A path as seen from `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    if root.as_os_str().is_empty() { path.to_owned() } else { root.join(path.strip_prefix("/").unwrap_or(path)) }
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
        let mut names = Names::read(&file);
        if names.is_stripped {
            let bytes = debug_file(build_id).unwrap_or_default();
            if let Ok(debug) = object::File::parse(&*bytes) {
                names.add(&debug);
            }
        }
        Some(Self { end, names })
    }
}

/// The separate debug file of a build-id, where distributions put it.
fn debug_file(build_id: &[u8]) -> Option<Vec<u8>> {
    let (first, rest) = build_id.split_first()?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::read(format!("/usr/lib/debug/.build-id/{first:02x}/{rest}.debug")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_a_container_lie_below_its_root() {
        assert_eq!(below(Path::new(""), Path::new("/bin/a")), Path::new("/bin/a"));
        assert_eq!(below(Path::new("/proc/7/root"), Path::new("/bin/a")), Path::new("/proc/7/root/bin/a"));
    }
}
