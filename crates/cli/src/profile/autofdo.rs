//! LLVM's sample profile as text, which clang and rustc read with `-fprofile-sample-use`: they promote
//! indirect calls to the targets that it names.
//!
//! ```text
//! caller:TOTAL:0
//!  LINE: CALLS target:CALLS target:CALLS
//!  LINE: inlined:TOTAL
//!   LINE: CALLS target:CALLS
//! ```
//! Lines are counted from the line in which their function is declared, so the object needs debug information
//! (`-g1`; clang also needs `-fdebug-info-for-profiling`, or leaves out functions into which nothing was
//! inlined). What was inlined into a caller is nested.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use addr2line::{Context as Lines, gimli};
use anyhow::Context;
use gimli::{DwarfSections, EndianSlice, LittleEndian};
use object::{Object as _, ObjectSection as _};

use super::model::Profile;
use super::show::known;
use crate::files::{Parts, open};
use crate::live::Patience;
use crate::shown;

/// Bytes of debug information that are read, and as many that are made of compressed ones.
const MOST_BYTES: u64 = 1 << 30;
/// What debug information leads to may be much more than it is; it takes no longer.
const LONGEST: Duration = Duration::from_secs(300);
/// Longest name that is kept, and bytes of all names that are looked at: a million functions may share one of
/// a megabyte.
const LONGEST_NAME: usize = 1 << 12;
const MOST_NAMES: usize = 1 << 30;
/// Functions that are inlined into each other, at most: what lies deeper is not kept.
const DEEPEST: usize = 256;

/// Debug information, as far as it was read.
type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// What is known of a function, or of one that was inlined at a line of another.
#[derive(Default)]
struct Samples {
    calls: BTreeMap<u32, BTreeMap<String, u64>>,
    inlined: BTreeMap<(u32, String), Samples>,
}

impl Samples {
    fn total(&self) -> u64 {
        let own: u64 = self.calls.values().flat_map(BTreeMap::values).sum();
        own + self.inlined.values().map(Self::total).sum::<u64>()
    }

    fn write(&self, out: &mut String, depth: usize) {
        // Writing to a string does not fail.
        for (line, targets) in &self.calls {
            let all: u64 = targets.values().sum();
            let _ = write!(out, "{:depth$}{line}: {all}", "");
            for (target, calls) in targets {
                let _ = write!(out, " {target}:{calls}");
            }
            out.push('\n');
        }
        for ((line, name), inlined) in &self.inlined {
            let _ = writeln!(out, "{:depth$}{line}: {name}:{}", "", inlined.total());
            inlined.write(out, depth + 1);
        }
    }
}

/// The profile for one object, and how many of its sites had to be left out.
///
/// # Errors
/// When the object cannot be read, is of no build in the profile, or has no debug information.
pub fn render(profile: &Profile, object: &Path) -> anyhow::Result<(Vec<u8>, usize)> {
    let sites = profile.sites_of(object)?;
    let _patience = Patience::of(LONGEST);
    let cannot = || format!("{} cannot be read", object.display());
    let parts = Parts::new(open::plain(object).with_context(cannot)?, MOST_BYTES).with_context(cannot)?;
    let sections = sections(&parts).with_context(cannot)?;
    let dwarf = || sections.borrow(|bytes| EndianSlice::new(bytes, LittleEndian));
    let declared = declared_lines(&dwarf()).with_context(cannot)?;
    anyhow::ensure!(
        !declared.is_empty(),
        "{} does not say where its functions are declared: compile it with -g1, with clang also -fdebug-info-for-profiling",
        object.display()
    );
    let lines = Lines::from_dwarf(dwarf()).with_context(cannot)?;
    let known = known(profile);
    let (mut functions, mut left_out) = (BTreeMap::<String, Samples>::new(), 0);
    for ((_, offset), site) in sites {
        let Some(at) = slot(&mut functions, &lines, &declared, *offset) else {
            left_out += 1;
            continue;
        };
        for ((build_id, offset), share) in &site.targets {
            if let Some((target, 0)) = known.raw(build_id, *offset) {
                *at.entry(target).or_default() += super::calls(site.calls, *share);
            }
        }
    }
    let mut out = String::new();
    for (name, samples) in functions.iter().filter(|(_, samples)| samples.total() > 0) {
        let _ = writeln!(out, "{name}:{}:0", samples.total());
        samples.write(&mut out, 1);
    }
    Ok((out.into_bytes(), left_out))
}

