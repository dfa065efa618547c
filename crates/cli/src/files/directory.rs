//! Directories that were looked at, component by component, and are held open.
//!
//! [`Directory::own`] is for what is executed later by its path (the engine's file) or must stay what it is:
//! on the whole way there is no directory and no link that anybody but this user and root owns, or that
//! others may write to. Directories like /tmp, where others may put something but not exchange what is ours
//! (the sticky bit), may lie on the way.
//!
//! [`Directory::named`] is for where the user wants something to be written: as the kernel would find it, but
//! no link is followed that anybody but this user and root has made, wherever it lies. In a directory like
//! /tmp the kernel mostly does not follow those either (`fs.protected_symlinks`); in another user's own
//! directory it does, to a file of ours.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::open;
use crate::ending::Held;

/// Links that are followed, as by the kernel.
const MOST_LINKS: usize = 40;
const LOOKING: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// See the module's text.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
}

/// Who may own what lies on a way that nobody else may change.
struct Trusted {
    us: u32,
    /// Who owns the root directory: root, also where a namespace gives him another number.
    root: u32,
}

impl Trusted {
    fn now() -> Self {
        let root = rustix::fs::statat(CWD, "/", AtFlags::empty()).map_or(0, |stat| stat.st_uid);
        Self { us: rustix::process::geteuid().as_raw(), root }
    }

    fn owns(&self, stat: &Stat) -> bool {
        stat.st_uid == self.us || stat.st_uid == self.root || stat.st_uid == 0
    }
}

/// Whether others may put something into a directory.
fn is_open_to_others(stat: &Stat) -> bool {
    stat.st_mode & GROUP_OR_OTHERS_WRITE != 0
}

/// Whether others may exchange what is in a directory and not theirs.
fn others_may_exchange(stat: &Stat) -> bool {
    is_open_to_others(stat) && stat.st_mode & STICKY == 0
}

/// What a way is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nobody else may exchange anything.
    Own,
    /// Nobody else but this user may.
    OfProcess(u32),
    Named,
}

impl Directory {
    /// A directory that nobody but this user and root can change, nor anything on the way to it. It is made,
    /// with all that is missing on the way, if `make` says so.
    ///
    /// # Errors
    /// When there is none, or somebody else could change something.
    pub fn own(path: &Path, make: bool) -> anyhow::Result<Self> {
        let fd = walk(path, Way::Own, make)?;
        let stat = rustix::fs::fstat(&fd)?;
        // On the way it may be: what lies in it is looked at. In it, everybody may put something.
        ensure!(!is_open_to_others(&stat), "others may write to it");
        Ok(Self { fd })
    }

    /// The directory that the user has named.
    ///
    /// # Errors
    /// When there is none, or only by a link of somebody else's.
    pub fn named(path: &Path) -> anyhow::Result<Self> {
        Ok(Self { fd: walk(path, Way::Named, false)? })
    }

    /// The same, and it is made if it is not there.
    ///
    /// # Errors
    /// As above, or when it cannot be made.
    pub fn made(path: &Path) -> anyhow::Result<Self> {
        Ok(Self { fd: walk(path, Way::Named, true)? })
    }

    /// A directory that the user has named for programs that are built there and started from there; it is
    /// made if it is not there. For root nobody else may change anything on the way. Others are the only
    /// ones, with those of their group, who may change what is in it.
    ///
    /// # Errors
    /// When somebody else could change what is started.
    pub fn for_programs(path: &Path) -> anyhow::Result<Self> {
        const OTHERS_WRITE: u32 = 0o002;
        if rustix::process::geteuid().is_root() {
            return Self::own(path, true);
        }
        let directory = Self::made(path)?;
        let stat = rustix::fs::fstat(&directory.fd)?;
        ensure!(Trusted::now().owns(&stat), "it belongs to somebody else");
        ensure!(stat.st_mode & OTHERS_WRITE == 0, "others may write to it");
        Ok(directory)
    }

    /// A directory for a directory of our own, in which programs are built and started: for root nobody else
    /// may exchange that.
    ///
    /// # Errors
    /// When somebody else may.
    pub fn for_scratch(path: &Path) -> anyhow::Result<()> {
        if rustix::process::geteuid().is_root() {
            walk(path, Way::Own, false)?;
        }
        Ok(())
    }

