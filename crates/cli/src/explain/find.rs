//! Which sites are meant: by their address, by an address of anything that belongs to one, by a function.

use anyhow::{Context, bail};
use relpoline_stats::{Kind, SiteRecord};

use super::Subject;

/// Bytes of a gate's cell, and of any other.
const CELL: u64 = 64;
/// Most functions of one name that are looked into.
const FUNCTIONS: usize = 64;
/// A function whose size is not known.
const UNKNOWN_SIZE: u64 = 4096;

/// The parts of a gate's cell: offsets and names (`relpoline_text::gate`).
const GATE: [(u64, &str); 5] =
    [(0, "gate"), (8, "thunk"), (24, "miss gate"), (32, "counting stub"), (46, "slow entry")];

/// The part of a site's code in which an address lies.
pub fn part(record: &SiteRecord, address: u64) -> Option<&'static str> {
    let within = |start: u64, bytes: u64| start != 0 && (start..start.saturating_add(bytes)).contains(&address);
    if within(record.gate, CELL) {
        // A jump's counting stub has a cell of its own.
        if record.kind != Kind::Call as u8 && address - record.gate >= GATE[3].0 {
            return Some(GATE[4].1);
        }
        return GATE.iter().rev().find(|(offset, _)| address - record.gate >= *offset).map(|(_, name)| *name);
    }
    let rest = u64::from(record.tree_body_bytes);
    let parts = [
        (record.tree, CELL, "tree"),
        (record.tree_body, rest, "tree's rest"),
        (record.recording, CELL, "recording stub"),
    ];
    parts.into_iter().find(|(start, bytes, _)| within(*start, *bytes)).map(|(_, _, name)| name)
}

/// The sites that `place` means.
///
/// # Errors
/// When there is none; says what there might be instead.
pub fn sites(subject: &Subject, place: &str) -> anyhow::Result<Vec<(u32, SiteRecord)>> {
    let found = match number(place) {
        Some(address) => at(subject, address),
        None => named(subject, place)?,
    };
    if found.is_empty() {
        bail!(
            "no site of process {} that is known to have run is at {place}; `relpoline top {}` shows those that are, \
             `relpoline inspect` all sites of a file",
            subject.engine.process.pid,
            subject.engine.process.pid
        );
    }
    Ok(found)
}

/// An address, as reports write it.
fn number(text: &str) -> Option<u64> {
    text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok())
}

/// The site at an address or, in the function around it, all sites.
fn at(subject: &Subject, address: u64) -> Vec<(u32, SiteRecord)> {
    let belongs = |record: &SiteRecord| record.address == address || part(record, address).is_some();
    let exact = chosen(subject, belongs);
    if !exact.is_empty() {
        return exact;
    }
    match subject.symbols.start(&subject.mapped, address) {
        Some(start) => chosen(subject, |record| subject.symbols.start(&subject.mapped, record.address) == Some(start)),
        None => Vec::new(),
    }
}

/// The sites in a function, or the one at an offset in it.
fn named(subject: &Subject, place: &str) -> anyhow::Result<Vec<(u32, SiteRecord)>> {
    let by_name =
        chosen(subject, |record| subject.symbols.name(&subject.mapped, record.address).as_deref() == Some(place));
    if !by_name.is_empty() {
        return Ok(by_name);
    }
    let (function, offset) = match place.rsplit_once("+0x") {
        Some((function, digits)) => {
            (function, Some(u64::from_str_radix(digits, 16).with_context(|| format!("{place} is no place"))?))
        }
        None => (place, None),
    };
    let ranges = subject.symbols.find(&subject.mapped, function);
    if ranges.is_empty() {
        bail!("process {} has no function {function}", subject.engine.process.pid);
    }
    let ranges: Vec<(u64, u64)> = ranges.into_iter().take(FUNCTIONS).collect();
    Ok(chosen(subject, |record| {
        ranges.iter().any(|(start, size)| match offset {
            Some(offset) => start.checked_add(offset) == Some(record.address),
            None => {
                let size = if *size == 0 { UNKNOWN_SIZE } else { *size };
                (*start..start.saturating_add(size)).contains(&record.address)
            }
        })
    }))
}

fn chosen(subject: &Subject, wanted: impl Fn(&SiteRecord) -> bool) -> Vec<(u32, SiteRecord)> {
    subject.records.iter().filter(|(_, record)| wanted(record)).copied().collect()
}

#[cfg(test)]
mod tests {
    use relpoline_stats::Plain;

    use super::*;

    #[test]
    fn an_address_in_the_arena_belongs_to_a_site() {
        let record = SiteRecord {
            kind: Kind::Call as u8,
            gate: 0x1000,
            tree: 0x2000,
            tree_body: 0x3000,
            tree_body_bytes: 128,
            ..SiteRecord::ZERO
        };
        let said =
            [0x1000, 0x1010, 0x1018, 0x102d, 0x103f, 0x1040, 0x203f, 0x307f, 0x3080, 0].map(|at| part(&record, at));
        let wanted = [
            Some("gate"),
            Some("thunk"),
            Some("miss gate"),
            Some("counting stub"),
            Some("slow entry"),
            None,
            Some("tree"),
            Some("tree's rest"),
            None,
            None,
        ];
        assert_eq!(said, wanted);
        // Whose counting stub lies elsewhere.
        let jump = SiteRecord { kind: Kind::Jump as u8, ..record };
        assert_eq!([0x1018, 0x1020].map(|at| part(&jump, at)), [Some("miss gate"), Some("slow entry")]);
    }

    #[test]
    fn addresses_are_hexadecimal() {
        assert_eq!([number("0x1f"), number("1f"), number("main"), number("0x")], [Some(31), None, None, None]);
    }
}
