//! Which objects are mapped, which were, and whether one that comes is one that was there before.
//!
//! The loader's list tells objects apart by where they lie, and so does the engine as long as it hears of
//! every change. What comes is looked at, always: its thunks, its sites. When a *gone* object had the same
//! sites, all of them, at the same addresses, with thunks of the same bytes at the same addresses, its gates
//! and trees are right for the new one too, whatever file it came from: they are used again, so a library
//! that is loaded again and again needs memory once. Whether it also *is* the same (device, inode and
//! build-id) decides whose calls its statistics go on counting.
//!
//! An engine that slept believes nothing: to it everything is gone, and comes again ([`Engine::doubt`]).
//!
//! Objects that went long ago are forgotten: the calls that they counted are added up, their places and
//! records are used again, and so are their *gates*, with all that belongs to one: number, counters, stubs,
//! trees. Nothing is written over for that but the gate's two words, by which every gate changes its mind:
//! what a gate's code does depends on the register and the thunk's bytes alone, since it leads to its arena's
//! copy of the thunk. (How it unwinds depends on what lies on the stack at the site; gates are used again for
//! the same only.) So it does not matter who still stands in it: he goes where he wanted to, by a thunk as
//! good as his own, and what he counts is counted for another site, whose judgement comes a little early,
//! looks, and finds nothing ended.

use crate::discover::Form;
use crate::object::Object;
use crate::report;
use crate::site::{NONE, Site};
use crate::state::{Engine, SPARE};
use core::sync::atomic::Ordering;
use relpoline_core::arch::{Reg, thunk};
use relpoline_core::scan;
use relpoline_text::broken;
use relpoline_text::cells::Parity;
use relpoline_text::frames::Frame;

/// Objects that are gone and still remembered, before their places are used again; and their sites.
const REMEMBERED: usize = 256;
const REMEMBERED_SITES: usize = 1 << 14;
/// Sites that can be used again that are looked at for one that fits.
const LOOKED_AT: usize = 64;

/// Which of the engine's chains of spare sites holds those with such gates.
fn spare_kind(reg: Reg, form: Form, parity: Parity) -> usize {
    let flags = usize::from(form.kind.keeps_flags()) * 16;
    let frame = usize::from(form.frame == Frame::NONE) * 64;
    (usize::from(reg.number()) + flags + usize::from(parity.is_odd()) * 32 + frame) % SPARE
}

/// What an object is, wherever it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// Device and inode of the file behind its text; zeroes when nobody can tell.
    pub file: (u64, u64),
    /// The start of its build-id, and its length.
    pub build_id: ([u8; 20], u8),
}

impl Identity {
    /// What can be told of `object`, whose text is mapped from `file`.
    #[must_use]
    pub fn of(object: &Object<'_>, file: (u64, u64)) -> Identity {
        let mut build_id = [0; 20];
        let id = object.build_id().unwrap_or_default();
        let length = id.len().min(build_id.len());
        build_id[..length].copy_from_slice(&id[..length]);
        Identity { file, build_id: (build_id, length as u8) }
    }
}

/// An object that was looked at.
#[derive(Clone, Copy)]
pub struct Known {
    /// What is added to the addresses in its file, …
    pub base: u64,
    /// … and the address of its dynamic section, by which it is found again in the loader's list.
    pub dynamic: u64,
    /// First mapped address.
    pub start: u64,
    /// Behind the last mapped address.
    pub end: u64,
    /// What it is.
    pub identity: Identity,
    /// Its sites: the first and the last of a chain, and how many.
    pub first_site: u32,
    /// See `first_site`.
    pub last_site: u32,
    /// See `first_site`.
    pub sites: u32,
    /// The first of the records of sites that are left alone, a chain, or [`NONE`].
    pub refused: u32,
    /// When it went: the number of the look at the list.
    pub went: u32,
    /// Still mapped, as far as is known.
    pub loaded: bool,
    /// For sweeping: seen in the current look at the loader's list.
    pub seen: bool,
    /// It was there when the engine fell asleep.
    pub doubted: bool,
    /// Nothing is remembered of what was here.
    pub is_forgotten: bool,
}

impl Known {
    /// One at `object`'s place, without sites.
    #[must_use]
    pub fn new(object: &Object<'_>, identity: Identity) -> Known {
        let span = object.span();
        Known {
            base: object.base,
            dynamic: object.dynamic(),
            start: span.start,
            end: span.end,
            identity,
            first_site: NONE,
            last_site: NONE,
            sites: 0,
            refused: NONE,
            went: 0,
            loaded: true,
            seen: true,
            doubted: false,
            is_forgotten: false,
        }
    }
}

/// A place for an object.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its number.
    pub index: usize,
    /// Its sites have their gates already.
    pub is_back: bool,
}

impl Engine {
    /// Whether an object at that place is known and loaded; it is marked as seen. `hint` is where to look
    /// first, since lists keep their order.
    pub fn sees(&mut self, base: u64, dynamic: u64, hint: &mut usize) -> bool {
        let count = self.objects.len();
        for n in 0..count {
            let index = (*hint + n) % count;
            if let Some(known) = self.objects.get_mut(index)
                && (known.loaded && known.base == base && known.dynamic == dynamic)
            {
                known.seen = true;
                *hint = index + 1;
                return true;
            }
        }
        false
    }

