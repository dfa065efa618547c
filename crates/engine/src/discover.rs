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
use crate::dormant;
use crate::functions::{self, Sources};
use crate::heap;
use crate::known::{Identity, Known, Place};
use crate::loader;
use crate::maps;
use crate::memory::Reader;
use crate::object::{Listed, Object, Segment};
use crate::sandbox;
use crate::site::{NO_RING, NONE, Site};
use crate::state::{Engine, Group};
use crate::warm;
use core::sync::atomic::Ordering;
use relpoline_core::arch::encode::rel32;
use relpoline_core::arch::thunk;
use relpoline_core::policy::{Reason, SiteState};
use relpoline_core::scan::{self, EhFrameHdr, Function, Refusal, Region, SiteKind, Sites};
use relpoline_stats::record::NO_REG;
use relpoline_stats::{Kind, State};
use relpoline_text::arena::Arena;
use relpoline_text::cells::Parity;
use relpoline_text::frames::Frame;
use relpoline_text::gate::{Gate, GateSpec};
use relpoline_text::poke::Repoint;

const PAGE: u64 = relpoline_text::cells::PAGE as u64;

/// Brings what is known of objects up to date with the loader's list. The caller holds the lock and sees to
/// it that no thread runs objects that are new, and that the list does not change meanwhile. `memory` opens
/// what headers are read by.
pub fn sweep(engine: &mut Engine, memory: fn() -> Reader) {
    begin(engine);
    let mut hint = 0;
    loader::each(&mut |link| {
        // In a sandbox libraries stay as they are, and nobody may look for their headers.
        if !engine.sees(link.base, link.dynamic, &mut hint) && sandbox::may_call() {
            // SAFETY: the list does not change. The reader's descriptor may be the only one that is left.
            let object = unsafe { Object::of(link, &memory()) };
            meet(engine, &object);
        }
    });
    end(engine);
}

/// Likewise, with a list of the tool's, while threads run everything: sites get their gates, but text is left
/// as it is.
pub fn sweep_listed(engine: &mut Engine, objects: &Listed<'_>) {
    objects.remember_executable();
    begin(engine);
    engine.deferred = true;
    maps::list(&mut engine.mappings);
    engine.is_mapped = true;
    let mut hint = 0;
    objects.each(&mut |object| {
        if !engine.sees(object.base, object.dynamic(), &mut hint) {
            let mut object = *object;
            if !engine.mappings.is_empty() {
                object.keep_mapped(&engine.mappings);
            }
            meet(engine, &object);
        }
    });
    engine.deferred = false;
    end(engine);
}

fn begin(engine: &mut Engine) {
    engine.looks = engine.looks.wrapping_add(1);
    engine.is_mapped = false;
    for known in engine.objects.as_mut_slice() {
        known.seen = false;
    }
}

fn end(engine: &mut Engine) {
    engine.forget_unseen();
    control::objects_changed();
    warm::apply(engine);
}

/// An object that was not there before, or is back.
fn meet(engine: &mut Engine, object: &Object<'_>) {
    let mut outcome = look_at(engine, object);
    let file = if outcome.thunks == 0 { (0, 0) } else { file_of(engine, object) };
    let Some(place) = engine.place(&Known::new(object, Identity::of(object, file))) else { return };
    if outcome.thunks != 0 {
        outcome.reason = promote_all(engine, place, object).err().or(outcome.reason);
        if let Some(reason) = outcome.reason {
            refuse_found(engine, reason, &mut outcome);
        }
    }
    record_refusals(engine, place.index);
    record(engine, place.index, object, &outcome);
}

/// Device and inode of the file that an object's text is mapped from; zeroes for none.
pub fn file_of(engine: &Engine, object: &Object<'_>) -> (u64, u64) {
    let Some(text) = object.texts().next() else { return (0, 0) };
    let listed = maps::at(engine.mappings.as_slice(), text.start).copied();
    let mapping = if engine.is_mapped { listed } else { maps::find(text.start) };
    mapping.map_or((0, 0), |mapping| (mapping.device, mapping.inode))
}

/// Sites in no known function that an object may have; more are not noted, since others need records too.
const MOST_BARE: u32 = 256;

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
    engine.share.has_objects(engine.objects.len() as u32);
}

/// Whether an object is none of our business: the engine itself, and the kernel's.
fn is_special(object: &Object<'_>) -> bool {
    object.span().contains(&(is_special as *const () as u64)) || is_kernels(object.name)
}

