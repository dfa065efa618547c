//! The other user, and what that user can have.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use relpoline_tests::{Living, Program};

/// The user who means harm.
pub const ATTACKER: u32 = 54322;
/// Orders for a terminal, a line feed, marks that turn the direction of writing, invisible ones, no text at all.
pub const EVIL: &[u8] =
    b"\x1b]0;OWNED\x07\x1b[31m\n\x9b2J\xe2\x80\xae\xe2\x81\xa6\xe2\x80\xa8\xef\xbb\xbf\x7f\xff\xc2\x9b<b>&\"'";

pub fn is_root() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if !root {
        println!("skipped: only root can play another user");
    }
    root
}

/// Attackers share a directory.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory that its user's programs can be reached in.
pub fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    directory
}

/// A process of the attacker's with these statistics.
pub fn forged(content: &Path, names: usize) -> Living {
    let program = Program::retpolined("hostile.c").build();
    let names = names.to_string();
    let mut command = Command::new(program);
    command.arg("statistics").arg(content).arg(&names).uid(ATTACKER).gid(ATTACKER);
    let living = Living::start(&mut command);
    assert_eq!(living.said, "ready");
    living
}

pub fn forget() {
    let _ = fs::remove_dir_all(format!("/dev/shm/relpoline-{ATTACKER}"));
}
