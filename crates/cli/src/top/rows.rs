//! The sites of a process as rows: what a report says, with rates against the report before.

use std::collections::HashMap;

use clap::ValueEnum;

use crate::report::Report;
use crate::report::schema::Site;

/// Orders of rows; the largest, or the worst, first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Order {
    /// By the time that retpolines cost.
    Cost,
    /// By calls.
    Calls,
    /// By calls that missed their tree.
    Misses,
    /// By the number of targets.
    Targets,
    /// By patches.
    Patches,
    /// By state, then cost.
    State,
    /// By name.
    Name,
}

impl Order {
    const ALL: [Self; 7] =
        [Self::Cost, Self::Calls, Self::Misses, Self::Targets, Self::Patches, Self::State, Self::Name];

    /// The one after it.
    pub fn next(self) -> Self {
        let at = Self::ALL.iter().position(|order| *order == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Calls => "calls",
            Self::Misses => "misses",
            Self::Targets => "targets",
            Self::Patches => "patches",
            Self::State => "state",
            Self::Name => "name",
        }
    }
}

/// A site.
#[derive(Clone, Debug)]
pub struct Row {
    /// What the report says of it.
    pub site: Site,
    /// Calls per second that hit, counted or estimated; in the process' life, when there is no earlier
    /// report.
    pub hit_rate: f64,
    /// Likewise, calls per second that took the retpoline.
    pub retpoline_rate: f64,
    /// Cycles per second that its retpolined calls cost more than direct ones would.
    pub cost: f64,
}

/// What one look has brought.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// The report; its sites are in `rows`.
    pub report: Report,
    /// The sites.
    pub rows: Vec<Row>,
    /// Calls per second that hit.
    pub hit_rate: f64,
    /// Calls per second that took the retpoline.
    pub retpoline_rate: f64,
    /// Patches per second.
    pub patch_rate: f64,
}

impl Rows {
    /// Of a report and the one before, so many seconds ago.
    #[expect(clippy::cast_precision_loss, reason = "rates need no more than 53 bits")]
    pub fn of(report: &Report, before: Option<(f64, &Report)>) -> Self {
        let (seconds, old) = before.map_or((report.seconds, None), |(seconds, report)| (seconds, Some(report)));
        let seconds = seconds.max(1e-3);
        let old_sites: HashMap<&str, &Site> =
            old.into_iter().flat_map(|old| &old.sites).map(|site| (&*site.address, site)).collect();
        let saved = (report.costs.retpoline - report.costs.direct).max(0.0);
        let row = |site: &Site| {
            let old = old_sites.get(&*site.address);
            let per_second = |now: u64, old: Option<u64>| now.saturating_sub(old.unwrap_or(0)) as f64 / seconds;
            let retpoline_rate = per_second(site.not_direct(), old.map(|old| old.not_direct()));
            let hit_rate = per_second(site.direct(), old.map(|old| old.direct()));
            Row { site: site.clone(), hit_rate, retpoline_rate, cost: retpoline_rate * saved }
        };
        let rows: Vec<Row> = report.sites.iter().map(row).collect();
        let patches = report.engine.patches.saturating_sub(old.map_or(0, |old| old.engine.patches));
        Self {
            hit_rate: rows.iter().map(|row| row.hit_rate).sum(),
            retpoline_rate: rows.iter().map(|row| row.retpoline_rate).sum(),
            patch_rate: patches as f64 / seconds,
            report: Report { sites: Vec::new(), ..report.clone() },
            rows,
        }
    }

    /// Those rows that contain `filter`, in this order.
    pub fn chosen(&self, filter: &str, order: Order, reverse: bool) -> Vec<&Row> {
        let filter = filter.to_lowercase();
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| row.contains(&filter)).collect();
        rows.sort_by(|a, b| a.compare(b, order));
        if reverse {
            rows.reverse();
        }
        rows
    }
}

impl Row {
    /// Whether anything that is said of it contains `text`, which is in lower case.
    fn contains(&self, text: &str) -> bool {
        let site = &self.site;
        let targets = site.targets.iter().flat_map(|target| [target.symbol.as_deref(), Some(&*target.address)]);
        let own = [site.symbol.as_deref(), Some(&*site.address), site.object.as_deref(), Some(&site.kind)];
        let judged = [Some(&*site.state), Some(&*site.reason)];
        text.is_empty()
            || own.into_iter().chain(judged).chain(targets).flatten().any(|s| s.to_lowercase().contains(text))
    }

    /// Whether its rates are estimated.
    pub const fn is_estimated(&self) -> bool {
        self.site.calls_estimated > 0
    }

    fn compare(&self, other: &Self, order: Order) -> std::cmp::Ordering {
        let (a, b) = (&self.site, &other.site);
        let saved = || b.seconds_saved.total_cmp(&a.seconds_saved).then(b.calls().cmp(&a.calls()));
        let by_cost = || other.cost.total_cmp(&self.cost).then_with(saved);
        match order {
            Order::Cost => by_cost(),
            Order::Calls => b.calls().cmp(&a.calls()),
            Order::Misses => b.misses.cmp(&a.misses).then_with(by_cost),
            Order::Targets => b.target_count.cmp(&a.target_count).then_with(by_cost),
            Order::Patches => b.patches.cmp(&a.patches).then_with(by_cost),
            Order::State => a.state.cmp(&b.state).then_with(by_cost),
            Order::Name => a.name().cmp(b.name()),
        }
    }

