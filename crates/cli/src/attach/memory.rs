//! The memory of another process, and what is mapped where in it.
//!
//! Everything goes through `/proc/PID/mem`, opened once. It belongs to the program that ran when it was
//! opened: after an exec it reads and writes nothing, rather than the wrong program. Writing to text is
//! allowed to who may trace, and leaves protections as they are.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use crate::live::maps;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// More is not read at once, whatever the process says.
const MOST_AT_ONCE: usize = 1 << 26;

/// Something with addresses that can be read: a process, or what a test takes for one. What is there may be
/// anything, and may change while it is read.
pub trait Space {
    /// Reads all of `buffer` from `at`.
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// What is mapped now.
    fn mappings(&self) -> io::Result<Vec<Mapping>>;

    /// `count` bytes from `at`.
    fn bytes(&self, at: u64, count: usize) -> io::Result<Vec<u8>> {
        if count > MOST_AT_ONCE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is said to have tables larger than any"));
        }
        let mut buffer = vec![0; count];
        self.read(at, &mut buffer)?;
        Ok(buffer)
    }

    /// `N` bytes from `at`.
    fn array<const N: usize>(&self, at: u64) -> io::Result<[u8; N]> {
        let mut buffer = [0; N];
        self.read(at, &mut buffer)?;
        Ok(buffer)
    }

    /// The 8-byte word at `at`.
    fn word(&self, at: u64) -> io::Result<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// The 4-byte word at `at`.
    fn half(&self, at: u64) -> io::Result<u32> {
        self.array(at).map(u32::from_le_bytes)
    }
}

/// The memory of a process.
#[derive(Debug)]
pub struct Memory {
    pid: i32,
    file: File,
}

impl Memory {
    /// Opens the memory of process `pid`.
    pub fn open(pid: i32) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        Ok(Self { pid, file })
    }

    /// Writes `bytes` at `at`. What lies in one page is written whole, even if this process is killed.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }
}

impl Space for Memory {
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    fn mappings(&self) -> io::Result<Vec<Mapping>> {
        let mut all = Vec::new();
        maps::each(self.pid.cast_unsigned(), |line| {
            all.push(Mapping::of(line));
            true
        })?;
        Ok(all)
    }
}

/// Some bytes at an address, and nothing else: for tests and fuzzing.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The address.
    pub at: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl Space for Piece<'_> {
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(at.wrapping_sub(self.at)).ok();
        let found = from.and_then(|from| self.bytes.get(from..from.checked_add(buffer.len())?));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn mappings(&self) -> io::Result<Vec<Mapping>> {
        let end = self.at.saturating_add(self.bytes.len() as u64);
        Ok(vec![Mapping { start: self.at, end, access: "r--p".into(), inode: 1, path: String::new() }])
    }
}

/// Something that is mapped.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Behind the last address.
    pub end: u64,
    /// As in `r-xp`.
    pub access: String,
    /// Number of the file; 0 for none.
    pub inode: u64,
    /// Path of the file, or a name in brackets, or nothing.
    pub path: String,
}

impl Mapping {
    fn of(line: maps::Line<'_>) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { start: line.start, end: line.end, access: text(line.access), inode: line.inode, path: text(line.path) }
    }

    /// Whether it is private memory of no file.
    pub fn is_anonymous(&self) -> bool {
        self.inode == 0 && (self.path.is_empty() || self.path.starts_with("[anon"))
    }
}

/// The little-endian 8-byte word of `bytes` at `at`; 0 where there is none.
pub fn word_in(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// Likewise, 4 bytes.
pub fn half_in(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_and_mappings_are_read() {
        let value = 0x1122_3344_5566_7788_u64;
        let memory = Memory::open(std::process::id().cast_signed()).unwrap();
        assert_eq!(memory.word((&raw const value) as u64).unwrap(), value);
        let here = own_memory_and_mappings_are_read as *const () as u64;
        let mappings = memory.mappings().unwrap();
        let text = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&here)).unwrap();
        assert_eq!(text.access, "r-xp");
        assert!(text.path.starts_with('/') && !text.is_anonymous());
    }
}
