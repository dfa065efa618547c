//! Any bytes as a program: `relpoline inspect` refuses it in a sentence, or prints what it found.
//!
//! A useful corpus to start from: small programs with retpolines.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use relpoline_cli::inspect::examine;

fuzz_target!(|bytes: &[u8]| {
    match examine(Path::new("/nonexistent/program"), bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(findings) => drop(format!("{findings:?}")),
    }
});
