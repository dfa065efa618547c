//! Where the engine's file is.
//!
//! The loader wants a path, so there has to be a file. In order: the one named by `RELPOLINE_ENGINE`; one
//! beside this command, in its `deps/` or in `../lib/relpoline/`, if it is *the same* as the engine this
//! command was built with and nobody else can exchange it; else a copy of the built-in engine in a cache
//! (`cache`), which makes `cargo install`, which installs nothing but the binary, work.
//!
//! A place only serves if the loader can use it there: `LD_PRELOAD` separates by blanks and colons and
//! expands `$`, and a file system mounted noexec cannot be mapped executable (`is_usable`). Otherwise the
//! loader would write a complaint into the program's stderr.

mod cache;
mod embedded;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::fs::StatVfsMountFlags;

/// Name of the engine's file.
pub const FILE_NAME: &str = "librelpoline_engine.so";
/// Environment variable that names another engine.
pub const VARIABLE: &str = "RELPOLINE_ENGINE";

/// The engine's file, and something to tell the user, if there is.
#[derive(Debug)]
pub struct Engine {
    /// Absolute path.
    pub path: PathBuf,
    /// A file that was passed over because it is from another build.
    pub stale: Option<PathBuf>,
}

/// Finds the engine or writes it out.
///
/// # Errors
/// When the one asked for cannot be used, or nowhere is a place to write the built-in one.
pub fn locate() -> anyhow::Result<Engine> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        return named_engine(Path::new(&named));
    }
    let mut stale = None;
    for path in neighbours() {
        if cache::is_safe(&path, embedded::ENGINE) && is_usable(&path) {
            return Ok(Engine { path, stale });
        }
        let most = 4 * embedded::ENGINE.len() as u64;
        let is_other = |error: &std::io::Error| error.kind() == std::io::ErrorKind::FileTooLarge;
        match crate::files::open::whole(&path, most) {
            Ok(bytes) if bytes != embedded::ENGINE => stale = stale.or(Some(path)),
            Err(error) if is_other(&error) => stale = stale.or(Some(path)),
            _ => {}
        }
    }
    Ok(Engine { path: cache::path_of(embedded::ENGINE, embedded::HASH)?, stale })
}

/// The engine the user asked for.
fn named_engine(named: &Path) -> anyhow::Result<Engine> {
    let path = std::path::absolute(named)?;
    std::fs::File::open(&path)
        .with_context(|| format!("the engine {} named by {VARIABLE} cannot be read", path.display()))?;
    ensure!(
        is_usable(&path),
        "the engine {} cannot be preloaded from there: the path has a blank, a colon or a dollar sign in it, or its file system is mounted noexec",
        path.display()
    );
    Ok(Engine { path, stale: None })
}

/// Where an installation puts the file.
fn neighbours() -> Vec<PathBuf> {
    let exe = std::env::current_exe().unwrap_or_default();
    let Some(directory) = exe.parent() else {
        return Vec::new();
    };
    vec![
        directory.join(FILE_NAME),
        directory.join("deps").join(FILE_NAME),
        directory.join("../lib/relpoline").join(FILE_NAME),
    ]
}

/// Whether the loader can preload the file at `path`.
fn is_usable(path: &Path) -> bool {
    let clean = |byte: &u8| !matches!(byte, b':' | b' ' | b'$' | b'\t' | b'\n');
    let executable = rustix::fs::statvfs(path).is_ok_and(|fs| !fs.f_flag.contains(StatVfsMountFlags::NOEXEC));
    path.as_os_str().as_bytes().iter().all(clean) && executable
}

/// Whether an entry of `LD_PRELOAD` is an engine of ours, of whatever build.
#[must_use]
pub fn is_engine(entry: &[u8]) -> bool {
    let path = Path::new(OsStr::from_bytes(entry));
    let in_cache =
        path.parent().and_then(Path::file_name).is_some_and(|name| name.as_bytes().starts_with(b"relpoline"));
    path.file_name()
        .is_some_and(|name| name == FILE_NAME || in_cache && name.as_bytes().starts_with(cache::PREFIX.as_bytes()))
}

/// The first of `directories` in which the cache can keep a file.
fn first_that_serves(
    directories: impl Iterator<Item = PathBuf>,
    mut place: impl FnMut(&Path) -> anyhow::Result<PathBuf>,
) -> anyhow::Result<PathBuf> {
    let mut reasons = Vec::new();
    for directory in directories {
        match place(&directory) {
            Ok(path) if is_usable(&path) => return Ok(path),
            Ok(path) => reasons.push(format!("{}: cannot be preloaded from", path.display())),
            Err(error) => reasons.push(format!("{}: {error:#}", directory.display())),
        }
    }
    bail!("the engine cannot be written anywhere ({}); set {VARIABLE} to its path", reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

    use super::*;

    #[test]
    fn any_loader_can_load_the_engine() {
        const NEEDED: u64 = 1;
        const VERSIONS_NEEDED: u64 = 0x6fff_fffe;
        let file = object::File::parse(embedded::ENGINE).unwrap();
        // A library that is not there, or a version that it has not, ends the program.
        let dynamic = file.section_by_name(".dynamic").unwrap();
        for entry in dynamic.data().unwrap().chunks_exact(16) {
            let tag = u64::from_le_bytes(*entry.first_chunk().unwrap());
            assert!(tag != NEEDED && tag != VERSIONS_NEEDED, "it needs a library");
        }
        for symbol in file.dynamic_symbols() {
            let name = symbol.name().unwrap();
            // What it offers must be nothing that a program might look for.
            let is_fine = if symbol.is_undefined() { symbol.is_weak() } else { name.starts_with("relpoline_") };
            assert!(is_fine, "{name}");
        }
    }
}
