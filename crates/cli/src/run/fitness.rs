//! Whether a program can take the preload, with what only the file system and the environment know.
//!
//! The file's bytes are judged by [`relpoline_stats::program`], which the engine uses as well when the
//! program it lives in calls exec. A script is judged by its interpreter, since that is what gets loaded.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use relpoline_stats::Refusal;
use relpoline_stats::options::{OFF, SWITCH};
use relpoline_stats::program::{Program, examine, tunables_enable_shadow_stack};

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
    match loaded(path) {
        (path, Program::Fit { shadow_stack }) => of_fit(&path, shadow_stack, environment),
        (_, Program::Unfit(refusal)) => Some(refusal),
        (_, Program::Script(..)) => Some(Refusal::NotElf),
    }
}

/// The program that is loaded for the file at `path`: of a script its interpreter.
pub fn program_of(path: &Path) -> PathBuf {
    loaded(path).0
}

fn loaded(path: &Path) -> (PathBuf, Program) {
    let mut path = PathBuf::from(path);
    let mut found = look(&path);
    for _ in 0..SCRIPTS_DEEP {
        let Program::Script(interpreter, length) = &found else { break };
        path = PathBuf::from(OsStr::from_bytes(interpreter.get(..*length).unwrap_or_default()));
        found = look(&path);
    }
    (path, found)
}

/// The file's own bytes.
fn look(path: &Path) -> Program {
    match open::executable(path) {
        Ok(file) => examine(&mut |offset, buffer| file.read_at(buffer, offset).unwrap_or(0)),
        Err(_) => Program::Unfit(Refusal::Unreadable),
    }
}

/// What may still be against an ELF program that glibc loads.
fn of_fit(path: &Path, shadow_stack: bool, environment: &Environment) -> Option<Refusal> {
    let mode = fs::metadata(path).map_or(0, |meta| meta.mode());
    let tunables = environment.get("GLIBC_TUNABLES").unwrap_or_default().as_bytes();
    if mode & SET_ID != 0 {
        Some(Refusal::SetId)
    } else if has_capabilities(path) {
        Some(Refusal::Capabilities)
    } else if shadow_stack && tunables_enable_shadow_stack(tunables) {
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
