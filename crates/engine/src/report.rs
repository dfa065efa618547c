//! Keeping the records of sites and objects up to date.

use crate::site::{NONE, Site};
use crate::state::Engine;
use core::sync::atomic::{Ordering, fence};
use relpoline_core::policy::Phase;
use relpoline_stats::State;
use relpoline_stats::record::{SiteRecord, TARGETS, TargetRecord};

fn state_of(engine: &Engine, site: &Site) -> State {
    match site.state.phase() {
        _ if site.gone => State::Gone,
        _ if !engine.enabled => State::Disabled,
        Phase::Cold => State::Cold,
        Phase::Learning => State::Learning,
        Phase::Promoted | Phase::Linked if site.linked => State::Linked,
        Phase::Promoted | Phase::Linked => State::Promoted,
        Phase::Retpolined => State::Retpolined,
        Phase::Barred => State::Refused,
    }
}

/// Writes the record of site number `id`, which gets one if it has none yet.
#[inline(never)]
pub fn site(engine: &mut Engine, id: u32) {
    let Some(&site) = engine.sites.as_slice().get(id as usize) else { return };
    let record = if site.record == NONE { engine.share.new_site() } else { Some(site.record) };
    let Some(record) = record else { return };
    if let Some(site) = engine.sites.get_mut(id as usize) {
        site.record = record;
    }
    let state = state_of(engine, &site);
    let tree = engine.trees.as_slice().get(site.tree as usize).filter(|_| state.is_promoted()).copied();
    let mut targets = [TargetRecord { address: 0, share: 0, reserved: 0 }; TARGETS];
    if let Some(tree) = tree {
        let first = tree.first_target as usize;
        let known = engine.targets.as_slice().get(first..first + usize::from(tree.targets)).unwrap_or_default();
        for (to, from) in targets.iter_mut().zip(known) {
            *to = TargetRecord { address: from.address, share: from.share, reserved: 0 };
        }
    }
    let counters = site.counters();
    let left = counters.misses.load(Ordering::Relaxed);
    let running = u64::from(site.misses.saturating_sub(left));
    let (misses, calls_seen) = match site.state.phase() {
        Phase::Promoted | Phase::Linked => (site.missed + running, site.calls_seen),
        Phase::Cold => (site.missed, site.calls_seen + running),
        _ => (site.missed, site.calls_seen),
    };
    let calls = counters.calls.load(Ordering::Relaxed);
    let Some(slot) = engine.share.site(record) else { return };
    let sequence = slot.sequence | 1;
    slot.sequence = sequence;
    fence(Ordering::Release);
    *slot = SiteRecord {
        address: site.address,
        sequence,
        object: site.object,
        kind: site.kind as u8,
        state: state as u8,
        reason: site.state.reason().number(),
        reg: site.reg.number(),
        target_count: tree.map_or(0, |t| t.targets as u8),
        chain: tree.map_or(0, |t| t.chain as u8),
        relearned: site.relearned,
        patches: site.patches,
        reserved: 0,
        learned_at: crate::calibrate::now(),
        hits: calls.saturating_sub(misses),
        misses,
        calls_seen,
        targets,
    };
    fence(Ordering::Release);
    slot.sequence = sequence + 1;
}

/// Brings the header up to date.
#[inline(never)]
pub fn header(engine: &mut Engine) {
    let bytes: usize = engine.groups.iter().flatten().map(|group| group.arena.populated_bytes()).sum();
    let costs = engine.policy.costs;
    let enabled = engine.enabled;
    let header = engine.share.header();
    header.arena_bytes = bytes as u64;
    header.enabled = u32::from(enabled);
    header.cost_direct = costs.direct;
    header.cost_retpoline = costs.retpoline;
    header.cost_mispredict = costs.mispredict;
    header.cost_compare = costs.compare;
    header.last_tsc = crate::calibrate::now();
    header.tsc_hz = u64::from(costs.cycles_per_ms) * 1000;
}

/// Everything, as the process ends: the last figures of every site that was ever called.
pub fn all(engine: &mut Engine) {
    for id in 0..engine.sites.len() as u32 {
        let Some(site_now) = engine.sites.as_slice().get(id as usize) else { return };
        let called = site_now.counters().misses.load(Ordering::Relaxed) != site_now.misses;
        if called || site_now.record != NONE {
            site(engine, id);
        }
    }
    header(engine);
}
