//! Thunks, sites, gates: looking at objects, and re-pointing their sites while nobody runs them.

use crate::judge::slow;
use crate::object::{self, Object, Segment};
use crate::report;
use crate::site::{NO_RING, NONE, Site};
use crate::state::{Engine, Group, Known};
use core::sync::atomic::Ordering;
use relpoline_core::arch::Reg;
use relpoline_core::arch::encode::rel32;
use relpoline_core::policy::SiteState;
use relpoline_stats::Kind;
use relpoline_text::arena::Arena;
use relpoline_text::gate::{Gate, GateSpec};
use relpoline_text::poke::Repoint;
use relpoline_text::stub::{self, SLOW_CELLS};

fn proto_match(b: &[u8]) -> Option<(Reg, usize)> {
    const HEAD: [u8; 12] = [0xe8, 7, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9];
    let b = b.get(..17)?;
    if b[..12] != HEAD || b[15] != 0x24 || b[16] != 0xc3 || b[13] != 0x89 { return None; }
    let reg = (b[14] >> 3 & 7) | if b[12] == 0x4c { 8 } else { 0 };
    Some((Reg::new(reg)?, 17))
}

/// Brings what is known of objects up to date with the loader's list.
pub fn sweep(engine: &mut Engine) {
    for known in engine.objects.as_mut_slice() {
        known.seen = false;
    }
    object::each(&mut |object| {
        let span = object.span();
        let known = engine.objects.as_mut_slice().iter_mut().find(|k| k.loaded && k.base == object.base && k.start == span.start && k.end == span.end);
        if let Some(known) = known {
            known.seen = true;
            return;
        }
        let first_site = engine.sites.len() as u32;
        let index = engine.objects.len();
        engine.objects.push(Known { base: object.base, start: span.start, end: span.end, first_site, sites: 0, loaded: true, seen: true });
        look_at(engine, index, object);
        let sites = engine.sites.len() as u32 - first_site;
        if let Some(k) = engine.objects.get_mut(index) { k.sites = sites; }
    });
}

fn look_at(engine: &mut Engine, index: usize, object: &Object<'_>) {
    let here = look_at as *const () as u64;
    if object.span().contains(&here) || object.name.starts_with(b"linux-vdso") { return; }
    let mut pairs: [(u64, Reg); 64] = [(0, Reg::RAX); 64];
    let mut n = 0;
    for text in object.texts() {
        let bytes = object.segment_bytes(text);
        for i in 0..bytes.len().saturating_sub(17) {
            if bytes[i] == 0xe8 { if let Some((reg, _)) = proto_match(&bytes[i..]) { if n < 64 { pairs[n] = (text.start + i as u64, reg); n += 1; } } }
        }
    }
    if n == 0 { return; }
    let Some(g) = group_for(engine, object) else { return };
    let options = engine.options();
    for text in object.texts() {
        let bytes = object.segment_bytes(text);
        let first = engine.sites.len();
        let mut i = 0;
        while i + 5 <= bytes.len() {
            if bytes[i] == 0xe8 || bytes[i] == 0xe9 {
                let rel = i32::from_le_bytes([bytes[i+1], bytes[i+2], bytes[i+3], bytes[i+4]]);
                let to = (text.start + i as u64 + 5).wrapping_add_signed(i64::from(rel));
                if let Some(&(at, reg)) = pairs[..n].iter().find(|p| p.0 == to) {
                    let kind = if bytes[i] == 0xe8 { Kind::Call } else { Kind::Goto };
                    add_site(engine, index, g, text.start + i as u64, text.start + i as u64 + 1, at, reg, kind);
                    i += 5; continue;
                }
            }
            i += 1;
        }
        if !options.dry_run { repoint(engine, first, text); }
    }
    let thunks = n as u32; let sites = engine.sites.len() as u32;
    if let Some(r) = engine.share.object(index) { r.base = object.base; r.thunks = thunks; r.sites = sites; r.loaded = 1; relpoline_stats::file::set_text(&mut r.path, object.name); }
    engine.share.header().object_count = index as u32 + 1;
    report::header(engine);
}

fn group_for(engine: &mut Engine, object: &Object<'_>) -> Option<usize> {
    let span = object.span();
    let found = engine.groups.iter().position(|g| g.as_ref().is_some_and(|g| g.arena.reaches(span.start) && g.arena.reaches(span.end)));
    found.or_else(|| {
        let free = engine.groups.iter().position(Option::is_none)?;
        let arena = Arena::create(&span).ok()?;
        engine.groups[free] = Some(Group { arena, slow: [None; 16] });
        Some(free)
    })
}

fn slow_at(engine: &mut Engine, g: usize, reg: Reg, thunk: &[u8]) -> Option<u64> {
    let group = engine.groups[g].as_mut()?;
    let n = usize::from(reg.number());
    if group.slow[n].is_none() {
        let cell = group.arena.take_run(SLOW_CELLS as u32)?;
        let buf = unsafe { group.arena.fresh(cell, SLOW_CELLS) };
        stub::emit_slow(buf, group.arena.address(cell), reg, slow, thunk).ok()?;
        group.slow[n] = Some(cell);
    }
    group.slow[n].map(|c| group.arena.address(c))
}

fn add_site(engine: &mut Engine, object: usize, g: usize, address: u64, field: u64, thunk_at: u64, reg: Reg, kind: Kind) -> Option<()> {
    let thunk = unsafe { core::slice::from_raw_parts(thunk_at as *const u8, 17) };
    let slow_at = slow_at(engine, g, reg, thunk)?;
    let id = engine.sites.len() as u32;
    let arena = &mut engine.groups[g].as_mut()?.arena;
    let (_, end) = arena.link_banks(field + 4);
    let cell = arena.take_gate(end)?;
    let counters = arena.take_counters()?;
    let gate = Gate::build(arena, cell, &GateSpec { site: id, counters, thunk, thunk_at, slow_at }).ok()?;
    let cold = engine.policy.config.cold_calls;
    let site = Site { address, field, thunk_at, counters, gate, state: SiteState::new(), tree: NONE, newest_tree: NONE, recording: NONE, record: NONE, window: 0, misses: cold, exits: 0, relearned: 0, patches: 0, calls_seen: 0, missed: 0, object: object as u16, ring: NO_RING, arena: g as u8, reg, kind, stuck: false, linked: false, gone: false };
    site.counters().misses.store(cold, Ordering::Relaxed);
    engine.sites.push(site)?;
    Some(())
}

fn repoint(engine: &mut Engine, first: usize, text: &Segment) {
    let Ok(mut r) = (unsafe { Repoint::begin(text.start, text.len as usize) }) else { return };
    for i in first..engine.sites.len() {
        let site = engine.sites.as_slice()[i];
        let to = site.gate.address(engine.arena(&site).unwrap());
        let Some(rel) = rel32(site.field + 4, to) else { continue };
        if r.set(site.field, rel).is_err() { return; }
    }
    let _ = r.finish();
}
