//! Keeping the records of sites up to date, and noting what happens to them: an event whenever a site gets
//! into another state, a sample of the whole now and then.

use crate::calibrate;
use crate::site::{NONE, Site, Tree};
use crate::state::Engine;
use core::sync::atomic::{Ordering, fence};
use relpoline_core::policy::{Phase, Reason};
use relpoline_core::tree::{self, TreeSpec};
use relpoline_stats::record::{
    ArenaRecord, EventRecord, LastTargetRecord, SampleRecord, SiteRecord, TARGETS, TargetRecord,
};
use relpoline_stats::{Plain, State};
use relpoline_text::cells::{CODE_BYTES, Cell};

/// A sample may take this part of the time between two.
const SAMPLE_SHARE: u64 = 1024;

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
    let fresh = describe(engine, &site);
    let Some(slot) = engine.share.site(record) else { return };
    let before = if slot.address == 0 { None } else { State::from_number(slot.state) };
    let (old_reason, old_retpolined) = (slot.reason, slot.misses + slot.calls_seen);
    let entered = before != State::from_number(fresh.state);
    let since = if entered { fresh.learned_at } else { slot.since };
    let sequence = slot.sequence | 1;
    slot.sequence = sequence;
    fence(Ordering::Release);
    *slot = SiteRecord { sequence, since, ..fresh };
    fence(Ordering::Release);
    slot.sequence = sequence + 1;

    let state = State::from_number(fresh.state);
    let bytes = arena_bytes(engine);
    let header = engine.share.header();
    header.arena_bytes = bytes;
    let retpolined = (fresh.misses + fresh.calls_seen).saturating_sub(old_retpolined);
    header.calls_retpolined = header.calls_retpolined.wrapping_add(retpolined);
    header.last_tsc = fresh.learned_at;
    if entered {
        count(engine, before, u32::wrapping_sub);
        count(engine, state, u32::wrapping_add);
    }
    if entered || old_reason != fresh.reason {
        event(engine, record, &fresh, before);
    }
    sample(engine, fresh.learned_at);
}

/// Adds what a site has counted to the totals of those that have no record, and gives its record back.
pub fn fold(engine: &mut Engine, id: u32) {
    let Some(&site) = engine.sites.as_slice().get(id as usize) else { return };
    if site.record == NONE {
        return;
    }
    let last = describe(engine, &site);
    let header = engine.share.header();
    header.unlisted_sites = header.unlisted_sites.wrapping_add(1);
    header.unlisted_hits = header.unlisted_hits.wrapping_add(last.hits);
    header.unlisted_retpolined = header.unlisted_retpolined.wrapping_add(last.misses.wrapping_add(last.calls_seen));
    engine.share.release_site(site.record);
    if let Some(site) = engine.sites.get_mut(id as usize) {
        site.record = NONE;
    }
}

/// In a forked child, whose memory is its own from now on: calls that its parent made are its parent's to
/// tell, so that the reports of a family can be added up. What the child called before it came here is not
/// told by anybody.
pub fn count_anew(engine: &mut Engine) {
    for id in 0..engine.sites.len() as u32 {
        let Some(site) = engine.sites.get_mut(id as usize) else { return };
        let counters = site.counters();
        counters.calls.store(0, Ordering::Relaxed);
        let left = counters.misses.load(Ordering::Relaxed);
        (site.calls_seen, site.missed, site.misses) = (0, 0, left);
        let record = site.record;
        if record == NONE {
            continue;
        }
        if let Some(slot) = engine.share.site(record) {
            (slot.hits, slot.misses, slot.calls_seen, slot.misses_left) = (0, 0, 0, left);
        }
    }
    let header = engine.share.header();
    header.calls_retpolined = 0;
    (header.unlisted_hits, header.unlisted_retpolined) = (0, 0);
}