/// Whether what the loader calls `name` is the kernel's own.
pub fn is_kernels(name: &[u8]) -> bool {
    name.starts_with(b"linux-vdso")
}

/// Finds the thunks and sites of an object; those that can be promoted, and those that cannot.
fn look_at(engine: &mut Engine, object: &Object<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    engine.found.clear();
    engine.found_frames.clear();
    engine.refusals.clear();
    engine.thunks.clear();
    // SAFETY: called by the constructor or under the loader's lock, or when nothing was found clean.
    if is_special(object) || unsafe { dormant::is_clean(object) } {
        return outcome;
    }
    gather_thunks(engine, object);
    outcome.thunks = engine.thunks.len() as u32;
    if outcome.thunks != 0 {
        find_sites(engine, object, &mut outcome);
        outcome.sites = engine.found.len() as u32 + outcome.refused;
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

/// Fills the engine's list of sites with those of `object` that can be promoted, and that of the others.
fn find_sites(engine: &mut Engine, object: &Object<'_>, outcome: &mut Outcome) {
    engine.functions.clear();
    engine.framed = 0;
    let table = table_of_frames(object);
    let refused = outcome.refused;
    let mut is_covered = search(engine, object, table, outcome);
    for list in [functions::list_frames, functions::list_symbols] {
        if !is_covered && list(engine, object) {
            engine.found.clear();
            engine.found_frames.clear();
            engine.refusals.clear();
            outcome.refused = refused;
            is_covered = search(engine, object, table, outcome);
        }
    }
    if table.is_none() && engine.functions.is_empty() {
        outcome.reason = Some(Reason::NotAnInstruction);
    }
}

/// Searches all texts; whether it is known of each branch to a thunk in which function it stands.
fn search(engine: &mut Engine, object: &Object<'_>, table: Option<EhFrameHdr<'_>>, outcome: &mut Outcome) -> bool {
    let wanted = engine.options().selects(full_name(engine, object.name));
    let mut is_covered = true;
    // SAFETY: thunks and functions neither move nor change until the next object is looked at.
    let (thunks, listed) = unsafe {
        (&*core::ptr::from_ref(engine.thunk_addresses.as_slice()), &*core::ptr::from_ref(engine.functions.as_slice()))
    };
    let (framed, named) = listed.split_at(engine.framed.min(listed.len()));
    let functions = Sources { table, framed, named };
    for text in object.texts() {
        let region = Region { address: text.start, bytes: object.segment_bytes(text) };
        let mut whole = None;
        for found in Sites::new(region, thunks, functions) {
            let site = match found {
                Ok(site) => site,
                // Most likely it is one, in code without unwind tables and symbols, and nothing is known of
                // its calls.
                Err(found) if found.reason == Refusal::NoFunction => {
                    is_covered = false;
                    if outcome.refused < MOST_BARE {
                        refuse(engine, &bare(&found, region), Reason::NotAnInstruction, outcome);
                    }
                    continue;
                }
                // Bytes that only look like a branch to a thunk are no site: there is nothing to report.
                Err(_) => continue,
            };
            let shape = engine.thunks.as_slice().get(site.thunk).map(|thunk| thunk.shape);
            if shape.is_none_or(|shape| site.refusal(shape).is_some()) {
                refuse(engine, &site, Reason::PlainThunk, outcome);
            } else if functions.is_named_only(&site) && !is_whole(&mut whole, region, &site.function) {
                refuse(engine, &site, Reason::NotAnInstruction, outcome);
            } else if wanted && engine.deferred && straddles(site.field) {
                refuse(engine, &site, Reason::TextLocked, outcome);
            } else if let Some(frame) = frame_of(engine, table, &site).filter(|_| wanted) {
                if engine.found.push(site).is_some() {
                    engine.found_frames.push(frame);
                }
            } else if wanted {
                refuse(engine, &site, Reason::FrameUnknown, outcome);
            } else {
                refuse(engine, &site, Reason::Excluded, outcome);
            }
        }
    }
    is_covered
}

/// What lies on the stack where a site is left; `None` where that cannot be said of other code.
fn frame_of(engine: &mut Engine, table: Option<EhFrameHdr<'_>>, site: &scan::Site) -> Option<Frame> {
    let frame = match (site.kind, table) {
        (SiteKind::Call, _) => scan::Frame::Frameless,
        (_, Some(table)) => table.frame_at(site.address),
        (_, None) => scan::Frame::Unknown,
    };
    let row = match frame {
        scan::Frame::Frameless => return Some(Frame::NONE),
        scan::Frame::Unknown => return Some(Frame::UNKNOWN),
        scan::Frame::Inexpressible => return None,
        scan::Frame::Row(row) => row,
    };
    let known = engine.rows.as_slice().iter().position(|known| *known == row);
    Frame::of_row(known.or_else(|| engine.rows.push(row))?)
}

/// What is known of a branch to a thunk that stands in no known function.
fn bare(found: &scan::Refused, text: Region<'_>) -> scan::Site {
    let (kind, opcode) = match text.from(found.address).and_then(<[u8]>::first) {
        Some(0xe8) => (SiteKind::Call, 1),
        Some(0xe9) => (SiteKind::Jump, 1),
        _ => (SiteKind::Cond, 2),
    };
    scan::Site {
        address: found.address,
        field: found.address + opcode,
        kind,
        cs_prefix: false,
        thunk: found.thunk,
        function: Function::new(found.address, found.address),
    }
}

/// Whether a function that only a symbol names is read from its first byte to its last, and ends where the
/// symbol says. `last` is the function that was asked about before, with the answer.
fn is_whole(last: &mut Option<(Function, bool)>, text: Region<'_>, function: &Function) -> bool {
    match *last {
        Some((known, answer)) if known == *function => answer,
        _ => {
            let answer = functions::is_whole(text, function);
            *last = Some((*function, answer));
            answer
        }
    }
}

/// Whether a displacement lies in two pages. Two pages are two writes, and the tool that makes them may be
/// killed in between.
fn straddles(field: u64) -> bool {
    field / PAGE != (field + 3) / PAGE
}

/// The executable's own path instead of the loader's empty name.
fn full_name<'a>(engine: &'a mut Engine, name: &'a [u8]) -> &'a [u8] {
    if name.is_empty() { relpoline_stats::file::text(&engine.share.header().program) } else { name }
}

/// The table of an object's unwind rules. The rules may lie in another segment than the table.
pub fn table_of_frames<'a>(object: &Object<'a>) -> Option<EhFrameHdr<'a>> {
    let (address, bytes) = object.eh_frame_hdr()?;
    let header = Region { address, bytes };
    let frames = object.region_around(EhFrameHdr::frames(header)?)?;
    EhFrameHdr::parse(header, frames)
}

