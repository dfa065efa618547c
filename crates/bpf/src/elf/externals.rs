//! What a file declares and does not define: helpers of the host by their names, and values of the kernel's
//! configuration (`.kconfig`), as libbpf gives them.
//!
//! The latter become one read-only map, as data sections do. What a host says of the configuration are lines
//! `CONFIG_NAME=value` ([`super::Around::config`]); the kernel's version is this machine's, unless a line
//! `LINUX_KERNEL_VERSION=number` says otherwise. Weak ones that it says nothing about are zero; others are
//! refused, in the programs that read them.

use super::btf::{Btf, kind};
use super::maps::Definition;
use super::{File, ObjectError};
use crate::map::{MapKind, MapSpec};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionIndex};
use std::collections::{HashMap, HashSet};

/// The section's name, and the map's.
const NAME: &str = ".kconfig";
/// The number of a section that no file has.
const SECTION: SectionIndex = SectionIndex(usize::MAX);
const VERSION: &str = "LINUX_KERNEL_VERSION";

/// Externals by name: where they are in the map, or why they have no value.
#[derive(Default)]
pub struct Externals {
    places: HashMap<String, Result<u64, String>>,
    functions: HashMap<String, u32>,
}

impl Externals {
    /// And the helpers that have these names.
    pub fn with(self, functions: &[(String, u32)]) -> Externals {
        Externals { functions: functions.iter().cloned().collect(), ..self }
    }

    /// The helper called `name`.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.functions.get(name).copied()
    }

    /// Where `name` is, if it is one.
    pub fn find(&self, name: &str) -> Option<Result<(SectionIndex, u64), String>> {
        Some(self.places.get(name)?.clone().map(|offset| (SECTION, offset)))
    }
}

/// The externals of `file`, and the map that holds them.
pub fn read(file: &File<'_>, config: Option<&str>) -> Result<(Externals, Option<Definition>), ObjectError> {
    let Some(types) = file.section_by_name(".BTF") else { return Ok((Externals::default(), None)) };
    let btf = Btf::parse(types.data().map_err(ObjectError::elf)?);
    let btf = btf.ok_or_else(|| ObjectError::section(".BTF", "malformed type information"))?;
    let (mut externals, mut content) = (Externals::default(), Vec::new());
    let weak: HashSet<_> =
        file.symbols().filter(|symbol| symbol.is_weak()).filter_map(|symbol| symbol.name().ok()).collect();
    for (_, name, id) in btf.section_variables(NAME).into_iter().take(MOST_VALUES) {
        let weak = weak.contains(name);
        let value = match said(config, name) {
            Some(text) => encode(&btf, id, &text),
            None if weak => {
                btf.size_of(id).filter(|size| *size <= MOST).map(|size| vec![0; size as usize]).ok_or("?".into())
            }
            None => Err("the kernel's configuration that was given, if one was, does not say it".into()),
        };
        let place = value.map(|bytes| {
            content.resize(content.len().next_multiple_of(8), 0);
            let at = content.len() as u64;
            content.extend(bytes);
            at
        });
        externals.places.insert(name.into(), place.map_err(|why| format!("'{name}' of {NAME} has no value: {why}")));
    }
    if content.is_empty() {
        return Ok((externals, None));
    }
    let size = content.len() as u64;
    let spec = MapSpec {
        name: NAME.into(),
        kind: MapKind::Array,
        key_size: 4,
        value_size: size as u32,
        max_entries: 1,
        read_only: true,
        hashes: 0,
    };
    Ok((externals, Some(Definition { content: Some(content), ..Definition::of(SECTION, 0..size, spec) })))
}

/// Most values of the configuration that a file reads.
const MOST_VALUES: usize = 1 << 12;
/// Longest text of an external.
const MOST: u32 = 4096;

/// What is said of `name`.
fn said(config: Option<&str>, name: &str) -> Option<String> {
    let line = |line: &str| Some(line.trim().strip_prefix(name)?.strip_prefix('=')?.trim().to_string());
    config.and_then(|text| text.lines().find_map(line)).or_else(|| (name == VERSION).then(this_version)?)
}

/// This machine's kernel, as `KERNEL_VERSION` has it.
fn this_version() -> Option<String> {
    let uname = rustix::system::uname();
    let release = uname.release().to_str().ok()?.to_string();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    Some(((next() & 0xffff) << 16 | (next() & 0xff) << 8 | next().min(255)).to_string())
}

/// A value as an external of type `id` holds it.
fn encode(btf: &Btf<'_>, id: u32, text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("'{}' does not fit its type", text.escape_debug());
    let id = btf.behind(id).ok_or_else(wrong)?;
    let (kind, name) = btf.kind_and_name(id).ok_or_else(wrong)?;
    let size = btf.size_of(id).filter(|size| *size <= MOST).ok_or_else(wrong)? as usize;
    let choice = match text {
        "y" => Some(1u8),
        "m" => Some(2),
        "n" => Some(0),
        _ => None,
    };
    match (kind, choice) {
        (kind::ARRAY, None) => {
            let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(wrong)?;
            let mut bytes: Vec<u8> = inner.bytes().take(size.saturating_sub(1)).collect();
            bytes.resize(size, 0);
            Ok(bytes)
        }
        // `enum libbpf_tristate`.
        (kind::ENUM, Some(choice)) => Ok(number(u64::from(choice), size)),
        // A truth value is 0 or 1, and a module is none; a character is the letter.
        (kind::INT, Some(choice)) if name == "_Bool" => {
            if choice < 2 {
                Ok(vec![choice])
            } else {
                Err(wrong())
            }
        }
        (kind::INT, Some(_)) if size == 1 => Ok(text.as_bytes().to_vec()),
        (kind::INT, None) => {
            let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
            let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
                Some(hex) => u64::from_str_radix(hex, 16),
                None => digits.parse(),
            };
            let value = value.map_err(|_| wrong())?;
            let signed = btf.is_signed(id).unwrap_or(false);
            let bits = 8 * size as u32;
            let most = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
            let most = if signed { most / 2 + u64::from(negative) } else { most };
            if value > most || negative && !signed {
                return Err(wrong());
            }
            Ok(number(if negative { value.wrapping_neg() } else { value }, size))
        }
        _ => Err(wrong()),
    }
}

fn number(value: u64, size: usize) -> Vec<u8> {
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.resize(size, 0);
    bytes
}
