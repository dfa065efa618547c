//! Directories of statistics files: a user's, and those of runs in it.
//!
//! Each is opened once, looked at, and held open: it is a directory, that user's, and closed to others. What
//! lies in it is opened and removed by it, so whatever becomes of its path meanwhile, nothing else is touched
//! than what that user put into that directory. Links are followed nowhere, and root directories of other
//! mount namespaces are not left. He may put there as much as memory holds: so looking through one user's
//! directories takes only so long, of the processor's time, and then it is the next one's turn; in another
//! mount namespace, where whoever made that has as many users as he likes, that goes for all of them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use relpoline_stats::live::{Name, PREFIX, is_private};
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};

use super::place::keeper;
use super::process::{Process, sees_all};
use crate::files::{below, open};

/// Looking takes no longer: for a user, or for another mount namespace.
pub const LONGEST: Duration = Duration::from_secs(2);
/// Most runs of a user, and most files in one directory, that are looked at.
const RUNS: usize = 1024;
const FILES: usize = 1 << 14;
/// Most directories in another mount namespace: whoever made that has as many users there as he likes.
const FOREIGN: usize = 256;
const OPENING: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// A directory.
#[derive(Clone, Debug)]
pub struct Shelf {
    directory: Rc<OwnedFd>,
    user: u32,
    /// The user's directory and this one's name in it, when it is that of a run.
    run: Option<(Rc<OwnedFd>, String)>,
    /// It is in our own mount namespace.
    is_here: bool,
}

/// Calls `visit` for each file that a statistics file's name has, below a root directory (an empty path is
/// our own). What that takes at most, of a user here and of all users elsewhere, is `longest`.
pub fn each(root: &Path, longest: Duration, visit: &mut dyn FnMut(&Shelf, &Name)) {
    let begun = processor_time();
    let Some(shared) = open_shared(root) else { return };
    let is_here = root.as_os_str().is_empty();
    let most = if is_here { usize::MAX } else { FOREIGN };
    for user in names(&shared).filter_map(|name| user_of(&name)).take(most) {
        let begun = if is_here { processor_time() } else { begun };
        let has_time = || processor_time().saturating_sub(begun) < longest;
        let name = format!("{}{user}", prefix());
        let Some(directory) = open_private(&shared, &name, user) else { continue };
        let shelf = Shelf { directory: Rc::new(directory), user, run: None, is_here };
        shelf.each_file(has_time, visit);
        let runs = names(&shelf.directory).take_while(|_| has_time()).filter(|name| keeper(name).is_some());
        for run in runs.take(RUNS.min(most)) {
            if let Some(directory) = open_private(&shelf.directory, &run, user) {
                let run = Some((Rc::clone(&shelf.directory), run));
                Shelf { directory: Rc::new(directory), run, ..shelf.clone() }.each_file(has_time, visit);
            }
        }
    }
}

/// Removes what killed processes have left in this user's directory. It looks no longer than that.
pub fn sweep(longest: Duration) {
    let begun = processor_time();
    let user = rustix::process::geteuid().as_raw();
    let Some(shared) = open_shared(Path::new("")) else { return };
    let Some(directory) = open_private(&shared, &format!("{}{user}", prefix()), user) else { return };
    let shelf = Shelf { directory: Rc::new(directory), user, run: None, is_here: true };
    let has_time = || processor_time().saturating_sub(begun) < longest;
    shelf.each_file(has_time, &mut |shelf, name| {
        // Mostly they are there: that is the cheapest to ask. One that has its number by now keeps it until
        // somebody looks closely.
        if Path::new(&format!("/proc/{}", name.pid)).exists() {
            return;
        }
        if let Ok(file) = shelf.open(name) {
            shelf.forget(name, &file);
        }
    });
}

/// The directory of a run, by its path: its keeper made it.
///
/// # Errors
/// When it cannot be opened, or others may enter it.
pub fn of_run(path: &Path) -> io::Result<Shelf> {
    let directory = rustix::fs::open(path, OPENING, Mode::empty())?;
    let user = rustix::process::geteuid().as_raw();
    let found = rustix::fs::fstat(&directory)?;
    if !is_private(found.st_uid, found.st_mode, user) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the directory is open to others"));
    }
    Ok(Shelf { directory: Rc::new(directory), user, run: None, is_here: true })
}

