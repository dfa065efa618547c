//! Becoming the program.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use super::environment::Environment;

/// What runs files that are neither ELF nor name an interpreter, as execvp(3) has it.
const SHELL: &std::ffi::CStr = c"/bin/sh";

/// A program ready to be executed: nothing is left to do that could fail or allocate.
#[derive(Debug)]
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// The file at `path`, with the arguments `command` (the first is its name, as typed).
    pub fn new(path: &Path, command: &[OsString], environment: &Environment) -> io::Result<Self> {
        let c_string = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
        Ok(Self {
            path: c_string(path.as_os_str())?,
            arguments: command.iter().map(|argument| c_string(argument)).collect::<io::Result<_>>()?,
            environment: environment.entries().to_vec(),
        })
    }

    /// Replaces this process. Returns only when it cannot.
    pub fn exec(&self) -> io::Error {
        crate::inherited::hand_on();
        let error = execve(&self.path, &pointers(&self.arguments), &pointers(&self.environment));
        if error.raw_os_error() != Some(libc::ENOEXEC) {
            return error;
        }
        let mut arguments = vec![SHELL.as_ptr(), self.path.as_ptr()];
        arguments.extend(pointers(&self.arguments).into_iter().skip(1));
        execve(SHELL, &arguments, &pointers(&self.environment))
    }
}

/// The null-terminated array that exec wants.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn execve(path: &std::ffi::CStr, arguments: &[*const libc::c_char], environment: &[*const libc::c_char]) -> io::Error {
    // SAFETY: both arrays end with a null pointer (see `pointers`), and the strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}
