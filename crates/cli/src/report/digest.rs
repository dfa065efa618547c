//! From the engine's records to a [`Report`]. The records are hostile: sums saturate, indices are looked up.

use relpoline_core::policy::Reason;
use relpoline_stats::codes::flag;
use relpoline_stats::file::{set_text, text};
use relpoline_stats::{Header, Kind, ObjectRecord, Refusal, SiteRecord, State, Stats, record};

use super::schema::{Costs, Engine, NotFollowed, Object, Report, Site, Target};
use super::symbols::{Mapped, Symbols};

/// The report on one process.
pub fn report(stats: &Stats<'_>, symbols: &mut Symbols) -> Report {
    let header = stats.header();
    let records: Vec<ObjectRecord> = objects(stats);
    let mapped: Vec<Mapped> = records.iter().map(|record| symbols.map(record)).collect();
    let mut objects: Vec<Object> = records.iter().map(object).collect();
    let mut report = head(header);
    for record in stats.sites() {
        let promoted = State::from_number(record.state).is_some_and(State::is_promoted);
        report.sites_run += u64::from(record.calls_seen > 0 || record.hits > 0);
        report.sites_promoted += u64::from(promoted);
        if let Some(object) = objects.get_mut(usize::from(record.object)) {
            object.promoted += u32::from(promoted);
        }
        report.sites.push(site(&record, &objects, symbols, &mapped));
    }
    report.sites.sort_by_key(|site| std::cmp::Reverse(site.calls()));
    report.sites_total = objects.iter().map(|object| u64::from(object.sites)).sum();
    report.coverage = coverage(header, &report.sites);
    // What the kernel maps (the vDSO) has no file, and nothing for us.
    report.objects = objects.into_iter().filter(|object| !object.path.is_empty() || object.sites > 0).collect();
    report
}

/// The object records. The loader has no name for the executable, which comes first: it is the program.
fn objects(stats: &Stats<'_>) -> Vec<ObjectRecord> {
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
        engine: engine(header),
        costs: Costs {
            direct: sixteenths(header.cost_direct),
            retpoline: sixteenths(header.cost_retpoline),
            mispredict: sixteenths(header.cost_mispredict),
        },
        not_followed: header.refusals.iter().take(refused).map(not_followed).collect(),
        ..Report::default()
    }
}

fn engine(header: &Header) -> Engine {
    let enabled = header.enabled != 0;
    Engine {
        version: string(&header.engine_version),
        enabled,
        why_disabled: (!enabled).then(|| refusal(header.refusal)),
        ended: header.flags & flag::ENDED != 0,
        startup_cycles: header.startup_cycles,
        learn_cycles: header.learn_cycles,
        judgements: header.judgements,
        patches: header.patches,
        patches_per_s_max: header.patches_per_s_max,
        links: header.links,
        links_refused: header.links_refused,
        arena_bytes: header.arena_bytes,
    }
}

fn not_followed(record: &relpoline_stats::RefusalRecord) -> NotFollowed {
    NotFollowed { program: string(&record.program), reason: refusal(record.refusal.into()) }
}

fn object(record: &ObjectRecord) -> Object {
    let build_id = record.build_id.get(..usize::from(record.build_id_len)).unwrap_or_default();
    Object {
        path: string(&record.path),
        build_id: (!build_id.is_empty()).then(|| build_id.iter().map(|byte| format!("{byte:02x}")).collect()),
        thunks: record.thunks,
        sites: record.sites,
        promoted: 0,
        refused: record.refused,
        reason: (record.reason != 0).then(|| reason(record.reason)),
    }
}

fn site(record: &SiteRecord, objects: &[Object], symbols: &Symbols, mapped: &[Mapped]) -> Site {
    let unknown = |number: u8| format!("unknown ({number})");
    Site {
        address: format!("{:#x}", record.address),
        symbol: symbols.name(mapped, record.address),
        object: objects.get(usize::from(record.object)).map(|object| object.path.clone()),
        kind: Kind::from_number(record.kind).map_or_else(|| unknown(record.kind), |kind| kind.to_string()),
        state: State::from_number(record.state).map_or_else(|| unknown(record.state), |state| state.to_string()),
        reason: reason(record.reason),
        target_count: record.target_count.into(),
        targets: targets(record, symbols, mapped),
        hits: record.hits,
        misses: record.misses,
        calls_seen: record.calls_seen,
        relearned: record.relearned,
    }
}

fn targets(record: &SiteRecord, symbols: &Symbols, mapped: &[Mapped]) -> Vec<Target> {
    let used = record.targets.iter().take_while(|target| target.address != 0);
    used.map(|target| Target {
        symbol: symbols.name(mapped, target.address),
        address: format!("{:#x}", target.address),
        share: f64::from(target.share.min(record::SHARE_ONE)) / f64::from(record::SHARE_ONE),
    })
    .collect()
}

/// Share of the calls that hit, when hits were counted.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
fn coverage(header: &Header, sites: &[Site]) -> Option<f64> {
    let calls = sites.iter().fold(0_u64, |sum, site| sum.saturating_add(site.calls()));
    let hits = sites.iter().fold(0_u64, |sum, site| sum.saturating_add(site.hits));
    (header.flags & flag::COUNT != 0 && calls > 0).then(|| hits as f64 / calls as f64)
}

fn reason(number: u8) -> String {
    Reason::from_number(number).map_or_else(|| format!("unknown ({number})"), |reason| reason.to_string())
}

fn refusal(number: u32) -> String {
    let known = u8::try_from(number).ok().and_then(Refusal::from_number);
    known.map_or_else(|| format!("unknown ({number})"), |refusal| refusal.to_string())
}

fn string(field: &[u8]) -> String {
    String::from_utf8_lossy(text(field)).into_owned()
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
            let layout = Layout { objects: 3, sites: 8 };
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