/// What is to be said of a site now.
#[inline(never)]
fn describe(engine: &Engine, site: &Site) -> SiteRecord {
    let state = state_of(engine, site);
    let tree = engine.trees.as_slice().get(site.tree as usize).filter(|_| state.is_promoted()).copied();
    let counters = site.counters();
    let left = counters.misses.load(Ordering::Relaxed);
    let running = u64::from(site.misses.saturating_sub(left));
    let (misses, calls_seen) = match site.state.phase() {
        Phase::Promoted | Phase::Linked => (site.missed + running, site.calls_seen),
        Phase::Cold => (site.missed, site.calls_seen + running),
        Phase::Retpolined if engine.counts_alone(site) => (site.missed, site.calls_seen + running),
        _ => (site.missed, site.calls_seen),
    };
    let at = |cell: Cell| engine.arena(site).map_or(0, |arena| arena.address(cell));
    let (head, body) = tree.map_or((0, 0), |tree| {
        let (head, body) = engine.parts(site, &tree);
        (at(head), at(body))
    });
    let (tree_body, tree_body_bytes) = tree.map_or((0, 0), |tree| {
        let bytes = body_bytes(engine, site, &tree);
        (if bytes == 0 { 0 } else { body }, bytes)
    });
    SiteRecord {
        address: site.address,
        sequence: 0,
        object: site.object,
        kind: site.kind as u8,
        state: state as u8,
        reason: site.state.reason().number(),
        reg: site.reg.number(),
        target_count: tree.map_or(0, |t| t.targets as u8),
        chain: tree.map_or(0, |t| t.chain as u8),
        relearned: site.relearned,
        patches: site.patches,
        misses_left: left,
        learned_at: calibrate::now(),
        since: 0,
        hits: counters.calls.load(Ordering::Relaxed).saturating_sub(misses),
        misses,
        calls_seen,
        gate: engine.arena(site).map_or(0, |arena| site.gate.address(arena)),
        tree: head,
        tree_body,
        recording: if site.recording == NONE { 0 } else { at(Cell(site.recording)) },
        counters: site.counters,
        thunk: site.way,
        tree_body_bytes,
        stuck: u32::from(site.stuck),
        targets: targets(engine, tree.as_ref()),
    }
}

/// The hottest targets of a tree.
fn targets(engine: &Engine, tree: Option<&Tree>) -> [TargetRecord; TARGETS] {
    let mut targets = [TargetRecord::ZERO; TARGETS];
    let known = tree.and_then(|tree| {
        let first = tree.first_target as usize;
        engine.targets.as_slice().get(first..first + usize::from(tree.targets))
    });
    for (to, from) in targets.iter_mut().zip(known.unwrap_or_default()) {
        *to = TargetRecord { address: from.address, share: from.share, reserved: 0 };
    }
    targets
}

/// Bytes of a tree behind its head.
fn body_bytes(engine: &Engine, site: &Site, tree: &Tree) -> u32 {
    if tree.is_board {
        return tree::board::body_size(site.kind.keeps_flags()) as u32;
    }
    let first = tree.first_target as usize;
    let known = engine.targets.as_slice().get(first..first + usize::from(tree.targets));
    let spec = TreeSpec {
        reg: site.reg,
        targets: known.unwrap_or_default(),
        chain: usize::from(tree.chain),
        miss: 0,
        hits_counter: engine.options().count.then_some(0),
        exits: (site.exits != 0).then_some((0, 0)),
        keeps_flags: site.kind.keeps_flags(),
    };
    tree::body_size(&spec) as u32
}

/// Keeps the number of sites in a state that is counted.
fn count(engine: &mut Engine, state: Option<State>, change: fn(u32, u32) -> u32) {
    let header = engine.share.header();
    let counter = match state {
        Some(State::Promoted | State::Linked) => &mut header.sites_promoted,
        Some(State::Learning) => &mut header.sites_learning,
        Some(State::Retpolined) => &mut header.sites_retpolined,
        _ => return,
    };
    *counter = change(*counter, 1);
}

/// Notes that a site is in another state than before, or for another reason.
#[inline(never)]
fn event(engine: &mut Engine, record: u32, now: &SiteRecord, before: Option<State>) {
    // Only then are the plan's figures this site's.
    let planned = before == Some(State::Learning) && now.reason == Reason::Promoted.number();
    let plan = engine.policy.plan();
    let figure = |figure: u32| if planned { figure } else { 0 };
    let event = EventRecord {
        at: now.learned_at,
        target: now.targets[0].address,
        retpolined: now.misses + now.calls_seen,
        site: record,
        covered: figure(plan.covered()),
        accuracy: figure(plan.accuracy()),
        tree_cost: figure(plan.tree_cost()),
        retpoline_cost: figure(plan.retpoline_cost()),
        state: now.state,
        reason: now.reason,
        target_count: now.target_count,
        chain: now.chain,
    };
    engine.share.push_event(event);
}

