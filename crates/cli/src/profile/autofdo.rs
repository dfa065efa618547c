//! LLVM's sample profile as text, which clang and rustc read with `-fprofile-sample-use`: they promote indirect calls
//! to the targets that it names.
//!
//! ```text
//! caller:TOTAL:0
//!  LINE: CALLS target:CALLS target:CALLS
//!  LINE: inlined:TOTAL
//!   LINE: CALLS target:CALLS
//! ```
//! Lines are counted from the line in which their function is declared, so the object needs debug information
//! (`-g1`; clang also needs `-fdebug-info-for-profiling`, or leaves out functions into which nothing was inlined). What was
//! inlined into a caller is nested.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;

use addr2line::{Loader, gimli};
use anyhow::Context;
use object::{Object as _, ObjectSection as _};

use super::model::Profile;
use super::show::known;
use crate::files::open;

/// Larger objects are not read.
const MOST_BYTES: u64 = 1 << 32;

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
    let declared = declared_lines(object)?;
    anyhow::ensure!(
        !declared.is_empty(),
        "{} does not say where its functions are declared: compile it with -g1, with clang also -fdebug-info-for-profiling",
        object.display()
    );
    let lines = Loader::new(object).map_err(|error| anyhow::anyhow!("{}: {error}", object.display()))?;
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

/// Where the calls of the site at `offset` are counted: by its function, through what was inlined, to its line.
fn slot<'a>(
    functions: &'a mut BTreeMap<String, Samples>,
    lines: &Loader,
    declared: &HashMap<String, u64>,
    offset: u64,
) -> Option<&'a mut BTreeMap<String, u64>> {
    let mut frames = lines.find_frames(offset).ok()?;
    let mut stack = Vec::new();
    while let Some(frame) = frames.next().ok()? {
        let name = frame.function?.raw_name().ok()?.into_owned();
        let line = u64::from(frame.location?.line?);
        // Clang keeps 16 bits of the distance.
        stack.push((u32::try_from(line.wrapping_sub(*declared.get(&name)?) & 0xffff).ok()?, name));
    }
    let (mut line, name) = stack.pop()?;
    let mut samples = functions.entry(name).or_default();
    while let Some((inner_line, name)) = stack.pop() {
        samples = samples.inlined.entry((line, name)).or_default();
        line = inner_line;
    }
    Some(samples.calls.entry(line).or_default())
}

/// The lines in which functions are declared, by their linkage names.
fn declared_lines(path: &Path) -> anyhow::Result<HashMap<String, u64>> {
    let bytes = open::whole(path, MOST_BYTES).with_context(|| format!("{} cannot be read", path.display()))?;
    let file = object::File::parse(&*bytes)?;
    let section = |id: gimli::SectionId| -> Result<Cow<'_, [u8]>, object::Error> {
        let data = file.section_by_name(id.name()).map(|section| section.uncompressed_data()).transpose()?;
        Ok(data.unwrap_or_default())
    };
    let sections = gimli::DwarfSections::load(section)?;
    let dwarf = sections.borrow(|bytes| gimli::EndianSlice::new(bytes, gimli::LittleEndian));
    let mut declared = HashMap::new();
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
                let name = dwarf.attr_string(&unit, name)?.to_string_lossy().into_owned();
                declared.entry(name).or_insert(line);
            }
        }
    }
    Ok(declared)
}
