//! What the figures of a report leave out, so that it can be said.
//!
//! A site that is promoted counts its calls with `--count` only, and so does one that is left alone: counting costs
//! something. Then its figures are what was counted while it learned: *at least* so many. For the order of sites that is
//! no guide, since each learns for as long as the other; but how fast it was called then is known from its history, and how
//! long it has been in its state since. The product puts the busiest first. It is not shown: the time is the clock's, also
//! while the process waits, so it says more of which site is called more often than of how often.
//!
//! Sites that were refused when they were found are not re-pointed: of their calls nothing is known at all, and where there
//! are some, a coverage is an upper bound.

use relpoline_core::policy::Config;

use super::schema::{Change, Object, Report, Site};

/// Doublings of what is counted until a link (the policy's own limit).
const DOUBLINGS: usize = 5;

/// Notes it in a report whose sites are complete, and puts them in order.
pub fn note(report: &mut Report) {
    let (seconds, counts) = (report.seconds, report.engine.counts);
    for site in &mut report.sites {
        let runs_uncounted = site.is_promoted() || site.state == "retpolined";
        site.calls_at_least = !counts && runs_uncounted || site.state == "refused";
        site.calls_per_s = rate(&site.history);
    }
    report.sites_uncounted = report.objects.iter().map(|object| u64::from(object.refused)).sum();
    report.coverage_is_bound = report.sites_uncounted > 0 || report.objects.iter().any(is_blind);
    report.sites.sort_by_key(|site| std::cmp::Reverse(likely_calls(site, seconds)));
}

/// Whether an object has thunks, and no site of it could be found.
pub fn is_blind(object: &Object) -> bool {
    object.thunks > 0 && object.sites == 0 && object.reason.is_some()
}

/// Calls that were counted, and those that will have come since.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; neither is negative")]
fn likely_calls(site: &Site, seconds: f64) -> u64 {
    let rate = site.calls_per_s.filter(|_| site.calls_at_least).unwrap_or_default();
    site.calls().saturating_add((rate * (seconds - site.since).max(0.0)) as u64)
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
        let mut report = Report { sites, objects, seconds: 1.013, ..Report::default() };
        note(&mut report);
        let order: Vec<(&str, bool)> = report.sites.iter().map(|s| (s.state.as_str(), s.calls_at_least)).collect();
        assert_eq!(order, [("linked", true), ("retpolined", true), ("cold", false), ("refused", true)]);
        assert_eq!((report.coverage_is_bound, report.sites_uncounted), (true, 1));
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
