//! Looking at objects: their thunks, their sites, a gate for each, and the re-pointing of their text while
//! nobody runs it.
//!
//! ```text
//! object → thunks (by bytes) → sites (verified) → gates in an arena within reach → text
//! ```
//!
//! Text is touched last, and only for sites whose gates are complete: whatever fails before leaves the
//! object as it was, with a reason in its record.

use crate::control;
use crate::object::{self, Listed, Object, Segment};
use crate::report;
use crate::sandbox;
use crate::site::{NO_RING, NONE, Site};
use crate::state::{Engine, Group, Known};
use crate::warm;
use core::sync::atomic::Ordering;
use relpoline_core::arch::encode::rel32;
use relpoline_core::arch::thunk;
use relpoline_core::policy::{Reason, SiteState};
use relpoline_core::scan::{self, EhFrameHdr, Region, SiteKind, Sites};
use relpoline_stats::record::NO_REG;
use relpoline_stats::{Kind, State};
use relpoline_text::arena::Arena;
use relpoline_text::gate::{Gate, GateSpec};
use relpoline_text::poke::Repoint;

const PAGE: u64 = relpoline_text::cells::PAGE as u64;

/// Brings what is known of objects up to date with the loader's list. The caller holds the lock and sees to
/// it that no thread runs objects that are new.
pub fn sweep(engine: &mut Engine) {
    sweep_over(engine, |visit| object::each(visit));
}

/// Likewise, with a list of the tool's, while threads run everything: sites get their gates, but text is left as it is.
pub fn sweep_listed(engine: &mut Engine, objects: &Listed<'_>) {
    engine.deferred = true;
    sweep_over(engine, |visit| objects.each(visit));
    engine.deferred = false;
}

