//! The Markdown table of a report: ratios to the retpoline build, with their intervals.

use std::fmt::Write as _;

use crate::report::{Report, Row};
use crate::stats::Interval;
use crate::variant::Variant;
use crate::workload::Better;

const COLUMNS: [(Variant, &str); 6] = [
    (Variant::Plain, "plain"),
    (Variant::Jmpthunk, "unprotected thunk"),
    (Variant::Relpoline, "relpoline"),
    (Variant::Pgo, "PGO"),
    (Variant::Bolt, "BOLT"),
    (Variant::Lfence, "lfence"),
];

/// The table with a heading that says what it was measured on and how to read it.
pub fn markdown(report: &Report) -> String {
    let shown = shown(report);
    let mut text = heading(report);
    let names: String = shown.iter().map(|(_, name)| format!(" {name} |")).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "| program | metric | retpoline = 1.00 |{names} won back | calls promoted | sites promoted / run | rounds |"
    );
    let _ = writeln!(text, "|---|---|---|{}---|---|---|---|", "---|".repeat(shown.len()));
    for row in &report.rows {
        let _ = writeln!(text, "{}", line(row, &shown));
    }
    text + &cost(report) + &left(report)
}

/// The columns that any row has something in.
fn shown(report: &Report) -> Vec<(Variant, &'static str)> {
    let used = |variant: Variant| report.rows.iter().any(|row| row.variants.contains_key(&variant));
    COLUMNS.into_iter().filter(|&(variant, _)| used(variant)).collect()
}

fn heading(report: &Report) -> String {
    let load = report.rows.iter().map(|row| row.load_average).fold(0.0, f64::max);
    format!(
        "Measured {} on {}.\n\n\
         Medians of paired ratios to the retpoline build of the same round; in brackets the interval that holds the true median\n\
         with at least 95 % (from 6 rounds on; with fewer it is all there was). \
         ↓: less is better, ↑: more is better. Won back = (retpoline − relpoline) / (retpoline − unprotected thunk),\n\
         left out where retpolines cost less than 3 %.\n\
         Load average at the end of a row at most {load:.1}: with more than about 2 others were at work, and throughput says little.\n\n",
        report.date, report.machine,
    )
}

fn line(row: &Row, shown: &[(Variant, &str)]) -> String {
    let arrow = if row.better == Better::Less { "↓" } else { "↑" };
    let base = row.variants.get(&Variant::Retpoline).map_or("–".to_owned(), |base| value(base.median, &row.unit));
    let cell = |variant: &Variant| row.variants.get(variant).map_or("–".to_owned(), |found| ratio(&found.ratio));
    let cells: String = shown.iter().map(|(variant, _)| format!(" {} |", cell(variant))).collect();
    let won = row.won_back.map_or("–".to_owned(), |share| percent(&share));
    let rounds = if row.quick { format!("{} (quick)", row.rounds) } else { row.rounds.to_string() };
    let (program, load, metric) = (&row.program, &row.workload, &row.metric);
    format!(
        "| {program} {load} | {metric} {arrow} | {base} |{cells} {won} | {} | {} | {rounds} |",
        coverage(row),
        sites(row)
    )
}

/// What the README shows: programs that gain, and some that gain little or lose. All others are in the whole
/// table.
const SHOWN: [(&str, &str, &str); 10] = [
    ("cpython", "b.py", "user CPU"),
    ("php", "b.php", "user CPU"),
    ("quickjs", "b.js", "user CPU"),
    ("linux", "packets received", "rate"),
    ("sqlite", "speedtest1", "user CPU"),
    ("postgresql", "aggregates", "server CPU"),
    ("haproxy", "forwarded", "CPU per request"),
    ("redis", "-P 32", "CPU per request"),
    ("postgresql", "pgbench -S", "CPU per request"),
    ("postgresql", "pgbench -S -C", "CPU per request"),
];

/// The table for the README: some rows, and the interval of the engine's ratio only.
pub fn short(report: &Report) -> String {
    let mut text = String::from(
        "| program | metric | unprotected thunk | **relpoline** [95 %] | won back [95 %] |\n|---|---|---|---|---|\n",
    );
    for row in &report.rows {
        if !SHOWN.contains(&(row.program.as_str(), row.workload.as_str(), row.metric.as_str())) {
            continue;
        }
        let arrow = if row.better == Better::Less { "↓" } else { "↑" };
        let twin =
            row.variants.get(&Variant::Jmpthunk).map_or("–".to_owned(), |found| format!("{:.2}", found.ratio.median));
        let ours = row.variants.get(&Variant::Relpoline).map_or("–".to_owned(), |found| {
            format!("**{:.2}** [{:.2}, {:.2}]", found.ratio.median, found.ratio.low, found.ratio.high)
        });
        // Whose interval has nothing in it cannot be told from nothing.
        let told = |share: &Interval| share.low > 0.0 || share.high < 0.0;
        let won = row.won_back.filter(told).map_or("–".to_owned(), |share| percent(&share));
        let (program, load, metric) = (&row.program, &row.workload, &row.metric);
        let _ = writeln!(text, "| {program} {load} | {metric} {arrow} | {twin} | {ours} | {won} |");
    }
    text
}

/// `text` with what stands between the two marks of [`short`]'s place replaced; `None` when it has no such
/// marks.
pub fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

const BEGIN: &str = "<!-- cargo xtask bench writes from here -->";
const END: &str = "<!-- to here -->";

