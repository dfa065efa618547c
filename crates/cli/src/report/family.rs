//! The processes of one run, as one report.
//!
//! Each process has a report of its own. Beside the first one's figures stands what all of them did together,
//! since a server's master says nothing of its workers: totals, a line for each process, and the sites of
//! all, added up. Two processes run the same site when it lies in the same file at the same place, wherever
//! that is mapped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::Report;
use super::schema::{Family, Member, Site};
use crate::shown::Shown;

/// Lines that are kept: a build may start tens of thousands of processes.
const MOST_LINES: usize = 1000;

/// What tells a site from others, in all processes.
type Key = (Option<Shown>, Shown, Shown);

/// Takes in the reports of a run's processes, one after the other.
#[derive(Default)]
pub struct Gathered {
    family: Family,
    /// Places in the family's list of sites.
    places: HashMap<Key, usize>,
    /// Whether there was a process that may have calls, and whether the calls of all such are counted.
    has_calls: bool,
    counts: bool,
}

impl Gathered {
    /// Adds a process.
    pub fn add(&mut self, report: &Report) {
        self.counts = report.engine.counts && (!self.has_calls || self.counts);
        self.has_calls = true;
        self.add_idle(report);
    }

    /// Adds a process that has no retpolines, like the shell that starts the others: there is nothing in it
    /// to be counted.
    pub fn add_idle(&mut self, report: &Report) {
        let family = &mut self.family;
        family.processes += 1;
        family.calls_direct = family.calls_direct.saturating_add(report.calls_direct);
        family.calls_retpolined = family.calls_retpolined.saturating_add(report.calls_retpolined);
        family.calls_are_estimated |= report.calls_are_estimated;
        family.coverage_is_bound |= report.coverage_is_bound;
        family.seconds_saved += report.seconds_saved;
        family.seconds_lost += report.seconds_lost;
        family.learn_cycles = family.learn_cycles.saturating_add(report.engine.learn_cycles);
        family.startup_cycles = family.startup_cycles.saturating_add(report.engine.startup_cycles);
        if family.members.len() < MOST_LINES {
            family.members.push(member(report));
        }
        for site in &report.sites {
            self.add_site(site);
        }
    }

    fn add_site(&mut self, site: &Site) {
        let place = site.symbol.clone().unwrap_or_else(|| site.address.clone());
        let key = (site.object.clone(), place, site.kind.clone());
        match self.places.entry(key) {
            Entry::Vacant(free) => {
                free.insert(self.family.sites.len());
                // When things happened there is each process' own matter.
                self.family.sites.push(Site { history: Vec::new(), ..site.clone() });
            }
            Entry::Occupied(known) => {
                if let Some(sum) = self.family.sites.get_mut(*known.get()) {
                    merge(sum, site);
                }
            }
        }
    }

    /// What all have done together; nothing when there was one process only.
    pub fn finish(mut self) -> Option<Family> {
        if self.family.processes < 2 {
            return None;
        }
        let calls = self.family.calls_direct.saturating_add(self.family.calls_retpolined);
        #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
        let share = |direct: u64| direct as f64 / calls as f64;
        self.family.coverage = (self.counts && calls > 0).then(|| share(self.family.calls_direct));
        let at_stake = |site: &Site| site.seconds_saved + site.seconds_lost;
        self.family.sites.sort_by(|a, b| at_stake(b).total_cmp(&at_stake(a)).then(b.calls().cmp(&a.calls())));
        self.family.members.sort_by(|a, b| b.at_stake().total_cmp(&a.at_stake()).then(a.pid.cmp(&b.pid)));
        Some(self.family)
    }
}

fn member(report: &Report) -> Member {
    Member {
        pid: report.pid,
        forked_from: report.forked_from,
        program: report.program.clone(),
        seconds: report.seconds,
        ended: report.engine.ended,
        why_disabled: report.engine.why_disabled.clone(),
        sites_run: report.sites_run,
        sites_promoted: report.sites_promoted,
        calls_direct: report.calls_direct,
        calls_retpolined: report.calls_retpolined,
        seconds_saved: report.seconds_saved,
        seconds_lost: report.seconds_lost,
    }
}

