//! The built-in engine as a file in a cache.
//!
//! Whoever can exchange that file owns every program that is started with it: at once, or later, for its path
//! stays in `LD_PRELOAD`. So it lies in a directory that nobody but this user and root can change, and
//! neither any directory on the way to it ([`Directory::own`]); and its *content* is compared with the
//! built-in engine before each use. The hash in the name only keeps builds apart. It appears whole, so that
//! two commands starting at once both find a whole one.
//!
//! `/tmp` is no place for it, although what is ours there is safe: it is cleaned up from time to time, and
//! then anybody can make the directory whose path other processes still have in their environment.
//!
//! Others may read it: a program that changes its user may be started again under the new one.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::files::Directory;
use crate::files::written::PUBLIC;

/// Start of the names of our files.
pub const PREFIX: &str = "engine-";

/// The path of a file with this content, written if need be.
pub fn path_of(content: &[u8], hash: &str) -> anyhow::Result<PathBuf> {
    super::first_that_serves(directories(), |directory| place(directory, content, hash))
}

/// Where the file may lie, best place first. For root there are places that are nobody's home: with another
/// user's `HOME` (`sudo -E`, `su` without `-`) his own is none.
fn directories() -> impl Iterator<Item = PathBuf> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = rustix::process::geteuid();
    let cache = from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|home| home.join(".cache")));
    let system = ["/var/cache/relpoline", "/run/relpoline"].map(PathBuf::from);
    let system = system.into_iter().filter(move |_| user.is_root());
    let runtime = from("XDG_RUNTIME_DIR").map(|base| base.join(format!("relpoline-{}", user.as_raw())));
    cache.map(|base| base.join("relpoline")).into_iter().chain(system).chain(runtime)
}

/// Makes sure that `directory` has the file.
fn place(directory: &Path, content: &[u8], hash: &str) -> anyhow::Result<PathBuf> {
    let held = Directory::own(directory, true)?;
    let name = format!("{PREFIX}{hash}.so");
    let name = OsStr::new(&name);
    if !held.holds(name, content) {
        held.put(name, content, PUBLIC).context("cannot be written to")?;
    }
    Ok(directory.join(name))
}

/// Whether the file at `path` has this content, and nobody else can exchange it.
pub fn is_safe(path: &Path, content: &[u8]) -> bool {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
    Directory::own(parent, false).is_ok_and(|directory| directory.holds(name, content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_tampered_copy_is_replaced_and_an_open_directory_refused() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("cache/relpoline");
        let path = place(&directory, b"engine", "1").unwrap();
        assert!(is_safe(&path, b"engine"));
        fs::write(&path, b"evil").unwrap();
        assert!(!is_safe(&path, b"engine"));
        assert_eq!(fs::read(place(&directory, b"engine", "1").unwrap()).unwrap(), b"engine");
        for open in [&directory, &base.path().join("cache")] {
            fs::set_permissions(open, Permissions::from_mode(0o777)).unwrap();
            assert!(place(&directory, b"engine", "1").is_err() && !is_safe(&path, b"engine"));
            fs::set_permissions(open, Permissions::from_mode(0o755)).unwrap();
        }
        assert!(is_safe(&path, b"engine"));
    }
}
