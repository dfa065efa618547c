//! Whether a program can take the preload, with what only the file system and the environment know.
//!
//! The file's bytes are judged by [`relpoline_stats::program`], which the engine uses as well when the
//! program it lives in calls exec. A script is judged by its interpreter, since that is what gets loaded.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use relpoline_stats::Refusal;
use relpoline_stats::options::{OFF, SWITCH};
use relpoline_stats::program::{
    Program, SCRIPT_LINE, examine, interpreter, is_marked_for_shadow_stacks, tunables_enable_shadow_stack,
};

use super::environment::Environment;
use super::kernel;
use crate::files::open;

/// Interpreters of interpreters that Linux follows (`bprm` recursion limit).
const SCRIPTS_DEEP: u32 = 5;
const SET_ID: u32 = 0o6000;

/// Why the program at `path` has to run without the engine, or `None` when it need not.
pub fn refusal(path: &Path, environment: &Environment) -> Option<Refusal> {
    if environment.get(SWITCH).is_some_and(|value| value == OFF) {
        return Some(Refusal::Off);
    }
    let (path, found) = loaded(path);
    match found {
        Program::Fit => of_fit(&path, environment),
        Program::Unfit(refusal) => Some(refusal),
        Program::Script => Some(Refusal::NotElf),
    }
}

/// The program that is loaded for the file at `path`: of a script its interpreter.
pub fn program_of(path: &Path) -> PathBuf {
    loaded(path).0
}

fn loaded(path: &Path) -> (PathBuf, Program) {
    let mut path = PathBuf::from(path);
    for _ in 0..=SCRIPTS_DEEP {
        let Ok(file) = open::executable(&path) else { return (path, Program::Unfit(Refusal::Unreadable)) };
        let found = examine(&mut reader(&file));
        if found != Program::Script {
            return (path, found);
        }
        let mut line = [0; SCRIPT_LINE + 1];
        let Some(next) = interpreter(&mut reader(&file), &mut line) else { break };
        path = PathBuf::from(OsStr::from_bytes(next.to_bytes()));
    }
    (path, Program::Script)
}

/// Reads from a file; nothing where it cannot be read.
fn reader(file: &File) -> impl FnMut(u64, &mut [u8]) -> usize {
    |offset, buffer| file.read_at(buffer, offset).unwrap_or(0)
}

/// What may still be against an ELF program that glibc loads.
fn of_fit(path: &Path, environment: &Environment) -> Option<Refusal> {
    let mode = fs::metadata(path).map_or(0, |meta| meta.mode());
    let tunables = environment.get("GLIBC_TUNABLES").unwrap_or_default().as_bytes();
    if mode & SET_ID != 0 {
        Some(Refusal::SetId)
    } else if has_capabilities(path) {
        Some(Refusal::Capabilities)
    } else if tunables_enable_shadow_stack(tunables)
        && open::executable(path).is_ok_and(|file| is_marked_for_shadow_stacks(&mut reader(&file)))
    {
        Some(Refusal::ShadowStack)
    } else {
        (!kernel::serves()).then_some(Refusal::Kernel)
    }
}

/// Whether the file carries capabilities.
fn has_capabilities(path: &Path) -> bool {
    let mut value = [0_u8; 64];
    rustix::fs::getxattr(path, "security.capability", &mut value).is_ok()
}