/// Adds the calls of the same site in another process. What it is and where it goes is told by the one that
/// called it most.
fn merge(sum: &mut Site, other: &Site) {
    // What one process called directly stays that, where another one called it most and left it alone.
    let direct = sum.estimated_direct().saturating_add(other.estimated_direct());
    let known = |site: &Site| site.calls().saturating_add(site.calls_estimated);
    if known(other) > known(sum) {
        sum.state = other.state.clone();
        sum.reason = other.reason.clone();
        sum.targets.clone_from(&other.targets);
        (sum.target_count, sum.chain) = (other.target_count, other.chain);
    }
    sum.hits = sum.hits.saturating_add(other.hits);
    sum.misses = sum.misses.saturating_add(other.misses);
    sum.calls_seen = sum.calls_seen.saturating_add(other.calls_seen);
    sum.calls_estimated = sum.calls_estimated.saturating_add(other.calls_estimated);
    sum.calls_estimated_direct = Some(direct).filter(|_| sum.calls_estimated > 0);
    sum.calls_at_least |= other.calls_at_least;
    sum.samples = sum.samples.map(|samples| samples + other.samples.unwrap_or_default()).or(other.samples);
    sum.relearned = sum.relearned.saturating_add(other.relearned);
    sum.patches = sum.patches.saturating_add(other.patches);
    sum.seconds_saved += other.seconds_saved;
    sum.seconds_lost += other.seconds_lost;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::schema::Engine;

    fn report(pid: u32, counts: bool, hits: u64, seen: u64) -> Report {
        let site = |name: &str, address: &str, state: &str, hits, calls_seen| Site {
            symbol: Some(name.into()),
            object: Some("/bin/p".into()),
            address: address.into(),
            state: state.into(),
            kind: "call".into(),
            hits,
            calls_seen,
            seconds_saved: 1e-9 * f64::from(u32::try_from(hits).unwrap()),
            ..Site::default()
        };
        Report {
            pid,
            engine: Engine { counts, ..Engine::default() },
            calls_direct: hits,
            calls_retpolined: seen,
            seconds_saved: 1.0,
            sites: vec![
                site("a+0x1", &format!("{pid:#x}1"), if hits > 100 { "linked" } else { "cold" }, hits, 0),
                site("b+0x1", &format!("{pid:#x}2"), "retpolined", 0, seen),
            ],
            ..Report::default()
        }
    }

    #[test]
    fn the_same_site_is_one_wherever_it_is_mapped() {
        let mut all = Gathered::default();
        for (pid, hits) in [(1, 10), (2, 900), (3, 90)] {
            all.add(&report(pid, true, hits, 100));
        }
        let family = all.finish().unwrap();
        let sites: Vec<(&str, u64, &str)> =
            family.sites.iter().map(|site| (site.name(), site.calls(), &*site.state)).collect();
        assert_eq!(sites, [("a+0x1", 1000, "linked"), ("b+0x1", 300, "retpolined")]);
        assert_eq!((family.processes, family.calls_direct, family.members.len()), (3, 1000, 3));
        assert!((family.coverage.unwrap() - 1000.0 / 1300.0).abs() < 1e-9 && family.seconds_saved > 2.9);
    }

    #[test]
    fn what_was_direct_in_one_process_stays_direct() {
        let of = |state: &str, calls_estimated| {
            let site = Site { symbol: Some("a+0x1".into()), state: state.into(), calls_estimated, ..Site::default() };
            Report { sites: vec![site], ..Report::default() }
        };
        let mut all = Gathered::default();
        all.add(&of("linked", 300));
        all.add(&of("retpolined", 1000));
        let site = &all.finish().unwrap().sites[0];
        assert_eq!((&*site.state, site.direct(), site.not_direct()), ("retpolined", 300, 1000));
    }

    #[test]
    fn a_share_of_calls_is_said_where_all_were_counted() {
        let mut all = Gathered::default();
        all.add(&report(1, true, 10, 1));
        all.add(&report(2, false, 10, 1));
        all.add(&report(3, true, 10, 1));
        assert_eq!(all.finish().unwrap().coverage, None);
        let mut below_a_shell = Gathered::default();
        below_a_shell.add(&report(1, true, 10, 10));
        below_a_shell.add_idle(&Report { pid: 2, ..Report::default() });
        let family = below_a_shell.finish().unwrap();
        assert_eq!((family.processes, family.coverage), (2, Some(0.5)));
        let mut one = Gathered::default();
        one.add(&report(1, true, 10, 1));
        assert_eq!(one.finish(), None);
    }

    #[test]
    fn thousands_of_processes_are_counted_and_a_thousand_named() {
        let mut all = Gathered::default();
        for pid in 0..1500 {
            all.add(&report(pid, true, 1, 1));
        }
        let family = all.finish().unwrap();
        assert_eq!((family.processes, family.members.len(), family.sites.len()), (1500, MOST_LINES, 2));
    }
}
