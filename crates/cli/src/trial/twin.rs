//! The unprotected twin: the same program with `jmp *%reg` in its thunks, so that what differs is what retpolines cost, in
//! the same layout of code.
//!
//! Of each file with thunks a copy is made, in a directory that only this user may enter, and the first instruction of
//! each thunk (a call of five bytes) is overwritten. The copies are then *mounted over* their files, in a mount namespace
//! that the twin has to itself: so it is started by the same path, libraries that it loads late and programs that it
//! starts are twins too, and nobody else sees them. Where that is refused (it takes root, or unprivileged user namespaces),
//! the copy of the executable is started instead, and finds the copies of its libraries by `LD_LIBRARY_PATH`.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::{Object as _, ObjectSegment as _, SegmentFlags};
use relpoline_core::arch::thunk;

use super::look::Look;
use crate::files::open;

const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// How the copies take the place of their files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Mounted over them.
    Mounted,
    /// Started, and found by `LD_LIBRARY_PATH`.
    Found,
}

/// Larger files have no copy.
const MOST_BYTES: u64 = 1 << 30;

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
    /// Makes the copies in `scratch`, or says why there is no twin.
    pub fn make(look: &Look, scratch: &Path) -> Result<Self, String> {
        let directory = scratch.join("twin");
        let failed = |error: io::Error| format!("the copies cannot be made: {error}");
        fs::create_dir(&directory).map_err(failed)?;
        let program = look.program.clone();
        let mut twin = Self { files: Vec::new(), directory, program, thunks: 0, way: Way::Mounted };
        for file in &look.files {
            let name = file.file_name().unwrap_or_default();
            let copy = twin.directory.join(name);
            if copy.exists() {
                return Err(format!("two of its files are called {}", name.display()));
            }
            // Its path comes from the process, and may be anything.
            let read = open::whole(file, MOST_BYTES);
            let mut bytes = read.map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
            twin.thunks += unprotect(&mut bytes);
            fs::write(&copy, bytes).map_err(failed)?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).map_err(failed)?;
            twin.files.push((file.clone(), copy));
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
        // SAFETY: what runs between fork and exec makes system calls on strings made before, and allocates nothing.
        unsafe { command.pre_exec(move || mount_all(&mounts, maps.as_ref())) };
    }
}

/// Gives this process, a child before its exec, a mount namespace with these mounts; as another user than root in a user
/// namespace, in which it is who it was.
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

/// Lets every thunk in the file's code begin with `jmp *%reg`; how many. Only the call that a thunk begins with is
/// overwritten: lld's PLT enters thunks of its own in their middle.
fn unprotect(bytes: &mut [u8]) -> usize {
    let Ok(file) = object::File::parse(&*bytes) else { return 0 };
    let code: Vec<(u64, u64)> = file.segments().filter(is_executable).map(|segment| segment.file_range()).collect();
    let mut thunks = 0;
    for (offset, size) in code {
        let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
        let Some(text) = range.and_then(|(offset, size)| bytes.get_mut(offset..offset.checked_add(size)?)) else {
            continue;
        };
        let found: Vec<_> = thunk::find(text).filter(|(_, thunk)| thunk.shape.takes_sites()).collect();
        for (at, thunk) in found {
            let plain = thunk::body(thunk::Thunk { shape: thunk::Shape::Jump, ..thunk });
            if let Some((place, jump)) = text.get_mut(at..at + CALL).zip(plain) {
                place.fill(INT3);
                place[..jump.len()].copy_from_slice(&jump);
                thunks += 1;
            }
        }
    }
    thunks
}

/// Length of the call that a thunk begins with.
const CALL: usize = 5;
const INT3: u8 = 0xcc;

fn is_executable(segment: &object::Segment<'_, '_>) -> bool {
    matches!(segment.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags.0 & object::elf::PF_X.0 != 0)
}