/// Gives every found site a gate, or the one that it had, then re-points them.
///
/// Sites without a gate stay as they are. An error is a reason that holds for the whole object.
fn promote_all(engine: &mut Engine, place: Place, object: &Object<'_>) -> Result<(), Reason> {
    if engine.options().dry_run {
        return Err(Reason::DryRun);
    }
    if !sandbox::may_call() {
        return Err(Reason::TextLocked);
    }
    let mut is_changed = false;
    for text in object.texts() {
        let (first, count) = give_gates(engine, place, object, text)?;
        if !engine.deferred && count > 0 && repoint(engine, first, count, text).is_err() {
            // Nothing leads to these gates; text that was changed half-way leads to those that are complete.
            return if is_changed { Ok(()) } else { Err(Reason::TextLocked) };
        }
        is_changed |= count > 0;
    }
    Ok(())
}

/// Gives the sites found in `text` their gates: the number of the first site, and how many they are.
fn give_gates(engine: &mut Engine, place: Place, object: &Object<'_>, text: &Segment) -> Result<(u32, u32), Reason> {
    let lies_in_text = |site: &scan::Site| text.contains(site.address, 1);
    let begun = engine.found.as_slice().iter().take_while(|site| !lies_in_text(site)).count();
    let count = engine.found.as_slice()[begun..].iter().take_while(|site| lies_in_text(site)).count();
    let known = engine.objects.as_slice().get(place.index).copied();
    let nth = |engine: &Engine, first: u32| (0..begun).fold(first, |id, _| engine.next_site(id));
    if count == 0 {
        return Ok((NONE, 0));
    }
    if place.is_back {
        let first = nth(engine, known.map_or(NONE, |known| known.first_site));
        let mut id = first;
        for _ in 0..count {
            engine.revive(id, place.index);
            id = engine.next_site(id);
        }
        return Ok((first, count as u32));
    }
    let group = group_for(engine, object)?;
    for n in begun..begun + count {
        let (Some(&site), Some(&frame)) = (engine.found.as_slice().get(n), engine.found_frames.as_slice().get(n))
        else {
            break;
        };
        add_site(engine, place.index, group, &site, frame)?;
    }
    let first = engine.objects.as_slice().get(place.index).map_or(NONE, |known| known.first_site);
    Ok((nth(engine, first), count as u32))
}

