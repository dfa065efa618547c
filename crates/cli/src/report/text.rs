//! A report for people: totals and the twenty hottest sites, in 80 columns.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::counted;
use super::schema::{Family, Report, Site, Target};
use crate::live::clock;
use crate::shown::{cut, percent};
use crate::top::rows::short;

/// Sites shown.
const HOTTEST: usize = 20;
/// Processes shown.
const MEMBERS: usize = 10;
/// Targets shown per site.
const TARGETS: usize = 3;
/// Columns.
const WIDTH: usize = 80;
/// The column in which a site's name stands.
const PLACE: usize = 38;

/// The report as text.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = totals(&mut out, report).and_then(|()| match &report.family {
        Some(family) => {
            let all = of_all(report, family);
            members(&mut out, family)
                .and_then(|()| coverage(&mut out, &all))
                .and_then(|()| hottest(&mut out, &all))
                .and_then(|()| rest(&mut out, &all))
        }
        None => hottest(&mut out, report).and_then(|()| rest(&mut out, report)),
    });
    out
}

/// A report that says of all processes of a run what `report` says of the first.
fn of_all(report: &Report, family: &Family) -> Report {
    Report {
        coverage: family.coverage,
        coverage_is_bound: family.coverage_is_bound,
        calls_direct: family.calls_direct,
        calls_retpolined: family.calls_retpolined,
        calls_are_estimated: family.calls_are_estimated,
        seconds_saved: family.seconds_saved,
        seconds_lost: family.seconds_lost,
        processor_seconds: None,
        sites: family.sites.clone(),
        ..report.clone()
    }
}

/// The processes of a run, and below them what all of them did.
fn members(out: &mut String, family: &Family) -> fmt::Result {
    writeln!(out, "\nAll {} processes of the run together:", family.processes)?;
    writeln!(out, "  {:>9} {:>8} {:>8} {:>7} {:>7}  program", "pid", "direct", "retpol.", "saved", "lost")?;
    for member in family.members.iter().take(MEMBERS) {
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let [direct, retpolined] = [member.calls_direct, member.calls_retpolined].map(|calls| short(calls as f64));
        let killed = if member.ended || member.why_disabled.is_some() { "" } else { " (no orderly end)" };
        let (saved, lost) = (time(member.seconds_saved), time(member.seconds_lost));
        let program = cut(&member.program, WIDTH - 48 - killed.len());
        writeln!(out, "  {:>9} {direct:>8} {retpolined:>8} {saved:>7} {lost:>7}  {program}{killed}", member.pid)?;
    }
    let more = family.processes.saturating_sub(MEMBERS as u64);
    if more > 0 {
        writeln!(out, "  and {more} more")?;
    }
    Ok(())
}

fn totals(out: &mut String, report: &Report) -> fmt::Result {
    let engine = &report.engine;
    writeln!(out, "relpoline {}: {} (pid {})", engine.version, report.program, report.pid)?;
    if let Some(why) = &engine.why_disabled {
        writeln!(out, "  not promoting: {why}")?;
    }
    let [total, run, promoted] = [report.sites_total, report.sites_run, report.sites_promoted].map(grouped);
    writeln!(out, "  sites     {total} found, {run} ran, {promoted} promoted")?;
    coverage(out, report)?;
    let [judgements, patches, links] = [engine.judgements, engine.patches, engine.links].map(grouped);
    writeln!(
        out,
        "  learning  {judgements} judgements, {patches} patches (at most {} in a second), {links} link{}",
        engine.patches_per_s_max,
        if engine.links == 1 { "" } else { "s" }
    )?;
    writeln!(
        out,
        "            {} cycles, and {} at start; {} KiB of code",
        grouped(engine.learn_cycles),
        grouped(engine.startup_cycles),
        engine.arena_bytes.div_ceil(1024)
    )?;
    let costs = &report.costs;
    writeln!(
        out,
        "  cycles    direct {:.1}, retpoline {:.1}, mispredicted {:.1}",
        costs.direct, costs.retpoline, costs.mispredict
    )
}

