//! The unprotected twin: the same program with `jmp *%reg` in its thunks, so that what differs is what
//! retpolines cost, in the same layout of code.
//!
//! Of each file with thunks a copy is made, in a directory that only this user may enter, and the first
//! instruction of each thunk (a call of five bytes) is overwritten. The copies are then *mounted over* their
//! files, in a mount namespace that the twin has to itself: so it is started by the same path, libraries that
//! it loads late and programs that it starts are twins too, and nobody else sees them. Where that is refused
//! (it takes root, or unprivileged user namespaces), the copy of the executable is started instead, and finds
//! the copies of its libraries by `LD_LIBRARY_PATH`.
//!
//! Which files have thunks is what the program's processes say, and one of them that has given up root's
//! rights may be somebody else's by now. What root's twin executes is not his to choose: so root makes copies
//! only of the executable that the user has named, and of files that nobody but root can change or exchange.
//! A copy has its file's owner and mode, so that whoever sees it in the file's place can do no more with it.

use std::ffi::{CString, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::{Object as _, ObjectSegment as _, SegmentFlags};
use relpoline_core::arch::thunk;

use super::look::Look;
use crate::files::{Directory, Parts, open};

const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// How the copies take the place of their files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Mounted over them.
    Mounted,
    /// Started, and found by `LD_LIBRARY_PATH`.
    Found,
}

/// Bytes of all copies together.
const MOST_BYTES: u64 = 1 << 30;
/// Segments of a file that are looked at.
const MOST_SEGMENTS: usize = 64;
/// Code is read in pieces of so many bytes. A thunk may begin this far before the end of one, and go on in
/// the next.
const PIECE: usize = 1 << 20;
const OVERLAP: usize = 64;

/// See the module's text.
#[derive(Debug)]
pub struct Twin {
    /// The files, and their copies.
    files: Vec<(PathBuf, PathBuf)>,
    directory: PathBuf,
    program: PathBuf,
    /// Thunks that only jump now.
    pub thunks: usize,
    /// How they are used.
    pub way: Way,
}

impl Twin {
    /// Makes the copies in `scratch`, or says why there is no twin. `started` is what the user has named.
    pub fn make(look: &Look, started: &Path, scratch: &Path) -> Result<Self, String> {
        let directory = scratch.join("twin");
        let failed = |error: io::Error| format!("the copies cannot be made: {error}");
        fs::create_dir(&directory).map_err(failed)?;
        let program = look.program.clone();
        let mut twin = Self { files: Vec::new(), directory, program, thunks: 0, way: Way::Mounted };
        let started = fs::canonicalize(started).unwrap_or_default();
        let mut left = MOST_BYTES;
        for file in &look.files {
            let name = file.file_name().unwrap_or_default();
            let copy = twin.directory.join(name);
            if copy.exists() {
                return Err(format!("two of its files are called {}", name.display()));
            }
            let opened = original(file, &started);
            let opened = opened.map_err(|error| format!("{} cannot be copied: {error:#}", file.display()))?;
            let size = opened.metadata().map_err(failed)?.len();
            left =
                left.checked_sub(size).ok_or_else(|| format!("its files have more than {} MiB", MOST_BYTES >> 20))?;
            let thunks = make_copy(&opened, &copy, size).map_err(failed)?;
            twin.thunks += thunks;
            if thunks != 0 {
                twin.files.push((file.clone(), copy));
            }
        }
        if twin.thunks == 0 {
            return Err("its thunks are of no known shape".to_owned());
        }
        if !twin.can_mount() {
            twin.way = Way::Found;
        }
        Ok(twin)
    }

    /// Whether mounting works here.
    fn can_mount(&self) -> bool {
        let mut command = Command::new("/proc/self/exe");
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.mount_for(&mut command);
        command.status().is_ok_and(|status| status.success())
    }

    /// The command, as the twin is started; nothing when only mounting would do.
    pub fn command(&self, path: &Path, command: &[OsString]) -> Option<Command> {
        let (name, arguments) = command.split_first()?;
        if self.way == Way::Mounted {
            let mut start = Command::new(name);
            start.args(arguments);
            self.mount_for(&mut start);
            return Some(start);
        }
        // A script names its interpreter by path.
        if fs::canonicalize(path).ok()? != self.program {
            return None;
        }
        let program = self.files.iter().find(|(file, _)| *file == self.program);
        let mut start = Command::new(program.map_or(path, |(_, copy)| copy));
        start.arg0(name).args(arguments);
        let mut libraries = self.directory.clone().into_os_string();
        if let Some(others) = std::env::var_os(LIBRARIES).filter(|others| !others.is_empty()) {
            libraries.push(":");
            libraries.push(others);
        }
        start.env(LIBRARIES, libraries);
        Some(start)
    }