    /// A directory that the user has named, in which a process of `user` opens a file by its path. Nobody but
    /// this user, that one and root may exchange anything on the way.
    ///
    /// # Errors
    /// When there is none, or somebody else may, or only by a link of somebody else's.
    pub fn for_process(path: &Path, user: u32) -> anyhow::Result<Self> {
        Ok(Self { fd: walk(path, Way::OfProcess(user), false)? })
    }

    /// The directory of a file that the user has named, and the file's name in it, with links followed; the
    /// last one too, unless that is one of the kernel's to an open file (`/proc/self/fd/1`).
    pub(super) fn of_file(path: &Path) -> anyhow::Result<(Self, OsString)> {
        let mut path = std::path::absolute(path)?;
        for _ in 0..MOST_LINKS {
            let name = path.file_name().context("it names no file")?.to_owned();
            let parent = path.parent().context("it names no file")?;
            let directory = Self::named(parent)?;
            match directory.look(&name) {
                Ok(stat) if is_link(&stat) && !directory.is_made_up() => {
                    path = parent.join(follow(directory.fd.as_fd(), &name)?);
                }
                Ok(_) => return Ok((directory, name)),
                Err(error) if open::is_missing(&error) => return Ok((directory, name)),
                Err(error) => return Err(error.into()),
            }
        }
        bail!("there are too many links on the way")
    }

    /// What lies in it, without following a link.
    ///
    /// # Errors
    /// When there is nothing, or it may not be looked at.
    pub fn look(&self, name: impl rustix::path::Arg) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Whether somebody else may have put there what lies in it with these attributes: whoever owns the
    /// directory, or anybody where all may.
    pub fn may_be_planted(&self, stat: &Stat) -> bool {
        let trusted = Trusted::now();
        let is_closed = rustix::fs::fstat(&self.fd).is_ok_and(|own| trusted.owns(&own) && !is_open_to_others(&own));
        !is_closed && !trusted.owns(stat)
    }

    /// Whether it is a directory of `/proc`.
    pub(super) fn is_made_up(&self) -> bool {
        const PROC: u32 = 0x9fa0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of 32 bits in a longer field"
        )]
        rustix::fs::fstatfs(&self.fd).is_ok_and(|found| found.f_type as u32 == PROC)
    }

    /// Whether a file in it has this content, and only this user or root may write to it.
    pub fn holds(&self, name: &OsStr, content: &[u8]) -> bool {
        self.own_file(name).is_ok_and(|file| has(file, content))
    }

    /// Opens a file in it that nobody but this user and root may write to, for reading.
    ///
    /// # Errors
    /// When there is none, or somebody else may.
    pub fn own_file(&self, name: &OsStr) -> anyhow::Result<File> {
        let file = open::in_directory(&self.fd, name)?;
        let stat = rustix::fs::fstat(&file)?;
        ensure!(Trusted::now().owns(&stat) && !is_open_to_others(&stat), "somebody else may change it");
        Ok(file)
    }

    /// Puts a file into it: whole, in place of one that is there. `mode` is its mode, whatever the umask
    /// says.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, name: &OsStr, content: &[u8], mode: u32) -> io::Result<()> {
        let mut draft = Draft::new(&self.fd)?;
        io::Write::write_all(&mut draft.file, content)?;
        rustix::fs::fchmod(&draft.file, Mode::from_raw_mode(mode))?;
        draft.become_file(name)
    }

    /// Removes what has this name and these attributes: another file that has come in its place stays.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: impl rustix::path::Arg + Copy, seen: &Stat) -> io::Result<()> {
        let now = self.look(name)?;
        if (now.st_dev, now.st_ino) != (seen.st_dev, seen.st_ino) {
            return Err(Errno::STALE.into());
        }
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn has(mut file: File, content: &[u8]) -> bool {
    let is_as_long = file.metadata().is_ok_and(|meta| meta.len() == content.len() as u64);
    let mut found = Vec::new();
    is_as_long
        && Read::by_ref(&mut file).take(content.len() as u64 + 1).read_to_end(&mut found).is_ok()
        && found == content
}

