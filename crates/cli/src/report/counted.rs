//! What the figures of a report leave out, reckoned where that can be, and said where it cannot.
//!
//! A site that is promoted counts its calls with `--count` only, and so does one that is left alone: counting
//! costs something. What is known of it is what was counted in short windows: while it learned, until it was
//! linked, and whenever it was looked at again. The history has their times, so it is known how fast it was
//! called then. That rate, times how long it then was in a state in which nobody counts, is what is reckoned
//! to have come: `calls_estimated`. All such stretches of its life are in it, so that a site that was looked
//! at again keeps what it had. The rate is of a process that ran, so the time is the processor's where that
//! is known, otherwise the clock's.
//!
//! Calls have prices (`costs`), so there is an estimate of the *time* that a site's direct jumps have saved,
//! and of what its retpolines still cost. By their sum sites are ordered.
//!
//! Sites that were refused when they were found are not re-pointed: nothing of ours counts their calls. Where
//! the process was watched ([`crate::sampled`]), the time that its threads spent in their retpolines is
//! known, and so about how many calls that were; the same goes for sites that are left alone. Otherwise
//! nothing is known of them, and a coverage is an upper bound.

use relpoline_core::policy::Config;

use super::schema::{Change, Costs, Object, Report, Sampling, Site};

/// Doublings of what is counted until a link (the policy's own limit).
const DOUBLINGS: usize = 5;

/// Notes it in a report whose sites are complete, and puts them in order. There were calls of sites that are
/// not in it: direct ones, and others.
pub fn note(report: &mut Report, unlisted: (u64, u64)) {
    let (seconds, counts) = (report.seconds, report.engine.counts);
    let busy = busy_share(report);
    let price = Price::of(&report.costs, report.cycles_per_s);
    let of_process = report.processor_seconds.unwrap_or(seconds);
    if let Some(sampling) = &mut report.sampling {
        sampling.seconds_each *= of_process;
    }
    let sampling = report.sampling.clone().filter(Sampling::says_something);
    for site in &mut report.sites {
        let ran_uncounted = is_uncounted(&site.state) || site.history.iter().any(|change| is_uncounted(&change.state));
        site.calls_at_least = !counts && ran_uncounted || site.state == "refused";
        site.calls_per_s = rate(&site.history);
        let (direct, retpolined) = if counts { (0, 0) } else { uncounted_calls(site, seconds, busy) };
        // What was seen is truer than what follows from how it was called when it was counted last.
        let is_left = site.calls_at_least && !site.is_promoted();
        let seen = site.samples.filter(|_| is_left).zip(sampling.as_ref());
        let retpolined = match seen {
            Some((samples, sampling)) => price.calls(samples, sampling).saturating_sub(site.retpolined()),
            None => retpolined,
        };
        site.calls_estimated = direct.saturating_add(retpolined);
        site.calls_estimated_direct = Some(direct).filter(|_| site.calls_estimated > 0);
        site.seconds_saved = price.saved(site);
        site.seconds_lost = price.lost(site);
    }
    let sum = |of: fn(&Site) -> u64| report.sites.iter().map(of).fold(0, u64::saturating_add);
    let seconds_of = |of: fn(&Site) -> f64| report.sites.iter().map(of).sum::<f64>();
    report.calls_direct = sum(Site::direct).saturating_add(unlisted.0);
    report.calls_retpolined = sum(Site::not_direct).saturating_add(unlisted.1);
    report.seconds_saved = seconds_of(|site| site.seconds_saved);
    report.seconds_lost = seconds_of(|site| site.seconds_lost);
    report.calls_are_estimated = report.sites.iter().any(|site| site.calls_estimated > 0);
    report.sites_uncounted = report.objects.iter().map(|object| u64::from(object.refused)).sum();
    // Samples tell of calls alone, and of sites that have a record.
    let seen = report.sites.iter().filter(|site| site.state == "refused" && site.samples.is_some()).count() as u64;
    let is_blind = report.objects.iter().any(is_blind);
    report.coverage_is_bound = is_blind || report.sites_uncounted > if sampling.is_some() { seen } else { 0 };
    if report.sites_uncounted > 0 && sampling.is_some() {
        report.coverage = report.coverage.and(report.coverage_estimate());
    }
    let at_stake = |site: &Site| site.seconds_saved + site.seconds_lost;
    report.sites.sort_by(|a, b| at_stake(b).total_cmp(&at_stake(a)).then(b.calls().cmp(&a.calls())));
}