/// Notes of every found site why it is left alone.
fn refuse_found(engine: &mut Engine, reason: Reason, outcome: &mut Outcome) {
    for n in 0..engine.found.len() {
        if let Some(&site) = engine.found.as_slice().get(n) {
            refuse(engine, &site, reason, outcome);
        }
    }
}

/// Notes that a site is left as it is.
fn refuse(engine: &mut Engine, site: &scan::Site, reason: Reason, outcome: &mut Outcome) {
    outcome.refused += 1;
    let _ = engine.refusals.push((*site, reason));
}

/// Gives the sites that are left alone records that say why: those that the object had before, or others.
fn record_refusals(engine: &mut Engine, index: usize) {
    let Some(known) = engine.objects.get_mut(index) else { return };
    let old = core::mem::replace(&mut known.refused, NONE);
    engine.share.release_chain(old);
    let mut chain = NONE;
    for n in 0..engine.refusals.len() {
        let Some(&(site, reason)) = engine.refusals.as_slice().get(n) else { break };
        let reg = engine.thunk_registers.as_slice().get(site.thunk).map_or(NO_REG, |reg| reg.number());
        let Some(id) = engine.share.new_site() else { continue };
        engine.share.chain(id, chain);
        chain = id;
        let Some(record) = engine.share.site(id) else { continue };
        record.address = site.address;
        record.object = index as u16;
        record.kind = kind(site.kind) as u8;
        record.state = State::Refused as u8;
        record.reason = reason.number();
        record.reg = reg;
    }
    if let Some(known) = engine.objects.get_mut(index) {
        known.refused = chain;
    }
}

/// What a record says of it.
pub fn kind(kind: SiteKind) -> Kind {
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
    let arena = match heap::arena_below(&span) {
        Some(arena) => arena,
        None => Arena::create(&span).map_err(|_| Reason::NoArena)?,
    };
    engine.groups[free] = Some(Group::new(arena).ok_or(Reason::NoArena)?);
    Ok(free)
}

/// What of a site's instruction its gate depends on, besides the thunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form {
    /// What it is.
    pub kind: Kind,
    /// See [`Site::frame`].
    pub frame: Frame,
}

/// Gives a site a gate that leads to its counting stub; nothing leads to the gate yet. One that is not used
/// any more is taken if there is one.
///
/// # Errors
/// Why it cannot have one.
pub fn add_site(
    engine: &mut Engine,
    index: usize,
    group_index: usize,
    found: &scan::Site,
    frame: Frame,
) -> Result<(), Reason> {
    let cold = engine.policy.config.cold_calls;
    let thunk = *engine.thunks.as_slice().get(found.thunk).ok_or(Reason::NoArena)?;
    let thunk_at = *engine.thunk_addresses.as_slice().get(found.thunk).ok_or(Reason::NoArena)?;
    let body = thunk::body(thunk).ok_or(Reason::NoArena)?;
    let form = Form { kind: kind(found.kind), frame };
    let group = engine.groups.get(group_index).and_then(Option::as_ref).ok_or(Reason::NoArena)?;
    let parity = group.arena.parity(found.field + 4);
    let spare = engine.take_spare(group_index, thunk.reg, &body, form, parity);
    let old = spare.and_then(|id| engine.sites.as_slice().get(id as usize).copied());
    let made = match old {
        Some(old) => old,
        None => make_site(engine, group_index, thunk, form, parity)?,
    };
    let site = Site {
        address: found.address,
        field: found.field,
        thunk_at,
        next: NONE,
        state: SiteState::new(),
        tree: NONE,
        record: NONE,
        window: 0,
        misses: cold,
        exits: 0,
        object: index as u16,
        ring: NO_RING,
        kind: form.kind,
        stuck: false,
        linked: false,
        alone: false,
        sample: 0,
        head: NONE,
        gone: false,
        ..made
    };
    site.counters().misses.store(cold, Ordering::Relaxed);
    site.counters().cursor.store(engine.rings.nobodys(), Ordering::Relaxed);
    if let Some(id) = spare {
        if let Some(slot) = engine.sites.get_mut(id as usize) {
            *slot = site;
        }
        engine.free_misses(&site);
        engine.publish_counting(id);
        engine.append_site(index, id);
        return Ok(());
    }
    let id = engine.sites.push(site).ok_or(Reason::ArenaFull)?;
    engine.append_site(index, id as u32);
    Ok(())
}

