//! From the engine's records to a [`Report`]. The records are hostile: sums saturate, indices are looked up.

use std::collections::HashMap;

use relpoline_core::arch::Reg;
use relpoline_core::policy::Reason;
use relpoline_stats::codes::flag;
use relpoline_stats::file::{set_text, text};
use relpoline_stats::{
    EventRecord, Header, Kind, ObjectRecord, Refusal, SampleRecord, SiteRecord, State, Stats, record,
};

use super::counted;
use super::schema::{Change, Costs, Engine, Figures, Moment, NotFollowed, Object, Report, Sampling, Site, Target};
use crate::live::clock;
use crate::sampled::OfProcess;
use crate::shown::Shown;
use crate::symbols::{Mapped, Symbols};

/// The system counts processor time in hundredths of a second: less than a few of them says nothing.
const COARSE: f64 = 0.05;

/// The report on one process, as its file has it.
pub fn report(stats: &Stats<'_>, symbols: &mut Symbols) -> Report {
    report_of(stats.header(), stats, &stats.numbered_sites().collect::<Vec<_>>(), &Outside::default(), symbols)
}

/// What is known of a process besides what it says itself.
#[derive(Clone, Default)]
pub struct Outside<'a> {
    /// How many processor seconds it has run.
    pub ran: Option<f64>,
    /// What was seen of it when it was watched.
    pub seen: Option<&'a OfProcess>,
    /// Why it could not be watched.
    pub missing: Option<String>,
}

/// The report on one process with this header and these sites: their indices and their records.
pub fn report_of(
    header: &Header,
    stats: &Stats<'_>,
    sites: &[(u32, SiteRecord)],
    outside: &Outside<'_>,
    symbols: &mut Symbols,
) -> Report {
    let records: Vec<ObjectRecord> = objects(stats);
    let mapped: Vec<Mapped> = records.iter().map(|record| symbols.map(record)).collect();
    let mut objects: Vec<Object> = records.iter().map(object).collect();
    let mut report = head(header);
    let names = Names { symbols, mapped: &mapped };
    let mut histories = histories(stats, &names);
    // Functions begin at such addresses where no symbol says where they do.
    let is_first = |at: u64| names.symbols.start(names.mapped, at).map_or(at.is_multiple_of(16), |start| start == at);
    let seen = outside.seen.filter(|seen| seen.says_something()).map(|seen| seen.by_site(is_first));
    for (index, record) in sites {
        let promoted = State::from_number(record.state).is_some_and(State::is_promoted);
        report.sites_run += u64::from(record.calls_seen > 0 || record.hits > 0);
        report.sites_promoted += u64::from(promoted);
        if let Some(object) = objects.get_mut(usize::from(record.object)) {
            object.promoted += u32::from(promoted);
        }
        let history = histories.remove(index).unwrap_or_default();
        let since = after_start(header, record.since);
        // Only a call can be told by the stack.
        let is_call = Kind::from_number(record.kind) == Some(Kind::Call);
        let samples = seen.as_ref().filter(|_| is_call);
        let samples = samples.map(|seen| seen.get(&record.address).copied().unwrap_or_default());
        report.sites.push(Site { history, since, samples, ..site(record, &objects, &names) });
    }
    report.timeline = stats.samples().map(|sample| moment(header, &sample)).collect();
    report.timeline.extend(last_moment(header, &report));
    report.sites_total = objects.iter().map(|object| u64::from(object.sites)).sum();
    report.processor_seconds = outside.ran.filter(|ran| *ran >= COARSE);
    report.sampling = sampling(outside);
    report.coverage = coverage(header, &report.sites);
    // What the kernel maps (the vDSO) has no file, and nothing for us.
    report.objects = objects.into_iter().filter(|object| !object.path.is_empty() || object.sites > 0).collect();
    counted::note(&mut report, (header.unlisted_hits, header.unlisted_retpolined));
    report
}

/// What was seen of the process when it was watched. How many seconds a sample stands for is noted with what
/// they cost.
fn sampling(outside: &Outside<'_>) -> Option<Sampling> {
    let missing =
        || outside.missing.as_ref().map(|why| Sampling { missing: Some(why.as_str().into()), ..Sampling::default() });
    let Some(seen) = outside.seen.filter(|seen| seen.samples != 0) else { return missing() };
    Some(Sampling { samples: seen.samples, seconds_each: seen.share_of_one(), ..Sampling::default() })
}

/// The object records. The loader has no name for the executable, which comes first: it is the program.
pub fn objects(stats: &Stats<'_>) -> Vec<ObjectRecord> {
    let mut records: Vec<ObjectRecord> = stats.objects().collect();
    if let Some(first) = records.first_mut().filter(|first| text(&first.path).is_empty()) {
        set_text(&mut first.path, text(&stats.header().program));
    }
    records
}