/// Whether an object has thunks, and no site of it could be found.
pub fn is_blind(object: &Object) -> bool {
    object.thunks > 0 && object.sites == 0 && object.reason.is_some()
}

/// Share of the time in which the process ran, at most 1: what several threads call at once is in the rate.
fn busy_share(report: &Report) -> f64 {
    match report.processor_seconds {
        Some(ran) if report.seconds > 0.0 => (ran / report.seconds).min(1.0),
        _ => 1.0,
    }
}

/// What calls cost, in seconds.
struct Price {
    direct: f64,
    retpoline: f64,
    cycle: f64,
}

impl Price {
    fn of(costs: &Costs, cycles_per_s: f64) -> Self {
        let cycle = if cycles_per_s > 0.0 { 1.0 / cycles_per_s } else { 0.0 };
        Self { direct: costs.direct, retpoline: costs.retpoline, cycle }
    }

    /// What the tree of a site saves, by the model's price of the last one that was built there.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn saved(&self, site: &Site) -> f64 {
        let tree = site.history.iter().rev().find_map(|change| change.figures).map_or(self.direct, |last| last.tree);
        site.direct() as f64 * (self.retpoline - tree).max(0.0) * self.cycle
    }

    fn lost(&self, site: &Site) -> f64 {
        self.of_retpolines(site.not_direct())
    }

    /// What so many retpolines cost more than direct calls.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn of_retpolines(&self, calls: u64) -> f64 {
        calls as f64 * (self.retpoline - self.direct).max(0.0) * self.cycle
    }

    /// Calls in whose retpolines so many samples were.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an estimate"
    )]
    fn calls(&self, samples: u64, sampling: &Sampling) -> u64 {
        let of_one = self.retpoline * self.cycle;
        if of_one > 0.0 { (samples as f64 * sampling.seconds_each / of_one) as u64 } else { 0 }
    }
}

/// Whether calls of a site in this state are counted with `--count` only.
fn is_uncounted(state: &str) -> bool {
    is_direct(state) || state == "retpolined"
}

fn is_direct(state: &str) -> bool {
    matches!(state, "promoted" | "linked")
}

