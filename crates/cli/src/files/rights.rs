//! For a while, no more rights to files than another user has.
//!
//! Root writes for another user what names of functions are in files that this user's process names. It may
//! name any file; what is told of it must be what that user could have read. The kernel has identities for
//! files alone, of each thread.

use std::io;

/// While it lives, this thread opens files as that user. Nothing changes unless we are root and the user is
/// not.
#[derive(Debug)]
pub struct Rights {
    /// What root had before.
    before: Option<(libc::c_int, Vec<libc::gid_t>)>,
}

impl Rights {
    /// Of a user with one group: those that the user is besides are not known here.
    ///
    /// # Errors
    /// When the rights cannot be given up.
    pub fn of(user: u32, group: u32) -> io::Result<Self> {
        if !rustix::process::geteuid().is_root() || user == 0 {
            return Ok(Self { before: None });
        }
        let mut groups = vec![0; 1 << 16];
        let most = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: there is room for so many numbers.
        let count = unsafe { libc::getgroups(most, groups.as_mut_ptr()) };
        groups.truncate(usize::try_from(count).map_err(|_| io::Error::last_os_error())?);
        set_groups(&[])?;
        // SAFETY: these calls take a number, concern this thread, and tell the identity that it had.
        let (had_group, is_done) = unsafe {
            let had_group = libc::setfsgid(group);
            libc::setfsuid(user);
            // A number that nobody has changes nothing: it asks.
            let is = (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX));
            (had_group, is == (user.cast_signed(), group.cast_signed()))
        };
        let rights = Self { before: Some((had_group, groups)) };
        if is_done { Ok(rights) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        if let Some((group, groups)) = self.before.take() {
            // SAFETY: as above.
            unsafe {
                libc::setfsuid(0);
                libc::setfsgid(group.cast_unsigned());
            }
            // It had them a moment ago.
            let _ = set_groups(&groups);
        }
    }
}

/// Of this thread alone: the C library's function is for all threads.
fn set_groups(groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: the kernel reads so many numbers.
    let answer = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, lchown};

    #[test]
    fn root_reads_no_more_than_the_other_user_may() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: only root can play another user");
        }
        let base = tempfile::tempdir().unwrap();
        fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
        let file = |name: &str, mode: u32, group: u32| {
            let path = base.path().join(name);
            fs::write(&path, name).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            lchown(&path, None, Some(group)).unwrap();
            path
        };
        // Root's own group counts for nothing, the user's does.
        let (public, private) = (file("public", 0o644, 0), file("private", 0o640, 0));
        let (grouped, closed) = (file("grouped", 0o640, 54321), file("closed", 0o600, 54321));
        let rights = Rights::of(54321, 54321).unwrap();
        let seen = [&public, &private, &grouped, &closed].map(|path| fs::read(path).is_ok());
        drop(rights);
        assert_eq!(seen, [true, false, true, false]);
        assert!(fs::read(&closed).is_ok() && fs::write(base.path().join("new"), "").is_ok());
        // For ourselves nothing changes.
        let _rights = Rights::of(0, 0).unwrap();
        assert!(fs::read(&closed).is_ok());
    }
}
