//! The explanation for people.

use std::fmt::{self, Write};

use super::{Explained, Explanation};
use crate::live::clock;
use crate::report::schema::Change;
use crate::shown::cut;

/// Columns in which names are cut.
const WIDTH: usize = 80;
/// Column of the text of an instruction, and of what is said of it.
const BYTES: usize = 21;
const TEXT: usize = 28;
/// The newest events that are shown.
const EVENTS: usize = 20;

/// All sites.
pub fn render(explanation: &Explanation) -> String {
    let mut out = String::new();
    for (n, site) in explanation.sites.iter().enumerate() {
        if n > 0 {
            out.push('\n');
        }
        // Writing to a string does not fail.
        let _ = one(&mut out, site, explanation.seconds);
    }
    out
}

fn one(out: &mut String, explained: &Explained, now: f64) -> fmt::Result {
    let site = &explained.site;
    let unknown = || "an unknown object".into();
    writeln!(out, "{}", site.name())?;
    writeln!(
        out,
        "  {} at {}, target in {}, in {}",
        site.kind,
        site.address,
        site.register.as_deref().unwrap_or("?"),
        site.object.clone().unwrap_or_else(unknown)
    )?;
    writeln!(out, "  {} for {}: {}", site.state, clock::words((now - site.since).max(0.0)), site.reason)?;
    for line in wrapped(explained.meaning, WIDTH - 2) {
        writeln!(out, "  {line}")?;
    }
    counts(out, explained)?;
    targets(out, explained)?;
    history(out, &site.history, now)?;
    code(out, explained)
}

fn counts(out: &mut String, explained: &Explained) -> fmt::Result {
    let site = &explained.site;
    writeln!(out, "\n  calls")?;
    if site.hits > 0 {
        writeln!(out, "    {:>14} took a direct jump", site.hits)?;
    }
    writeln!(out, "    {:>14} missed the tree and took the retpoline", site.misses)?;
    writeln!(out, "    {:>14} took the retpoline before, while they were counted or recorded", site.calls_seen)?;
    writeln!(out, "    {:>14} times learned again, {} patches", site.relearned, site.patches)
}

fn targets(out: &mut String, explained: &Explained) -> fmt::Result {
    let site = &explained.site;
    if site.targets.is_empty() {
        return Ok(());
    }
    let shown = site.targets.len();
    writeln!(out, "\n  targets, by their share when it was judged (hot chain: {})", site.chain)?;
    for target in &site.targets {
        let name = target.symbol.as_deref().unwrap_or("");
        writeln!(out, "    {:>5.1} %  {:<16}  {}", target.share * 100.0, target.address, cut(name, WIDTH - 32))?;
    }
    let more = (site.target_count as usize).saturating_sub(shown);
    if more > 0 { writeln!(out, "    and {more} more") } else { Ok(()) }
}

fn history(out: &mut String, history: &[Change], now: f64) -> fmt::Result {
    if history.is_empty() {
        return Ok(());
    }
    let earlier = history.len().saturating_sub(EVENTS);
    writeln!(out, "\n  history")?;
    if earlier > 0 {
        writeln!(out, "    {earlier} earlier changes are in the JSON form")?;
    }
    for change in history.iter().skip(earlier) {
        let ago = clock::words((now - change.at).max(0.0));
        let what = match &change.figures {
            Some(figures) => format!(
                "{} {:.1} %, {:.1} % foreseen: {:.1} cycles, retpoline {:.1}",
                if change.target_count == 1 {
                    "1 target covers".into()
                } else {
                    format!("{} targets cover", change.target_count)
                },
                figures.covered * 100.0,
                figures.foreseen * 100.0,
                figures.tree,
                figures.retpoline
            ),
            None if change.reason == change.state => String::new(),
            None => change.reason_in_words().to_owned(),
        };
        writeln!(out, "{}", format!("    {ago:>8} ago  {:<10}  {what}", change.state).trim_end())?;
    }
    Ok(())
}

fn code(out: &mut String, explained: &Explained) -> fmt::Result {
    if let Some(why) = &explained.no_code {
        writeln!(out, "\n  The code cannot be shown: {why}.")?;
    }
    for part in &explained.code {
        writeln!(out, "\n  {}", part.title)?;
        for line in &part.lines {
            let mark = if line.is_site { '>' } else { ' ' };
            let note = line.note.as_ref().map(|note| format!("  {}", cut(note, WIDTH / 2))).unwrap_or_default();
            let text = format!("  {mark} {:<14}  {:<BYTES$} {:<TEXT$}{note}", line.address, line.bytes, line.text);
            writeln!(out, "{}", text.trim_end())?;
        }
    }
    Ok(())
}

/// A sentence in lines of at most `width` characters.
fn wrapped(sentence: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in sentence.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_wrapped_between_words() {
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrapped("", 7), [""; 0]);
        assert_eq!(wrapped("incomprehensible", 7), ["incomprehensible"]);
    }
}
