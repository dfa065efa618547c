//! Leading the calls of a static call past its gate, straight to the target.
//!
//! As compiled a call goes to the gate: `call gate`, or `jmp gate` where it is a function's last act. Where a
//! macro is used it leaves a mark; from there on code is read until that instruction comes, which is a
//! *caller*. (One that does not come in time is none, and goes to the gate, which is always right.)
//!
//! A caller's displacement is four bytes, anywhere in a cache line or across two, and any number of threads
//! are executing it. It changes by a [route](relpoline_patch::route): a byte at a time, a barrier after each,
//! by way of islands of the [`mirror`](super::mirror) that jump to the gate.
//!
//! Islands have a call's own gate for ever, so two calls with a common target need different distances; a
//! call whose islands have no place stays with its gate. Targets that a displacement does not reach get an
//! island of their own near the text.

use super::mirror::{JMP, JMP_THROUGH, LONGEST, Mirror};
use super::sites::{Kind, Modules, Site};
use super::text::{Text, explained};
use crate::UpdateError;
use crate::call::{Callers, StaticCall};
use relpoline_core::arch::decode::{Flow, MAX_LEN, decode};
use relpoline_patch::route::{self, AWAY, FIELD, GATE, Route, TARGET};
use relpoline_patch::text::TextError;
use relpoline_patch::word::rel32;

/// Instructions and bytes that are read from a mark on.
const READ: usize = 64;
const READ_BYTES: u64 = 256;
/// Distances that are tried, in 16 MiB.
const NEAR: i8 = 40;
const FAR: core::ops::Range<i8> = 90..121;
const APART: i64 = 24;
const PAGE: u64 = 4096;

/// The displacement that [`find`] finds: `None` if no call to `gate` comes.
fn find(mark: u64, gate: u64) -> Option<u64> {
    let mut at = mark;
    for _ in 0..READ {
        if at >= mark + READ_BYTES {
            return None;
        }
        // Not beyond the page: the next one may not be there.
        let len = MAX_LEN.min((PAGE - at % PAGE) as usize);
        // SAFETY: within a page of text that a mark was left in, or that code before leads on to.
        let insn = decode(unsafe { core::slice::from_raw_parts(at as *const u8, len) })?;
        let rel = insn.branch_target(at) == Some(gate) && matches!(insn.len, 5..);
        // `call *gate@GOTPCREL(%rip)` becomes `call` with an address-size prefix, or `jmp` and a nop, when it
        // is linked.
        let rel = rel && matches!(insn.flow, Flow::Call { .. } | Flow::Jump { .. } | Flow::Cond { .. });
        if rel {
            return Some(insn.next(at) - FIELD);
        }
        if insn.ends_block() {
            return None;
        }
        at = insn.next(at);
    }
    None
}

/// Finds the callers that the marks of a module stand for: each mark becomes the address of a displacement,
/// or 0. Called before the module is in the list, with its sites in order.
pub fn find_all(sites: &mut [Site]) {
    let mut first = 0;
    while let Some(owner) = sites.get(first).map(Site::owner) {
        let count = sites.iter().skip(first).take_while(|site| site.owner() == owner).count();
        let Some(own) = sites.get_mut(first..first + count) else { return };
        first += count;
        let gate = own.iter().find(|site| site.kind() == Some(Kind::Call)).map(|site| site.code);
        for site in own.iter_mut().filter(|site| site.kind() == Some(Kind::Caller)) {
            site.code = gate.and_then(|gate| find(site.code, gate)).unwrap_or(0);
        }
        // Two marks before one call.
        own.sort_unstable_by_key(|site| site.code);
        let mut last = 0;
        for site in own.iter_mut().filter(|site| site.kind() == Some(Kind::Caller)) {
            if site.code == last {
                site.code = 0;
            } else {
                last = site.code;
            }
        }
    }
}

/// Everything about a call that its callers need: its gate, and where they may be on their way.
#[derive(Clone, Copy)]
struct Way {
    gate: u64,
    /// How far the mirror is [16 MiB]; 0 when no place was found.
    distance: i8,
    /// Where callers were led last, or are being led; the gate if nowhere.
    to: u64,
}

impl Way {
    fn of(modules: &Modules, call: &StaticCall) -> Option<Way> {
        let owner = core::ptr::from_ref(call) as u64;
        let gate = modules.of(owner).find(|site| site.kind() == Some(Kind::Call))?.code;
        let (to, distance) = call.way();
        Some(Way { gate, distance, to: if to == 0 { gate } else { to } })
    }

