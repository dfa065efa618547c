//! A directory to work in, which goes with the command: when it has done its work, and when a signal ends it
//! before.

use std::env;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ending::{self, Registered};
use crate::files::Directory;

/// Where temporary directories are made: as `TMPDIR` says, unless another user could exchange what is there
/// and this is root. (`su` keeps the variable.)
#[must_use]
pub fn base() -> PathBuf {
    let wanted = env::temp_dir();
    match Directory::for_scratch(&wanted) {
        Err(why) if wanted != Path::new(USUAL) => {
            crate::complain(format_args!("TMPDIR is not used: {}: {why}", wanted.display()));
            USUAL.into()
        }
        _ => wanted,
    }
}

/// The directory that every machine has for that.
const USUAL: &str = "/tmp";

/// See the module's text.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _registered: Registered,
}

impl Scratch {
    /// An empty directory that nobody else may enter, whose name begins with `relpoline-` and `name`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let (path, registered) = ending::register(|| {
            let (prefix, owner_only) = (format!("relpoline-{name}-"), Permissions::from_mode(0o700));
            let path = tempfile::Builder::new().prefix(&prefix).permissions(owner_only).tempdir_in(base())?.keep();
            let same = path.clone();
            Ok((path, Box::new(move || remove(&same))))
        })?;
        Ok(Self { path, _registered: registered })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a directory, into which somebody may be writing for a moment yet.
fn remove(path: &Path) {
    for _ in 0..100 {
        // Nothing can be done where that fails for good.
        let _ = std::fs::remove_dir_all(path);
        if !path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ours_alone_and_goes() {
        let scratch = Scratch::new("test").unwrap();
        let path = scratch.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(path.join("file"), "content").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