/// Where the calls of the site at `offset` are counted: by its function, through what was inlined, to its
/// line.
fn slot<'a>(
    functions: &'a mut BTreeMap<String, Samples>,
    lines: &Lines<Bytes<'_>>,
    declared: &HashMap<String, u64>,
    offset: u64,
) -> Option<&'a mut BTreeMap<String, u64>> {
    // Nothing is loaded from other files: the object may name any.
    let mut frames = lines.find_frames(offset).skip_all_loads().ok()?;
    let mut stack = Vec::new();
    while let Some(frame) = frames.next().ok()? {
        let name = word(frame.function?.raw_name().ok()?)?;
        let line = u64::from(frame.location?.line?);
        // Clang keeps 16 bits of the distance.
        stack.push((u32::try_from(line.wrapping_sub(*declared.get(&name)?) & 0xffff).ok()?, name));
        if stack.len() > DEEPEST {
            return None;
        }
    }
    let (mut line, name) = stack.pop()?;
    let mut samples = functions.entry(name).or_default();
    while let Some((inner_line, name)) = stack.pop() {
        samples = samples.inlined.entry((line, name)).or_default();
        line = inner_line;
    }
    Some(samples.calls.entry(line).or_default())
}

/// A name that is one word of the file that is written: of no other will a compiler know a function.
fn word(name: Cow<'_, str>) -> Option<String> {
    let is_word = name.len() <= LONGEST_NAME && shown::is_word(&name);
    is_word.then(|| name.into_owned())
}

/// The debug information of a file.
fn sections(parts: &Parts) -> anyhow::Result<DwarfSections<Cow<'_, [u8]>>> {
    let file = object::File::parse(parts)?;
    let left = Cell::new(MOST_BYTES);
    DwarfSections::load(|id| {
        let Some(section) = file.section_by_name(id.name()) else { return Ok(Cow::default()) };
        let data = section.compressed_data()?;
        if !matches!(data.format, object::CompressionFormat::None) {
            // It says itself how much it becomes.
            let rest = left.get().checked_sub(data.uncompressed_size);
            left.set(rest.with_context(|| format!("its section {} is larger than any", id.name()))?);
        }
        Ok(data.decompress()?)
    })
}

/// The lines in which functions are declared, by their linkage names.
fn declared_lines(dwarf: &gimli::Dwarf<Bytes<'_>>) -> anyhow::Result<HashMap<String, u64>> {
    let (mut declared, mut left) = (HashMap::new(), MOST_NAMES);
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        let unit = dwarf.unit(header)?;
        let mut entries = unit.entries();
        while let Some(entry) = entries.next_dfs()? {
            if entry.tag() != gimli::DW_TAG_subprogram {
                continue;
            }
            let name = entry.attr_value(gimli::DW_AT_linkage_name).or_else(|| entry.attr_value(gimli::DW_AT_name));
            let line = entry.attr_value(gimli::DW_AT_decl_line).and_then(|value| value.udata_value());
            if let (Some(name), Some(line)) = (name, line) {
                let name = dwarf.attr_string(&unit, name)?;
                left = left.checked_sub(name.len()).context("its functions' names are longer than any")?;
                if let Some(name) = word(name.to_string_lossy()) {
                    declared.entry(name).or_insert(line);
                }
            }
        }
    }
    Ok(declared)
}