    /// Believes nothing any more: every object has to be met again.
    pub fn doubt(&mut self) {
        // The broken variant that the tests must catch: what was known before is believed.
        if broken!("believes-what-slept") {
            return;
        }
        for index in 0..self.objects.len() {
            let Some(known) = self.objects.get_mut(index).filter(|known| known.loaded) else { continue };
            known.loaded = false;
            known.doubted = true;
            self.let_go(index);
        }
    }

    /// An object is gone: its sites will never be called again, unless it comes back. Targets in it may
    /// remain in trees: they are compared with, and never equal to anything, until something else is mapped
    /// there.
    pub fn forget(&mut self, index: usize) {
        let looks = self.looks;
        let Some(known) = self.objects.get_mut(index) else { return };
        known.loaded = false;
        known.doubted = false;
        known.went = looks;
        self.let_go(index);
        self.each_site(index, |engine, id| {
            if engine.sites.as_slice().get(id as usize).is_some_and(|site| site.record != NONE) {
                report::site(engine, id);
            }
        });
        if let Some(record) = self.share.object(index) {
            record.loaded = 0;
        }
    }

    /// Does something to each site of an object, in the order of their addresses.
    pub fn each_site(&mut self, index: usize, mut visit: impl FnMut(&mut Engine, u32)) {
        let Some(&Known { first_site, sites, .. }) = self.objects.as_slice().get(index) else { return };
        let mut id = first_site;
        for _ in 0..sites {
            let next = self.next_site(id);
            visit(self, id);
            id = next;
        }
    }

    /// The next one of its chain.
    pub fn next_site(&self, id: u32) -> u32 {
        self.sites.as_slice().get(id as usize).map_or(NONE, |site| site.next)
    }

    /// Nothing is recorded for its sites any more, and nothing is done about them.
    fn let_go(&mut self, index: usize) {
        self.each_site(index, |engine, id| {
            engine.stop_recording(id);
            engine.leaves_the_crowd(id);
            if let Some(site) = engine.sites.get_mut(id as usize) {
                site.gone = true;
            }
        });
    }

    /// A place for an object at `known`'s, whose sites are those that were found. `None` when there is no
    /// more room.
    pub fn place(&mut self, known: &Known) -> Option<Place> {
        let place = match self.same(known) {
            Some(index) => Place { index, is_back: true },
            None => Place { index: self.free_place()?, is_back: false },
        };
        let old = *self.objects.as_slice().get(place.index)?;
        if place.is_back && old.identity != known.identity {
            self.fold(place.index);
        }
        // Those of an object that is forgotten were taken from it.
        let Known { first_site, last_site, sites, refused, .. } = old;
        *self.objects.get_mut(place.index)? = Known { first_site, last_site, sites, refused, ..*known };
        Some(place)
    }

    /// The object that is gone and had the same sites.
    fn same(&self, known: &Known) -> Option<usize> {
        let count = self.found.len();
        let is_same = |old: &Known| {
            let is_there = !old.loaded && !old.is_forgotten && old.base == known.base && old.sites as usize == count;
            is_there
                && if count == 0 {
                    old.dynamic == known.dynamic && old.identity == known.identity
                } else {
                    self.has_found_sites(old)
                }
        };
        self.objects.as_slice().iter().position(is_same)
    }

    /// Whether the sites that were found are those of `old`, to the byte.
    fn has_found_sites(&self, old: &Known) -> bool {
        let mut id = old.first_site;
        self.found.as_slice().iter().zip(self.found_frames.as_slice()).all(|(found, &frame)| {
            let site = self.sites.as_slice().get(id as usize);
            id = self.next_site(id);
            site.is_some_and(|site| self.is_same_site(site, found, frame))
        })
    }

    /// Whether a gate that was made for `site` does what one made for `found` would, and unwinds as it would.
    fn is_same_site(&self, site: &Site, found: &scan::Site, frame: Frame) -> bool {
        let at_same_place = site.address == found.address && site.field == found.field;
        // The broken variant that the tests must catch: a site is what its place says.
        if broken!("identity-without-thunks") {
            return at_same_place;
        }
        let address = self.thunk_addresses.as_slice().get(found.thunk);
        let thunk = self.thunks.as_slice().get(found.thunk);
        let body = thunk.copied().and_then(thunk::body);
        at_same_place
            && address == Some(&site.thunk_at)
            && thunk.is_some_and(|thunk| thunk.reg == site.reg)
            && body.is_some_and(|body| body.starts_with(&site.thunk))
            && site.kind == crate::discover::kind(found.kind)
            // The broken variant that the tests must catch: gates unwind as those that were there before.
            && (site.frame == frame || broken!("frames-mixed"))
    }

