//! The outcome for people, in 80 columns.

use std::fmt::{self, Write};

use super::figures::Figures;
use crate::report::schema::{Site, Target};
use crate::shown::{count, cut, percent};
use crate::workbench::variant::Variant;

/// Sites shown.
const SITES: usize = 12;

pub fn render(figures: &Figures) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ =
        variants(&mut out, figures).and_then(|()| won_back(&mut out, figures)).and_then(|()| sites(&mut out, figures));
    out
}

fn variants(out: &mut String, figures: &Figures) -> fmt::Result {
    let machine = &figures.machine;
    writeln!(
        out,
        "{}, {} CPUs, Linux {}\n{}\n",
        machine.cpu,
        machine.cpus,
        machine.kernel,
        cut(&machine.compiler, 80)
    )?;
    let rounds = figures.variants.values().next().map_or(0, |measured| measured.runs_s.len());
    let heading = format!("medians of {}", count(rounds as u64, "round"));
    writeln!(out, "{heading:<32}{:>10}{:>17}{:>9}", "user s", "spread", "ratio")?;
    for variant in Variant::ALL {
        let Some(measured) = figures.variants.get(variant.name()) else {
            continue;
        };
        let spread = format!("{:.3} – {:.3}", measured.min_s, measured.max_s);
        writeln!(out, "{:<32}{:>10.3}{spread:>17}{:>9.2}", title(variant), measured.user_s, measured.ratio)?;
    }
    Ok(())
}

const fn title(variant: Variant) -> &'static str {
    match variant {
        Variant::Plain => "plain",
        Variant::Retpoline => "retpoline",
        Variant::Relpoline => "retpoline + relpoline",
        Variant::Unprotected => "retpoline, thunks unprotected",
    }
}

fn won_back(out: &mut String, figures: &Figures) -> fmt::Result {
    match (figures.recovered, figures.recovered_of_layout) {
        (Some(plain), Some(layout)) => writeln!(
            out,
            "\nRelpoline wins back {:.0} % of what the retpolines' thunks cost in this layout of code\n({:.0} % of the way to the plain build, which is laid out otherwise).",
            layout * 100.0,
            plain * 100.0
        ),
        _ => writeln!(out, "\nRetpolines cost nothing here, so there was nothing to win back."),
    }?;
    match &figures.report.engine.why_disabled {
        Some(why) => writeln!(out, "Promotion was not at work: {why}."),
        None => Ok(()),
    }
}

fn sites(out: &mut String, figures: &Figures) -> fmt::Result {
    let report = &figures.report;
    let ran: Vec<&Site> = report.sites.iter().filter(|site| site.calls() > 0 || !site.targets.is_empty()).collect();
    if ran.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{} of {} sites that ran were promoted", report.sites_promoted, report.sites_run)?;
    if let Some(coverage) = report.coverage {
        let at_most = if report.coverage_is_bound { "At most " } else { "" };
        writeln!(out, "{at_most}{} % of the calls took a direct jump", percent(coverage, 1))?;
    }
    writeln!(out, "\n{:<26} {:<10} {:<34} reason", "site", "state", "hottest targets")?;
    for site in ran.iter().take(SITES) {
        let name = site.symbol.as_ref().unwrap_or(&site.address);
        writeln!(
            out,
            "{:<26} {:<10} {:<34} {}",
            cut(name, 26),
            cut(&site.state, 10),
            targets(site),
            cut(&reason(site), 80)
        )?;
    }
    match ran.len().saturating_sub(SITES) {
        0 => Ok(()),
        more => writeln!(out, "… and {more} more: relpoline demo --json"),
    }
}

/// The two hottest targets.
fn targets(site: &Site) -> String {
    site.targets.iter().take(2).map(target).collect::<Vec<_>>().join(" ")
}

fn target(target: &Target) -> String {
    let name = target.symbol.as_ref().unwrap_or(&target.address);
    // A label inside the function is told by its offset alone.
    let name = name.rfind('+').filter(|_| name.len() > 11).map_or(name.as_str(), |at| &name[at..]);
    format!("{} {:.0} %", cut(name, 11), target.share * 100.0)
}

fn reason(site: &Site) -> String {
    match site.target_count {
        0 | 1 => site.reason.to_string(),
        count => format!("{} ({count})", site.reason),
    }
}