    fn remember(self, call: &StaticCall) {
        call.set_way(if self.to == self.gate { 0 } else { self.to }, self.distance);
    }

    /// The route of the caller with its displacement at `field`; `None` when it does not reach one of its
    /// stations.
    fn route(self, field: u64) -> Option<Route> {
        Route::new(rel32(field + FIELD, self.gate)?, self.distance, rel32(field + FIELD, self.to)?)
    }

    /// The islands of a caller: addresses that must jump to the gate.
    fn islands(self, field: u64) -> Option<impl Iterator<Item = u64>> {
        let islands = self.route(field)?.islands();
        Some(islands.map(move |rel| (field + FIELD).wrapping_add_signed(i64::from(rel))))
    }

    /// Makes the islands of all callers.
    fn prepare(self, mirror: &mut Mirror, text: &mut Text, callers: impl Iterator<Item = u64>) -> Option<()> {
        for field in callers {
            for at in self.islands(field)? {
                let [a, b, c, d] = rel32(at + 5, self.gate)?.to_le_bytes();
                mirror.put(text, at, &[JMP, a, b, c, d])?;
            }
        }
        Some(())
    }

    /// An island that jumps to a target anywhere, near the mirror of the gate.
    fn far_island(self, mirror: &mut Mirror, text: &mut Text, target: u64) -> Option<u64> {
        // With retpolines nothing jumps through memory: the gate's pointer does it.
        if cfg!(feature = "retpoline") {
            return None;
        }
        // jmp *0(%rip), and the address.
        let mut island = [0; LONGEST];
        island.get_mut(..2)?.copy_from_slice(&JMP_THROUGH);
        island.get_mut(6..)?.copy_from_slice(&target.to_le_bytes());
        let mirrored = self.gate.wrapping_add_signed(i64::from(self.distance) << APART);
        (1..64).map(|n| mirrored + n * 64).find(|&at| mirror.put(text, at, &island).is_some())
    }
}

/// The displacement at `field`, as it is now.
fn displacement(field: u64) -> i32 {
    // SAFETY: text of a registered module; it changes under the lock alone.
    unsafe { (field as *const i32).read_unaligned() }
}

impl route::Bytes for Text {
    fn displacement(&self, field: u64) -> i32 {
        displacement(field)
    }

    fn byte(&mut self, at: u64, old: u8, new: u8) -> Result<(), TextError> {
        // SAFETY: text of a registered module; a route's stations are all right.
        unsafe { self.inner().byte(at, old, new) }
    }

    fn fence(&mut self) -> Result<(), TextError> {
        self.inner().fence()
    }
}

/// The displacements of a call's callers.
fn callers<'a>(modules: &'a Modules, call: &StaticCall) -> impl Iterator<Item = u64> + Clone + 'a {
    let of = modules.of(core::ptr::from_ref(call) as u64);
    of.filter(|site| site.kind() == Some(Kind::Caller) && site.code != 0).map(|site| site.code)
}

/// Takes callers to station `to`. One that does not reach its stations was never led anywhere.
///
/// # Errors
/// The first that was met. Callers are somewhere on their way then, and those that could be moved have been.
fn walk(text: &mut Text, callers: impl Iterator<Item = (u64, Way)> + Clone, to: usize) -> Result<(), UpdateError> {
    let routed = callers.filter_map(|(field, way)| way.route(field).map(|route| (field, route)));
    route::walk(text, routed, to).map_err(explained)
}

/// Lets no caller go straight to the target any more: before the gate changes.
///
/// # Errors
/// Some may do still, and the gate must stay as it is.
pub fn leave(modules: &Modules, text: &mut Text, call: &StaticCall) -> Result<(), UpdateError> {
    let Some(way) = Way::of(modules, call) else { return Ok(()) };
    let mut refused = Ok(());
    for field in callers(modules, call) {
        let Some(route) = way.route(field) else { continue };
        let at_target = way.to != way.gate && displacement(field) == route.at(TARGET);
        if at_target && let Err(refusal) = route::step(text, field, &route, AWAY) {
            refused = Err(explained(refusal));
        }
    }
    text.fence()?;
    refused
}

