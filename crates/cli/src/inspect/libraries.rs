//! The libraries a file is linked to, and whether they have retpolines.
//!
//! They are looked for where the loader looks (ld.so(8)): the file's own run path, the folders of
//! `/etc/ld.so.conf`, the default folders. `LD_LIBRARY_PATH` belongs to a run: who knows of one gives its folders.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use object::elf as tags;
use relpoline_core::arch::thunk;

use super::elf::Elf;
use super::findings::Library;
use crate::files::open;
use crate::shown::Shown;

const DEFAULT: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// Configuration files are read to this depth of `include`.
const MOST_INCLUDES: usize = 8;
/// Libraries looked at.
const MOST_LIBRARIES: usize = 500;
/// Bytes that are read of all of them together.
const MOST_BYTES: u64 = 1 << 31;

/// All libraries, those of libraries included; looked for in these folders of a run's first.
pub fn examine(path: &Path, elf: &Elf<'_>, folders_of_run: &[PathBuf]) -> Vec<Library> {
    let system = system_folders();
    let mut found: Vec<Library> = Vec::new();
    let mut left = MOST_BYTES;
    let mut seen = HashSet::new();
    let mut wanted = wanted(path, elf);
    while let Some((name, folders)) = wanted.pop() {
        if !seen.insert(name.clone()) || found.len() >= MOST_LIBRARIES {
            continue;
        }
        let places = folders_of_run.iter().chain(&folders).chain(&system);
        let place = places.map(|folder| folder.join(&name)).find(|place| place.is_file());
        let bytes = place.as_ref().and_then(|place| open::whole(place, left).ok()).unwrap_or_default();
        left -= bytes.len() as u64;
        let library = Elf::parse(&bytes).ok();
        if let (Some(place), Some(library)) = (&place, &library) {
            wanted.extend(self::wanted(place, library));
        }
        let thunks = library.map(|library| library.texts().map(|text| thunk::find(text.bytes).count()).sum());
        let path = place.map(|place| Shown::of_bytes(place.as_os_str().as_bytes()));
        found.push(Library { name: name.into(), path, thunks });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// What a file asks for, with its own folders to look in.
fn wanted(path: &Path, elf: &Elf<'_>) -> Vec<(String, Vec<PathBuf>)> {
    let own = path.canonicalize().ok().and_then(|path| Some(path.parent()?.to_string_lossy().into_owned()));
    let origin = own.unwrap_or_default();
    let listed = [tags::DT_RPATH, tags::DT_RUNPATH].into_iter().flat_map(|tag| elf.strings(tag));
    let expand = |folder: &str| PathBuf::from(folder.replace("$ORIGIN", &origin).replace("${ORIGIN}", &origin));
    let folders: Vec<PathBuf> = listed.flat_map(|list| list.split(':').map(expand).collect::<Vec<_>>()).collect();
    elf.strings(tags::DT_NEEDED).into_iter().map(|name| (name, folders.clone())).collect()
}

fn system_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    configured(Path::new("/etc/ld.so.conf"), &mut folders, 0);
    folders.extend(DEFAULT.map(PathBuf::from));
    folders
}

/// The folders that a configuration file names. Of `include` patterns only the usual `folder/*.conf` is
/// understood.
fn configured(file: &Path, folders: &mut Vec<PathBuf>, depth: usize) {
    let text = fs::read_to_string(file).unwrap_or_default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("include") {
            Some(pattern) if depth < MOST_INCLUDES => {
                for included in matching(Path::new(pattern.trim())) {
                    configured(&included, folders, depth + 1);
                }
            }
            None if line.starts_with('/') => folders.push(line.into()),
            _ => {}
        }
    }
}

fn matching(pattern: &Path) -> Vec<PathBuf> {
    let Some(folder) = pattern.parent() else {
        return Vec::new();
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "conf")).collect();
    files.sort();
    files
}
