//! What the dynamic loader of another process has mapped, from the structure that it keeps for debuggers
//! (`struct r_debug`, link.h). No file is opened: a library that was deleted or replaced by an upgrade, or that lies in
//! another mount namespace, is read from memory like every other.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::memory::{Mapping, Memory, half_in, word_in};

const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_PHDR: u32 = 6;
const PF_X: u32 = 1;
const DT_DEBUG: u64 = 21;
/// Bytes of a program header, and of an ELF header.
const HEADER: usize = 56;
const ELF_HEADER: usize = 64;
/// A list that is not complete for that long is damaged.
const PATIENCE: Duration = Duration::from_secs(5);
/// More namespaces than glibc has.
const NAMESPACES: usize = 64;
/// More objects than any process has; a list that goes on is damaged.
const MOST: usize = 1 << 14;

/// The loader's structure.
#[derive(Clone, Copy, Debug)]
pub struct Loader {
    /// Its address.
    pub debug: u64,
    headers: (u64, u64),
}

/// An object as the loader knows it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is added to the addresses in the file.
    pub base: u64,
    /// Address of its path, and the path.
    pub name: (u64, String),
    /// Address of its dynamic section.
    pub dynamic: u64,
    /// Address of its program headers.
    pub headers: u64,
    /// Them.
    pub segments: Vec<Segment>,
}

/// A program header.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    kind: u32,
    flags: u32,
    /// Its address in memory.
    pub start: u64,
    /// Its bytes in memory.
    pub size: u64,
    /// Address in the file's own terms.
    address: u64,
}

impl Segment {
    /// Whether it is mapped, and executable.
    pub fn is_text(&self) -> bool {
        self.kind == PT_LOAD && self.flags & PF_X != 0
    }
}

/// The list's entries: address, base, name, dynamic section.
type Links = Vec<(u64, u64, u64, u64)>;

impl Loader {
    /// Finds the structure by the executable's `DT_DEBUG`.
    pub fn find(pid: i32, memory: &Memory) -> anyhow::Result<Self> {
        let auxiliary = std::fs::read(format!("/proc/{pid}/auxv"))?;
        let value = |wanted| auxiliary.chunks_exact(16).find(|pair| word_in(pair, 0) == wanted).map(|p| word_in(p, 8));
        let headers = (value(AT_PHDR).unwrap_or(0), value(AT_PHNUM).unwrap_or(0));
        let segments = segments(memory, headers.0, headers.1, 0).context("its program headers cannot be read")?;
        // Without PT_PHDR it is not relocated.
        let base = segments.iter().find(|s| s.kind == PT_PHDR).map_or(0, |s| headers.0.wrapping_sub(s.address));
        let dynamic = segments.iter().find(|s| s.kind == PT_DYNAMIC).context("it has no dynamic section")?;
        let entries = memory.bytes(base.wrapping_add(dynamic.address), dynamic.size as usize)?;
        let debug = dynamic_value(&entries, DT_DEBUG).unwrap_or(0);
        ensure!(debug != 0, "it has only just been started; try again");
        Ok(Self { debug, headers })
    }

    /// The function that the loader calls when its list changes.
    pub fn notice(&self, memory: &Memory) -> io::Result<u64> {
        memory.word(self.debug + 16)
    }

    /// Whether the lists of all namespaces are complete and nobody is changing one.
    pub fn is_at_rest(&self, memory: &Memory) -> anyhow::Result<bool> {
        let namespaces = self.namespaces(memory)?;
        namespaces.into_iter().try_fold(true, |rests, debug| Ok(rests && memory.half(debug + 24)? == 0))
    }

    /// The structures of all namespaces. Since version 2 there is a list of them.
    fn namespaces(&self, memory: &Memory) -> anyhow::Result<Vec<u64>> {
        let mut all = vec![self.debug];
        let mut last = self.debug;
        while memory.half(last)? >= 2 {
            match memory.word(last + 40)? {
                0 => break,
                next => last = next,
            }
            all.push(last);
            ensure!(all.len() <= NAMESPACES, "its loader's list of namespaces is damaged");
        }
        Ok(all)
    }

    /// The list's entries: cheap to read and to compare.
    pub fn links(&self, memory: &Memory) -> anyhow::Result<Links> {
        let mut links = Links::new();
        for debug in self.namespaces(memory)? {
            let mut at = memory.word(debug + 8)?;
            while at != 0 {
                let link: [u8; 40] = memory.array(at)?;
                links.push((at, word_in(&link, 0), word_in(&link, 8), word_in(&link, 16)));
                ensure!(links.len() < MOST, "its loader's list of objects is damaged");
                at = word_in(&link, 24);
            }
        }
        Ok(links)
    }

