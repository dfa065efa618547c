//! Any bytes as a report or a statistics file: refused in a sentence, or shown in every format.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use relpoline_cli::arguments::ReportFormat;
use relpoline_cli::report::command::of;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::Builder::new().prefix("relpoline-fuzz-").tempfile_in("/dev/shm").expect("a file");
    file.write_all(bytes).expect("there is room");
    match of(file.path()) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(report) => {
            for format in [ReportFormat::Json, ReportFormat::Text, ReportFormat::Html, ReportFormat::Flamegraph] {
                format.render(&report).expect("what was read can be written");
            }
        }
    }
});
