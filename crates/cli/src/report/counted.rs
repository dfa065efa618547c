//! What the figures of a report leave out, reckoned where that can be, and said where it cannot.
//!
//! A site that is promoted counts its calls with `--count` only, and so does one that is left alone: counting costs
//! something. What is known of it is what was counted in short windows: while it learned, until it was linked, and
//! whenever it was looked at again. The history has their times, so it is known how fast it was called then. That rate, times
//! how long it has been in its state since, is what is reckoned to have come: `calls_estimated`. The rate is of a process
//! that ran, so the time is the processor's where that is known, otherwise the clock's.
//!
//! Calls have prices (`costs`), so there is an estimate of the *time* that a site's direct jumps have saved, and of what
//! its retpolines still cost. By their sum sites are ordered.
//!
//! Sites that were refused when they were found are not re-pointed: of their calls nothing is known at all, unless they were
//! sampled, and where there are some, a coverage is an upper bound.

use relpoline_core::policy::Config;

use super::schema::{Change, Costs, Object, Report, Site};

/// Doublings of what is counted until a link (the policy's own limit).
const DOUBLINGS: usize = 5;

/// Notes it in a report whose sites are complete, and puts them in order.
pub fn note(report: &mut Report) {
    let (seconds, counts) = (report.seconds, report.engine.counts);
    let busy = busy_share(report);
    let price = Price::of(&report.costs, report.cycles_per_s);
    for site in &mut report.sites {
        let runs_uncounted = site.is_promoted() || site.state == "retpolined";
        site.calls_at_least = !counts && runs_uncounted || site.state == "refused";
        site.calls_per_s = rate(&site.history);
        site.calls_estimated = calls_since(site, seconds, busy);
        site.seconds_saved = price.saved(site);
        site.seconds_lost = price.lost(site);
    }
    let sum = |of: fn(&Site) -> u64| report.sites.iter().map(of).fold(0, u64::saturating_add);
    let seconds_of = |of: fn(&Site) -> f64| report.sites.iter().map(of).sum();
    (report.calls_direct, report.calls_retpolined) = (sum(Site::direct), sum(Site::not_direct));
    (report.seconds_saved, report.seconds_lost) = (seconds_of(|s| s.seconds_saved), seconds_of(|s| s.seconds_lost));
    report.calls_are_estimated = report.sites.iter().any(|site| site.calls_estimated > 0);
    report.sites_uncounted = report.objects.iter().map(|object| u64::from(object.refused)).sum();
    report.coverage_is_bound = report.sites_uncounted > 0 || report.objects.iter().any(is_blind);
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

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn lost(&self, site: &Site) -> f64 {
        site.not_direct() as f64 * (self.retpoline - self.direct).max(0.0) * self.cycle
    }
}

/// Calls that will have come since they were counted last.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; neither is negative")]
fn calls_since(site: &Site, seconds: f64, busy: f64) -> u64 {
    let rate = site.calls_per_s.filter(|_| site.calls_at_least).unwrap_or_default();
    (rate * busy * (seconds - site.since).max(0.0)) as u64
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
    // All stretches at whose end more was counted than at their beginning.
    let counted = |pair: &&[Change]| pair[1].retpolined > pair[0].retpolined;
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

    /// The busiest by learning's own counts is not the busiest.
    #[test]
    fn the_busiest_come_first_and_what_is_left_out_is_noted() {
        let (linked, left) = both();
        let objects = vec![Object { thunks: 1, sites: 4, refused: 1, ..Object::default() }];
        let sites = vec![site("cold", 0.0, 9000, Vec::new()), left, linked, site("refused", 0.0, 0, Vec::new())];
        let costs = Costs { direct: 2.0, retpoline: 32.0, mispredict: 16.0 };
        let mut report = Report { sites, objects, costs, cycles_per_s: 3e9, seconds: 1.013, ..Report::default() };
        note(&mut report);
        let order: Vec<(&str, bool)> = report.sites.iter().map(|s| (s.state.as_str(), s.calls_at_least)).collect();
        assert_eq!(order, [("linked", true), ("retpolined", true), ("cold", false), ("refused", true)]);
        assert_eq!((report.coverage_is_bound, report.sites_uncounted), (true, 1));
        // 2,000,000 calls went direct in the second since; 1,000,000 took the retpoline, besides those that were counted.
        assert_eq!((report.calls_direct, report.calls_retpolined), (2_000_000, 1_000_000 + 352 + 6096 + 9000));
        assert!((report.seconds_saved - 0.02).abs() < 1e-9, "{}", report.seconds_saved);
        assert!((report.seconds_lost - 0.010_154_48).abs() < 1e-9, "{}", report.seconds_lost);
        report.processor_seconds = Some(1.013 / 4.0);
        note(&mut report);
        assert_eq!(report.calls_direct, 500_000, "it ran a quarter of the time");
        report.engine.counts = true;
        report.objects = vec![Object { thunks: 1, sites: 3, ..Object::default() }];
        note(&mut report);
        let order: Vec<(&str, bool)> = report.sites.iter().map(|s| (s.state.as_str(), s.calls_at_least)).collect();
        assert_eq!(order, [("cold", false), ("retpolined", false), ("linked", false), ("refused", true)]);
        assert!(!report.coverage_is_bound);
        report.objects = vec![Object { thunks: 1, reason: Some("not an instruction".into()), ..Object::default() }];
        note(&mut report);
        assert!(report.coverage_is_bound, "a file without unwind tables");
    }
}
