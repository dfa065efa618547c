//! The directories for statistics: one per user, and in it one per run that ends with a report.
//! See [`relpoline_stats::live`] for what engines and tools agree on.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use relpoline_stats::live::{CLEAN, CLEAN_BYTES, PREFIX, RUN_PREFIX, is_private};
use tempfile::TempDir;

use crate::files::Directory;

/// The directory of a user.
pub fn of_user(user: u32) -> PathBuf {
    PathBuf::from(format!("{PREFIX}{user}"))
}

/// Makes the directory for the statistics of a run, which is removed when it is dropped: with those of the
/// user's other processes, so that the run is seen while it lasts; where that cannot be, somewhere nobody
/// else may enter.
///
/// # Errors
/// When it cannot be made anywhere.
pub fn run_directory() -> anyhow::Result<TempDir> {
    let make = |base: &Path| {
        let owner_only = Permissions::from_mode(0o700);
        tempfile::Builder::new().prefix(&run_prefix()).permissions(owner_only).tempdir_in(base)
    };
    let private = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    own()
        .inspect(|base| forget_dead_runs(base))
        .and_then(|base| make(&base).ok())
        .or_else(|| make(private.map(PathBuf::from).filter(|path| Directory::own(path, false).is_ok())?.as_ref()).ok())
        .map_or_else(|| make(Path::new("/tmp")), Ok)
        .context("no directory for the statistics can be made in /dev/shm, XDG_RUNTIME_DIR or /tmp")
}

/// What killed programs have left goes when the next one is started, which may take so long for that.
pub fn sweep() {
    const LONGEST: std::time::Duration = std::time::Duration::from_millis(5);
    super::shelf::sweep(LONGEST);
}

/// Makes the list of files without retpolines, if there is none. Without it programs start a little later.
pub fn make_clean_list() {
    let Some(path) = own().map(|base| base.join(CLEAN)) else { return };
    if let Ok(file) = File::options().write(true).create_new(true).mode(0o600).open(path) {
        let _ = file.set_len(CLEAN_BYTES);
    }
}

/// Removes the directories of runs whose `relpoline run` was killed: nobody else will.
fn forget_dead_runs(base: &Path) {
    if !super::process::sees_all() {
        return;
    }
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let keeper = entry.file_name().to_str().and_then(keeper);
        if keeper.is_some_and(|pid| super::process::Process::of(pid).is_none()) {
            // Another one may be at it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Start of the name of this process' run directory: it tells who will remove it.
fn run_prefix() -> String {
    format!("{RUN_PREFIX}{}-", std::process::id())
}

/// The process that removes the run directory of this name.
pub fn keeper(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(RUN_PREFIX)?.split('-').next()?;
    digits.parse().ok().filter(|pid: &u32| pid.to_string() == digits)
}

/// This user's directory, made if need be; `None` when it is not private.
fn own() -> Option<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let path = of_user(user);
    // Mostly because it is there: what counts is what is found.
    let _ = DirBuilder::new().mode(0o700).create(&path);
    let found = fs::symlink_metadata(&path).ok()?;
    is_private(found.uid(), found.mode(), user).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_go_when_their_run_is_dead() {
        if !crate::live::process::sees_all() {
            println!("skipped: in a pid namespace of its own nobody can tell whether a run is dead");
            return;
        }
        let base = tempfile::tempdir().unwrap();
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let of_dead = base.path().join(format!("{RUN_PREFIX}{}-abc", gone.id()));
        let of_living = base.path().join(format!("{}abc", run_prefix()));
        let of_others = base.path().join("something-else");
        for directory in [&of_dead, &of_living, &of_others] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("1.rpst"), "statistics").unwrap();
        }
        forget_dead_runs(base.path());
        assert!(!of_dead.exists());
        assert!(of_living.join("1.rpst").exists() && of_others.join("1.rpst").exists());
    }
}