/// Calls that will have come while nobody counted: direct ones, and others.
fn uncounted_calls(site: &Site, seconds: f64, busy: f64) -> (u64, u64) {
    let (mut direct, mut retpolined) = (0.0, 0.0);
    for (n, change) in site.history.iter().enumerate() {
        // Its last state is as old as the site says: it may have been judged since, and left as it was.
        let (from, until) = match site.history.get(n + 1) {
            Some(next) => (change.at, next.at),
            None => (change.at.max(site.since), seconds),
        };
        // By what was known at the end of that stretch: how long a link took to come tells how fast calls
        // came.
        let rate = rate(&site.history[..(n + 2).min(site.history.len())]).unwrap_or_default();
        let calls = rate * busy * (until - from).max(0.0);
        if is_direct(&change.state) {
            direct += calls;
        } else if is_uncounted(&change.state) {
            retpolined += calls;
        }
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; none is negative")]
    (direct as u64, retpolined as u64)
}

/// Calls in a second when they were counted last.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn rate(history: &[Change]) -> Option<f64> {
    let pairs = || history.windows(2).filter(|pair| pair[1].at > pair[0].at);
    let is_link = |pair: &&[Change]| pair[0].state == "promoted" && pair[1].state == "linked";
    if let Some([before, after]) = pairs().rfind(is_link) {
        let promotions = history.iter().filter(|change| change.state == "promoted" && change.reason == "promoted");
        let doublings = promotions.count().saturating_sub(1).min(DOUBLINGS);
        let calls = f64::from(Config::default().settle_calls) * f64::from(1_u32 << doublings);
        return Some(calls / (after.at - before.at));
    }
    // All stretches in which all calls are counted: of a promoted site those that missed are, of one that is
    // left none.
    let counted = |pair: &&[Change]| pair[1].retpolined > pair[0].retpolined && !is_uncounted(&pair[0].state);
    let (calls, time) = pairs().filter(counted).fold((0, 0.0), |(calls, time), pair| {
        (calls + (pair[1].retpolined - pair[0].retpolined), time + (pair[1].at - pair[0].at))
    });
    (time > 0.0).then(|| calls as f64 / time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(at: f64, state: &str, reason: &str, retpolined: u64) -> Change {
        Change { at, state: state.into(), reason: reason.into(), retpolined, ..Change::default() }
    }

    fn site(state: &str, since: f64, calls_seen: u64, history: Vec<Change>) -> Site {
        Site { state: state.into(), since, calls_seen, history, ..Site::default() }
    }

    /// Linked after 2,000 calls in a millisecond; left alone after 6,000 calls in six.
    fn both() -> (Site, Site) {
        let linked = vec![
            change(0.010, "learning", "learning", 96),
            change(0.012, "promoted", "promoted", 352),
            change(0.013, "linked", "promoted", 352),
        ];
        let left = vec![change(0.007, "learning", "learning", 96), change(0.013, "retpolined", "unpredictable", 6096)];
        (site("linked", 0.013, 352, linked), site("retpolined", 0.013, 6096, left))
    }

    #[test]
    fn rates_are_of_the_last_count() {
        let (linked, left) = both();
        let rounded = |history: &[Change]| rate(history).map(f64::round);
        assert_eq!((rounded(&linked.history), rounded(&left.history)), (Some(2_000_000.0), Some(1_000_000.0)));
        assert_eq!(rate(&[]), None);
        let again = [change(0.5, "promoted", "promoted", 900), change(0.502, "linked", "promoted", 900)];
        let twice: Vec<Change> = linked.history.iter().cloned().chain(again).collect();
        assert_eq!(rounded(&twice), Some(2_000_000.0), "the second time it counts 4,000");
    }

    /// What came before a site was looked at again is not forgotten, whatever became of it then.
    #[test]
    fn all_stretches_of_a_life_count() {
        let (linked, left) = both();
        let again = [change(1.013, "learning", "learning", 500), change(1.015, "retpolined", "unpredictable", 4500)];
        let history: Vec<Change> = linked.history.iter().cloned().chain(again).collect();
        let site_of_both = site("retpolined", 1.015, 4500, history);
        // Two millions in a second, while it was linked and since.
        let about = |calls: u64, wanted: u64| calls.abs_diff(wanted) < wanted / 100;
        let (direct, retpolined) = uncounted_calls(&site_of_both, 2.015, 1.0);
        assert!(about(direct, 2_002_000) && about(retpolined, 2_000_000), "{direct}, {retpolined}");
        let learning = [change(1.013, "learning", "learning", 6196)];
        let history: Vec<Change> = left.history.iter().cloned().chain(learning).collect();
        let (direct, retpolined) = uncounted_calls(&site("learning", 1.013, 6196, history), 1.02, 1.0);
        assert!(direct == 0 && about(retpolined, 1_000_000), "{direct}, {retpolined}");
        let mut report = Report { sites: vec![site_of_both], seconds: 2.015, ..Report::default() };
        note(&mut report, (0, 0));
        let noted = &report.sites[0];
        assert!(about(noted.direct(), 2_002_000) && about(noted.not_direct(), 2_004_500), "{noted:?}");
        assert!(noted.calls_at_least && report.calls_counted_retpolined() == 4500, "{report:?}");
        report.engine.counts = true;
        note(&mut report, (0, 0));
        assert_eq!((report.sites[0].calls_estimated, report.sites[0].direct()), (0, 0), "it was counted");
    }

    /// A site that is learned again and again loses nothing from one look to the next.
    #[test]
    fn what_was_saved_does_not_shrink() {
        let (linked, _) = both();
        let mut history = linked.history;
        for n in 1..6 {
            let at = f64::from(n);
            history.push(change(at, "learning", "learning", 352));
            history.push(change(at + 0.01, "promoted", "promoted", 352));
            history.push(change(at + 0.012, "linked", "promoted", 352));
        }
        let direct_until = |length: usize, seconds: f64| {
            let since = history[length - 1].at;
            uncounted_calls(&site("linked", since, 352, history[..length].to_vec()), seconds, 1.0).0
        };
        let looks: Vec<u64> = (1..=6).map(|n| direct_until(3 * n, history[3 * n - 1].at + 0.1)).collect();
        assert!(looks.is_sorted() && looks[5] > 5 * looks[0], "{looks:?}");
    }

    /// A site that was refused, and one that is left alone, of both of which samples tell.
    #[test]
    fn what_was_seen_is_reckoned() {
        let objects = vec![Object { thunks: 1, sites: 3, refused: 1, ..Object::default() }];
        let seen = |site: Site, samples| Site { samples: Some(samples), ..site };
        let (linked, left) = both();
        let refused = seen(site("refused", 0.0, 0, Vec::new()), 300);
        let sampling = Sampling { samples: 1000, seconds_each: 0.001, ..Sampling::default() };
        let mut report = Report {
            sites: vec![seen(linked, 50), seen(left, 100), refused],
            objects,
            costs: Costs { direct: 2.0, retpoline: 32.0, mispredict: 16.0 },
            cycles_per_s: 3.2e9,
            seconds: 1.0,
            processor_seconds: Some(1.0),
            sampling: Some(sampling),
            coverage: Some(0.99),
            ..Report::default()
        };
        let few = Report { sampling: Some(Sampling { samples: 99, ..Sampling::default() }), ..report.clone() };
        note(&mut report, (0, 0));
        // A retpoline takes 10 ns, so 0.3 s are 30 million of them.
        let about = |calls: u64, millions: u64| calls.abs_diff(millions * 1_000_000) < 10_000;
        let [first, second, third] = &report.sites[..] else { panic!("{report:?}") };
        assert!(first.state == "refused" && about(first.calls_estimated, 30), "{first:?}");
        assert!(second.state == "retpolined" && third.state == "linked", "{report:?}");
        assert!(about(second.calls_estimated, 10), "{second:?}");
        // Of one that is promoted samples say nothing: its rate does.
        assert!((1_900_000..2_000_000).contains(&third.calls_estimated), "{third:?}");
        assert!(about(report.calls_retpolined, 40) && !report.coverage_is_bound, "{report:?}");
        let coverage = report.coverage.unwrap();
        assert!((coverage - report.coverage_estimate().unwrap()).abs() < 1e-9 && coverage < 0.1, "{coverage}");
        // Too few samples are as good as none.
        let mut report = few;
        note(&mut report, (0, 0));
        assert!(report.coverage_is_bound && (report.coverage.unwrap() - 0.99).abs() < 1e-9);
        assert!(report.sites.iter().all(|site| site.state != "refused" || site.calls_estimated == 0));
    }

    /// The busiest by learning's own counts is not the busiest.
    #[test]
    fn the_busiest_come_first_and_what_is_left_out_is_noted() {
        let (linked, left) = both();
        let objects = vec![Object { thunks: 1, sites: 4, refused: 1, ..Object::default() }];
        let sites = vec![site("cold", 0.0, 9000, Vec::new()), left, linked, site("refused", 0.0, 0, Vec::new())];
        let costs = Costs { direct: 2.0, retpoline: 32.0, mispredict: 16.0 };
        let mut report = Report { sites, objects, costs, cycles_per_s: 3e9, seconds: 1.013, ..Report::default() };
        note(&mut report, (0, 0));
        let order: Vec<(&str, bool)> = report.sites.iter().map(|s| (s.state.as_str(), s.calls_at_least)).collect();
        assert_eq!(order, [("linked", true), ("retpolined", true), ("cold", false), ("refused", true)]);
        assert_eq!((report.coverage_is_bound, report.sites_uncounted), (true, 1));
        // 2,000,000 calls went direct in the second since; 1,000,000 took the retpoline, besides those that
        // were counted. Besides the 2,000 until it was linked.
        assert_eq!((report.calls_direct, report.calls_retpolined), (2_002_000, 1_000_000 + 352 + 6096 + 9000));
        assert!((report.seconds_saved - 0.020_02).abs() < 1e-9, "{}", report.seconds_saved);
        assert!((report.seconds_lost - 0.010_154_48).abs() < 1e-9, "{}", report.seconds_lost);
        report.processor_seconds = Some(1.013 / 4.0);
        note(&mut report, (0, 0));
        assert!(report.calls_direct.abs_diff(500_500) < 2, "it ran a quarter of the time: {}", report.calls_direct);
        report.engine.counts = true;
        report.objects = vec![Object { thunks: 1, sites: 3, ..Object::default() }];
        note(&mut report, (0, 0));
        let order: Vec<(&str, bool)> = report.sites.iter().map(|s| (s.state.as_str(), s.calls_at_least)).collect();
        assert_eq!(order, [("cold", false), ("retpolined", false), ("linked", false), ("refused", true)]);
        assert!(!report.coverage_is_bound);
        report.objects = vec![Object { thunks: 1, reason: Some("not an instruction".into()), ..Object::default() }];
        note(&mut report, (0, 0));
        assert!(report.coverage_is_bound, "a file without unwind tables");
    }
}
