//! Where everything lies: the repository, and below `target/bench-programs` what the driver fetches and
//! makes.
//!
//! ```text
//! apt/               private package lists, caches and fetched source packages
//! src/PACKAGE        unpacked source, never built in
//! build/PROGRAM/VARIANT        one built tree, with VARIANT.stamp and VARIANT.log beside it
//! run/PROGRAM        data, configuration and logs of running programs
//! READY.txt          what can be run by hand, and how
//! ```
//!
//! Two drivers at once would build into one tree and disturb each other's times. So each takes a
//! lock on the whole place, and a second one waits.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::variant::Variant;

/// The directories of one invocation.
pub struct Place {
    /// The repository.
    pub root: PathBuf,
    /// Root of everything above.
    pub work: PathBuf,
    /// Held open: the lock goes with it.
    _lock: File,
}

impl Place {
    /// Takes `work`, or the default below the repository's `target`, and creates it.
    pub fn new(work: Option<PathBuf>) -> Result<Place> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no repository")?.to_owned();
        let work = work.unwrap_or_else(|| root.join("target/bench-programs"));
        for part in ["apt", "src", "build", "run"] {
            fs::create_dir_all(work.join(part)).with_context(|| format!("creating {}/{part}", work.display()))?;
        }
        let work = work.canonicalize()?;
        let lock = File::create(work.join("lock"))?;
        if !try_lock(&lock, libc::LOCK_NB)? {
            eprintln!("xtask: waiting for another xtask in {}", work.display());
            try_lock(&lock, 0)?;
        }
        Ok(Place { root, work, _lock: lock })
    }

    /// The unpacked source of a package.
    pub fn source(&self, package: &str) -> PathBuf {
        self.work.join("src").join(package)
    }

    /// The tree in which a variant is built and from which it is run.
    pub fn built(&self, program: &str, variant: Variant) -> PathBuf {
        self.work.join("build").join(program).join(variant.binaries().name())
    }

    /// A file beside that tree: its stamp, log or compiler.
    pub fn beside(&self, program: &str, variant: Variant, suffix: &str) -> PathBuf {
        self.work.join("build").join(program).join(format!("{}.{suffix}", variant.binaries().name()))
    }

    /// The directory for data and logs of a running program, created when missing.
    pub fn run(&self, program: &str) -> Result<PathBuf> {
        let dir = self.work.join("run").join(program);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }

    /// The workload files that come with xtask.
    pub fn workload(&self, file: &str) -> PathBuf {
        self.root.join("xtask/workloads").join(file)
    }
}

/// Locks a file for this process alone; with `LOCK_NB` says whether it could, else waits. The lock ends with
/// the open file, so a driver that is killed leaves none behind.
fn try_lock(file: &File, how: i32) -> Result<bool> {
    // SAFETY: flock takes a descriptor, which the borrowed file keeps open, and a number.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | how) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { bail!("locking: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_has_to_wait_for_the_first() {
        let path = std::env::temp_dir().join(format!("xtask-lock-{}", std::process::id()));
        let (first, second) = (File::create(&path).expect("a file"), File::create(&path).expect("a file"));
        assert_eq!(try_lock(&first, libc::LOCK_NB).ok(), Some(true));
        assert_eq!(try_lock(&second, libc::LOCK_NB).ok(), Some(false));
        drop(first);
        assert_eq!(try_lock(&second, libc::LOCK_NB).ok(), Some(true));
        fs::remove_file(path).expect("removed");
    }
}
