//! What the dynamic loader of another process has mapped, from the structure that it keeps for debuggers
//! (`struct r_debug`, link.h). No file is opened: a library that was deleted or replaced by an upgrade, or
//! that lies in another mount namespace, is read from memory like every other.
//!
//! The process may have written anything there, and may write while this is read: lists that lead in a
//! circle, sizes beyond all memory, addresses at its end. What is read has bounds, addresses wrap, and what
//! contradicts itself is refused.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::memory::{Mapping, PAGE, Space, half_in, word_in};

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
/// More objects, and more namespaces of them, than any process has; a list that goes on is damaged.
const MOST: usize = 1 << 14;
const NAMESPACES: usize = 64;
/// Bytes of the longest dynamic section.
const MOST_DYNAMIC: u64 = 1 << 16;
/// Bytes of the longest path.
const MOST_PATH: usize = 4096;

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
    pub fn find(pid: i32, memory: &impl Space) -> anyhow::Result<Self> {
        let auxiliary = std::fs::read(format!("/proc/{pid}/auxv"))?;
        let value = |wanted| auxiliary.chunks_exact(16).find(|pair| word_in(pair, 0) == wanted).map(|p| word_in(p, 8));
        Self::from_headers((value(AT_PHDR).unwrap_or(0), value(AT_PHNUM).unwrap_or(0)), memory)
    }

    /// The same, by the executable's program headers: their address and number.
    pub fn from_headers(headers: (u64, u64), memory: &impl Space) -> anyhow::Result<Self> {
        let segments = segments(memory, headers.0, headers.1, 0).context("its program headers cannot be read")?;
        // Without PT_PHDR it is not relocated.
        let base = segments.iter().find(|s| s.kind == PT_PHDR).map_or(0, |s| headers.0.wrapping_sub(s.address));
        let dynamic = segments.iter().find(|s| s.kind == PT_DYNAMIC).context("it has no dynamic section")?;
        ensure!(dynamic.size <= MOST_DYNAMIC, "its dynamic section is larger than any");
        let entries = memory.bytes(base.wrapping_add(dynamic.address), dynamic.size as usize)?;
        let debug = dynamic_value(&entries, DT_DEBUG).unwrap_or(0);
        ensure!(debug != 0, "it has only just been started; try again");
        Ok(Self { debug, headers })
    }

    /// The function that the loader calls when its list changes.
    pub fn notice(&self, memory: &impl Space) -> io::Result<u64> {
        memory.word(self.debug.wrapping_add(16))
    }

    /// Whether the lists of all namespaces are complete and nobody is changing one.
    pub fn is_at_rest(&self, memory: &impl Space) -> anyhow::Result<bool> {
        let namespaces = self.namespaces(memory)?;
        let rests = |debug: u64| memory.half(debug.wrapping_add(24)).map(|state| state == 0);
        namespaces.into_iter().try_fold(true, |all, debug| Ok(all && rests(debug)?))
    }

    /// The structures of all namespaces. Since version 2 there is a list of them.
    fn namespaces(&self, memory: &impl Space) -> anyhow::Result<Vec<u64>> {
        let mut all = vec![self.debug];
        let mut last = self.debug;
        while memory.half(last)? >= 2 {
            match memory.word(last.wrapping_add(40))? {
                0 => break,
                next => last = next,
            }
            let is_sound = all.len() < NAMESPACES && !all.contains(&last);
            ensure!(is_sound, "its loader's list of namespaces is damaged");
            all.push(last);
        }
        Ok(all)
    }

    /// The list's entries: cheap to read and to compare.
    pub fn links(&self, memory: &impl Space) -> anyhow::Result<Links> {
        let (mut links, mut seen) = (Links::new(), HashSet::new());
        for debug in self.namespaces(memory)? {
            let mut at = memory.word(debug.wrapping_add(8))?;
            while at != 0 {
                let link: [u8; 40] = memory.array(at)?;
                ensure!(links.len() < MOST && seen.insert(at), "its loader's list of objects is damaged");
                links.push((at, word_in(&link, 0), word_in(&link, 8), word_in(&link, 16)));
                at = word_in(&link, 24);
            }
        }
        Ok(links)
    }

    /// The objects, at a moment when the list is complete.
    pub fn objects(&self, memory: &impl Space) -> anyhow::Result<Vec<Loaded>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let links = self.links(memory);
            let objects = self.objects_now(memory);
            let is_true = self.is_at_rest(memory)? && links.is_ok_and(|l| self.links(memory).is_ok_and(|now| now == l));
            // A list that is being changed looks damaged, too.
            if objects.is_ok() && is_true || Instant::now() >= deadline {
                return objects;
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// The objects, as the list is now.
    pub fn objects_now(&self, memory: &impl Space) -> anyhow::Result<Vec<Loaded>> {
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
    pub fn at(memory: &impl Space, base: u64) -> anyhow::Result<Self> {
        let header: [u8; ELF_HEADER] = memory.array(base)?;
        let headers = base.wrapping_add(word_in(&header, 32));
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

/// Address and number of the program headers of a library: its ELF header is the nearest one below its
/// dynamic section that says the same about where that lies.
fn headers_of(memory: &impl Space, mappings: &[Mapping], base: u64, dynamic: u64) -> anyhow::Result<(u64, u64)> {
    let below = mappings.iter().rev().filter(|mapping| mapping.start <= dynamic && mapping.access.starts_with('r'));
    for mapping in below.take(64) {
        let Ok(header) = memory.array::<ELF_HEADER>(mapping.start) else { continue };
        if !header.starts_with(b"\x7fELF\x02") {
            continue;
        }
        let found = (mapping.start.wrapping_add(word_in(&header, 32)), u64::from(half_in(&header, 56) & 0xffff));
        let segments = segments(memory, found.0, found.1, base)?;
        if segments.iter().any(|s| s.kind == PT_DYNAMIC && s.start == dynamic) {
            return Ok(found);
        }
    }
    bail!("the headers of the object at {base:#x} cannot be found");
}

fn segments(memory: &impl Space, at: u64, count: u64, base: u64) -> anyhow::Result<Vec<Segment>> {
    let table = memory.bytes(at, count.min(64) as usize * HEADER)?;
    let segment = |header: &[u8]| {
        let address = word_in(header, 16);
        let (kind, flags) = (half_in(header, 0), half_in(header, 4));
        Segment { kind, flags, start: base.wrapping_add(address), size: word_in(header, 40), address }
    };
    Ok(table.chunks_exact(HEADER).map(segment).collect())
}

/// The C string at `at`, as far as it can be read: as much of each page as belongs to it.
fn text(memory: &impl Space, at: u64) -> String {
    let mut text = Vec::new();
    while text.len() < MOST_PATH {
        let from = at.wrapping_add(text.len() as u64);
        let more = (PAGE - from % PAGE) as usize;
        let Ok(part) = memory.bytes(from, more.min(MOST_PATH - text.len())) else { break };
        let length = part.iter().position(|&byte| byte == 0);
        text.extend(part.get(..length.unwrap_or(part.len())).unwrap_or_default());
        if length.is_some() {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::memory::Piece;
    use super::*;

    const AT: u64 = 0x1000;

    fn bytes(words: &[(usize, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; 0x2000];
        for &(at, word) in words {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn links(words: &[(usize, u64)]) -> anyhow::Result<usize> {
        Loader { debug: AT, headers: (0, 0) }.links(&Piece { at: AT, bytes: &bytes(words) }).map(|links| links.len())
    }

    #[test]
    fn lists_that_lead_in_a_circle_end() {
        // The structure says version 2 and names a list; each link's next is at 24.
        assert_eq!(links(&[(0, 1), (8, AT + 0x100), (0x118, AT + 0x200)]).unwrap(), 2);
        for circle in [
            vec![(0, 2), (40, AT)],
            vec![(0, 1), (8, AT + 0x100), (0x118, AT + 0x200), (0x218, AT + 0x100)],
            vec![(0, 1), (8, AT + 0x100), (0x118, AT + 0x100)],
            vec![(0, 2), (40, AT + 0x300), (0x300, 2), (0x300 + 40, AT)],
            vec![(0, 1), (8, u64::MAX - 3)],
            vec![(0, 2), (40, u64::MAX)],
        ] {
            assert!(links(&circle).is_err(), "{circle:x?}");
        }
        assert!(Loader { debug: u64::MAX, headers: (0, 0) }.links(&Piece { at: AT, bytes: &bytes(&[]) }).is_err());
    }

    #[test]
    fn sizes_beyond_all_memory_are_not_believed() {
        let dynamic = |size: u64| {
            // One program header: PT_DYNAMIC at 0x1400, of that size, with DT_DEBUG in it.
            let words = [(0, 2), (16, 0x1400), (40, size), (0x400, DT_DEBUG), (0x408, 0x1800)];
            Loader::from_headers((AT, 1), &Piece { at: AT, bytes: &bytes(&words) }).map(|loader| loader.debug)
        };
        assert_eq!(dynamic(0x100).unwrap(), 0x1800);
        for size in [1 << 63, 1 << 40, u64::MAX] {
            assert!(dynamic(size).is_err(), "{size:x}");
        }
        assert!(Loader::from_headers((u64::MAX, u64::MAX), &Piece { at: AT, bytes: &bytes(&[]) }).is_err());
    }

    #[test]
    fn a_path_ends_where_nothing_can_be_read() {
        let mut bytes = vec![b'x'; 0x2000];
        bytes[0x10] = 0;
        let space = Piece { at: AT, bytes: &bytes };
        assert_eq!(text(&space, AT + 0xe), "xx");
        assert_eq!(text(&space, AT + 0x1ff0).len(), 16);
        assert_eq!(text(&space, AT + 0x11).len(), MOST_PATH);
        assert_eq!(text(&space, u64::MAX), "");
    }
}
