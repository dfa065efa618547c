// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The kernel's own text and symbols, as root may read them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// The kernel's memory by address: `/proc/kcore`, an ELF file.
pub struct Memory {
    file: File,
    /// Address, offset in the file, size.
    parts: Vec<(u64, u64, u64)>,
}

impl Memory {
    /// Opens it and reads where what is.
    pub fn open() -> Option<Memory> {
        let file = File::open("/proc/kcore").ok()?;
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0).ok()?;
        let table = u64::from_le_bytes(header.get(32..40)?.try_into().ok()?);
        let count = u16::from_le_bytes(header.get(56..58)?.try_into().ok()?);
        let mut parts = Vec::new();
        for i in 0..u64::from(count) {
            let mut entry = [0; 56];
            file.read_exact_at(&mut entry, table + 56 * i).ok()?;
            let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
            parts.push((word(16), word(8), word(40)));
        }
        Some(Memory { file, parts })
    }

    /// The five bytes at `address`.
    pub fn branch(&self, address: u64) -> Option<[u8; 5]> {
        let holds = |&&(start, _, size): &&(u64, u64, u64)| address >= start && address - start + 5 <= size;
        let (start, offset, _) = self.parts.iter().find(holds)?;
        let mut bytes = [0; 5];
        self.file.read_exact_at(&mut bytes, offset + (address - start)).ok()?;
        Some(bytes)
    }
}

/// Symbols by ascending address.
pub struct Symbols(Vec<(u64, String)>);

impl Symbols {
    /// All functions that the kernel and its modules have now.
    pub fn read() -> Symbols {
        let text = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let mut symbols: Vec<(u64, String)> = text.lines().filter_map(parse).collect();
        symbols.sort();
        Symbols(symbols)
    }

    /// The address of `name`.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.0.iter().find(|(_, symbol)| symbol == name).map(|(address, _)| *address)
    }

    /// The symbol that `address` lies in.
    pub fn name(&self, address: u64) -> &str {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        after.checked_sub(1).and_then(|i| self.0.get(i)).map_or("?", |(_, name)| name)
    }
}

fn parse(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let is_text = matches!(words.next()?, "t" | "T" | "w" | "W");
    is_text.then(|| words.next().map(|name| (address, name.to_owned())))?
}
