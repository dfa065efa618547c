//! Putting the engine into a process that has none: memory for it, its bytes, and what it has to be told.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, ensure};
use relpoline_stats::control::SCRATCH;
use relpoline_stats::options;

use super::hijack::Call;
use super::image::{self, Image};
use super::loader::Loaded;
use super::memory::{Mapping, Memory, PAGE, Space as _};
use super::remote::{Remote, error_of, field};
use super::session::Session;
use super::symbols::Symbols;

/// How far a jump reaches, less what the libraries themselves may take.
const REACH: u64 = (1 << 31) - (1 << 28);
/// Distance from what lies above.
const MARGIN: u64 = 1 << 20;

/// The C library that a process has mapped, as far as an engine needs it.
#[derive(Debug)]
pub struct Library {
    /// Its symbols.
    pub symbols: Symbols,
    base: u64,
}

impl Library {
    /// Finds it among `objects`.
    pub fn find(memory: &Memory, objects: &[Loaded]) -> anyhow::Result<Self> {
        let object = objects.iter().find(|object| object.file_name() == "libc.so.6");
        let object = object.context(
            "it has no libc.so.6 of glibc's mapped, so there is nothing to attach with; only glibc is supported",
        )?;
        let symbols = Symbols::read(memory, object)?;
        ensure!(symbols.get("gnu_get_libc_version").is_some(), "its libc.so.6 is not glibc's; only glibc is supported");
        Ok(Self { symbols, base: object.base })
    }
}

/// Puts the engine in `file` into the process. It sleeps there until it is told what to do.
pub fn load(session: &mut Session, file: &[u8], library: &Library) -> anyhow::Result<Remote> {
    let imports = image::imports(file)?;
    let imports: HashMap<String, u64> =
        imports.into_iter().filter_map(|name| Some((name.clone(), library.symbols.get(&name)?))).collect();
    let span = image::span(file)?;
    let mappings = session.memory.mappings()?;
    let base =
        gap(&mappings, library.base, span).context("there is no room in its address space near its C library")?;
    let image = Image::new(file, base, &imports)?;
    map(session, &image)?;
    // The mark goes last: an image without one is none.
    let (head, rest) = image.bytes[..image.filled].split_at(PAGE as usize);
    session.memory.write(base + PAGE, rest)?;
    session.memory.write(base, head)?;
    Remote::in_object(&session.memory, &Loaded::at(&session.memory, base)?, false)
}

/// A free range of `span` bytes, as near below `near` as can be, or above it.
fn gap(mappings: &[Mapping], near: u64, span: u64) -> Option<u64> {
    let pairs = mappings.windows(2).map(|pair| (pair[0].end, pair[1].start));
    let wide = pairs.filter(|(from, to)| to - from >= span + 2 * MARGIN);
    let place = |(_, to): (u64, u64)| (to - MARGIN - span) & !(PAGE - 1);
    let reached = wide.map(place).filter(|at| at.abs_diff(near) < REACH && (at + span).abs_diff(near) < REACH);
    reached.min_by_key(|at| (*at > near, at.abs_diff(near)))
}

/// Makes room: readable, then each part with its own protection, none writable and executable.
fn map(session: &mut Session, image: &Image) -> anyhow::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let flags = u64::from(flags.unsigned_abs());
    let readable = u64::from(libc::PROT_READ.unsigned_abs());
    let span = image.bytes.len() as u64;
    let mut calls = vec![Call::new(libc::SYS_mmap, [image.base, span, readable, flags, u64::MAX, 0])];
    calls.extend(
        image
            .parts
            .iter()
            .map(|&(start, length, protection)| Call::new(libc::SYS_mprotect, [start, length, protection, 0, 0, 0])),
    );
    let answers = session.call("making room in it", &calls)?;
    session.leave_room()?;
    for (n, &answer) in answers.iter().enumerate() {
        let is_right = if n == 0 { answer.cast_unsigned() == image.base } else { answer == 0 };
        ensure!(
            is_right,
            "it may not have executable memory for the engine ({}): allow it (SELinux: execmem), or raise its limit of address space",
            error_of(answer)
        );
    }
    Ok(())
}

/// Lists in the engine's scratch memory.
#[derive(Debug)]
pub struct Lists {
    bytes: Vec<u8>,
    start: u64,
}

impl Lists {
    /// None yet, for `engine`.
    pub fn new(engine: &Remote) -> Self {
        Self { bytes: Vec::new(), start: engine.scratch() }
    }

    /// Adds bytes; their address.
    fn add(&mut self, bytes: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = self.start + self.bytes.len() as u64;
        self.bytes.extend(bytes);
        at
    }

    /// Writes what the engine is told about `objects`, its `options` and the `path` of its file.
    pub fn write(
        mut self,
        engine: &Remote,
        memory: &Memory,
        objects: &[Loaded],
        options: &OsStr,
        path: &Path,
    ) -> anyhow::Result<()> {
        let objects: Vec<[u8; 64]> = objects.iter().map(Loaded::listing).collect();
        let listed = self.add(objects.as_flattened());
        let path = self.add(&[path.as_os_str().as_bytes(), b"\0"].concat());
        let entry = self.add(&[options::VARIABLE.as_bytes(), b"=", options.as_bytes(), b"\0"].concat());
        let environment = self.add(&[entry.to_le_bytes(), [0; 8]].concat());
        ensure!(self.bytes.len() <= SCRATCH, "it has too many libraries, or the options are too long");
        memory.write(self.start, &self.bytes)?;
        engine.set(memory, field!(objects), listed)?;
        engine.set(memory, field!(object_count), objects.len() as u64)?;
        engine.set(memory, field!(path), path)?;
        engine.set(memory, field!(environment), environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_below_is_better_than_one_above_and_reach_decides() {
        let mapping = |start, end| Mapping { start, end, access: "r-xp".into(), inode: 0, path: String::new() };
        let near = 0x7f00_0000_0000;
        let maps = [
            mapping(0x1000, 0x2000),
            mapping(near - 0x1000, near + 0x1000),
            mapping(near + 0x1000_0000, near + 0x1001_0000),
        ];
        let at = gap(&maps, near, 0x10_0000).unwrap();
        assert!(at < near && near - at < 0x1000_0000);
        let full = [mapping(near - (1 << 32), near + 0x1000), mapping(near + 0x1000_0000, near + 0x1001_0000)];
        assert!(gap(&full, near, 0x10_0000).unwrap() > near);
        assert_eq!(
            gap(&[mapping(near - (1 << 33), near + (1 << 33)), mapping(near + (1 << 35), near + (1 << 36))], near, 1),
            None
        );
    }
}