/// What the header says.
fn head(header: &Header) -> Report {
    let sixteenths = |cost: u32| f64::from(cost) / 16.0;
    let refused = usize::try_from(header.refused_children).unwrap_or(usize::MAX);
    Report {
        pid: header.pid,
        forked_from: Some(header.forked_from).filter(|pid| *pid != 0),
        program: string(&header.program),
        engine: engine_of(header, header.last_tsc),
        costs: Costs {
            direct: sixteenths(header.cost_direct),
            retpoline: sixteenths(header.cost_retpoline),
            mispredict: sixteenths(header.cost_mispredict),
        },
        not_followed: header.refusals.iter().take(refused).map(not_followed).collect(),
        seconds: after_start(header, header.last_tsc),
        cycles_per_s: cycles_per_s(header),
        ..Report::default()
    }
}

/// Cycles in a second: by this machine's counter where the engine has not said.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
fn cycles_per_s(header: &Header) -> f64 {
    if header.tsc_hz == 0 { clock::rate() } else { header.tsc_hz as f64 }
}

/// The engine and what it has cost, until a time.
pub fn engine_of(header: &Header, until: u64) -> Engine {
    let enabled = header.enabled != 0;
    Engine {
        version: string(&header.engine_version),
        enabled,
        why_disabled: (!enabled).then(|| why_off(header)),
        ended: header.flags & flag::ENDED != 0,
        startup_cycles: header.startup_cycles,
        learn_cycles: header.learn_cycles,
        learn_share: learn_share(header, until),
        counts: header.flags & flag::COUNT != 0,
        judgements: header.judgements,
        patches: header.patches,
        patches_per_s_max: header.patches_per_s_max,
        links: header.links,
        links_refused: header.links_refused,
        arena_bytes: header.arena_bytes,
        sites_warm: header.sites_warm,
        profile_stale: header.profile_stale,
        sites_lost: header.sites_lost,
    }
}

/// Learning as a share of the time that the process has run.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
fn learn_share(header: &Header, until: u64) -> f64 {
    let time = until.saturating_sub(header.start_tsc);
    if time == 0 { 0.0 } else { (header.learn_cycles as f64 / time as f64).min(1.0) }
}

/// Seconds from the engine's start to a reading of the time-stamp counter.
fn after_start(header: &Header, tsc: u64) -> f64 {
    clock::seconds(header.start_tsc, tsc)
}

/// How things stand at the end, if that is later than the last sample.
fn last_moment(header: &Header, report: &Report) -> Option<Moment> {
    let last = report.timeline.last().filter(|last| last.at < report.seconds)?;
    Some(Moment {
        at: report.seconds,
        hits: report.sites.iter().fold(header.unlisted_hits, |sum, site| sum.saturating_add(site.hits)).max(last.hits),
        retpolined: header.calls_retpolined,
        promoted: header.sites_promoted,
        learning: header.sites_learning,
        left: header.sites_retpolined,
        patches: u32::try_from(header.patches).unwrap_or(u32::MAX),
        learn_cycles: header.learn_cycles,
    })
}

fn moment(header: &Header, sample: &SampleRecord) -> Moment {
    Moment {
        at: after_start(header, sample.at),
        hits: sample.hits,
        retpolined: sample.retpolined,
        promoted: sample.promoted,
        learning: sample.learning,
        left: sample.left,
        patches: sample.patches,
        learn_cycles: sample.learn_cycles,
    }
}

/// What became of each site, by the index of its record.
fn histories(stats: &Stats<'_>, names: &Names<'_>) -> HashMap<u32, Vec<Change>> {
    let mut histories: HashMap<u32, Vec<Change>> = HashMap::new();
    for event in stats.events() {
        histories.entry(event.site).or_default().push(change(stats.header(), &event, names));
    }
    histories
}

fn change(header: &Header, event: &EventRecord, names: &Names<'_>) -> Change {
    Change {
        at: after_start(header, event.at),
        state: state(event.state),
        reason: reason(event.reason),
        target_count: event.target_count.into(),
        chain: event.chain.into(),
        target: (event.target != 0).then(|| names.of_or_address(event.target)),
        retpolined: event.retpolined,
        figures: (event.retpoline_cost != 0).then(|| Figures {
            covered: share(event.covered),
            foreseen: share(event.accuracy),
            tree: f64::from(event.tree_cost) / 16.0,
            retpoline: f64::from(event.retpoline_cost) / 16.0,
        }),
    }
}

/// Names for the addresses of one process.
struct Names<'a> {
    symbols: &'a Symbols,
    mapped: &'a [Mapped],
}

impl Names<'_> {
    fn of(&self, address: u64) -> Option<Shown> {
        self.symbols.name(self.mapped, address)
    }

    fn of_or_address(&self, address: u64) -> Shown {
        self.of(address).unwrap_or_else(|| format!("{address:#x}").into())
    }
}

/// 16.16 fixed point, at most 1.
fn share(fixed: u32) -> f64 {
    f64::from(fixed.min(record::SHARE_ONE)) / f64::from(record::SHARE_ONE)
}

fn state(number: u8) -> Shown {
    State::from_number(number).map_or_else(|| unknown(number.into()), |state| state.text().into())
}

