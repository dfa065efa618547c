//! Opening for reading what somebody else may have put there.
//!
//! A path may lead to a FIFO, which waits for a writer, to a device, which may do something when it is
//! opened, or to a file of the kernel's that looks like a regular one (`/proc/kmsg`). So it is opened for
//! looking only (`O_PATH`, which does none of that), and opened for reading when it is a regular file of a
//! file system that keeps files.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::below;
use crate::live::Patience;

/// File systems whose files are made up by the kernel when they are read (`linux/magic.h`).
const MADE_UP: [u32; 21] = [
    0x9fa0,
    0x6265_6572,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x0027_e0eb,
    0x6367_7270,
    0x6265_6570,
    0x6165_676c,
    0xde5e_81e4,
    0xcafe_4a11,
    0xf97c_ff8c,
    0x4341_5d53,
    0x4249_4e4d,
    0x1cd1,
    0x0904_1934,
    0x6e73_6673,
    0x0765_5821,
    0x6573_5543,
    0x0187,
    0xabba_1974,
];
/// One that another user's process answers for: root does not wait for that.
const FUSE: u32 = 0x6573_5546;
const WITHOUT_WAITING: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Opens a regular file.
///
/// # Errors
/// When it cannot be opened, or is something else.
pub fn plain(path: &Path) -> io::Result<File> {
    let _patience = Patience::to_open();
    let looked = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    read(&looked)
}

/// Opens the regular file that the user is about to execute, on whatever file system.
///
/// # Errors
/// As above.
pub fn executable(path: &Path) -> io::Result<File> {
    let looked = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&looked)?.st_mode) {
        FileType::RegularFile => again(&looked, OFlags::RDONLY),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// The same in a directory, not by a link.
///
/// # Errors
/// As above.
pub fn in_directory(directory: impl AsFd, name: impl rustix::path::Arg) -> io::Result<File> {
    let _patience = Patience::to_open();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    read(&rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

/// The same with `root` as the root directory: links and `..` do not lead out of it.
///
/// # Errors
/// As above.
pub fn below(root: &Path, path: &Path) -> io::Result<File> {
    if root.as_os_str().is_empty() {
        return plain(path);
    }
    let _patience = Patience::to_open();
    read(&below::look(root, path)?)
}

/// Opens a regular file, not by a link, to change what is in it.
///
/// # Errors
/// As above.
pub fn plain_for_change(path: &Path) -> io::Result<File> {
    let _patience = Patience::to_open();
    let looked = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    check(&looked)?;
    again(&looked, OFlags::RDWR)
}

/// Opens for reading what was looked at.
fn read(looked: &OwnedFd) -> io::Result<File> {
    let _patience = Patience::to_open();
    check(looked)?;
    again(looked, OFlags::RDONLY)
}

/// Whether what was looked at is a file that can be opened without harm.
fn check(looked: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(looked)?;
    let other = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return other("it is a directory"),
        _ => return other("it is not a regular file"),
    }
    // The magic numbers have 32 bits.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of 32 bits in a longer field"
    )]
    let kind = rustix::fs::fstatfs(looked)?.f_type as u32;
    if MADE_UP.contains(&kind) {
        return other("it is no file but something that the kernel makes up");
    }
    if kind == FUSE && rustix::process::geteuid().is_root() {
        return other("its file system belongs to a process (FUSE), which root does not wait for");
    }
    Ok(())
}

/// Opens, without waiting, what was looked at.
fn again(looked: &OwnedFd, access: OFlags) -> io::Result<File> {
    Ok(rustix::fs::open(format!("/proc/self/fd/{}", looked.as_raw_fd()), WITHOUT_WAITING | access, Mode::empty())?
        .into())
}

/// All of a regular file of at most `most` bytes.
///
/// # Errors
/// As above, or when it is larger.
pub fn whole(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    all_of(plain(path)?, most)
}

/// All of a file, or of a pipe that the user has named, of at most `most` bytes.
///
/// # Errors
/// When it cannot be read, or is larger.
pub fn all_of(file: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {} MiB", most >> 20)));
    }
    Ok(bytes)
}

/// Opens what the user has named for reading: a regular file, or a pipe, which is what `<(command)` is.
///
/// # Errors
/// When it cannot be opened, or is something else.
pub fn named(path: &Path) -> io::Result<File> {
    let patience = Patience::to_open();
    let looked = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&looked)?;
    drop(patience);
    // A pipe that others have put into a directory is no pipe that the user has named.
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && is_ours {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        return Ok(rustix::fs::open(format!("/proc/self/fd/{}", looked.as_raw_fd()), flags, Mode::empty())?.into());
    }
    read(&looked)
}

/// Whether there is nothing of that name.
#[must_use]
pub fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOENT.raw_os_error())
}

/// What is there, without following a link.
///
/// # Errors
/// When there is nothing, or it may not be looked at.
pub fn look(path: &Path) -> io::Result<rustix::fs::Stat> {
    Ok(rustix::fs::statat(CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_regular_files_are_opened_and_nothing_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), "content").unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        for (name, target) in [("link", "file"), ("to-fifo", "fifo"), ("zero", "/dev/zero"), ("kmsg", "/proc/kmsg")] {
            symlink(target, at(name)).unwrap();
        }
        assert_eq!(whole(&at("link"), 7).unwrap(), b"content");
        assert!(whole(&at("file"), 6).is_err());
        assert_eq!(all_of(named(&at("file")).unwrap(), 7).unwrap(), b"content");
        for other in ["fifo", "to-fifo", "zero", "kmsg", ".", "missing"] {
            assert!(plain(&at(other)).is_err(), "{other}");
        }
        for other in ["zero", "kmsg", "."] {
            assert!(named(&at(other)).is_err(), "{other}");
        }
        for made_up in ["/proc/self/maps", "/sys/kernel/mm/transparent_hugepage/enabled"] {
            assert!(plain(Path::new(made_up)).is_err(), "{made_up}");
        }
    }
}
