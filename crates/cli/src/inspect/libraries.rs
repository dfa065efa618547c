//! The libraries a file is linked to, and whether they have retpolines.
//!
//! They are looked for where the loader looks (ld.so(8)): the file's own run path, the folders of
//! `/etc/ld.so.conf`, the default folders. `LD_LIBRARY_PATH` belongs to a run: who knows of one gives its
//! folders.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use object::elf as tags;
use relpoline_core::arch::thunk;

use super::elf::Elf;
use super::findings::Library;
use crate::files::{Parts, open};
use crate::shown::Shown;

const DEFAULT: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// Configuration files are read to this depth of `include`, and none that is larger.
const MOST_INCLUDES: usize = 8;
const LARGEST_CONFIGURATION: u64 = 1 << 20;
/// Libraries looked at.
const MOST_LIBRARIES: usize = 500;
/// Bytes that are read of all of them together.
const MOST_BYTES: u64 = 1 << 30;
/// Folders that a file may name, and how long a path may be: a list of them may be repeated for each of many
/// libraries.
const MOST_FOLDERS: usize = 64;
const LONGEST_PATH: usize = 4096;

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
        let places = folders_of_run.iter().chain(&*folders).chain(&system).map(|folder| folder.join(&name));
        let mut there = places.filter_map(|place| Some((open::plain(&place).ok()?, place)));
        let (parts, place) =
            there.next().map_or((None, None), |(file, place)| (Parts::new(file, left).ok(), Some(place)));
        let library = parts.as_ref().and_then(|parts| Elf::parse(parts).ok());
        if let (Some(place), Some(library)) = (&place, &library) {
            let room = MOST_LIBRARIES.saturating_sub(wanted.len());
            wanted.extend(self::wanted(place, library).into_iter().take(room));
        }
        let thunks = library.map(|library| library.texts().map(|text| thunk::find(text.bytes).count()).sum());
        left = left.saturating_sub(parts.as_ref().map_or(0, Parts::spent));
        let path = place.map(|place| Shown::of_bytes(place.as_os_str().as_bytes()));
        found.push(Library { name: name.into(), path, thunks });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// What a file asks for, with its own folders to look in.
fn wanted(path: &Path, elf: &Elf<'_>) -> Vec<(String, Rc<[PathBuf]>)> {
    let own = path.canonicalize().ok().and_then(|path| Some(path.parent()?.to_string_lossy().into_owned()));
    let origin = own.unwrap_or_default();
    let lists: Vec<String> = [tags::DT_RPATH, tags::DT_RUNPATH].into_iter().flat_map(|tag| elf.strings(tag)).collect();
    let folders: Rc<[PathBuf]> = folders(&lists, &origin).into();
    elf.strings(tags::DT_NEEDED).into_iter().map(|name| (name, Rc::clone(&folders))).collect()
}

/// The folders of run paths, of a file in the folder `origin`.
fn folders(lists: &[String], origin: &str) -> Vec<PathBuf> {
    let all = lists.iter().flat_map(|list| list.split(':'));
    let longest = |folder: &str| folder.len() + folder.matches("ORIGIN").count() * origin.len();
    let expand = |folder: &str| PathBuf::from(folder.replace("$ORIGIN", origin).replace("${ORIGIN}", origin));
    all.filter(|folder| longest(folder) <= LONGEST_PATH).take(MOST_FOLDERS).map(expand).collect()
}

fn system_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    configured(Path::new("/etc/ld.so.conf"), &mut folders, 0);
    folders.extend(DEFAULT.map(PathBuf::from));
    folders
}

/// The folders that a configuration file names. Of `include` patterns only the usual `folder/*.conf` is
/// understood; a relative one is meant from where the file is, not from where we are.
fn configured(file: &Path, folders: &mut Vec<PathBuf>, depth: usize) {
    let bytes = open::whole(file, LARGEST_CONFIGURATION).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("include") {
            Some(pattern) if depth < MOST_INCLUDES => {
                let pattern = file.parent().unwrap_or(Path::new("/")).join(pattern.trim());
                for included in matching(&pattern) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As on Fedora: `include ld.so.conf.d/*.conf` in /etc/ld.so.conf.
    #[test]
    fn what_is_included_lies_beside_the_file() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        fs::create_dir(at("more")).unwrap();
        fs::write(at("ld.so.conf"), "/first\ninclude more/*.conf\n").unwrap();
        fs::write(at("more/a.conf"), "# /not\n/second\n").unwrap();
        // What is no file is not waited for.
        rustix::fs::mknodat(rustix::fs::CWD, at("more/b.conf"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("more/c.conf")).unwrap();
        let mut folders = Vec::new();
        configured(&at("ld.so.conf"), &mut folders, 0);
        assert_eq!(folders, ["/first", "/second"].map(PathBuf::from));
    }

    #[test]
    fn run_paths_are_expanded_and_have_an_end() {
        let of = |list: &str, origin: &str| folders(&[list.to_owned()], origin);
        assert_eq!(of("$ORIGIN/../lib:${ORIGIN}:/opt", "/a/b"), ["/a/b/../lib", "/a/b", "/opt"].map(PathBuf::from));
        // Each says little and stands for much.
        assert_eq!(of(&"$ORIGIN".repeat(500), &"/x".repeat(1000)), Vec::<PathBuf>::new());
        assert_eq!(of(&":".repeat(4000), "/").len(), MOST_FOLDERS);
    }
}
