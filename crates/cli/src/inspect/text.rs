//! What was found, for people: in 80 columns.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::findings::{Findings, Library, Site, grouped};

/// Columns.
const WIDTH: usize = 80;
/// Lines of a list before "and N more".
const LINES: usize = 12;

/// One file as text.
pub fn render(findings: &Findings) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = head(&mut out, findings)
        .and_then(|()| thunks(&mut out, findings))
        .and_then(|()| sites(&mut out, findings))
        .and_then(|()| refused(&mut out, findings))
        .and_then(|()| unprotected(&mut out, findings))
        .and_then(|()| libraries(&mut out, &findings.libraries))
        .and_then(|()| writeln!(out, "  {}", findings.conclusion));
    out
}

fn head(out: &mut String, findings: &Findings) -> fmt::Result {
    let kind = match findings.kind.as_str() {
        "pie" => "position-independent executable",
        "fixed" => "executable at a fixed address",
        _ => "shared library",
    };
    let stripped = if findings.stripped { "stripped" } else { "not stripped" };
    let tables = match findings.unwind_tables {
        true => format!("unwind tables for {} functions", grouped(findings.functions)),
        false => "no unwind tables".to_owned(),
    };
    writeln!(out, "{}", findings.path)?;
    writeln!(out, "  {kind}, {stripped}, {tables}")?;
    writeln!(out, "  build-id {}", findings.build_id.as_deref().unwrap_or("none"))
}

fn thunks(out: &mut String, findings: &Findings) -> fmt::Result {
    writeln!(out, "  thunks {}", grouped(findings.thunks.len()))?;
    list(out, &findings.thunks, |thunk| {
        let symbol = thunk.symbol.as_deref().unwrap_or("");
        let plural = if thunk.sites == 1 { "" } else { "s" };
        let what =
            format!("{:<10} {:<4} {:<12} {:>6} site{plural}", thunk.shape, thunk.register, thunk.address, thunk.sites);
        format!("{what}  {symbol}")
    })
}

fn sites(out: &mut String, findings: &Findings) -> fmt::Result {
    writeln!(out, "  sites {}{}", grouped(findings.sites.len()), kinds(findings.sites.iter(), ": "))?;
    let mut by_function: BTreeMap<&str, Vec<&Site>> = BTreeMap::new();
    for site in &findings.sites {
        by_function.entry(&site.function).or_default().push(site);
    }
    let mut functions: Vec<(&str, Vec<&Site>)> = by_function.into_iter().collect();
    functions.sort_by_key(|(_, sites)| std::cmp::Reverse(sites.len()));
    list(out, &functions, |(name, sites)| {
        let kinds = kinds(sites.iter().copied(), "");
        let room = (WIDTH - 6).saturating_sub(kinds.len());
        format!("{}  {kinds}", cut(name, room))
    })
}

/// `1 call, 2 jumps` after `before`, or nothing.
fn kinds<'a>(sites: impl Iterator<Item = &'a Site> + Clone, before: &str) -> String {
    let named = [("call", "calls"), ("jump", "jumps"), ("cond", "conditional jumps")];
    let counted = named.map(|(kind, name)| (sites.clone().filter(|site| site.kind == kind).count(), name));
    let parts: Vec<String> = counted
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| {
            let name = if *count == 1 { name.trim_end_matches('s') } else { name };
            format!("{} {name}", grouped(*count))
        })
        .collect();
    if parts.is_empty() { String::new() } else { format!("{before}{}", parts.join(", ")) }
}

fn refused(out: &mut String, findings: &Findings) -> fmt::Result {
    if findings.refused.is_empty() {
        return Ok(());
    }
    writeln!(out, "  left alone {}", grouped(findings.refused.len()))?;
    for refused in findings.refused.iter().take(LINES) {
        let function = refused.function.as_deref().unwrap_or("");
        writeln!(out, "    {}", cut(&format!("{} {function}", refused.address), WIDTH - 4))?;
        wrapped(out, "      ", refused.reason.split(' '))?;
    }
    more(out, findings.refused.len())
}

fn unprotected(out: &mut String, findings: &Findings) -> fmt::Result {
    let found = &findings.unprotected;
    if findings.unprotected_count() == 0 {
        return writeln!(out, "  indirect branches without a retpoline: none");
    }
    writeln!(out, "  indirect branches without a retpoline")?;
    let [plt, got, calls, jumps] = [found.plt, found.got_calls, found.calls, found.jumps].map(grouped);
    writeln!(out, "    PLT entries {plt}, calls through the GOT {got}, other calls {calls}, other jumps {jumps}")?;
    if findings.thunks.is_empty() {
        return Ok(());
    }
    list(out, &found.places, |place| {
        let function = place.function.as_deref().unwrap_or("");
        format!("{:<10} {:<24} {function}", place.address, place.instruction)
    })
}

fn libraries(out: &mut String, libraries: &[Library]) -> fmt::Result {
    let bare: Vec<&str> = libraries.iter().filter(|l| l.thunks == Some(0)).map(|l| l.name.as_str()).collect();
    let unknown: Vec<&str> = libraries.iter().filter(|l| l.thunks.is_none()).map(|l| l.name.as_str()).collect();
    named(out, "libraries without retpolines", &bare)?;
    named(out, "libraries that cannot be read", &unknown)
}

/// Names under a title.
fn named(out: &mut String, title: &str, names: &[&str]) -> fmt::Result {
    if names.is_empty() {
        return Ok(());
    }
    writeln!(out, "  {title}")?;
    wrapped(out, "    ", names.iter().copied())
}

/// Words, as many per line as fit.
fn wrapped<'a>(out: &mut String, indent: &str, words: impl Iterator<Item = &'a str>) -> fmt::Result {
    let mut line = String::new();
    for word in words {
        let taken = indent.len() + line.chars().count();
        if !line.is_empty() && taken + 1 + word.chars().count() > WIDTH {
            writeln!(out, "{indent}{line}")?;
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    writeln!(out, "{indent}{line}")
}

/// The first items, one per line, and how many more there are.
fn list<T>(out: &mut String, items: &[T], line: impl Fn(&T) -> String) -> fmt::Result {
    for item in items.iter().take(LINES) {
        writeln!(out, "    {}", cut(line(item).trim_end(), WIDTH - 4))?;
    }
    more(out, items.len())
}

fn more(out: &mut String, items: usize) -> fmt::Result {
    match items.saturating_sub(LINES) {
        0 => Ok(()),
        more => writeln!(out, "    and {} more (--json lists them)", grouped(more)),
    }
}

/// At most `room` columns of a text.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room.saturating_sub(1)).collect();
    format!("{kept}…")
}
