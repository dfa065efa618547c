//! A living process as it is at this moment.
//!
//! Its file has what was known at each site's last judgement. A site that is settled is not judged any more,
//! so what its code has counted since is read from the counters themselves, where reading the process' memory
//! is allowed.

use std::time::Duration;

use relpoline_stats::codes::flag;
use relpoline_stats::{Header, SiteRecord, State, Stats};

use super::Report;
use super::digest::{self, Outside};
use crate::live::process::Process;
use crate::live::{Engine, clock, memory};
use crate::sampled;
use crate::symbols::Symbols;

/// So long a process is watched.
const MOMENT: Duration = Duration::from_millis(500);
/// The counters of a site, as its code has them: a cursor, hits, the countdown of misses.
const COUNTERS: usize = 20;

/// The report on a living process.
pub fn report(engine: &Engine, symbols: &mut Symbols) -> Report {
    report_on(engine, &sites(engine), symbols)
}

/// The same, of a process that is watched for a moment if there are sites of which nothing else tells.
pub fn report_watched(engine: &Engine, symbols: &mut Symbols) -> Report {
    let is_uncounted = |object: &relpoline_stats::ObjectRecord| {
        object.refused != 0 || (object.thunks != 0 && object.sites == 0 && object.reason != 0)
    };
    if !engine.stats().objects().any(|object| is_uncounted(&object)) {
        return report(engine, symbols);
    }
    let seen = sampled::once(&engine.process, MOMENT);
    let missing = seen.as_ref().err().map(sampled::why);
    report_seen(engine, &sites(engine), Outside { seen: seen.as_ref().ok(), missing, ran: None }, symbols)
}

/// The records of a living process' sites, brought up to date as far as its memory can be read.
pub fn sites(engine: &Engine) -> Vec<(u32, SiteRecord)> {
    let stats = engine.stats();
    sites_of(&engine.process, &stats).unwrap_or_else(|| stats.numbered_sites().collect())
}

/// The same, of a process with these statistics; `None` when it ended meanwhile: then it may have been
/// another process' memory.
pub fn sites_of(process: &Process, stats: &Stats<'_>) -> Option<Vec<(u32, SiteRecord)>> {
    let mut sites: Vec<(u32, SiteRecord)> = stats.numbered_sites().collect();
    update(process.pid, stats.header(), &mut sites);
    process.is_there().then_some(sites)
}

/// The report on a living process with these records of sites.
pub fn report_on(engine: &Engine, sites: &[(u32, SiteRecord)], symbols: &mut Symbols) -> Report {
    report_seen(engine, sites, Outside::default(), symbols)
}

fn report_seen(engine: &Engine, sites: &[(u32, SiteRecord)], outside: Outside<'_>, symbols: &mut Symbols) -> Report {
    let stats = engine.stats();
    // Its file was current when it was read, whenever it was last written.
    let header = Header { last_tsc: clock::now(), ..*stats.header() };
    let outside = Outside { ran: engine.process.processor_seconds(), ..outside };
    let mut report = digest::report_of(&header, &stats, sites, &outside, symbols);
    report.pid = engine.process.pid;
    report
}

/// Adds what was counted since the last judgements, as far as it can be read.
fn update(pid: u32, header: &Header, sites: &mut [(u32, SiteRecord)]) {
    let counting = |site: &SiteRecord| site.counters != 0 && State::from_number(site.state) != Some(State::Gone);
    let mut counting: Vec<&mut SiteRecord> =
        sites.iter_mut().map(|(_, site)| site).filter(|site| counting(site)).collect();
    let addresses: Vec<u64> = counting.iter().map(|site| site.counters).collect();
    let Ok(counters) = memory::read_all::<COUNTERS>(pid, &addresses) else { return };
    for (site, counters) in counting.iter_mut().zip(counters) {
        if let Some(counters) = counters {
            add(site, &counters, header.flags & flag::COUNT != 0);
        }
    }
}

/// Brings a site's record up to date with its counters.
fn add(site: &mut SiteRecord, counters: &[u8; COUNTERS], counts: bool) {
    let [_, _, _, _, _, _, _, _, calls @ .., a, b, c, d] = *counters;
    let left = u32::from_le_bytes([a, b, c, d]);
    let since = u64::try_from(i64::from(site.misses_left) - i64::from(left)).unwrap_or(0);
    match State::from_number(site.state) {
        Some(State::Promoted | State::Linked) => site.misses = site.misses.saturating_add(since),
        // Of a site that is left alone, the countdown runs only where everything is counted.
        Some(State::Cold | State::Retpolined) => site.calls_seen = site.calls_seen.saturating_add(since),
        _ => {}
    }
    if counts {
        site.hits = u64::from_le_bytes(calls).saturating_sub(site.misses).max(site.hits);
    }
}

#[cfg(test)]
mod tests {
    use relpoline_stats::Plain;

    use super::*;

    /// Counters with these hits and what is left of the countdown.
    fn counters(calls: u64, left: u32) -> [u8; COUNTERS] {
        let mut bytes = [0xaa; COUNTERS];
        bytes[8..16].copy_from_slice(&calls.to_le_bytes());
        bytes[16..].copy_from_slice(&left.to_le_bytes());
        bytes
    }

    #[test]
    fn what_was_counted_since_is_added() {
        let promoted = State::Linked as u8;
        let mut site = SiteRecord { state: promoted, misses: 10, misses_left: 100, hits: 5, ..SiteRecord::ZERO };
        add(&mut site, &counters(1000, 93), true);
        assert_eq!((site.misses, site.hits), (17, 983));
        // A countdown that was started again meanwhile says nothing.
        add(&mut site, &counters(0, 5000), true);
        assert_eq!((site.misses, site.hits), (17, 983));
        // Left alone, and counted all the same.
        let mut site = SiteRecord { state: State::Retpolined as u8, misses_left: 1000, ..SiteRecord::ZERO };
        add(&mut site, &counters(0, 400), true);
        assert_eq!((site.calls_seen, site.misses, site.hits), (600, 0, 0));
        let mut site = SiteRecord { state: State::Cold as u8, misses_left: 96, ..SiteRecord::ZERO };
        add(&mut site, &counters(9, 90), false);
        assert_eq!((site.calls_seen, site.hits), (6, 0));
    }
}