    /// A place that was never used, or that of an object that went long ago.
    fn free_place(&mut self) -> Option<usize> {
        let gone = |known: &&Known| !known.loaded && !known.doubted && !known.is_forgotten;
        let (mut count, mut sites) = (0, 0);
        for known in self.objects.as_slice().iter().filter(gone) {
            count += 1;
            sites += known.sites as usize;
        }
        let mut free = None;
        let is_full = self.objects.len() == self.objects.capacity();
        while count >= REMEMBERED || sites > REMEMBERED_SITES || is_full && free.is_none() {
            let all = self.objects.as_slice().iter().enumerate().filter(|(_, known)| gone(known));
            let Some((index, known)) = all.min_by_key(|(_, known)| known.went) else { break };
            (count, sites) = (count - 1, sites - known.sites as usize);
            self.forget_for_good(index);
            free = Some(index);
        }
        let forgotten = self.objects.as_slice().iter().position(|known| known.is_forgotten);
        let Some(index) = forgotten else { return self.objects.push(Known::NOTHING) };
        self.objects.get_mut(index)?.is_forgotten = false;
        Some(index)
    }

    /// Takes everything from an object that went long ago. Its gates will be others'.
    fn forget_for_good(&mut self, index: usize) {
        self.fold(index);
        self.warm.forget(index);
        self.each_site(index, Engine::spare_site);
        if let Some(known) = self.objects.get_mut(index) {
            (known.first_site, known.last_site, known.sites) = (NONE, NONE, 0);
            known.is_forgotten = true;
        }
    }

    /// The gate of a site that is forgotten can be used again: for a site with the same register, thunk and
    /// kind of frame, anywhere.
    fn spare_site(&mut self, id: u32) {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return };
        let parity = site.gate.cell.parity();
        let form = Form { kind: site.kind, frame: site.frame };
        let first = &mut self.spare[spare_kind(site.reg, form, parity)];
        let next = core::mem::replace(first, id);
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.next = next;
        }
    }

    /// A site that is forgotten whose gate, in arena `arena`, does what one for `thunk`, which is copied as
    /// `body`, would.
    pub fn take_spare(&mut self, arena: usize, reg: Reg, body: &[u8], form: Form, parity: Parity) -> Option<u32> {
        let chain = spare_kind(reg, form, parity);
        let (mut before, mut id) = (NONE, self.spare[chain]);
        for _ in 0..LOOKED_AT {
            let site = self.sites.as_slice().get(id as usize)?;
            let next = site.next;
            // How a gate's code unwinds was said once.
            let is_alike = site.frame == form.frame || broken!("frames-mixed");
            if usize::from(site.arena) == arena && body.starts_with(&site.thunk) && is_alike {
                match self.sites.get_mut(before as usize) {
                    Some(before) => before.next = next,
                    None => self.spare[chain] = next,
                }
                return Some(id);
            }
            (before, id) = (id, next);
        }
        None
    }

    /// Adds what an object's sites have counted to the totals of those that have no record any more, and
    /// takes their records.
    fn fold(&mut self, index: usize) {
        let Some(&known) = self.objects.as_slice().get(index) else { return };
        self.each_site(index, |engine, id| {
            report::fold(engine, id);
            if let Some(site) = engine.sites.get_mut(id as usize) {
                (site.missed, site.calls_seen, site.patches, site.relearned) = (0, 0, 0, 0);
                site.counters().calls.store(0, Ordering::Relaxed);
            }
        });
        self.share.release_chain(known.refused);
        if let Some(known) = self.objects.get_mut(index) {
            known.refused = NONE;
        }
    }

    /// Lets a site of an object that is back begin anew: nothing leads to its gate yet.
    pub fn revive(&mut self, id: u32, index: usize) {
        let calls = self.policy.config.cold_calls;
        let Some(site) = self.sites.get_mut(id as usize) else { return };
        site.gone = false;
        site.object = index as u16;
        // Its text is as the compiler wrote it.
        (site.linked, site.stuck, site.alone) = (false, false, false);
        site.state = relpoline_core::policy::SiteState::new();
        site.misses = calls;
        let old = *site;
        site.head = NONE;
        old.counters().misses.store(calls, Ordering::Relaxed);
        self.free_misses(&old);
        self.publish_counting(id);
        if old.record != NONE {
            report::site(self, id);
        }
    }

    /// Trees lead what they miss to the counting stub again, should the site have been stuck with one of
    /// them.
    pub fn free_misses(&mut self, site: &Site) {
        self.free_head(site);
        if let Some(arena) = self.arena(site) {
            site.gate.point_misses_to(arena, site.gate.counting(arena));
        }
    }

    /// After a look at the list: what was there before, and is not any more.
    pub fn forget_unseen(&mut self) {
        for index in 0..self.objects.len() {
            let left = self.objects.as_slice().get(index).is_some_and(|k| k.doubted || k.loaded && !k.seen);
            if left {
                self.forget(index);
            }
        }
    }
}

impl Known {
    /// Nothing yet, at a place that is taken.
    const NOTHING: Known = Known {
        base: 0,
        dynamic: 0,
        start: 0,
        end: 0,
        identity: Identity { file: (0, 0), build_id: ([0; 20], 0) },
        first_site: NONE,
        last_site: NONE,
        sites: 0,
        refused: NONE,
        went: 0,
        loaded: false,
        seen: false,
        doubted: false,
        is_forgotten: false,
    };
}
