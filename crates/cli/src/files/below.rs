//! Paths of another root directory: of a process in a container, or one that has called chroot(2).
//!
//! Links and `..` do not lead out of it, as if it were our own root directory. The kernel does that too
//! (`openat2` with `RESOLVE_IN_ROOT`), but since Linux 5.6 only, and not where a container's filter forbids
//! it. So it is done here, a component at a time: each is opened in the one before, which is held open, and
//! nothing is followed but what was read.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// Links that are followed, as by the kernel.
const MOST_LINKS: usize = 40;
/// Components of a path, those of the links on the way included: each may take a descriptor.
const DEEPEST: usize = 256;

/// What is at `path` below `root`, opened for looking only.
///
/// # Errors
/// When there is nothing, or the way is too long.
pub fn look(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let looking = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, looking | OFlags::DIRECTORY, Mode::empty())?;
    let mut ahead: VecDeque<OsString> = VecDeque::new();
    enqueue(&mut ahead, path);
    // The directories on the way from the root directory, and what was reached.
    let mut way = vec![root];
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            way.truncate(way.len().saturating_sub(1).max(1));
            continue;
        }
        if name == "/" {
            way.truncate(1);
            continue;
        }
        let here = way.last().ok_or(Errno::NOENT)?;
        let found = rustix::fs::openat(here, &*name, looking | OFlags::NOFOLLOW, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::Symlink {
            if way.len() > DEEPEST {
                return Err(Errno::NAMETOOLONG.into());
            }
            way.push(found);
            continue;
        }
        links += 1;
        let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
        let mut rest = std::mem::take(&mut ahead);
        enqueue(&mut ahead, &PathBuf::from(OsString::from_vec(target.into_bytes())));
        ahead.append(&mut rest);
        if links > MOST_LINKS || ahead.len() > DEEPEST {
            return Err(Errno::LOOP.into());
        }
    }
    way.pop().ok_or_else(|| Errno::NOENT.into())
}

/// The same, a directory, opened for reading.
///
/// # Errors
/// As above.
pub fn directory(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::openat(look(root, path)?, ".", flags, Mode::empty())?)
}

fn enqueue(ahead: &mut VecDeque<OsString>, path: &Path) {
    let components = path.components().filter(|component| *component != Component::CurDir);
    ahead.extend(components.map(|component| component.as_os_str().to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::CWD;

    /// A root directory in a directory; in both lies a file `secret`.
    fn two() -> (tempfile::TempDir, PathBuf) {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::write(outside.path().join("secret"), "theirs").unwrap();
        fs::write(root.join("secret"), "ours").unwrap();
        (outside, root)
    }

    fn text(root: &Path, path: &str) -> io::Result<String> {
        let found = look(root, Path::new(path))?;
        let mut text = String::new();
        File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_root_directory_is_not_left() {
        let (outside, root) = two();
        symlink("/secret", root.join("d/absolute")).unwrap();
        symlink("../../../../secret", root.join("d/up")).unwrap();
        symlink("/d/e", root.join("d/directory")).unwrap();
        symlink(outside.path().join("secret"), root.join("d/out")).unwrap();
        symlink("/proc/self/cwd", root.join("d/magic")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for inside in
            ["/d/absolute", "d/up", "/../secret", "/secret", "./d/./e/../../secret", "d/directory/../../secret"]
        {
            assert_eq!(text(&root, inside).unwrap(), "ours", "{inside}");
        }
        for nothing in ["/d/out", "/d/magic/x", "/loop", "/secret/x", "/missing", &"d/e/../".repeat(500)] {
            if nothing.len() < 100 {
                assert!(look(&root, Path::new(nothing)).is_err(), "{nothing}");
            }
        }
        assert!(directory(&root, Path::new("/secret")).is_err() && directory(&root, Path::new("d/directory")).is_ok());
    }

    #[test]
    fn links_of_the_kernels_are_read_and_not_followed() {
        let (_outside, root) = two();
        let file = File::open(root.join("secret")).unwrap();
        // In /proc as it is below our own root directory, this names a file below it.
        let magic = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::remove_file(root.join("secret")).unwrap();
        assert!(look(Path::new("/"), Path::new(&magic)).is_err());
    }

    /// Directories are exchanged for links and moved out of the root directory, while they are gone through.
    #[test]
    fn exchanges_meanwhile_lead_nowhere_else() {
        let (outside, root) = two();
        fs::create_dir(root.join("d/e/f")).unwrap();
        fs::write(root.join("d/e/f/secret"), "ours").unwrap();
        symlink(outside.path(), root.join("out")).unwrap();
        symlink("../../..", root.join("up")).unwrap();
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let exchange = |a: PathBuf, b: PathBuf| {
                    let _ = rustix::fs::renameat_with(CWD, a, CWD, b, rustix::fs::RenameFlags::EXCHANGE);
                };
                while !ends.load(Ordering::Relaxed) {
                    exchange(root.join("d/e/f"), root.join("out"));
                    exchange(root.join("d/e"), root.join("up"));
                    exchange(root.join("d"), outside.path().join("secret"));
                    exchange(root.join("d"), outside.path().join("secret"));
                }
            });
            let mut seen = 0;
            for _ in 0..20_000 {
                for path in ["d/e/f/secret", "/d/e/f/../../../secret", "d/e/f/../../../../secret"] {
                    if let Ok(text) = text(&root, path) {
                        assert_eq!(text, "ours", "{path}");
                        seen += 1;
                    }
                }
            }
            ends.store(true, Ordering::Relaxed);
            assert!(seen > 0);
        });
    }
}