/// Takes a sample when it is time for one.
#[inline(never)]
fn sample(engine: &mut Engine, now: u64) {
    let shortest = u64::from(engine.policy.costs.cycles_per_ms);
    let counts = engine.options().count;
    let header = engine.share.header();
    let due = header.last_sample.wrapping_add(header.sample_interval.max(shortest));
    if header.last_sample != 0 && now.wrapping_sub(due).cast_signed() < 0 {
        return;
    }
    let hits = if counts { all_hits(engine).wrapping_add(engine.share.header().unlisted_hits) } else { 0 };
    let header = engine.share.header();
    let sample = SampleRecord {
        at: now,
        hits,
        retpolined: header.calls_retpolined,
        learn_cycles: header.learn_cycles,
        patches: header.patches as u32,
        promoted: header.sites_promoted,
        learning: header.sites_learning,
        left: header.sites_retpolined,
    };
    let least = calibrate::now().wrapping_sub(now).saturating_mul(SAMPLE_SHARE);
    header.sample_interval = header.sample_interval.max(shortest);
    // One that took long puts the next one off.
    header.last_sample = now.wrapping_add(least.saturating_sub(header.sample_interval));
    engine.share.push_sample(sample);
}

/// Calls that found their target in a tree, of all sites together.
fn all_hits(engine: &Engine) -> u64 {
    let through_trees: u64 =
        engine.sites.as_slice().iter().map(|site| site.counters().calls.load(Ordering::Relaxed)).sum();
    let missed: u64 = engine.sites.as_slice().iter().map(|site| site.missed).sum();
    through_trees.saturating_sub(missed)
}

/// Writes down all targets of a site that is promoted.
fn all_targets(engine: &mut Engine, id: u32) {
    let Some(&site) = engine.sites.as_slice().get(id as usize) else { return };
    let tree = engine.trees.as_slice().get(site.tree as usize).filter(|_| state_of(engine, &site).is_promoted());
    let Some(&tree) = tree else { return };
    for n in 0..usize::from(tree.targets) {
        let Some(target) = engine.targets.as_slice().get(tree.first_target as usize + n) else { return };
        let target = LastTargetRecord { address: target.address, site: site.record, share: target.share };
        if !engine.share.push_target(target) {
            return;
        }
    }
}

/// Bytes of the arenas' pages that are in use.
fn arena_bytes(engine: &Engine) -> u64 {
    engine.groups.iter().flatten().map(|group| group.arena.populated_bytes() as u64).sum()
}

/// Brings the header up to date.
#[inline(never)]
pub fn header(engine: &mut Engine) {
    for (n, group) in engine.groups.iter().enumerate() {
        let Some(group) = group else { continue };
        if let Some(arena) = engine.share.header().arenas.get_mut(n) {
            *arena = ArenaRecord { start: group.arena.base(), bytes: CODE_BYTES as u64 };
        }
    }
    let bytes = arena_bytes(engine);
    let costs = engine.policy.costs;
    let enabled = engine.enabled;
    let header = engine.share.header();
    header.arena_bytes = bytes;
    header.enabled = u32::from(enabled);
    header.cost_direct = costs.direct;
    header.cost_retpoline = costs.retpoline;
    header.cost_mispredict = costs.mispredict;
    header.cost_compare = costs.compare;
    header.last_tsc = calibrate::now();
    header.tsc_hz = u64::from(costs.cycles_per_ms) * 1000;
}

/// Everything, as the process ends: the last figures of every site that was ever called.
pub fn all(engine: &mut Engine) {
    for id in 0..engine.sites.len() as u32 {
        let Some(site_now) = engine.sites.as_slice().get(id as usize) else { return };
        let called = site_now.counters().misses.load(Ordering::Relaxed) != site_now.misses;
        if called || site_now.record != NONE {
            site(engine, id);
            all_targets(engine, id);
        }
    }
    header(engine);
}