fn unknown(number: u32) -> Shown {
    format!("unknown ({number})").into()
}

fn not_followed(record: &relpoline_stats::RefusalRecord) -> NotFollowed {
    NotFollowed { program: string(&record.program), reason: refusal(record.refusal.into()) }
}

fn object(record: &ObjectRecord) -> Object {
    let build_id = record.build_id.get(..usize::from(record.build_id_len)).unwrap_or_default();
    Object {
        path: string(&record.path),
        build_id: (!build_id.is_empty()).then(|| hexadecimal(build_id)),
        thunks: record.thunks,
        sites: record.sites,
        promoted: 0,
        refused: record.refused,
        reason: (record.reason != 0).then(|| reason(record.reason)),
    }
}

fn site(record: &SiteRecord, objects: &[Object], names: &Names<'_>) -> Site {
    let address = |address: u64| (address != 0).then(|| Shown::from(format!("{address:#x}")));
    Site {
        address: format!("{:#x}", record.address).into(),
        symbol: names.of(record.address),
        object: objects.get(usize::from(record.object)).map(|object| object.path.clone()),
        kind: Kind::from_number(record.kind).map_or_else(|| unknown(record.kind.into()), |kind| kind.text().into()),
        state: state(record.state),
        reason: reason(record.reason),
        target_count: record.target_count.into(),
        targets: targets(record, names),
        hits: record.hits,
        misses: record.misses,
        calls_seen: record.calls_seen,
        calls_at_least: false,
        calls_per_s: None,
        calls_estimated: 0,
        calls_estimated_direct: None,
        seconds_saved: 0.0,
        seconds_lost: 0.0,
        samples: None,
        relearned: record.relearned,
        register: Reg::new(record.reg).map(|reg| reg.name().into()),
        patches: record.patches,
        chain: record.chain.into(),
        gate: address(record.gate),
        tree: address(record.tree),
        since: 0.0,
        history: Vec::new(),
    }
}

fn targets(record: &SiteRecord, names: &Names<'_>) -> Vec<Target> {
    let used = record.targets.iter().take_while(|target| target.address != 0);
    used.map(|target| Target {
        symbol: names.of(target.address),
        address: format!("{:#x}", target.address).into(),
        share: share(target.share),
    })
    .collect()
}

/// Share of the calls that hit, when hits were counted.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
fn coverage(header: &Header, sites: &[Site]) -> Option<f64> {
    // Those of sites that have no record any more count too.
    let retpolined = sites.iter().fold(header.unlisted_retpolined, |sum, site| sum.saturating_add(site.retpolined()));
    let hits = sites.iter().fold(header.unlisted_hits, |sum, site| sum.saturating_add(site.hits));
    let calls = hits.saturating_add(retpolined);
    (header.flags & flag::COUNT != 0 && calls > 0).then(|| hits as f64 / calls as f64)
}

fn reason(number: u8) -> Shown {
    Reason::from_number(number).map_or_else(|| unknown(number.into()), |reason| reason.text().into())
}

/// Why promotion is off.
fn why_off(header: &Header) -> Shown {
    match header.refusal {
        // Nothing refused to be promoted: somebody has switched it off.
        0 if header.flags & flag::ASLEEP != 0 => "detached".into(),
        0 => "switched off".into(),
        number => refusal(number),
    }
}

fn refusal(number: u32) -> Shown {
    let known = u8::try_from(number).ok().and_then(Refusal::from_number);
    known.map_or_else(|| unknown(number), |refusal| refusal.text().into())
}

/// A zero-padded field as text.
pub fn string(field: &[u8]) -> Shown {
    Shown::of_bytes(text(field))
}

/// Bytes as digits.
pub fn hexadecimal(bytes: &[u8]) -> Shown {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relpoline_stats::record::MAGIC;
    use relpoline_stats::{Layout, Plain};

    use super::*;

    proptest! {
        #[test]
        fn hostile_records_never_panic(noise in prop::collection::vec(any::<u8>(), 8192)) {
            let layout = Layout { objects: 3, sites: 8, events: 4, samples: 4, targets: 4 };
            let mut bytes = noise;
            let hostile = Header::load(&bytes).unwrap();
            // Just enough is right for the reader to go on.
            let header = Header {
                magic: MAGIC,
                object_count: 3,
                site_count: 8,
                program: hostile.program,
                refused_children: hostile.refused_children,
                refusals: hostile.refusals,
                cost_direct: hostile.cost_direct,
                flags: hostile.flags,
                learn_cycles: hostile.learn_cycles,
                ..layout.header()
            };
            header.store(&mut bytes).unwrap();
            let report = report(&Stats::parse(&bytes).unwrap(), &mut Symbols::default());
            prop_assert_eq!(report.sites.len(), 8);
            prop_assert!(report.coverage.is_none_or(|share| (0.0..=1.0).contains(&share)));
            let _ = crate::report::text::render(&report);
            let _ = serde_json::to_string(&report).unwrap();
        }
    }
}
