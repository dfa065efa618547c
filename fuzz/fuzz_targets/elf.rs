//! Any bytes as a program: `relpoline inspect` refuses it in a sentence, or prints what it found.
//!
//! A useful corpus to start from: small programs with retpolines.
#![no_main]

use std::fs::File;
use std::io::Write;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use relpoline_cli::inspect::examine;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::Builder::new().prefix("relpoline-fuzz-").tempfile_in("/dev/shm").expect("a file");
    file.write_all(bytes).expect("there is room");
    let read = File::open(file.path()).expect("it is there");
    match examine(Path::new("/nonexistent/program"), read) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(findings) => drop(format!("{findings:?}")),
    }
});