/// What it is a share of stands beside it.
fn coverage(out: &mut String, report: &Report) -> fmt::Result {
    let at_most = if report.coverage_is_bound { "at most " } else { "" };
    match (report.coverage, report.coverage_estimate()) {
        (Some(coverage), _) if report.calls_are_estimated && !report.coverage_is_bound => {
            writeln!(out, "  coverage  about {} % of the calls were direct", percent(coverage, 0))?;
        }
        (Some(coverage), _) => {
            writeln!(out, "  coverage  {at_most}{} % of the calls were direct", percent(coverage, 1))?;
        }
        (None, Some(estimate)) if report.calls_are_estimated => {
            let about = if report.coverage_is_bound { "at most about" } else { "about" };
            writeln!(
                out,
                "  coverage  {about} {} % of the calls were direct (estimated; --count counts)",
                percent(estimate, 0)
            )?;
        }
        _ if report.sites_run > 0 => writeln!(out, "  coverage  not known: most calls are counted with --count only")?,
        _ => {}
    }
    if report.coverage_is_bound {
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        for site in report.sites.iter().filter(|site| site.state == "refused") {
            *reasons.entry(&site.reason).or_default() += 1;
        }
        let whole = report.objects.iter().filter(|object| counted::is_blind(object));
        let whole = whole.filter_map(|object| Some(format!("{}: {}", object.path, object.reason.as_ref()?)));
        let named = reasons.iter().map(|(reason, sites)| format!("{sites} {reason}")).chain(whole);
        let line = named.collect::<Vec<_>>().join(", ");
        let line = if line.is_empty() { "sites that are left alone".to_owned() } else { line };
        writeln!(out, "            not counted: {}", cut(&line, WIDTH - 25))?;
        if let Some(why) = report.sampling.as_ref().and_then(|sampling| sampling.missing.as_ref()) {
            writeln!(out, "            {}", cut(&format!("nor sampled: {why}"), WIDTH - 12))?;
        }
    }
    if report.seconds_saved + report.seconds_lost > 0.0 {
        let at_least = if report.coverage_is_bound { "at least " } else { "" };
        let of = report.processor_seconds.map_or(String::new(), |ran| format!(", of {}", clock::words(ran)));
        writeln!(
            out,
            "  time      about {} saved, {at_least}{} still lost to retpolines{of}",
            clock::words(report.seconds_saved),
            clock::words(report.seconds_lost)
        )?;
    }
    Ok(())
}

fn hottest(out: &mut String, report: &Report) -> fmt::Result {
    if report.sites.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nSites, by the time saved or lost there (~ is estimated, ≥ is at least):")?;
    writeln!(out, "{:>8} {:>7} {:>7}  {:<10}  site, targets, reason", "calls", "saved", "lost", "state")?;
    for site in report.sites.iter().take(HOTTEST) {
        let name = site.symbol.as_ref().unwrap_or(&site.address);
        let (saved, lost) = (time(site.seconds_saved), time(site.seconds_lost));
        let is_unknown = site.state == "refused" && site.calls() == 0 && site.samples.is_none();
        let lost = if is_unknown { "?".into() } else { lost };
        writeln!(out, "{:>8} {saved:>7} {lost:>7}  {:<10}  {}", calls(site), site.state, cut(name, WIDTH - PLACE))?;
        for target in site.targets.iter().take(TARGETS) {
            writeln!(out, "{:PLACE$}{}", "", target_line(target))?;
        }
        writeln!(out, "{:PLACE$}{}", "", cut(&reason_line(site), WIDTH - PLACE))?;
    }
    Ok(())
}

fn rest(out: &mut String, report: &Report) -> fmt::Result {
    let more = report.sites.len().saturating_sub(HOTTEST);
    if more > 0 {
        writeln!(out, "\n{more} more sites are in the JSON report.")?;
    }
    for child in &report.not_followed {
        writeln!(out, "{} ran without promotion: {}", child.program, child.reason)?;
    }
    Ok(())
}