fn is_link(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

/// A file that has not got its name yet. It goes when it does not get one; signals wait for that.
struct Draft<'a> {
    directory: &'a OwnedFd,
    name: String,
    file: File,
    is_done: bool,
    _held: Held,
}

impl<'a> Draft<'a> {
    fn new(directory: &'a OwnedFd) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = Held::now();
        let mut number = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.subsec_nanos());
        loop {
            let name = format!(".relpoline-{}-{number}", std::process::id());
            match rustix::fs::openat(directory, &*name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok(Self { directory, name, file: file.into(), is_done: false, _held: held }),
                Err(Errno::EXIST) => number = number.wrapping_add(1),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn become_file(&mut self, name: &OsStr) -> io::Result<()> {
        rustix::fs::renameat(self.directory, &*self.name, self.directory, name)?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            // Nobody else knows of it.
            let _ = rustix::fs::unlinkat(self.directory, &*self.name, AtFlags::empty());
        }
    }
}

/// Opens a directory for looking, by way of directories that are looked at.
fn walk(path: &Path, way: Way, make: bool) -> anyhow::Result<OwnedFd> {
    let trusted = Trusted::now();
    let root = || rustix::fs::open("/", OFlags::DIRECTORY | LOOKING, Mode::empty());
    let mut at = root()?;
    let mut rest: VecDeque<OsString> = components(&std::path::absolute(path)?);
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        let next = match rustix::fs::openat(&at, &name, LOOKING, Mode::empty()) {
            Err(Errno::NOENT) if make => {
                // Somebody else may make it at the same time: what counts is what is found.
                let _ = rustix::fs::mkdirat(&at, &name, Mode::from_raw_mode(0o755));
                rustix::fs::openat(&at, &name, LOOKING, Mode::empty())?
            }
            found => found.with_context(|| format!("{}", name.display()))?,
        };
        let stat = rustix::fs::fstat(&next)?;
        if is_link(&stat) {
            links += 1;
            ensure!(links <= MOST_LINKS, "there are too many links on the way");
            let target = follow(at.as_fd(), &name)?;
            if target.is_absolute() {
                at = root()?;
            }
            for part in components(&target).into_iter().rev() {
                rest.push_front(part);
            }
            continue;
        }
        ensure!(FileType::from_raw_mode(stat.st_mode) == FileType::Directory, "{} is not a directory", name.display());
        if way != Way::Named {
            let is_ours = trusted.owns(&stat) || way == Way::OfProcess(stat.st_uid);
            ensure!(is_ours, "{} on the way belongs to somebody else", name.display());
            ensure!(!others_may_exchange(&stat), "others may write to {} on the way", name.display());
        }
        at = next;
    }
    Ok(at)
}

/// The parts of a path that are walked.
fn components(path: &Path) -> VecDeque<OsString> {
    let walked = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(walked).collect()
}

