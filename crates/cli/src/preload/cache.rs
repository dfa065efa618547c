//! The built-in engine as a file in the user's cache.
//!
//! Whoever can change that file owns every program that is started with it. So it lies in a directory only
//! its owner can write to, it must belong to us (or root) and be writable by nobody else, and its *content*
//! is compared with the built-in engine before each use; the hash in the name only keeps builds apart. It is
//! written to a temporary file and renamed, so that two commands starting at once both find a whole one.
//! Others may read it: a program that changes its user may be started again under the new one.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Start of the names of our files.
pub const PREFIX: &str = "engine-";

/// The path of a file with this content, written if need be.
pub fn path_of(content: &[u8], hash: &str) -> anyhow::Result<PathBuf> {
    super::first_that_serves(directories(), |directory| place(directory, content, hash))
}

/// Where the file may lie, best place first.
fn directories() -> impl Iterator<Item = PathBuf> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = rustix::process::getuid().as_raw();
    let cache = from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|home| home.join(".cache")));
    let private = [from("XDG_RUNTIME_DIR"), Some(std::env::temp_dir())];
    let private = private.into_iter().flatten().map(move |base| base.join(format!("relpoline-{user}")));
    cache.map(|base| base.join("relpoline")).into_iter().chain(private)
}

/// Makes sure that `directory` has the file.
fn place(directory: &Path, content: &[u8], hash: &str) -> anyhow::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    ensure!(is_ours(directory)?, "belongs to somebody else or can be written to by others");
    let path = directory.join(format!("{PREFIX}{hash}.so"));
    if !holds(&path, content) {
        write(directory, &path, content).context("cannot be written to")?;
    }
    Ok(path)
}

/// Whether the file is one we may trust and has this content.
fn holds(path: &Path, content: &[u8]) -> bool {
    is_ours(path).unwrap_or(false) && fs::read(path).is_ok_and(|bytes| bytes == content)
}

/// Whether nobody but us and root can change what is at `path`; a symbolic link is not ours.
fn is_ours(path: &Path) -> io::Result<bool> {
    let meta = fs::symlink_metadata(path)?;
    let owner = [0, rustix::process::getuid().as_raw()].contains(&meta.uid());
    Ok(owner && meta.mode() & 0o022 == 0 && !meta.is_symlink())
}

/// Writes a whole file and renames it into place.
fn write(directory: &Path, path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(content)?;
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tampered_copy_is_replaced_and_an_open_directory_refused() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("relpoline");
        let path = place(&directory, b"engine", "1").unwrap();
        fs::write(&path, b"evil").unwrap();
        assert_eq!(fs::read(place(&directory, b"engine", "1").unwrap()).unwrap(), b"engine");
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        place(&directory, b"engine", "1").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        assert!(place(&directory, b"engine", "1").is_err());
    }
}
