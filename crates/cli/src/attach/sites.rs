//! Which sites a user means: an address, or a function by its name in one of the files that the process has
//! mapped, with or without an offset, as reports name sites.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use object::{Object as _, ObjectSymbol as _};

use super::session::Session;
use crate::files::open;
use crate::files::parts::Parts;
use crate::symbols::names::is_named;

/// Bytes of its files that are read, symbols of each that are looked at, and functions of one name. The files
/// are those that the process says, and may say anything.
const MOST_BYTES: u64 = 1 << 29;
const MOST_SYMBOLS: usize = 1 << 21;
const MOST_FUNCTIONS: usize = 1024;
/// Longer names are nobody's.
const LONGEST: usize = 1 << 12;

/// The addresses meant by `names`; all when there are none.
pub fn ranges(session: &Session, names: &[String]) -> anyhow::Result<Vec<Range<u64>>> {
    if names.is_empty() {
        return Ok(std::iter::once(0..u64::MAX).collect());
    }
    names.iter().try_fold(Vec::new(), |mut all, name| {
        match address(name) {
            Some(at) => all.push(at..at + 1),
            None => all.extend(named(session, name)?),
        }
        Ok(all)
    })
}

/// An address as reports write it.
fn address(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// What is meant by `function`, or by `function+0xOFFSET`.
fn named(session: &Session, place: &str) -> anyhow::Result<Vec<Range<u64>>> {
    let Some((function, digits)) = place.rsplit_once("+0x") else { return functions(session, place) };
    let offset = u64::from_str_radix(digits, 16).with_context(|| format!("{place} is no place"))?;
    Ok(functions(session, function)?.into_iter().filter_map(|range| at_offset(&range, offset)).collect())
}

/// The one address that lies so far into a function, if the function is that long.
fn at_offset(function: &Range<u64>, offset: u64) -> Option<Range<u64>> {
    let at = function.start.checked_add(offset).filter(|at| function.contains(at))?;
    Some(at..at + 1)
}

/// Where the functions of that name lie. A part that the compiler split off (`name.cold`) belongs to it.
fn functions(session: &Session, name: &str) -> anyhow::Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    let mut left = MOST_BYTES;
    let root = PathBuf::from(format!("/proc/{}/root", session.pid));
    for (n, object) in session.loader.objects(&session.memory)?.iter().enumerate() {
        // The executable has no name in the loader's list.
        let file = match n {
            0 => open::plain(Path::new(&format!("/proc/{}/exe", session.pid))),
            _ => open::below(&root, Path::new(&object.name.1)),
        };
        let Some(parts) = file.ok().and_then(|file| Parts::new(file, left).ok()) else { continue };
        if let Ok(file) = object::File::parse(&parts) {
            add_functions(&file, object.base, name, &mut found);
        }
        left = left.saturating_sub(parts.spent());
    }
    found.sort_by_key(|range| range.start);
    found.dedup();
    ensure!(!found.is_empty(), "no function named {name} is in its files; give the site's address (0x…) instead");
    Ok(found)
}

/// Adds where the functions of that name in a file lie.
fn add_functions<'a>(file: &object::File<'a, &'a Parts>, base: u64, name: &str, found: &mut Vec<Range<u64>>) {
    let symbols = file.symbols().chain(file.dynamic_symbols()).take(MOST_SYMBOLS);
    for symbol in symbols.filter(|symbol| symbol.is_definition() && symbol.size() != 0) {
        let is_part = |full: &str| full.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        let named = |full: &str| full.len() <= LONGEST && (is_named(full, name) || is_part(full));
        if symbol.name().is_ok_and(named) && found.len() < MOST_FUNCTIONS {
            let at = base.wrapping_add(symbol.address());
            found.push(at..at.saturating_add(symbol.size()));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_are_told_from_names() {
        assert_eq!(super::address("0x1f"), Some(0x1f));
        assert_eq!(super::address("main"), None);
        assert_eq!(super::address("1f"), None);
    }

    #[test]
    fn an_offset_means_one_address_of_a_function() {
        assert_eq!(super::at_offset(&(0x100..0x120), 0x1f), Some(0x11f..0x120));
        assert_eq!(super::at_offset(&(0x100..0x120), 0x20), None);
        assert_eq!(super::at_offset(&(0x100..0x120), u64::MAX), None);
    }
}