/// Where a link leads, if it is to be followed: whoever made it could lead us to any file of ours.
fn follow(directory: BorrowedFd<'_>, name: &OsStr) -> anyhow::Result<PathBuf> {
    let link = rustix::fs::openat(directory, name, LOOKING, Mode::empty())?;
    let stat = rustix::fs::fstat(&link)?;
    if !Trusted::now().owns(&stat) {
        bail!("{} is a link that somebody else has made; name what it leads to", name.display());
    }
    let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn every_directory_on_the_way_counts() {
        let base = tempfile::tempdir().unwrap();
        let way = base.path().join("a/b/c");
        Directory::own(&way, true).unwrap();
        let middle = base.path().join("a");
        for (bits, is_fine) in [(0o755, true), (0o777, false), (0o775, false), (0o1777, true), (0o700, true)] {
            mode(&middle, bits);
            assert_eq!(Directory::own(&way, true).is_ok(), is_fine, "{bits:o}");
        }
        // It itself must be closed: whoever may write to it may put something there.
        mode(&way, 0o1777);
        assert!(Directory::own(&way, true).is_err());
        mode(&way, 0o755);
        if is_root() {
            for (place, other) in [(&middle, "a directory on the way"), (&way, "itself")] {
                lchown(place, Some(12345), None).unwrap();
                assert!(Directory::own(&way, true).is_err(), "{other}");
                lchown(place, Some(0), None).unwrap();
            }
        } else {
            println!("skipped in part: only root can give directories away");
        }
        assert!(Directory::own(&base.path().join("missing"), false).is_err());
        fs::write(base.path().join("file"), "").unwrap();
        assert!(Directory::own(&base.path().join("file/x"), true).is_err());
    }

    #[test]
    fn links_are_followed_when_nobody_else_made_them() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir_all(base.path().join("real/deep")).unwrap();
        let link = base.path().join("link");
        symlink("real/../real/deep", &link).unwrap();
        assert!(Directory::own(&link, false).is_ok() && Directory::named(&link).is_ok());
        symlink("loop", base.path().join("loop")).unwrap();
        assert!(Directory::named(&base.path().join("loop")).is_err());
        if !is_root() {
            return println!("skipped in part: only root can give links away");
        }
        lchown(&link, Some(12345), None).unwrap();
        assert!(Directory::own(&link, false).is_err() && Directory::named(&link).is_err());
        mode(base.path(), 0o1777);
        assert!(Directory::named(&link).is_err(), "a link of another user's where everybody may make some");
        mode(base.path(), 0o755);
        lchown(base.path(), Some(12345), None).unwrap();
        assert!(Directory::named(&link).is_err(), "a link of another user's in a directory of his own");
        assert!(Directory::named(&base.path().join("real")).is_ok());
    }

    #[test]
    fn what_is_started_lies_where_nobody_else_can_change_it() {
        let base = tempfile::tempdir().unwrap();
        let place = base.path().join("a/b");
        Directory::for_programs(&place).unwrap();
        mode(&place, 0o777);
        assert!(Directory::for_programs(&place).is_err());
        mode(&place, 0o755);
        Directory::for_programs(&place).unwrap();
        if !is_root() {
            return println!("skipped in part: only root can give directories away");
        }
        for theirs in [&place, &base.path().join("a")] {
            lchown(theirs, Some(12345), None).unwrap();
            assert!(Directory::for_programs(&place).is_err());
            lchown(theirs, Some(0), None).unwrap();
        }
        // A directory is not made by a link of another user's either.
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), base.path().join("link")).unwrap();
        lchown(base.path().join("link"), Some(12345), Some(12345)).unwrap();
        for make in [Directory::made, Directory::for_programs] {
            assert!(make(&base.path().join("link/new")).is_err());
        }
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_put_whole_and_a_tampered_one_replaced() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::own(base.path(), false).unwrap();
        let (name, path) = (OsStr::new("engine"), base.path().join("engine"));
        directory.put(name, b"engine", 0o644).unwrap();
        assert!(directory.holds(name, b"engine") && !directory.holds(name, b"engines"));
        fs::write(&path, b"evil!!").unwrap();
        assert!(!directory.holds(name, b"engine"));
        directory.put(name, b"engine", 0o644).unwrap();
        for bits in [0o666, 0o664] {
            mode(&path, bits);
            assert!(!directory.holds(name, b"engine"));
        }
        directory.put(name, b"engine", 0o644).unwrap();
        fs::rename(&path, base.path().join("other")).unwrap();
        symlink("other", &path).unwrap();
        assert!(!directory.holds(name, b"engine"), "a link is not it");
        directory.put(name, b"engine", 0o644).unwrap();
        assert!(directory.holds(name, b"engine"));
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 2, "no draft is left");
    }

    #[test]
    fn only_what_was_seen_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::own(base.path(), false).unwrap();
        fs::write(base.path().join("a"), "").unwrap();
        let seen = directory.look("a").unwrap();
        fs::rename(base.path().join("a"), base.path().join("b")).unwrap();
        fs::write(base.path().join("a"), "another").unwrap();
        assert!(directory.remove("a", &seen).is_err() && base.path().join("a").exists());
        directory.remove("b", &seen).unwrap();
    }
}