/// Its calls: counted, estimated, or how many there were at least.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn calls(site: &Site) -> String {
    let number = |calls: u64| short(calls as f64);
    match site.calls_at_least {
        true if site.calls_estimated > 0 => format!("~{}", number(site.calls().saturating_add(site.calls_estimated))),
        true if site.samples.is_some() && !site.is_promoted() => format!("~{}", number(site.calls())),
        true if site.calls() == 0 => "?".into(),
        true => format!("≥ {}", number(site.calls())),
        false => number(site.calls()),
    }
}

/// Processor time, in at most seven characters; nothing is a dash.
fn time(seconds: f64) -> String {
    if seconds < 0.0005 { "-".into() } else { clock::words(seconds) }
}

fn target_line(target: &Target) -> String {
    let name = target.symbol.as_ref().unwrap_or(&target.address);
    format!("{:>3.0} % {}", target.share * 100.0, cut(name, WIDTH - PLACE - 6))
}

fn reason_line(site: &Site) -> String {
    let again = match site.relearned {
        0 => String::new(),
        1 => ", learned again once".into(),
        times => format!(", learned again {times} times"),
    };
    let hit = hit_share(site);
    match site.target_count {
        0 => format!("{}{again}", site.reason),
        count => format!("{}, {count} target{}{hit}{again}", site.reason, if count == 1 { "" } else { "s" }),
    }
}

/// Share of its calls that hit, if that was counted.
#[expect(clippy::cast_precision_loss, reason = "a few decimals are shown")]
fn hit_share(site: &Site) -> String {
    match site.hits {
        0 => String::new(),
        hits => format!(", {} % hit", percent(hits as f64 / site.calls() as f64, 1)),
    }
}

/// With commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::schema::Member;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn what_was_not_counted_is_at_least() {
        let site = |calls_seen, calls_at_least| Site { calls_seen, calls_at_least, ..Site::default() };
        assert_eq!((calls(&site(1234, true)), calls(&site(1234, false))), ("≥ 1.2k".into(), "1.2k".into()));
        assert_eq!((calls(&site(0, true)), calls(&site(0, false))), ("?".into(), "0".into()));
    }

    #[test]
    fn coverage_says_what_it_leaves_out() {
        let refused = Site { state: "refused".into(), reason: "not an instruction".into(), ..Site::default() };
        let report = Report {
            coverage: Some(0.995),
            coverage_is_bound: true,
            sites_uncounted: 1,
            sites: vec![refused],
            ..Report::default()
        };
        let text = render(&report);
        assert!(
            text.contains("at most 99.5 % of the calls") && text.contains("not counted: 1 not an instruction"),
            "{text}"
        );
        let nearly = render(&Report { coverage: Some(0.999_97), ..Report::default() });
        assert!(nearly.contains("coverage  99.997 % of the calls"), "some were not: {nearly}");
        let unknown = render(&Report { sites_run: 3, ..Report::default() });
        assert!(unknown.contains("coverage  not known"), "{unknown}");
    }

    #[test]
    fn no_line_is_wider_than_the_page() {
        let target = Target { symbol: Some("t".repeat(200).into()), ..Target::default() };
        let site = Site {
            symbol: Some("s".repeat(200).into()),
            reason: "r".repeat(200).into(),
            targets: vec![target; 5],
            ..Site::default()
        };
        let report = Report { sites: vec![site.clone(); 30], ..Report::default() };
        let text = render(&report);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.contains("10 more sites"));
        let member = Member { pid: 4_194_304, program: "p".repeat(300).into(), seconds_lost: 1e6, ..Member::default() };
        let family = Family { processes: 99, members: vec![member; 30], sites: vec![site; 30], ..Family::default() };
        let text = render(&Report { family: Some(family), ..report });
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.contains("All 99 processes") && text.contains("and 89 more"), "{text}");
    }
}
