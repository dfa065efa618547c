//! Which file a program's name means: the search that execvp(3) makes, made beforehand, because the file has
//! to be looked at before it is started.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::environment::Environment;

/// Where execvp looks when there is no `PATH` (`confstr(_CS_PATH)`).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Outcome of the search.
#[derive(PartialEq, Eq, Debug)]
pub enum Resolved {
    /// This file.
    Found(PathBuf),
    /// There is something of that name, but nothing that may be executed.
    NotExecutable,
    /// There is nothing.
    NotFound,
}

/// Finds the program `name`.
pub fn resolve(name: &OsStr, environment: &Environment) -> Resolved {
    if name.as_bytes().contains(&b'/') {
        return judge([PathBuf::from(name)]);
    }
    if name.is_empty() {
        return Resolved::NotFound;
    }
    let search = environment.get("PATH").unwrap_or(OsStr::new(DEFAULT_PATH));
    judge(search.as_bytes().split(|&byte| byte == b':').map(|part| in_directory(part, name)))
}

/// `name` in a part of `PATH`; an empty part is the working directory.
fn in_directory(part: &[u8], name: &OsStr) -> PathBuf {
    let directory = if part.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(part) };
    Path::new(directory).join(name)
}

/// The first that may be executed. Like execvp, goes on after one that may not, but remembers it.
fn judge(candidates: impl IntoIterator<Item = PathBuf>) -> Resolved {
    let mut seen = false;
    for path in candidates {
        let Ok(meta) = std::fs::metadata(&path) else {
            // A directory that cannot be searched hides whether there is something in it.
            seen |= rustix::fs::access(&path, Access::EXISTS) == Err(rustix::io::Errno::ACCESS);
            continue;
        };
        if meta.is_file() && rustix::fs::accessat(CWD, &path, Access::EXEC_OK, AtFlags::EACCESS).is_ok() {
            return Resolved::Found(path);
        }
        seen = true;
    }
    if seen { Resolved::NotExecutable } else { Resolved::NotFound }
}