fn sweep_over(engine: &mut Engine, each: impl FnOnce(&mut dyn FnMut(&Object<'_>))) {
    for known in engine.objects.as_mut_slice() {
        known.seen = false;
    }
    each(&mut |object| {
        let span = object.span();
        let is_same = |known: &&mut Known| {
            known.loaded && known.base == object.base && known.start == span.start && known.end == span.end
        };
        match engine.objects.as_mut_slice().iter_mut().find(is_same) {
            Some(known) => known.seen = true,
            None => meet(engine, object),
        }
    });
    for index in 0..engine.objects.len() {
        let left = engine.objects.as_slice().get(index).is_some_and(|known| known.loaded && !known.seen);
        if left {
            forget(engine, index);
        }
    }
    control::objects_changed();
    warm::apply(engine);
}

/// An object that was not there before.
fn meet(engine: &mut Engine, object: &Object<'_>) {
    let first_site = engine.sites.len() as u32;
    let span = object.span();
    let known =
        Known { base: object.base, start: span.start, end: span.end, first_site, sites: 0, loaded: true, seen: true };
    let Some(index) = engine.objects.push(known) else { return };
    let outcome = look_at(engine, index, object);
    let sites = engine.sites.len() as u32 - first_site;
    if let Some(known) = engine.objects.get_mut(index) {
        known.sites = sites;
    }
    record(engine, index, object, &outcome);
}

/// An object that is gone: its sites will never be called again. Targets in it may remain in trees: they
/// are compared with, and never equal to anything, until something else is mapped there.
fn forget(engine: &mut Engine, index: usize) {
    let Some(known) = engine.objects.get_mut(index) else { return };
    known.loaded = false;
    let (first, end) = (known.first_site, known.first_site + known.sites);
    for id in first..end {
        engine.stop_recording(id);
        if let Some(site) = engine.sites.get_mut(id as usize) {
            site.gone = true;
        }
        if engine.sites.as_slice().get(id as usize).is_some_and(|site| site.record != NONE) {
            report::site(engine, id);
        }
    }
    if let Some(record) = engine.share.object(index) {
        record.loaded = 0;
    }
}

/// What looking at an object came to.
#[derive(Clone, Copy, Default)]
struct Outcome {
    thunks: u32,
    sites: u32,
    refused: u32,
    reason: Option<Reason>,
}

fn record(engine: &mut Engine, index: usize, object: &Object<'_>, outcome: &Outcome) {
    let mut name = [0; 232];
    relpoline_stats::file::set_text(&mut name, full_name(engine, object.name));
    let Some(record) = engine.share.object(index) else { return };
    record.path = name;
    record.base = object.base;
    record.loaded = 1;
    record.thunks = outcome.thunks;
    record.sites = outcome.sites;
    record.refused = outcome.refused;
    record.reason = outcome.reason.map_or(0, Reason::number);
    if let Some(id) = object.build_id() {
        let len = id.len().min(record.build_id.len());
        record.build_id[..len].copy_from_slice(&id[..len]);
        record.build_id_len = len as u8;
    }
    engine.share.has_objects(index as u32 + 1);
}

/// Whether an object is none of our business: the engine itself, and the kernel's.
fn is_special(object: &Object<'_>) -> bool {
    object.span().contains(&(is_special as *const () as u64)) || object.name.starts_with(b"linux-vdso")
}

fn look_at(engine: &mut Engine, index: usize, object: &Object<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    if is_special(object) {
        return outcome;
    }
    gather_thunks(engine, object);
    outcome.thunks = engine.thunks.len() as u32;
    if outcome.thunks == 0 {
        return outcome;
    }
    engine.found.clear();
    find_sites(engine, index, object, &mut outcome);
    outcome.sites = engine.found.len() as u32 + outcome.refused;
    outcome.reason = promote_all(engine, index, object).err();
    if let Some(reason) = outcome.reason {
        refuse_found(engine, index, reason, &mut outcome);
    }
    outcome
}

/// Fills the engine's list of thunks with those of `object`, ascending.
fn gather_thunks(engine: &mut Engine, object: &Object<'_>) {
    engine.thunks.clear();
    engine.thunk_addresses.clear();
    engine.thunk_registers.clear();
    for text in object.texts() {
        let bytes = object.segment_bytes(text);
        for (offset, thunk) in thunk::find(bytes).filter(|(_, thunk)| thunk.shape.takes_sites()) {
            let kept = engine.thunk_addresses.push(text.start + offset as u64);
            if kept.and(engine.thunk_registers.push(thunk.reg)).and(engine.thunks.push(thunk)).is_none() {
                return;
            }
        }
    }
}

/// Fills the engine's list of sites with those of `object` that can be promoted; the others get a record.
fn find_sites(engine: &mut Engine, index: usize, object: &Object<'_>, outcome: &mut Outcome) {
    let Some(functions) = functions(object) else {
        outcome.reason = Some(Reason::NotAnInstruction);
        return;
    };
    let wanted = engine.options().selects(full_name(engine, object.name));
    for text in object.texts() {
        let region = Region { address: text.start, bytes: object.segment_bytes(text) };
        // SAFETY: thunks neither move nor change until the next object is looked at.
        let thunks = unsafe { &*core::ptr::from_ref(engine.thunk_addresses.as_slice()) };
        // Bytes that only look like a branch to a thunk are no site: there is nothing to report.
        for site in Sites::new(region, thunks, functions).flatten() {
            let shape = engine.thunks.as_slice().get(site.thunk).map(|thunk| thunk.shape);
            if shape.is_none_or(|shape| site.refusal(shape).is_some()) {
                refuse(engine, index, &site, Reason::PlainThunk, outcome);
            } else if wanted && !(engine.deferred && straddles(site.field)) {
                engine.found.push(site);
            } else if wanted {
                refuse(engine, index, &site, Reason::TextLocked, outcome);
            } else {
                refuse(engine, index, &site, Reason::Excluded, outcome);
            }
        }
    }
}

/// Whether a displacement lies in two pages. Two pages are two writes, and the tool that makes them may be killed in
/// between.
fn straddles(field: u64) -> bool {
    field / PAGE != (field + 3) / PAGE
}

/// The executable's own path instead of the loader's empty name.
fn full_name<'a>(engine: &'a mut Engine, name: &'a [u8]) -> &'a [u8] {
    if name.is_empty() { relpoline_stats::file::text(&engine.share.header().program) } else { name }
}

fn functions<'a>(object: &Object<'a>) -> Option<EhFrameHdr<'a>> {
    let (address, bytes) = object.eh_frame_hdr()?;
    let segment = object.segments().iter().find(|s| address >= s.start && address < s.start + s.len)?;
    let frames = Region { address: segment.start, bytes: object.segment_bytes(segment) };
    EhFrameHdr::parse(Region { address, bytes }, frames)
}

/// Gives every found site a gate, then re-points them.
///
/// Sites without a gate stay as they are. An error is a reason that holds for the whole object.
fn promote_all(engine: &mut Engine, index: usize, object: &Object<'_>) -> Result<(), Reason> {
    if engine.options().dry_run {
        return Err(Reason::DryRun);
    }
    if !sandbox::may_call() {
        return Err(Reason::TextLocked);
    }
    let first = engine.sites.len();
    for text in object.texts() {
        let group = group_for(engine, object)?;
        let begun = engine.sites.len();
        for n in 0..engine.found.len() {
            let Some(&site) = engine.found.as_slice().get(n) else { break };
            if site.address >= text.start && site.address < text.start + text.len {
                add_site(engine, index, group, &site)?;
            }
        }
        if engine.deferred {
            continue;
        }
        if engine.sites.len() > begun && repoint(engine, begun, text).is_err() {
            // Nothing leads to these gates; text that was changed half-way leads to those that are complete.
            return if begun == first { Err(Reason::TextLocked) } else { Ok(()) };
        }
    }
    Ok(())
}

/// Gives every found site a record that says why it is left alone.
fn refuse_found(engine: &mut Engine, index: usize, reason: Reason, outcome: &mut Outcome) {
    for n in 0..engine.found.len() {
        if let Some(&site) = engine.found.as_slice().get(n) {
            refuse(engine, index, &site, reason, outcome);
        }
    }
}

