//! Names for addresses in a process, from the ELF files on disk.
//!
//! The process may be gone, so its memory cannot be asked. A file is only believed if its build-id is the one
//! the engine saw in memory: a package upgrade under a running server must not yield plausible wrong names.
//! For a stripped file the separate debug file of the same build-id is tried. The files of a process in a
//! container are those below its root directory.

pub mod names;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSegment as _};
use relpoline_stats::ObjectRecord;
use relpoline_stats::file::text;

use crate::files::open;
use crate::files::parts::Parts;
use crate::shown::{self, Shown};
use names::{Names, Room};

/// Bytes that are read of all files of a process together.
const MOST_BYTES: u64 = 1 << 29;
/// Segments of a file that are looked at.
const MOST_SEGMENTS: usize = 1024;

/// What may still be read and kept.
struct Budget {
    bytes: u64,
    room: Room,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes: MOST_BYTES, room: Room::default() }
    }
}

/// The files read so far.
#[derive(Default)]
pub struct Symbols {
    /// What comes before the paths.
    root: PathBuf,
    /// No file is looked into, and there are no names.
    is_blind: bool,
    files: HashMap<PathBuf, Table>,
    budget: Budget,
    /// Names that were asked for, by address: thousands of sites have the same targets.
    asked: RefCell<HashMap<u64, Option<Shown>>>,
}

/// Where a file was mapped.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    base: u64,
    /// Addresses that it occupies when loaded at 0; none when nothing is known of it.
    end: u64,
}

impl Mapped {
    /// The offset in it of an address in memory. Thousands of addresses are looked for in thousands of
    /// objects.
    fn offset(&self, address: u64) -> Option<u64> {
        address.checked_sub(self.base).filter(|offset| *offset < self.end)
    }
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
        Self { root, ..Self::default() }
    }

    /// For who wants no names.
    #[must_use]
    pub fn none() -> Self {
        Self { is_blind: true, ..Self::default() }
    }

    /// Reads an object's file, unless it has been read.
    pub fn map(&mut self, record: &ObjectRecord) -> Mapped {
        let path = PathBuf::from(OsStr::from_bytes(text(&record.path)));
        let build_id = record.build_id.get(..usize::from(record.build_id_len)).unwrap_or_default();
        if !self.files.contains_key(&path) {
            let file = if self.is_blind { None } else { open::below(&self.root, &path).ok() };
            let table = file.and_then(|file| Table::read(file, build_id, &mut self.budget)).unwrap_or_default();
            self.files.insert(path.clone(), table);
            self.asked.get_mut().clear();
        }
        let end = self.files.get(&path).map_or(0, |table| table.end);
        Mapped { path, base: record.base, end }
    }

    /// `function` or `function+0xoffset` for an address in memory.
    pub fn name(&self, mapped: &[Mapped], address: u64) -> Option<Shown> {
        let find = || {
            mapped.iter().find_map(|object| {
                let offset = object.offset(address)?;
                let table = self.files.get(&object.path)?;
                table.names.place(offset)
            })
        };
        self.asked.borrow_mut().entry(address).or_insert_with(find).clone()
    }

    /// The object around an address in memory, by its place in `mapped`, and the address' offset in it.
    pub fn object(&self, mapped: &[Mapped], address: u64) -> Option<(usize, u64)> {
        mapped.iter().enumerate().find_map(|(index, object)| Some((index, object.offset(address)?)))
    }

    /// First address of the function around an address in memory.
    pub fn start(&self, mapped: &[Mapped], address: u64) -> Option<u64> {
        mapped.iter().find_map(|object| {
            let offset = object.offset(address)?;
            let table = self.files.get(&object.path)?;
            Some(address - table.names.within(offset)?)
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
        let mut budget = Budget::default();
        let mut table = |(id, path): (&[u8], &str)| {
            Some((id.to_vec(), Table::read(open::plain(Path::new(path)).ok()?, id, &mut budget)?))
        };
        Self(files.filter_map(&mut table).collect())
    }

    /// Whether the file of a build is there.
    pub fn has(&self, build_id: &[u8]) -> bool {
        self.0.contains_key(build_id)
    }

    /// `function` or `function+0xoffset` for an offset in a file.
    pub fn place(&self, build_id: &[u8], offset: u64) -> Option<Shown> {
        self.0.get(build_id)?.names.place(offset)
    }

    /// The function around an offset in a file.
    pub fn function(&self, build_id: &[u8], offset: u64) -> Option<Shown> {
        self.0.get(build_id)?.names.function(offset)
    }

    /// The same as it stands in the file, and how far into it the offset is. Names that would not be one word
    /// of another tool's file are left out.
    pub fn raw(&self, build_id: &[u8], offset: u64) -> Option<(String, u64)> {
        self.0.get(build_id)?.names.raw_around(offset).filter(|(name, _)| shown::is_word(name))
    }
}

/// The build-id of a file, as far as statistics and profiles keep it.
///
/// # Errors
/// When the file cannot be read or has none.
pub fn build_id_of(path: &Path) -> anyhow::Result<Vec<u8>> {
    use anyhow::Context;
    let cannot = || format!("{} cannot be read", path.display());
    let parts = Parts::new(open::plain(path).with_context(cannot)?, MOST_BYTES).with_context(cannot)?;
    let file = object::File::parse(&parts).with_context(|| format!("{} is no ELF file", path.display()))?;
    let id = file.build_id().ok().flatten().with_context(|| format!("{} has no build-id", path.display()))?;
    Ok(id.iter().copied().take(20).collect())
}

impl Table {
    fn read(file: File, build_id: &[u8], budget: &mut Budget) -> Option<Self> {
        let parts = Parts::new(file, budget.bytes).ok()?;
        let table = Self::parse(&parts, build_id, budget);
        budget.bytes = budget.bytes.saturating_sub(parts.spent());
        table
    }

    fn parse(parts: &Parts, build_id: &[u8], budget: &mut Budget) -> Option<Self> {
        let file = object::File::parse(parts).ok()?;
        // Without one in memory there is nothing to compare.
        if !build_id.is_empty() && file.build_id().ok()?.unwrap_or_default() != build_id {
            return None;
        }
        let segments = file.segments().take(MOST_SEGMENTS);
        let end = segments.map(|segment| segment.address().saturating_add(segment.size())).max()?;
        let mut names = Names::read(&file, &mut budget.room);
        if names.is_stripped {
            let debug = debug_file(build_id).and_then(|file| Parts::new(file, budget.bytes).ok());
            let debug = debug.as_ref().and_then(|parts| object::File::parse(parts).ok());
            if let Some(debug) = debug.filter(|debug| debug.build_id().ok().flatten() == Some(build_id)) {
                names.add(&debug, &mut budget.room);
            }
        }
        Some(Self { end, names })
    }
}

/// The separate debug file of a build-id, where distributions put it.
fn debug_file(build_id: &[u8]) -> Option<File> {
    let (first, rest) = build_id.split_first()?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    open::plain(Path::new(&format!("/usr/lib/debug/.build-id/{first:02x}/{rest}.debug"))).ok()
}
