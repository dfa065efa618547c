//! Where something is written that the user has asked for: reports, profiles, metrics.
//!
//! The directory is looked at once and held open. In it a file appears under its name only when it is whole,
//! in place of whatever has that name; so nothing that was there is written to. What is there and is no file
//! (a pipe, a terminal, `/dev/stderr`) is written to as it is, unless somebody else may have put it there.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};

use super::directory::Directory;
use super::open;
use crate::live::Patience;

/// Mode of what only its owner may read.
pub const PRIVATE: u32 = 0o600;
/// Mode of what everybody may read.
pub const PUBLIC: u32 = 0o644;

/// A place that was looked at.
#[derive(Debug)]
pub struct Written {
    path: PathBuf,
    directory: Directory,
    name: OsString,
    /// What is there and is no file.
    special: Option<OwnedFd>,
}

impl Written {
    /// Looks at `path`. Nothing is written yet.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        let _patience = Patience::to_open();
        let path = std::path::absolute(path)?;
        let (directory, name) = Directory::of_file(&path)?;
        let mut place = Self { path, directory, name, special: None };
        let stat = match place.directory.look(&place.name) {
            Ok(stat) => stat,
            Err(error) if open::is_missing(&error) => return place.checked(),
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return place.checked(),
            FileType::Directory => bail!("it is a directory"),
            _ if place.directory.may_be_planted(&stat) => bail!("it is no file, and belongs to somebody else"),
            // A link of the kernel's to an open file.
            FileType::Symlink if place.directory.is_made_up() => place.special = Some(place.look_at(OFlags::empty())?),
            FileType::Symlink => bail!("it has just become a link"),
            _ => place.special = Some(place.look_at(OFlags::NOFOLLOW)?),
        }
        rustix::fs::accessat(&place.directory, &place.name, Access::WRITE_OK, AtFlags::empty())?;
        Ok(place)
    }

    /// Where a file appears: that must be possible.
    fn checked(self) -> anyhow::Result<Self> {
        let access = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(&self.directory, ".", access, AtFlags::empty())?;
        Ok(self)
    }

    fn look_at(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | flags;
        Ok(rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty())?)
    }

    /// Its absolute path, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is there now, if it is a file, of at most `most` bytes; `None` when there is nothing.
    ///
    /// # Errors
    /// When it cannot be read, or is something else.
    pub fn content(&self, most: u64) -> io::Result<Option<Vec<u8>>> {
        match open::in_directory(&self.directory, &*self.name) {
            Ok(file) => open::all_of(file, most).map(Some),
            Err(error) if open::is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(&self, content: &[u8], mode: u32) -> anyhow::Result<()> {
        let Some(special) = &self.special else { return self.put(&self.name, content, mode) };
        let path = format!("/proc/self/fd/{}", special.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut file: File = rustix::fs::open(path, flags, Mode::empty())?.into();
        Ok(file.write_all(content)?)
    }

    /// Writes another file, whose name has `suffix` behind this one's.
    ///
    /// # Errors
    /// When that fails.
    pub fn write_beside(&self, suffix: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
        let mut name = self.name.clone();
        name.push(suffix);
        self.put(&name, content, mode)
    }

    fn put(&self, name: &OsStr, content: &[u8], mode: u32) -> anyhow::Result<()> {
        let _patience = Patience::to_open();
        let is_directory =
            self.directory.look(name).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        ensure!(!is_directory, "it is a directory");
        Ok(self.directory.put(name, content, mode)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};

    fn write(path: &Path) -> anyhow::Result<()> {
        Written::new(path)?.write(b"content", PRIVATE)
    }

    #[test]
    fn a_file_appears_and_what_was_linked_is_not_written_to() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        write(&at("new")).unwrap();
        assert_eq!(
            (fs::read(at("new")).unwrap(), fs::metadata(at("new")).unwrap().mode() & 0o777),
            (b"content".into(), 0o600)
        );
        // A second name of a file: that stays as it is.
        fs::write(at("precious"), "precious").unwrap();
        fs::hard_link(at("precious"), at("second")).unwrap();
        write(&at("second")).unwrap();
        assert_eq!(fs::read(at("precious")).unwrap(), b"precious");
        // The user's own link leads to the file, and stays.
        symlink("new", at("link")).unwrap();
        write(&at("link")).unwrap();
        assert!(at("link").is_symlink() && write(base.path()).is_err() && write(&at("no/such")).is_err());
        Written::new(&at("new")).unwrap().write_beside(".7", b"child", PRIVATE).unwrap();
        assert_eq!(fs::read(at("new.7")).unwrap(), b"child");
    }

    #[test]
    fn what_is_no_file_is_written_to_as_it_is() {
        write(Path::new("/dev/null")).unwrap();
        assert!(write(Path::new("/dev/full")).is_err());
        let (mut reader, writer) = io::pipe().unwrap();
        write(Path::new(&format!("/dev/fd/{}", writer.as_raw_fd()))).unwrap();
        drop(writer);
        assert_eq!(io::read_to_string(&mut reader).unwrap(), "content");
        assert!(Path::new("/dev/fd").is_symlink());
        // Also a file behind an open descriptor.
        let file = tempfile::NamedTempFile::new().unwrap();
        write(Path::new(&format!("/proc/self/fd/{}", file.as_file().as_raw_fd()))).unwrap();
        assert_eq!(fs::read(file.path()).unwrap(), b"content");
    }

    #[test]
    fn nothing_planted_is_written_to() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: only root can play another user");
        }
        let base = tempfile::tempdir().unwrap();
        fs::set_permissions(base.path(), Permissions::from_mode(0o1777)).unwrap();
        let at = |name: &str| base.path().join(name);
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("victim"), "precious").unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
        symlink(elsewhere.path().join("victim"), at("link")).unwrap();
        symlink(elsewhere.path(), at("directory")).unwrap();
        symlink("/dev/null", at("device")).unwrap();
        fs::write(at("file"), "theirs").unwrap();
        for name in ["fifo", "link", "directory", "device", "file"] {
            lchown(at(name), Some(12345), Some(12345)).unwrap();
        }
        for name in ["fifo", "link", "directory/new", "device"] {
            let refused = write(&at(name)).unwrap_err().to_string();
            assert!(refused.contains("somebody else"), "{name}: {refused}");
        }
        assert_eq!(fs::read(elsewhere.path().join("victim")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
        // The same where it is their own directory, which nobody else may write to.
        fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
        lchown(base.path(), Some(12345), None).unwrap();
        for name in ["fifo", "link", "directory/new", "device"] {
            let refused = write(&at(name)).unwrap_err().to_string();
            assert!(refused.contains("somebody else"), "{name}: {refused}");
        }
        assert_eq!(fs::read(elsewhere.path().join("victim")).unwrap(), b"precious");
        // Root may take the place of another user's file there, which becomes root's own.
        write(&at("file")).unwrap();
        assert_eq!(fs::metadata(at("file")).unwrap().uid(), 0);
    }

    #[test]
    fn a_directory_that_is_exchanged_meanwhile_does_not_matter() {
        let base = tempfile::tempdir().unwrap();
        let (ours, theirs) = (base.path().join("ours"), base.path().join("theirs"));
        fs::create_dir(&ours).unwrap();
        fs::create_dir(&theirs).unwrap();
        let place = Written::new(&ours.join("report")).unwrap();
        fs::rename(&ours, base.path().join("moved")).unwrap();
        symlink(&theirs, &ours).unwrap();
        place.write(b"content", PRIVATE).unwrap();
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
        assert_eq!(fs::read(base.path().join("moved/report")).unwrap(), b"content");
    }
}