/// What the engine did and took, workload by workload.
fn cost(report: &Report) -> String {
    let mut text = String::from(
        "\nWhat it took, cold: cycles for finding and re-pointing sites at the start, patches, learning as a share of the time, and memory:\n\
         dirty pages that came with the engine, and how many times the dirtied pages of program text that is. Of several processes\n\
         the figures are of the one that promoted most, memory is that of all.\n\n\
         | program | sites | start, million cycles | patches | learning | memory added | × text with sites |\n|---|---|---|---|---|---|---|\n",
    );
    for (name, row) in workloads(report) {
        let Some(found) = row.promotion.as_ref() else { continue };
        let number = |value: Option<u64>| value.map_or("–".to_owned(), |value| value.to_string());
        let start = found.startup_cycles.map_or("–".to_owned(), |cycles| format!("{:.1}", cycles as f64 / 1e6));
        let learning = found.learn_share.map_or("–".to_owned(), |share| format!("{:.2} %", 100.0 * share));
        let added = row.memory.map_or("–".to_owned(), |memory| format!("{:.2} MiB", mebibytes(memory.added())));
        let times = row.memory.filter(|memory| memory.with.text > 0);
        let times =
            times.map_or("–".to_owned(), |memory| format!("{:.2}", memory.added() as f64 / memory.with.text as f64));
        let (sites, patches) = (number(found.sites_total), number(found.patches));
        let _ = writeln!(text, "| {name} | {sites} | {start} | {patches} | {learning} | {added} | {times} |");
    }
    text
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The first row of each workload.
fn workloads(report: &Report) -> Vec<(String, &Row)> {
    let mut all: Vec<(String, &Row)> = Vec::new();
    for row in &report.rows {
        let name = format!("{} {}", row.program, row.workload);
        if all.iter().all(|(seen, _)| *seen != name) {
            all.push((name, row));
        }
    }
    all
}

/// The busiest sites that stayed with their retpoline, program by program.
fn left(report: &Report) -> String {
    let mut text = String::from(
        "\nBusiest sites that were not promoted when the program ended, from one more run that counts:\n\n",
    );
    for (name, row) in workloads(report) {
        let Some(found) = row.promotion.as_ref() else { continue };
        let sites = found.left.iter().map(|site| format!("`{}` {} ({} calls)", site.symbol, site.reason, site.calls));
        let sites: Vec<_> = sites.collect();
        let sites = if sites.is_empty() { "none".to_owned() } else { sites.join(", ") };
        let _ = writeln!(text, "- {name}: {sites}");
    }
    text
}

fn coverage(row: &Row) -> String {
    let share = row.promotion.as_ref().and_then(|found| found.coverage);
    share.map_or("–".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}

fn sites(row: &Row) -> String {
    let counts = row.promotion.as_ref().and_then(|found| Some((found.sites_promoted?, found.sites_run?)));
    counts.map_or("–".to_owned(), |(promoted, run)| format!("{promoted} / {run}"))
}

fn value(number: f64, unit: &str) -> String {
    let digits = if number >= 100.0 { 0 } else { 2 };
    let unit = unit.replace("us", "µs");
    if let Some(per) = unit.strip_prefix("1/") {
        format!("{number:.digits$}/{per}")
    } else {
        format!("{number:.digits$} {unit}")
    }
}

fn ratio(interval: &Interval) -> String {
    format!("{:.3} [{:.3}, {:.3}]", interval.median, interval.low, interval.high)
}

fn percent(interval: &Interval) -> String {
    format!("{:.0} % [{:.0}, {:.0}]", 100.0 * interval.median, 100.0 * interval.low, 100.0 * interval.high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn a_row_shows_ratios_and_share_won_back() {
        let text = markdown(&report(&["lua"]));
        let row = text.lines().find(|line| line.starts_with("| lua w")).expect("a row");
        assert_eq!(
            row,
            "| lua w | user CPU ↓ | 2.00 s | 0.500 [0.500, 0.500] | 0.550 [0.550, 0.550] | 90 % [90, 90] | – | – | 7 |"
        );
    }

    #[test]
    fn the_readme_gets_its_table() {
        let mut report = report(&["lua", "cpython"]);
        report.rows[1].workload = String::from("b.py");
        let table = short(&report);
        assert!(
            table.contains("| cpython b.py | user CPU ↓ | 0.50 | **0.55** [0.55, 0.55] | 90 % [90, 90] |"),
            "{table}"
        );
        assert!(!table.contains("lua"), "not one of those: {table}");
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = replaced(&page, &table).expect("it has marks");
        assert!(new.starts_with("a\n") && new.ends_with("\nb\n") && new.contains(&table) && !new.contains("old"));
        assert_eq!(replaced(&new, &table).as_deref(), Some(new.as_str()));
        assert_eq!(replaced("no marks", &table), None);
    }

    #[test]
    fn every_line_of_the_table_has_the_same_columns() {
        let text = markdown(&report(&["a", "b"]));
        let counts: Vec<_> =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert_eq!(counts.len(), 4 + 2, "a row each, and the head of the second table");
        assert!(counts[..4].iter().all(|count| *count == counts[0]), "{counts:?}");
    }

    #[test]
    fn values_carry_their_unit() {
        assert_eq!(value(1.234, "s"), "1.23 s");
        assert_eq!(value(12345.6, "1/s"), "12346/s");
        assert_eq!(value(3.5, "us"), "3.50 µs");
    }
}