    /// Lets the process that the command becomes see the copies in place of the files.
    fn mount_for(&self, command: &mut Command) {
        let c_string = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
        let mounts: Vec<_> = self.files.iter().map(|(file, copy)| (c_string(copy), c_string(file))).collect();
        let us = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        let maps = (us != 0).then(|| [format!("{us} {us} 1\n"), format!("{group} {group} 1\n")]);
        // SAFETY: what runs between fork and exec makes system calls on strings made before, and allocates
        // nothing.
        unsafe { command.pre_exec(move || mount_all(&mounts, maps.as_ref())) };
    }
}

/// Gives this process, a child before its exec, a mount namespace with these mounts; as another user than
/// root in a user namespace, in which it is who it was.
fn mount_all(mounts: &[(CString, CString)], maps: Option<&[String; 2]>) -> io::Result<()> {
    let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let user = if maps.is_some() { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: the child has one thread, and nothing of its parent's is changed.
    done(unsafe { libc::unshare(libc::CLONE_NEWNS | user) })?;
    if let Some([users, groups]) = maps {
        put(c"/proc/self/uid_map", users.as_bytes())?;
        put(c"/proc/self/setgroups", b"deny")?;
        put(c"/proc/self/gid_map", groups.as_bytes())?;
    }
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: the strings are C strings; what is not used may be null.
    done(unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) })?;
    for (copy, file) in mounts {
        // SAFETY: both are C strings; what is not used may be null.
        done(unsafe { libc::mount(copy.as_ptr(), file.as_ptr(), none, libc::MS_BIND, none.cast()) })?;
    }
    Ok(())
}

/// Writes a file of /proc in one go.
fn put(path: &std::ffi::CStr, text: &[u8]) -> io::Result<()> {
    let file = rustix::fs::open(path, rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty())?;
    rustix::io::write(&file, text)?;
    Ok(())
}

/// Opens a file of which a copy is made. Its path comes from a process, and may be anything.
fn original(file: &Path, started: &Path) -> anyhow::Result<File> {
    if !rustix::process::geteuid().is_root() || file == started {
        return Ok(open::plain(file)?);
    }
    let path = fs::canonicalize(file)?;
    let directory = Directory::own(path.parent().unwrap_or(&path), false)?;
    directory.own_file(path.file_name().unwrap_or_default())
}

/// Copies a file, with its owner and mode, and lets the thunks in the copy only jump; how many.
fn make_copy(file: &File, to: &Path, size: u64) -> io::Result<usize> {
    let mut copy = File::options().read(true).write(true).create_new(true).open(to)?;
    io::copy(&mut io::Read::take(file, size), &mut copy)?;
    let thunks = unprotect(&copy)?;
    let meta = file.metadata()?;
    if rustix::process::geteuid().is_root() {
        fchown(&copy, Some(meta.uid()), Some(meta.gid()))?;
    }
    // Set-user-id programs are not promoted, and their copies are none.
    copy.set_permissions(Permissions::from_mode(meta.mode() & 0o777))?;
    Ok(thunks)
}

/// Lets every thunk in the file's code begin with `jmp *%reg`; how many. Only the call that a thunk begins
/// with is overwritten: lld's PLT enters thunks of its own in their middle.
fn unprotect(file: &File) -> io::Result<usize> {
    let length = file.metadata()?.len();
    let code: Vec<(u64, u64)> = {
        let parts = Parts::new(file.try_clone()?, MOST_BYTES)?;
        let Ok(parsed) = object::File::parse(&parts) else { return Ok(0) };
        let segments = parsed.segments().take(MOST_SEGMENTS);
        segments.filter(is_executable).map(|segment| segment.file_range()).collect()
    };
    let (mut thunks, mut piece) = (0, Vec::new());
    for (start, size) in code {
        let end = start.saturating_add(size).min(length);
        for at in (start..end).step_by(PIECE) {
            piece.resize(usize::try_from(end - at).unwrap_or(usize::MAX).min(PIECE + OVERLAP), 0);
            file.read_exact_at(&mut piece, at)?;
            // What begins in the next piece is found there.
            for (offset, thunk) in thunk::find(&piece).filter(|(offset, _)| *offset < PIECE) {
                let plain = thunk::body(thunk::Thunk { shape: thunk::Shape::Jump, ..thunk });
                let (true, Some(jump)) = (thunk.shape.takes_sites(), plain) else { continue };
                let mut place = [INT3; CALL];
                place[..jump.len()].copy_from_slice(&jump);
                file.write_all_at(&place, at + offset as u64)?;
                thunks += 1;
            }
        }
    }
    Ok(thunks)
}

/// Length of the call that a thunk begins with.
const CALL: usize = 5;
const INT3: u8 = 0xcc;

fn is_executable<'a>(segment: &object::Segment<'a, '_, &'a Parts>) -> bool {
    matches!(segment.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags.0 & object::elf::PF_X.0 != 0)
}
