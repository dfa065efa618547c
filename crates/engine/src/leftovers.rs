//! Statistics files whose processes are gone without removing them: they were killed, or ended by `_exit`, as
//! forked children like to.
//!
//! Such files take memory until somebody removes them. Tools do that when they come by, but a server whose
//! children come and go may run for months without one. So whoever makes a file in the user's directory looks
//! there for files that nobody has. A process has its file locked (`flock`), shared, for as long as it has it
//! mapped: a mapping keeps the open file, and that the lock, when the descriptor is long closed. So a file
//! that can be locked exclusively is nobody's, whatever pid namespace its process was in.

use core::ffi::CStr;
use core::mem::MaybeUninit;
use relpoline_stats::live::Name;
use relpoline_text::broken;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags, RawDir};
use rustix::process::Pid;

/// Room for a part of a directory's listing: not on the stack, which may be small.
pub type Listing = [MaybeUninit<u8>; 1024];

/// Most names that are looked at: some 100 µs.
const NAMES: usize = 1024;

/// Marks a file that was just made as somebody's. False when somebody thought it was nobody's, and removes
/// it.
pub fn hold(file: &OwnedFd) -> bool {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockShared).is_ok()
        && rustix::fs::fstat(file).is_ok_and(|found| found.st_nlink > 0)
}

/// Whether there is a file that a process has. In the broken variant that the tests must catch nobody looks.
pub fn is_held(directory: &OwnedFd, name: &CStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    !broken!("named-by-number")
        && rustix::fs::openat(directory, name, flags, Mode::empty())
            .is_ok_and(|file| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// Removes the files in `directory` that are nobody's. `own` is the name of this process' file.
pub fn sweep(directory: &OwnedFd, own: &Name, listing: &mut Listing) {
    let mut names = RawDir::new(directory, listing);
    for _ in 0..NAMES {
        let Some(Ok(entry)) = names.next() else { return };
        let name = entry.file_name();
        if Name::parse(name.to_bytes()).is_some_and(|of| may_be_gone(&of, own)) && is_nobodys(directory, name) {
            let _ = rustix::fs::unlinkat(directory, name, rustix::fs::AtFlags::empty());
        }
    }
}

/// Whether a file is worth opening: its process cannot be seen here, or its number is that of this one, or it
/// is in another namespace, of whose processes nothing is known here.
fn may_be_gone(of: &Name, own: &Name) -> bool {
    let is_here = of.namespace == own.namespace && of.pid != own.pid;
    let pid = of.pid.try_into().ok().and_then(Pid::from_raw);
    !is_here || pid.is_none_or(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

fn is_nobodys(directory: impl AsFd, name: &CStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty());
    file.is_ok_and(|file| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::format;
    use std::path::{Path, PathBuf};

    /// A number that no process has.
    fn dead() -> u32 {
        let mut child = std::process::Command::new("true").spawn().expect("a process");
        child.wait().expect("its end");
        child.id()
    }

    fn fresh(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("relpoline-{name}-{}", std::process::id()))
    }

    fn text(path: &Path) -> CString {
        CString::new(path.to_str().expect("a path of text")).expect("no NUL")
    }

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(text(path).as_c_str(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("a directory")
    }

    fn make(path: &Path) -> OwnedFd {
        rustix::fs::open(text(path).as_c_str(), OFlags::CREATE | OFlags::RDWR, Mode::RUSR).expect("a file")
    }

    #[test]
    fn only_what_nobody_has_is_removed() {
        let base = fresh("leftovers");
        std::fs::create_dir(&base).expect("a directory");
        let me = Name { pid: std::process::id(), namespace: 7, started: 1 };
        let path = |pid: u32, namespace: u64, started: u64| base.join(format!("{pid}-{namespace}-{started}.stats"));
        let abandoned = path(dead(), 7, 1);
        // Of a process in another pid namespace that has this one's number, or its parent's.
        let elsewhere = path(me.pid, 8, 1);
        let elsewhere_dead = path(std::os::unix::process::parent_id(), 8, 1);
        // Of one that had this one's number before it.
        let earlier = path(me.pid, 7, 0);
        let living = path(std::os::unix::process::parent_id(), 7, 1);
        let foreign = base.join(format!("{}.txt", dead()));
        let nameless = base.join(format!("{}.stats", dead()));
        for path in [&abandoned, &elsewhere_dead, &earlier, &living, &foreign, &nameless] {
            drop(make(path));
        }
        let held = make(&elsewhere);
        assert!(hold(&held));

        let mut listing: Listing = [MaybeUninit::uninit(); 1024];
        sweep(&open(&base), &me, &mut listing);
        for gone in [&abandoned, &elsewhere_dead, &earlier] {
            assert!(!gone.exists(), "{}", gone.display());
        }
        for kept in [&elsewhere, &living, &foreign, &nameless] {
            assert!(kept.exists(), "{}", kept.display());
        }
        drop(held);
        sweep(&open(&base), &me, &mut listing);
        assert!(!elsewhere.exists() && living.exists());
        std::fs::remove_dir_all(&base).expect("it can be removed");
    }

    #[test]
    fn a_file_that_was_taken_for_nobodys_is_not_held() {
        let path = fresh("unheld");
        let file = make(&path);
        std::fs::remove_file(&path).expect("it can be removed");
        assert!(!hold(&file));
    }
}
