//! Programs compiled while the tests run, and just enough ELF to look into them.
//!
//! A C compiler called `cc` is a requirement of these tests. clang is optional: what needs it says on
//! standard output that it was skipped.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A compiler and the flags that come first.
#[derive(Clone, Copy)]
pub struct Compiler {
    program: &'static str,
    first: &'static [&'static str],
}

/// The machine's C compiler.
pub fn cc() -> Compiler {
    Compiler { program: "cc", first: &[] }
}

/// clang, if there is one.
pub fn clang() -> Option<Compiler> {
    let found = ["clang", "clang-14"].into_iter().find(|program| runs(program));
    if found.is_none() {
        println!("skipped: there is no clang");
    }
    found.map(|program| Compiler { program, first: &[] })
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

impl Compiler {
    /// The same, linking with lld, if there is one.
    pub fn with_lld(self) -> Option<Compiler> {
        let found = [("ld.lld", "-fuse-ld=lld"), ("ld.lld-14", "-fuse-ld=lld-14")];
        let flag = found.into_iter().find(|(program, _)| runs(program)).map(|(_, flag)| flag);
        match flag {
            Some("-fuse-ld=lld") => Some(Compiler { first: &["-fuse-ld=lld"], ..self }),
            Some(_) => Some(Compiler { first: &["-fuse-ld=lld-14"], ..self }),
            None => {
                println!("skipped: there is no lld");
                None
            }
        }
    }

    /// Compiles and links `source`, and returns the file.
    pub fn build(self, source: &str, flags: &[&str]) -> Vec<u8> {
        let scratch = Scratch::new();
        let input = scratch.path("input.c");
        let output = scratch.path("output");
        std::fs::write(&input, source).unwrap();
        let result = Command::new(self.program)
            .args(self.first)
            .args(["-x", "c", "-w", "-o"])
            .arg(&output)
            .arg(&input)
            .args(flags)
            .output()
            .unwrap_or_else(|error| panic!("these tests need the compiler {}: {error}", self.program));
        assert!(result.status.success(), "{} {flags:?}: {}", self.program, String::from_utf8_lossy(&result.stderr));
        std::fs::read(&output).unwrap()
    }
}

/// A folder that goes away with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("relpoline-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One loadable segment: its address and its bytes in the file.
pub struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub address: u64,
    pub bytes: Vec<u8>,
}

const PT_LOAD: u32 = 1;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const EXECUTABLE: u32 = 1;

/// A little-endian number in a file.
pub fn number(file: &[u8], at: usize, bytes: usize) -> u64 {
    file[at..at + bytes].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The program headers' segments.
pub fn segments(file: &[u8]) -> Vec<Segment> {
    let (headers, count) = (number(file, 32, 8) as usize, number(file, 56, 2) as usize);
    let read = |at: usize| {
        let (offset, size) = (number(file, at + 8, 8) as usize, number(file, at + 32, 8) as usize);
        Segment {
            kind: number(file, at, 4) as u32,
            flags: number(file, at + 4, 4) as u32,
            address: number(file, at + 16, 8),
            bytes: file[offset..offset + size].to_vec(),
        }
    };
    (0..count).map(|i| read(headers + i * 56)).collect()
}

/// The segment that holds the program's code.
pub fn text(file: &[u8]) -> Segment {
    let is_text = |s: &Segment| s.kind == PT_LOAD && s.flags & EXECUTABLE != 0;
    segments(file).into_iter().find(is_text).expect("a program has code")
}

/// The bytes of [`text`].
pub fn executable_bytes(file: &[u8]) -> Vec<u8> {
    text(file).bytes
}

/// `.eh_frame_hdr`, and the loaded segment around it, which holds `.eh_frame` too.
pub fn unwind(file: &[u8]) -> Option<(Segment, Segment)> {
    let header = segments(file).into_iter().find(|s| s.kind == PT_GNU_EH_FRAME)?;
    let holds =
        |s: &Segment| s.kind == PT_LOAD && (s.address..s.address + s.bytes.len() as u64).contains(&header.address);
    let around = segments(file).into_iter().find(holds)?;
    Some((header, around))
}

/// A named symbol's address and size.
pub fn symbol(file: &[u8], name: &str) -> Option<(u64, u64)> {
    symbols(file).into_iter().find(|(found, ..)| found == name).map(|(_, address, size)| (address, size))
}

/// All named symbols: name, address, size.
pub fn symbols(file: &[u8]) -> Vec<(String, u64, u64)> {
    let section = |i: usize| number(file, 40, 8) as usize + i * 64;
    let count = number(file, 60, 2) as usize;
    let Some(table) = (0..count).map(section).find(|&at| number(file, at + 4, 4) == 2) else {
        return Vec::new();
    };
    let strings = number(file, section(number(file, table + 40, 4) as usize) + 24, 8) as usize;
    let (start, size) = (number(file, table + 24, 8) as usize, number(file, table + 32, 8) as usize);
    let read = |at: usize| {
        let name = &file[strings + number(file, at, 4) as usize..];
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(0);
        let name = String::from_utf8_lossy(&name[..end]).into_owned();
        (name, number(file, at + 8, 8), number(file, at + 16, 8))
    };
    (start..start + size).step_by(24).map(read).filter(|(name, ..)| !name.is_empty()).collect()
}