/// What this thread has taken so far: on a machine that others keep busy, nobody's time runs out for that.
pub fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Where users have their directories.
fn open_shared(root: &Path) -> Option<OwnedFd> {
    let path = Path::new(PREFIX).parent()?;
    if root.as_os_str().is_empty() {
        return rustix::fs::open(path, OPENING.difference(OFlags::NOFOLLOW), Mode::empty()).ok();
    }
    below::directory(root, path).ok()
}

/// What users' directories' names begin with.
fn prefix() -> &'static str {
    PREFIX.rsplit('/').next().unwrap_or_default()
}

/// The user whose directory has this name: written in one way only.
fn user_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix())?;
    digits.parse().ok().filter(|user: &u32| user.to_string() == digits)
}

/// A directory that is that user's alone.
fn open_private(parent: &OwnedFd, name: &str, user: u32) -> Option<OwnedFd> {
    let directory = rustix::fs::openat(parent, name, OPENING, Mode::empty()).ok()?;
    let found = rustix::fs::fstat(&directory).ok()?;
    is_private(found.st_uid, found.st_mode, user).then_some(directory)
}

/// The names in a directory that are text.
fn names(directory: &OwnedFd) -> impl Iterator<Item = String> + use<> {
    let entries = Dir::read_from(directory).into_iter().flatten().map_while(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
}

impl Shelf {
    /// The files in it, by their names.
    pub fn names(&self) -> impl Iterator<Item = Name> + use<> {
        names(&self.directory).filter_map(|name| Name::parse(name.as_bytes())).take(FILES)
    }

    fn each_file(&self, has_time: impl Fn() -> bool, visit: &mut dyn FnMut(&Shelf, &Name)) {
        // All before the first is removed.
        let names: Vec<Name> = names(&self.directory)
            .take_while(|_| has_time())
            .filter_map(|name| Name::parse(name.as_bytes()))
            .take(FILES)
            .collect();
        names.iter().take_while(|_| has_time()).for_each(|name| visit(self, name));
    }

    /// Whether it is a run's.
    pub fn is_of_run(&self) -> bool {
        self.run.is_some()
    }

    /// Opens a file of its user's in it. He could have put anything there: a link, a FIFO, something endless.
    ///
    /// # Errors
    /// When it cannot be opened, or is something else.
    pub fn open(&self, name: &Name) -> io::Result<File> {
        let file = open::in_directory(&self.directory, &*path(name))?;
        if rustix::fs::fstat(&file)?.st_uid != self.user {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's"));
        }
        Ok(file)
    }

    /// Removes a file that was opened.
    pub fn remove(&self, name: &Name, file: &File) {
        let name = path(name);
        let is_it = || {
            let now = rustix::fs::statat(&self.directory, &*name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let seen = rustix::fs::fstat(file).ok()?;
            Some((now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino))
        };
        if is_it() == Some(true) {
            // Its user may have removed it just now.
            let _ = rustix::fs::unlinkat(&self.directory, &*name, AtFlags::empty());
        }
    }

    /// Removes a file that no process has, if we would know of one that has it; and the directory of its run
    /// with the last one, when nobody waits for that any more.
    pub fn forget(&self, name: &Name, file: &File) {
        let us = rustix::process::geteuid().as_raw();
        let may = self.is_here && (us == 0 || us == self.user) && sees_all();
        let is_dead = |(_, run): &(Rc<OwnedFd>, String)| keeper(run).is_some_and(|pid| Process::of(pid).is_none());
        let is_waited_for = self.run.as_ref().is_some_and(|run| !is_dead(run));
        // Whoever has it mapped has it locked.
        if !may || is_waited_for || rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return;
        }
        self.remove(name, file);
        if let Some((parent, run)) = &self.run {
            // It stays as long as something is in it.
            let _ = rustix::fs::unlinkat(parent, &**run, AtFlags::REMOVEDIR);
        }
    }
}

/// The name of a file.
fn path(name: &Name) -> String {
    let mut buffer = [0; Name::MOST];
    let length = name.write(&mut buffer).unwrap_or(0);
    String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    /// A root directory with a user's directory of us in it.
    fn root() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let user = rustix::process::geteuid().as_raw();
        let directory = PathBuf::from(format!("{}{PREFIX}{user}", root.path().display()));
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
        (root, directory)
    }

    fn found(root: &Path) -> usize {
        let mut count = 0;
        each(root, LONGEST, &mut |shelf, name| count += usize::from(shelf.open(name).is_ok()));
        count
    }

    #[test]
    fn a_directory_that_others_may_enter_is_passed_over() {
        let (root, directory) = root();
        let run = directory.join("run-1-x");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, Permissions::from_mode(0o700)).unwrap();
        for name in ["7-1-2.stats", "7.stats", "other", "run-1-x/8-1-2.stats", "run-1-x/9"] {
            fs::write(directory.join(name), b"").unwrap();
        }
        for (mode, count) in [(0o700, 2), (0o755, 0), (0o1777, 0)] {
            fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
            assert_eq!(found(root.path()), count, "{mode:o}");
        }
        fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&run, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found(root.path()), 1);
    }

    /// Who has more files there than time allows has those seen that time allows; elsewhere, where all users
    /// are one user's, that goes for them together.
    #[test]
    fn looking_through_a_directory_takes_only_so_long() {
        let (root, directory) = root();
        for pid in 1..=20 {
            fs::write(directory.join(format!("{pid}-1-2.stats")), b"").unwrap();
        }
        let longest = Duration::from_millis(40);
        let mut visits = 0;
        each(root.path(), longest, &mut |_, _| {
            visits += 1;
            let begun = processor_time();
            while processor_time() - begun < longest / 2 {
                std::hint::spin_loop();
            }
        });
        assert!((1..20).contains(&visits), "{visits}");
        let mut visits = 0;
        each(root.path(), Duration::ZERO, &mut |_, _| visits += 1);
        assert_eq!(visits, 0);
        assert_eq!(found(root.path()), 20);
    }

    #[test]
    fn links_lead_nowhere() {
        let (root, directory) = root();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("7-1-2.stats"), b"").unwrap();
        symlink(elsewhere.path().join("7-1-2.stats"), directory.join("7-1-2.stats")).unwrap();
        symlink(elsewhere.path(), directory.join("run-1-x")).unwrap();
        assert_eq!(found(root.path()), 0);
        fs::remove_dir_all(&directory).unwrap();
        symlink(elsewhere.path(), &directory).unwrap();
        assert_eq!(found(root.path()), 0);
        // A link that would lead out of that root directory leads to its own.
        let shared = root.path().join("dev/shm");
        fs::remove_dir_all(&shared).unwrap();
        symlink("/dev/shm", &shared).unwrap();
        assert_eq!(found(root.path()), 0);
    }

    #[test]
    fn only_what_was_opened_is_removed() {
        let (root, directory) = root();
        let file = directory.join("7-1-2.stats");
        fs::write(&file, b"old").unwrap();
        let mut visits = 0;
        each(root.path(), LONGEST, &mut |shelf, name| {
            visits += 1;
            let opened = shelf.open(name).unwrap();
            fs::remove_file(&file).unwrap();
            fs::write(&file, b"new").unwrap();
            shelf.remove(name, &opened);
            assert_eq!(fs::read(&file).unwrap(), b"new");
            // Its directory is another one now.
            let moved = directory.with_extension("moved");
            fs::rename(&directory, &moved).unwrap();
            fs::create_dir(&directory).unwrap();
            fs::write(&file, b"victim").unwrap();
            shelf.remove(name, &shelf.open(name).unwrap());
            assert!(file.exists() && !moved.join("7-1-2.stats").exists());
        });
        assert_eq!(visits, 1);
    }

    #[test]
    fn users_are_numbers_written_in_one_way() {
        let named = |name: &str| user_of(&format!("{}{name}", prefix()));
        assert_eq!(
            ["0", "1000", "00", "+1", "", "4294967296", "1 "].map(named),
            [Some(0), Some(1000), None, None, None, None, None]
        );
    }
}
