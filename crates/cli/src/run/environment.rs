//! The environment the program gets: ours, entry by entry as it stands, with the engine put in or taken out.
//!
//! `std::env` drops entries that have no `=` and sorts nothing back; a program can tell. So the block is
//! taken as bytes, and what is not ours keeps its place.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use relpoline_stats::options;

use crate::preload;

const PRELOAD: &str = "LD_PRELOAD";

unsafe extern "C" {
    /// The block of this process, null-terminated.
    static environ: *const *const libc::c_char;
}

/// A list of `NAME=VALUE` entries.
#[derive(Clone, Debug)]
pub struct Environment(Vec<CString>);

impl Environment {
    /// A copy of this process's.
    pub fn of_this_process() -> Self {
        let mut entries = Vec::new();
        // SAFETY: libc keeps the block a null-terminated array of C strings, and this process has one thread
        // and never changes its own environment.
        unsafe {
            let mut next = environ;
            while let Some(entry) = next.as_ref().copied().filter(|entry| !entry.is_null()) {
                entries.push(CStr::from_ptr(entry).to_owned());
                next = next.add(1);
            }
        }
        Self(entries)
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.iter().find_map(|entry| value_of(entry, name)).map(OsStr::from_bytes)
    }

    /// Sets a variable, where it stands or at the end. A value with a zero byte cannot be one.
    pub fn set(&mut self, name: &str, value: OsString) {
        let entry = [name.as_bytes(), b"=", &value.into_vec()].concat();
        let Ok(entry) = CString::new(entry) else {
            return;
        };
        match self.0.iter_mut().find(|entry| value_of(entry, name).is_some()) {
            Some(place) => *place = entry,
            None => self.0.push(entry),
        }
    }

    /// Takes a variable out.
    fn remove(&mut self, name: &str) {
        self.0.retain(|entry| value_of(entry, name).is_none());
    }

    /// Puts the engine in front of what is preloaded already.
    pub fn add_engine(&mut self, engine: &Path) {
        let mut value = engine.as_os_str().as_bytes().to_vec();
        for entry in self.foreign_preloads() {
            value.push(b':');
            value.extend(entry);
        }
        self.set(PRELOAD, OsString::from_vec(value));
    }

    /// Takes out what we, or a relpoline around us, have put in. What the user preloads stays as written.
    pub fn remove_engine(&mut self) {
        self.remove(options::VARIABLE);
        let Some(value) = self.get(PRELOAD) else {
            return;
        };
        if !preloads(value.as_bytes()).any(preload::is_engine) {
            return;
        }
        let others = self.foreign_preloads().join(&b':');
        if others.is_empty() { self.remove(PRELOAD) } else { self.set(PRELOAD, OsString::from_vec(others)) }
    }

    /// The block's entries.
    pub fn entries(&self) -> &[CString] {
        &self.0
    }

    /// The preloads that are not an engine of ours.
    pub fn foreign_preloads(&self) -> Vec<Vec<u8>> {
        let value = self.get(PRELOAD).unwrap_or_default().as_bytes();
        preloads(value).filter(|entry| !preload::is_engine(entry)).map(<[u8]>::to_vec).collect()
    }
}

/// The entries of `LD_PRELOAD`, which the loader separates by colons and blanks.
fn preloads(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| matches!(byte, b':' | b' ')).filter(|entry| !entry.is_empty())
}

/// The value, if `entry` is the variable `name`.
fn value_of<'a>(entry: &'a CStr, name: &str) -> Option<&'a [u8]> {
    entry.to_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> Environment {
        Environment(vec![CString::new(format!("LD_PRELOAD={value}")).unwrap(), c"odd".into()])
    }

    #[test]
    fn the_engine_goes_first_and_only_once() {
        let mut environment = with("/old/librelpoline_engine.so a.so:b.so");
        environment.add_engine(Path::new("/new/librelpoline_engine.so"));
        assert_eq!(environment.get(PRELOAD).unwrap(), "/new/librelpoline_engine.so:a.so:b.so");
        assert_eq!(environment.entries()[1].as_c_str(), c"odd");
    }

    #[test]
    fn taking_it_out_leaves_what_was_there() {
        let mut environment = with("/c/relpoline/engine-0123.so");
        environment.remove_engine();
        assert_eq!(environment.get(PRELOAD), None);
        let mut environment = with("a.so  b.so");
        environment.remove_engine();
        assert_eq!(environment.get(PRELOAD).unwrap(), "a.so  b.so");
    }
}