/// Leads callers on to the call's target, past the gate, which leads there already. Where that is not to be
/// they go to the gate.
pub fn arrive(modules: &Modules, text: &mut Text, call: &StaticCall) -> Result<(), UpdateError> {
    let Some(old) = Way::of(modules, call) else { return Ok(()) };
    if old.distance == 0 {
        return Ok(());
    }
    let all = callers(modules, call);
    walk(text, all.clone().map(|field| (field, old)), AWAY)?;
    let target = call.target() as u64;
    let way = |distance, text: &mut Text| {
        way_to(Way { distance, ..old }, &mut modules.mirror.borrow_mut(), text, target, all.clone())
    };
    let mut new = way(old.distance, text);
    if new.is_none() {
        // Another call has islands there. From the gate any distance will do.
        walk(text, all.clone().map(|field| (field, old)), GATE)?;
        new = distances().filter(|&distance| distance != old.distance).find_map(|distance| way(distance, text));
    }
    // Islands are there before somebody is led to them.
    text.fence()?;
    let new = new.unwrap_or(Way { to: old.gate, ..old });
    new.remember(call);
    walk(text, all.map(|field| (field, new)), TARGET)
}

/// Distances to be tried, one after the other.
fn distances() -> impl Iterator<Item = i8> {
    (1..NEAR).map(|n| -n).chain(FAR.rev())
}

/// The way to `target`, its islands made; or to an island near the text from which it can be reached.
fn way_to(
    old: Way,
    mirror: &mut Mirror,
    text: &mut Text,
    target: u64,
    callers: impl Iterator<Item = u64> + Clone,
) -> Option<Way> {
    let straight = Way { to: target, ..old };
    if target == old.gate {
        return None;
    }
    if callers.clone().all(|field| rel32(field + FIELD, target).is_some()) {
        return straight.prepare(mirror, text, callers).map(|()| straight);
    }
    let by_island = Way { to: old.far_island(mirror, text, target)?, ..old };
    by_island.prepare(mirror, text, callers).map(|()| by_island)
}

/// Brings callers to the gate, whatever they are doing.
///
/// # Errors
/// One may still go somewhere else: straight to the target, or by way of an island.
pub fn to_gate(modules: &Modules, text: &mut Text, call: &StaticCall) -> Result<(), UpdateError> {
    let Some(way) = Way::of(modules, call) else { return Ok(()) };
    walk(text, callers(modules, call).map(|field| (field, way)), GATE)?;
    Way { to: way.gate, ..way }.remember(call);
    Ok(())
}

/// Leads the callers of new modules to their targets. `alone` says that no other thread runs.
pub fn arm(modules: &Modules, text: &mut Text, sites: &[Site], alone: bool) -> Result<(), UpdateError> {
    let calls = || sites.iter().filter(|site| site.kind() == Some(Kind::Call));
    for site in calls() {
        // SAFETY: the kind says that its owner is a call.
        let call = unsafe { super::calls::call_of(site) };
        let all = callers(modules, call);
        let Some(mut way) = Way::of(modules, call).filter(|_| all.clone().next().is_some()) else { continue };
        let target = call.target() as u64;
        let known = Some(way.distance).filter(|&distance| distance != 0);
        let tried = distances().filter(|_| known.is_none());
        let found = known.into_iter().chain(tried).find_map(|distance| {
            way_to(Way { distance, ..way }, &mut modules.mirror.borrow_mut(), text, target, all.clone())
        });
        let Some(found) = found else { continue };
        way = found;
        way.remember(call);
        for field in all.filter(|_| alone) {
            let Some(route) = way.route(field) else { continue };
            // SAFETY: text of a module that is being registered, while no other thread runs.
            unsafe { text.idle(field, &route.at(TARGET).to_le_bytes())? };
        }
    }
    text.fence()?;
    if alone {
        return Ok(());
    }
    let all = calls().flat_map(|site| {
        // SAFETY: as above.
        let call = unsafe { super::calls::call_of(site) };
        let way = Way::of(modules, call).filter(|way| way.distance != 0 && way.to != way.gate);
        way.into_iter().flat_map(move |way| callers(modules, call).map(move |field| (field, way)))
    });
    walk(text, all, TARGET)
}

/// Counts callers.
pub fn count(modules: &Modules, call: &StaticCall) -> Callers {
    let mut counted = Callers::default();
    let Some(way) = Way::of(modules, call) else { return counted };
    for field in callers(modules, call) {
        counted.all += 1;
        let is_there = way.route(field).is_some_and(|route| displacement(field) == route.at(TARGET));
        counted.direct += usize::from(is_there && way.to != way.gate);
    }
    counted
}
