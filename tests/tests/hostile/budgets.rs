//! Files that really are large: what a command takes for one has bounds, and it says so when they do not suffice.
//!
//! Sparse files are in `statistics`. Here the disk has every block, though nothing was ever written to most of them; so it
//! takes another user no time to make one.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use relpoline_tests::{Program, tool};

use crate::attacker::{alone, forged, forget, is_root, open_directory};
use crate::command::{ends, text};
use crate::statistics::{report_on, worst};

const MIB: u64 = 1 << 20;

/// What is large in a file.
#[derive(Clone, Copy)]
enum Large {
    Symbols,
    Code,
    /// It is no ELF file.
    Nothing,
}

/// A file of 3,000 MiB, of which a command would run out of memory if it read it all; `None` where there is no room for it.
fn large(path: &Path, what: Large) -> Option<()> {
    tool::install(&Program::retpolined("hostile.c").build(), path);
    let bytes = fs::read(path).unwrap();
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let half = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
    let count = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let put = |at: usize, values: [u64; 2]| {
        file.write_all_at(&values.map(u64::to_le_bytes).concat(), at as u64).unwrap();
    };
    let at = |table: usize, size: usize, n: usize| usize::try_from(word(table)).unwrap() + n * size;
    match what {
        // Offset and size of the tables of symbols and of their names.
        Large::Symbols => {
            for header in (0..count(60)).map(|n| at(40, 64, n)) {
                match half(header + 4) {
                    2 => put(header + 24, [64 * MIB, 1600 * MIB]),
                    3 => put(header + 24, [1700 * MIB, 1200 * MIB]),
                    _ => {}
                }
            }
        }
        // Bytes of the segment of code in the file, and in memory.
        Large::Code => {
            let code = (0..count(56)).map(|n| at(32, 56, n)).find(|&p| half(p) == 1 && half(p + 4) & 1 != 0).unwrap();
            put(code + 32, [2800 * MIB, 2800 * MIB]);
        }
        Large::Nothing => file.write_all_at(b"{\"schema\": 1, \"", 0).unwrap(),
    }
    Command::new("fallocate").args(["-l", "3000M"]).arg(path).status().unwrap().success().then_some(())
}

#[test]
fn large_files_that_are_not_sparse() {
    if !is_root() {
        return;
    }
    let _one = alone();
    let place = open_directory();
    let file = place.path().join("large");
    let path = file.display().to_string();
    for what in [Large::Symbols, Large::Code, Large::Nothing] {
        if large(&file, what).is_none() {
            return println!("skipped: there is no room for a file of 3,000 MiB in {}", place.path().display());
        }
        for arguments in [
            &["inspect", &path][..],
            &["report", &path],
            &["profile", "show", &path],
            &["profile", "merge", "-o", "/dev/null", &path],
            &["profile", "export", "--format", "pprof", "-o", "/dev/null", &path],
            &["bpf", "run", &path, "--hex", "00"],
        ] {
            let said = ends(arguments);
            if arguments[0] != "inspect" {
                assert_eq!(said.status.code(), Some(1), "{arguments:?}: {}", text(&said.stdout));
            }
        }
        // The same of a file that a process says it has.
        let content = place.path().join("content");
        fs::write(&content, worst(&[path.as_bytes()], 8)).unwrap();
        let living = forged(&content, 0);
        report_on(living.pid());
        ends(&["explain", &living.pid().to_string(), "0x1000"]);
        drop(living);
        forget();
        fs::remove_file(&file).unwrap();
    }
}
