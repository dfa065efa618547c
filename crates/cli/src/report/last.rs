//! The last figures of processes that come to no orderly end.
//!
//! A process that ends by `exit` or by returning from `main` writes its counters into its statistics itself.
//! One that ends by `_exit`, `quick_exit` or a signal does not: nothing of it runs any more. Its statistics
//! are those of each site's last judgement, and a site that is settled is not judged. So whoever waits for a
//! run that counts (`--count`) looks at its processes now and then, from outside, as `relpoline report PID`
//! does, and keeps what their counters said. What a process called after the last look is missing; how old
//! the figures are is said in the report.
//!
//! Looking costs the processes nothing, and at most a hundredth of another processor: each pause is a hundred
//! times as long as the look before it ran.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use relpoline_stats::codes::flag;
use relpoline_stats::live::Name;
use relpoline_stats::{Header, SiteRecord, Stats};

use super::digest::{self, Outside};
use super::{Report, now};
use crate::live::process::Process;
use crate::live::{clock, find, shelf};
use crate::sampled::Sampler;
use crate::symbols::Symbols;

/// Between two looks, at least.
const SHORTEST: Duration = Duration::from_millis(20);
/// And at most.
const LONGEST: Duration = Duration::from_secs(2);
/// A pause is so many times as long as the look before.
const PAUSE: u32 = 100;
/// Processes that are looked at, at most.
const MOST: usize = 64;

/// What a look has seen of a process.
struct Seen {
    /// When, by the time-stamp counter.
    at: u64,
    sites: Vec<(u32, SiteRecord)>,
}

/// Figures of the processes of a run, kept while it runs.
#[derive(Default)]
pub struct LastFigures {
    /// Where their statistics are; nothing when nobody counts.
    directory: Option<PathBuf>,
    /// Who watches them; nobody where there is no report.
    sampler: Option<Sampler>,
    seen: HashMap<Name, Seen>,
    next: Option<Instant>,
    /// The first process, and the processor seconds that it had run when it ended.
    first: Option<(u32, f64)>,
}

/// How long this thread has run.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl LastFigures {
    /// Of a run whose processes write their statistics to `directory`; whether they count all calls.
    pub fn of(directory: &Path, counts: bool) -> Self {
        let sampler = Some(Sampler::of(directory));
        Self { directory: counts.then(|| directory.to_owned()), sampler, ..Self::default() }
    }

    /// Notes how long the first process has run. The system knows that until somebody has waited for its end.
    pub fn note_first(&mut self, pid: u32) {
        if let Some(ran) = Process::of(pid).and_then(|process| process.processor_seconds()) {
            self.first = Some((pid, ran));
        }
    }

    /// How long to wait until [`Self::look`]; `None` when there is nothing to look at.
    pub fn pause(&self) -> Option<Duration> {
        let counting = self
            .directory
            .as_ref()
            .map(|_| self.next.map_or(SHORTEST, |next| next.saturating_duration_since(Instant::now())));
        counting.into_iter().chain(self.sampler.as_ref().and_then(Sampler::pause)).min()
    }

    /// Looks at the processes, if it is time to.
    pub fn look(&mut self) {
        if let Some(sampler) = &mut self.sampler {
            sampler.look();
        }
        let Some(directory) = &self.directory else { return };
        if self.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        let ran = processor_time();
        if let Ok(shelf) = shelf::of_run(directory) {
            for name in shelf.names().take(MOST) {
                let Some(bytes) = shelf.open(&name).ok().and_then(|file| find::read(&file)) else { continue };
                let Ok(stats) = Stats::parse(&bytes) else { continue };
                if stats.header().flags & flag::ENDED != 0 {
                    continue;
                }
                let Some(process) = Process::of(name.pid).filter(|process| process.may_be(&name)) else { continue };
                if name.started != 0 && name.started != process.started {
                    continue;
                }
                let at = clock::now();
                if let Some(sites) = now::sites_of(&process, &stats) {
                    self.seen.insert(name, Seen { at, sites });
                }
            }
        }
        let took = processor_time().saturating_sub(ran);
        self.next = Some(Instant::now() + (took * PAUSE).clamp(SHORTEST, LONGEST));
    }

    /// The run has ended.
    pub fn end(&mut self) {
        if let Some(sampler) = &mut self.sampler {
            sampler.end();
        }
    }

    /// What is known of a process besides what it has said.
    fn outside(&self, name: &Name) -> Outside<'_> {
        let seen = self.sampler.as_ref().and_then(|sampler| sampler.seen(name));
        let ran = self.first.filter(|(pid, _)| *pid == name.pid).map(|(_, ran)| ran);
        let missing = self.sampler.as_ref().and_then(Sampler::failure);
        Outside { ran: ran.or_else(|| seen?.ran), seen, missing }
    }

    /// The report on a process of the run by its statistics, and by what was seen of it last if it could not
    /// write that down.
    pub fn report(&self, name: &Name, stats: &Stats<'_>, symbols: &mut Symbols) -> Report {
        let header = stats.header();
        let ended = header.flags & flag::ENDED != 0;
        let outside = &self.outside(name);
        match self.seen.get(name).filter(|_| !ended) {
            None => digest::report_of(header, stats, &stats.numbered_sites().collect::<Vec<_>>(), outside, symbols),
            Some(seen) => {
                let mut sites: Vec<(u32, SiteRecord)> = stats.numbered_sites().collect();
                let known: HashMap<u32, &SiteRecord> = seen.sites.iter().map(|(index, site)| (*index, site)).collect();
                for (index, site) in &mut sites {
                    if let Some(later) = known.get(index).filter(|later| later.address == site.address) {
                        site.hits = site.hits.max(later.hits);
                        site.misses = site.misses.max(later.misses);
                        site.calls_seen = site.calls_seen.max(later.calls_seen);
                    }
                }
                let header = Header { last_tsc: header.last_tsc.max(seen.at), ..*header };
                digest::report_of(&header, stats, &sites, outside, symbols)
            }
        }
    }
}