    /// The objects, at a moment when the list is complete.
    pub fn objects(&self, memory: &Memory) -> anyhow::Result<Vec<Loaded>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let links = self.links(memory);
            let objects = self.objects_now(memory);
            let is_true = self.is_at_rest(memory)? && links.is_ok_and(|l| self.links(memory).is_ok_and(|now| now == l));
            if objects.is_ok() && is_true || Instant::now() >= deadline {
                return objects;
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    fn objects_now(&self, memory: &Memory) -> anyhow::Result<Vec<Loaded>> {
        let mappings = memory.mappings()?;
        let links = self.links(memory)?;
        let first = links.first().map(|link| link.0);
        let object = |&(at, base, name, dynamic): &(u64, u64, u64, u64)| {
            let (headers, count) =
                if Some(at) == first { self.headers } else { headers_of(memory, &mappings, base, dynamic)? };
            let segments = segments(memory, headers, count, base)?;
            Ok(Loaded { base, name: (name, text(memory, name)), dynamic, headers, segments })
        };
        links.iter().map(object).collect()
    }
}

impl Loaded {
    /// A structure as `dl_iterate_phdr(3)` passes it.
    pub fn listing(&self) -> [u8; 64] {
        let words = [self.base, self.name.0, self.headers, self.segments.len() as u64, 0, 0, 0, 0];
        let mut bytes = [0; 64];
        bytes.chunks_exact_mut(8).zip(words).for_each(|(to, from)| to.copy_from_slice(&from.to_le_bytes()));
        bytes
    }

    /// Last part of its path.
    pub fn file_name(&self) -> &str {
        self.name.1.rsplit('/').next().unwrap_or_default()
    }

    /// An object whose ELF header is at `base`, relocated to there.
    pub fn at(memory: &Memory, base: u64) -> anyhow::Result<Self> {
        let header: [u8; ELF_HEADER] = memory.array(base)?;
        let headers = base + word_in(&header, 32);
        let segments = segments(memory, headers, u64::from(half_in(&header, 56) & 0xffff), base)?;
        let dynamic = segments.iter().find(|s| s.kind == PT_DYNAMIC).map_or(0, |s| s.start);
        Ok(Self { base, name: (0, String::new()), dynamic, headers, segments })
    }
}

/// The value of a dynamic entry.
pub fn dynamic_value(entries: &[u8], tag: u64) -> Option<u64> {
    let mut pairs = entries.chunks_exact(16).map(|e| (word_in(e, 0), word_in(e, 8))).take_while(|e| e.0 != 0);
    pairs.find(|entry| entry.0 == tag).map(|entry| entry.1)
}

/// Address and number of the program headers of a library: its ELF header is the nearest one below its dynamic section
/// that says the same about where that lies.
fn headers_of(memory: &Memory, mappings: &[Mapping], base: u64, dynamic: u64) -> anyhow::Result<(u64, u64)> {
    let below = mappings.iter().rev().filter(|mapping| mapping.start <= dynamic && mapping.access.starts_with('r'));
    for mapping in below.take(64) {
        let Ok(header) = memory.array::<ELF_HEADER>(mapping.start) else { continue };
        if !header.starts_with(b"\x7fELF\x02") {
            continue;
        }
        let found = (mapping.start + word_in(&header, 32), u64::from(half_in(&header, 56) & 0xffff));
        let segments = segments(memory, found.0, found.1, base)?;
        if segments.iter().any(|s| s.kind == PT_DYNAMIC && s.start == dynamic) {
            return Ok(found);
        }
    }
    bail!("the headers of the object at {base:#x} cannot be found");
}

fn segments(memory: &Memory, at: u64, count: u64, base: u64) -> anyhow::Result<Vec<Segment>> {
    let table = memory.bytes(at, count.min(64) as usize * HEADER)?;
    let segment = |header: &[u8]| {
        let address = word_in(header, 16);
        let (kind, flags) = (half_in(header, 0), half_in(header, 4));
        Segment { kind, flags, start: base.wrapping_add(address), size: word_in(header, 40), address }
    };
    Ok(table.chunks_exact(HEADER).map(segment).collect())
}

/// The C string at `at`, as far as it can be read.
fn text(memory: &Memory, at: u64) -> String {
    let mut text = Vec::new();
    for offset in 0..4096 {
        match memory.array::<1>(at + offset) {
            Ok([byte]) if byte != 0 => text.push(byte),
            _ => break,
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