    /// Where its calls go, or why it is not promoted, in a few words.
    pub fn verdict(&self) -> String {
        let site = &self.site;
        if !site.is_promoted() {
            return site.reason.to_string();
        }
        let target = |target: &crate::report::schema::Target| {
            format!("{:.0} % {}", target.share * 100.0, target.symbol.as_ref().unwrap_or(&target.address))
        };
        site.targets.iter().map(target).collect::<Vec<_>>().join(", ")
    }

    /// Share of its calls that hit, 0 to 1, if hits are counted.
    #[expect(clippy::cast_precision_loss, reason = "a few decimals are shown")]
    pub fn hit_share(&self) -> Option<f64> {
        (self.site.hits > 0).then(|| self.site.hits as f64 / self.site.calls() as f64)
    }
}

/// A number in at most five characters: `12`, `3.4k`, `120k`, `5.6M`.
#[must_use]
pub fn short(number: f64) -> String {
    let units = ["", "k", "M", "G", "T", "P"];
    let (mut number, mut unit) = (number.max(0.0), 0);
    while number >= 999.5 && unit + 1 < units.len() {
        number /= 1000.0;
        unit += 1;
    }
    if unit == 0 || number >= 99.95 {
        format!("{number:.0}{}", units[unit])
    } else {
        format!("{number:.1}{}", units[unit])
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::report::schema::{Change, Costs, Target};

    /// A report with a promoted site, one that is left alone, and a cold one.
    pub fn report(retpolined: u64) -> Report {
        let site = |name: &str, state: &str, reason: &str, seen: u64| Site {
            address: format!("0x{}", name.len()).into(),
            symbol: Some(name.into()),
            object: Some("/usr/lib/libx.so".into()),
            kind: "call".into(),
            state: state.into(),
            reason: reason.into(),
            calls_seen: seen,
            ..Site::default()
        };
        let target = Target { symbol: Some("add".into()), address: "0x99".into(), share: 0.9 };
        let change = Change { at: 1.5, state: "promoted".into(), reason: "promoted".into(), ..Change::default() };
        let promoted = Site {
            hits: 9000,
            misses: 10,
            target_count: 1,
            targets: vec![target],
            history: vec![change],
            ..site("steady+0x4d", "linked", "promoted", 0)
        };
        Report {
            pid: 4711,
            program: "/usr/bin/program".into(),
            costs: Costs { direct: 2.0, retpoline: 32.0, mispredict: 16.0 },
            seconds: 10.0,
            sites: vec![
                promoted,
                site("chaos+0x4b", "retpolined", "unpredictable", retpolined),
                site("rare", "cold", "cold", 3),
            ],
            ..Report::default()
        }
    }

    #[test]
    fn rates_are_against_the_report_before() {
        let rows = Rows::of(&report(5000), Some((2.0, &report(1000))));
        let chaos = rows.chosen("chaos", Order::Cost, false)[0].clone();
        assert!((chaos.retpoline_rate - 2000.0).abs() < 1e-9 && (chaos.cost - 60_000.0).abs() < 1e-6);
        assert!((rows.retpoline_rate - 2000.0).abs() < 1e-9 && rows.hit_rate.abs() < 1e-9);
        let whole_life = Rows::of(&report(5000), None);
        assert!((whole_life.hit_rate - 900.0).abs() < 1e-9);
    }

    #[test]
    fn rows_are_ordered_and_filtered() {
        let rows = Rows::of(&report(5000), None);
        let names = |filter, order, reverse| -> Vec<String> {
            rows.chosen(filter, order, reverse).iter().map(|row| row.site.name().to_owned()).collect()
        };
        assert_eq!(names("", Order::Cost, false), ["chaos+0x4b", "steady+0x4d", "rare"]);
        assert_eq!(names("", Order::Calls, false), ["steady+0x4d", "chaos+0x4b", "rare"]);
        assert_eq!(names("", Order::Name, true), ["steady+0x4d", "rare", "chaos+0x4b"]);
        assert_eq!(names("unpred", Order::Cost, false), ["chaos+0x4b"]);
        assert_eq!(names("ADD", Order::Cost, false), ["steady+0x4d"]);
        assert_eq!(names("LIBX", Order::Cost, false).len(), 3);
    }

    /// What nobody counts is estimated, and stands where it belongs: a site that is left alone and called
    /// often is first.
    #[test]
    fn an_estimated_rate_counts_for_the_order() {
        let mut report = report(5);
        report.sites[1].calls_estimated = 400_000_000;
        let rows = Rows::of(&report, None);
        let first = rows.chosen("", Order::Cost, false)[0];
        assert!(first.site.name() == "chaos+0x4b" && first.is_estimated() && first.cost > 1e9, "{first:?}");
    }

    #[test]
    fn every_order_is_reached_by_its_key() {
        let mut order = Order::Cost;
        for _ in 0..Order::ALL.len() {
            order = order.next();
        }
        assert_eq!(order, Order::Cost);
    }

    #[test]
    fn numbers_are_short() {
        let said = [0.0, 12.4, 999.4, 1000.0, 56_789.0, 123_456.0, 5.6e6, 1e20].map(short);
        assert_eq!(said, ["0", "12", "999", "1.0k", "56.8k", "123k", "5.6M", "100000P"]);
    }
}