/// Builds a gate for the next site.
fn make_site(
    engine: &mut Engine,
    group_index: usize,
    thunk: thunk::Thunk,
    Form { kind, frame }: Form,
    parity: Parity,
) -> Result<Site, Reason> {
    let id = engine.sites.len() as u32;
    let group = engine.groups.get_mut(group_index).and_then(Option::as_mut).ok_or(Reason::NoArena)?;
    let keeps_flags = kind.keeps_flags();
    let slow_at = group.slow_path(thunk, keeps_flags).ok_or(Reason::ArenaFull)?;
    if let Some(row) = frame.row() {
        let known = engine.rows.as_slice().get(row).and_then(|known| group.arena.know_row(row, known));
        known.ok_or(Reason::FrameUnknown)?;
    }
    let way = group.copy_of(thunk, frame, &mut engine.copies, group_index).ok_or(Reason::ArenaFull)?;
    let arena = &mut group.arena;
    let body = thunk::body(thunk).ok_or(Reason::NoArena)?;
    let cell = arena.take_gate(parity, Group::kind(thunk.reg, &body, frame)).ok_or(Reason::ArenaFull)?;
    let counters = arena.take_counters().ok_or(Reason::ArenaFull)?;
    let counting = if keeps_flags { Some(arena.take_run(1).ok_or(Reason::ArenaFull)?) } else { None };
    let spec = GateSpec { site: id, counters, thunk: &body, thunk_at: way, slow_at, counting, frame };
    let gate = Gate::build(arena, cell, &spec).map_err(|_| Reason::NoArena)?;
    Ok(Site {
        address: 0,
        field: 0,
        thunk_at: 0,
        thunk: *body.first_chunk().ok_or(Reason::NoArena)?,
        way,
        next: NONE,
        counters,
        gate,
        state: SiteState::new(),
        tree: NONE,
        newest_tree: NONE,
        board: NONE,
        built: 0,
        recording: NONE,
        record: NONE,
        window: 0,
        misses: 0,
        exits: 0,
        relearned: 0,
        patches: 0,
        calls_seen: 0,
        missed: 0,
        object: 0,
        ring: NO_RING,
        arena: group_index as u8,
        reg: thunk.reg,
        frame,
        kind,
        stuck: false,
        linked: false,
        alone: false,
        sample: 0,
        head: NONE,
        gone: true,
    })
}

impl Engine {
    /// Site number `id` is the last one of its object's.
    fn append_site(&mut self, index: usize, id: u32) {
        let Some(known) = self.objects.get_mut(index) else { return };
        let last = core::mem::replace(&mut known.last_site, id);
        if known.sites == 0 {
            known.first_site = id;
        }
        known.sites += 1;
        if let Some(last) = self.sites.get_mut(last as usize) {
            last.next = id;
        }
    }
}

/// Points `count` sites of a chain from number `first` on, all in `text`, at their gates.
fn repoint(engine: &Engine, first: u32, count: u32, text: &Segment) -> Result<(), relpoline_text::poke::PokeError> {
    let start = text.start & !(PAGE - 1);
    let len = (text.start + text.len).next_multiple_of(PAGE) - start;
    // SAFETY: the object is new: the process has one thread, or is inside dlopen before the object's
    // constructors, on the thread that holds the loader's lock.
    let mut writer = unsafe { Repoint::begin(start, len as usize, text.writable) }?;
    let mut id = first;
    for _ in 0..count {
        let Some(site) = engine.sites.as_slice().get(id as usize) else { break };
        id = site.next;
        let gate = engine.arena(site).map(|arena| site.gate.address(arena));
        if let Some(rel) = gate.and_then(|gate| rel32(site.field + 4, gate)) {
            writer.set(site.field, rel)?;
        }
    }
    writer.finish()
}