/// Records that a site is left as it is.
fn refuse(engine: &mut Engine, index: usize, site: &scan::Site, reason: Reason, outcome: &mut Outcome) {
    outcome.refused += 1;
    let reg = engine.thunk_registers.as_slice().get(site.thunk).map_or(NO_REG, |reg| reg.number());
    let Some(record) = engine.share.new_site() else { return };
    let Some(record) = engine.share.site(record) else { return };
    record.address = site.address;
    record.object = index as u16;
    record.kind = kind(site.kind) as u8;
    record.state = State::Refused as u8;
    record.reason = reason.number();
    record.reg = reg;
}

fn kind(kind: SiteKind) -> Kind {
    match kind {
        SiteKind::Call => Kind::Call,
        SiteKind::Jump => Kind::Jump,
        SiteKind::Cond => Kind::Cond,
    }
}

/// An arena within reach of all of `object`: one that is there, or a new one.
fn group_for(engine: &mut Engine, object: &Object<'_>) -> Result<usize, Reason> {
    let span = object.span();
    let reaches = |group: &Group| group.arena.reaches(span.start) && group.arena.reaches(span.end);
    if let Some(found) = engine.groups.iter().position(|group| group.as_ref().is_some_and(reaches)) {
        return Ok(found);
    }
    let free = engine.groups.iter().position(Option::is_none).ok_or(Reason::NoArena)?;
    let arena = Arena::create(&span).map_err(|_| Reason::NoArena)?;
    engine.groups[free] = Some(Group::new(arena).ok_or(Reason::NoArena)?);
    Ok(free)
}

/// Builds the gate of a site, which leads to its counting stub; nothing leads to the gate yet.
///
/// # Errors
/// Why it cannot have one.
pub fn add_site(engine: &mut Engine, index: usize, group_index: usize, found: &scan::Site) -> Result<(), Reason> {
    let id = engine.sites.len() as u32;
    let cold = engine.policy.config.cold_calls;
    let thunk = *engine.thunks.as_slice().get(found.thunk).ok_or(Reason::NoArena)?;
    let thunk_at = *engine.thunk_addresses.as_slice().get(found.thunk).ok_or(Reason::NoArena)?;
    let group = engine.groups.get_mut(group_index).and_then(Option::as_mut).ok_or(Reason::NoArena)?;
    let keeps_flags = kind(found.kind).keeps_flags();
    let slow_at = group.slow_path(thunk, keeps_flags).ok_or(Reason::ArenaFull)?;
    let arena = &mut group.arena;
    let (_, end) = arena.link_banks(found.field + 4);
    let cell = arena.take_gate(end).ok_or(Reason::ArenaFull)?;
    let counters = arena.take_counters().ok_or(Reason::ArenaFull)?;
    let counting = if keeps_flags { Some(arena.take_run(1).ok_or(Reason::ArenaFull)?) } else { None };
    let body = thunk::body(thunk).ok_or(Reason::NoArena)?;
    let spec = GateSpec { site: id, counters, thunk: &body, thunk_at, slow_at, counting };
    let gate = Gate::build(arena, cell, &spec).map_err(|_| Reason::NoArena)?;
    let site = Site {
        address: found.address,
        field: found.field,
        thunk_at,
        thunk: *body.first_chunk().ok_or(Reason::NoArena)?,
        counters,
        gate,
        state: SiteState::new(),
        tree: NONE,
        newest_tree: NONE,
        recording: NONE,
        record: NONE,
        window: 0,
        misses: cold,
        exits: 0,
        relearned: 0,
        patches: 0,
        calls_seen: 0,
        missed: 0,
        object: index as u16,
        ring: NO_RING,
        arena: group_index as u8,
        reg: thunk.reg,
        kind: kind(found.kind),
        stuck: false,
        linked: false,
        gone: false,
    };
    site.counters().misses.store(cold, Ordering::Relaxed);
    site.counters().cursor.store(engine.rings.nobodys(), Ordering::Relaxed);
    engine.sites.push(site).map(|_| ()).ok_or(Reason::ArenaFull)
}

/// Points the sites from number `first` on, all in `text`, at their gates.
fn repoint(engine: &Engine, first: usize, text: &Segment) -> Result<(), relpoline_text::poke::PokeError> {
    let start = text.start & !(PAGE - 1);
    let len = (text.start + text.len).next_multiple_of(PAGE) - start;
    // SAFETY: the object is new: the process has one thread, or is inside dlopen before the object's
    // constructors, on the thread that holds the loader's lock.
    let mut writer = unsafe { Repoint::begin(start, len as usize) }?;
    for site in engine.sites.as_slice().iter().skip(first) {
        let gate = engine.arena(site).map(|arena| site.gate.address(arena));
        if let Some(rel) = gate.and_then(|gate| rel32(site.field + 4, gate)) {
            writer.set(site.field, rel)?;
        }
    }
    writer.finish()
}
