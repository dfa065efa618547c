//! Programs of `tests/programs`, compiled by the machine's compiler and kept by the hash of what they are
//! made of.

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tool;

/// How gcc protects indirect branches; `-fcf-protection` excludes it.
const RETPOLINES: [&str; 3] = ["-fcf-protection=none", "-mindirect-branch=thunk", "-mindirect-branch-register"];

/// How a program is to be compiled.
#[derive(Clone, Debug)]
pub struct Program {
    source: PathBuf,
    flags: Vec<OsString>,
}

impl Program {
    /// The program in `tests/programs/source`, optimised (`-O2`) and with retpolines.
    #[must_use]
    pub fn retpolined(source: &str) -> Self {
        Self::plain(source).flags(&RETPOLINES)
    }

    /// The same without retpolines.
    #[must_use]
    pub fn plain(source: &str) -> Self {
        let source = directory().join(source);
        Self { source, flags: ["-O2", "-g", "-pthread"].map(OsString::from).to_vec() }
    }

    /// Adds flags for the compiler; the last one of a kind wins.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(OsString::from));
        self
    }

    /// Compiles it unless that has been done. A program that does not compile fails the test.
    #[must_use]
    pub fn build(&self) -> PathBuf {
        let name = self.source.file_stem().unwrap_or_default().to_string_lossy();
        let built = cache().join(format!("{name}-{:016x}", self.hash()));
        if !built.exists() {
            // Other tests may be building the same: the first to finish renames its file into place, where it
            // stays, since it may be running.
            let fresh = tempfile::Builder::new().prefix(&*name).tempfile_in(cache()).expect("no temporary file");
            let fresh = fresh.into_temp_path();
            self.compile(&fresh);
            if let Err(failure) = fresh.persist_noclobber(&built) {
                assert_eq!(failure.error.kind(), ErrorKind::AlreadyExists, "cannot rename the program");
            }
        }
        built
    }

    fn compile(&self, to: &Path) {
        let is_cpp = self.source.extension().is_some_and(|e| e == "cc");
        let mut compiler = Command::new(if is_cpp { "g++" } else { "gcc" });
        compiler.args(["-Wall", "-Wextra", "-Werror"]).args(&self.flags).arg(&self.source).arg("-o").arg(to);
        let output = compiler.output().expect("the tests need gcc and g++");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compiler:?} fails:\n{text}");
    }

    /// Of everything the result depends on, but the compiler itself.
    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.flags.hash(&mut hasher);
        fs::read(&self.source).expect("no such program").hash(&mut hasher);
        let mut headers: Vec<PathBuf> = fs::read_dir(directory())
            .expect("no tests/programs")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "h"))
            .collect();
        headers.sort();
        for header in headers {
            fs::read(header).expect("unreadable header").hash(&mut hasher);
        }
        hasher.finish()
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// Where compiled programs are kept.
fn cache() -> PathBuf {
    let cache = tool::target_directory().join("test-programs");
    fs::create_dir_all(&cache).expect("cannot make a directory for the test programs");
    cache
}
