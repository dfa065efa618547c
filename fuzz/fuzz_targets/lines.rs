//! Any bytes as what /proc says of a process and of what it has mapped, and as the names of statistics files: part of it is
//! names that anybody chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_cli::live::maps::Line;
use relpoline_cli::live::process::Process;
use relpoline_stats::live::Name;

fuzz_target!(|bytes: &[u8]| {
    for line in bytes.split(|&byte| byte == b'\n') {
        let Some(read) = Line::parse(line) else { continue };
        assert!(line.ends_with(read.path) && !read.path.starts_with(b" "));
    }
    let (status, stat) = bytes.split_at(bytes.len() / 2);
    if let Some(process) = Process::parse(7, status, stat) {
        assert_eq!(process.pid, 7);
    }
    let _ = Process::parse(7, bytes, bytes);
    if let Some(name) = Name::parse(bytes) {
        let mut again = [0; Name::MOST];
        let length = name.write(&mut again).expect("there is room for the longest");
        assert_eq!(&again[..length], bytes, "there is one way to write it");
    }
});
