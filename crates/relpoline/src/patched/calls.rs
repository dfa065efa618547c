//! Re-pointing the slots of a static call.
//!
//! Calls that are found are led past all of this, straight to the target ([`super::callers`]). Others, and
//! all while they are on their way, go to the gate, a function of the user's module that is a row of
//! five-byte slots:
//!
//! ```text
//! slot 0    jmp through the pointer          as shipped: right whatever the target is
//! slot 1    jmp default
//! slot 2 …  jmp target, filled in when a target is first needed; until then like slot 0
//! slot 8
//! ```
//!
//! A slot is passed over while its first byte is that of `test $imm32,%eax`, so the first slot that is still
//! a `jmp` decides, and moving on or back is a matter of one-byte changes. A slot's displacement is
//! written once, before the slot can be reached; a target that comes back finds its slot again. When the
//! slots are used up, or a target is farther than a direct jump reaches, slot 0 takes over.
//!
//! The slots live in the program's own text, not in an arena: a forked child's text is its own, so that an
//! update in the parent is none in the child.
//!
//! [`slots`] says in which order the bytes of slots change, and why.

use super::sites::{Kind, Modules, Site, locked};
use super::text::{Text, explained};
use super::{callers, keys};
use crate::UpdateError;
use crate::call::{Callers, Form, StaticCall};
use relpoline_patch::slots::{self, Slots};
use relpoline_patch::text::TextError;
use relpoline_patch::word::rel32;

const SLOT: u64 = 5;
/// Slots of a gate; the assembly in [`__call_gate`](crate::__call_gate) has as many.
pub const SLOTS: usize = 9;
/// The slot that jumps through the pointer.
const POINTER: usize = 0;
/// The slot of the default target.
const DEFAULT: usize = 1;

/// The gate of a call: its slots in text. Only looked at and changed under the lock.
#[derive(Clone, Copy)]
struct Gate {
    at: u64,
}

impl Gate {
    fn slot(self, index: usize) -> u64 {
        self.at + index as u64 * SLOT
    }

    fn opcode(self, index: usize) -> u8 {
        // SAFETY: text of a registered module.
        unsafe { (self.slot(index) as *const u8).read_volatile() }
    }

    /// Where slot `index` leads.
    fn target(self, index: usize) -> u64 {
        let next = self.slot(index) + SLOT;
        // SAFETY: text of a registered module; four bytes that nobody else writes.
        let rel = unsafe { ((next - 4) as *const i32).read_unaligned() };
        next.wrapping_add_signed(i64::from(rel))
    }

    /// The slot for `target`: an old one, or a free one that is filled now.
    fn slot_for(self, text: &mut Text, target: u64) -> Result<usize, UpdateError> {
        if let Some(old) = (DEFAULT..SLOTS).find(|&i| self.target(i) == target) {
            return Ok(old);
        }
        // A slot that was never filled leads where slot 0 does.
        let free = (DEFAULT + 1..SLOTS).find(|&i| self.target(i) == self.target(POINTER));
        let Some(free) = free else { return Ok(POINTER) };
        let Some(rel) = rel32(self.slot(free) + SLOT, target) else { return Ok(POINTER) };
        // SAFETY: the gate's own bytes, which nobody can reach yet.
        unsafe { text.idle(self.slot(free) + 1, &rel.to_le_bytes())? };
        // Without a barrier a processor might have fetched the slot as it was.
        if text.fence().is_err() { Ok(POINTER) } else { Ok(free) }
    }
}

/// A gate whose bytes are being changed.
struct Live<'a> {
    gate: Gate,
    text: &'a mut Text,
}

impl Slots for Live<'_> {
    const COUNT: usize = SLOTS;

    fn opcode(&self, index: usize) -> u8 {
        self.gate.opcode(index)
    }

    fn change(&mut self, index: usize, old: u8, new: u8) -> Result<(), TextError> {
        // SAFETY: text of a registered module; a slot is right in either form.
        unsafe { self.text.inner().byte(self.gate.slot(index), old, new) }
    }
}

fn current(gate: Gate) -> usize {
    slots::current(&Live { gate, text: &mut Text::default() })
}

fn select(text: &mut Text, gate: Gate, index: usize) -> Result<(), UpdateError> {
    slots::select(&mut Live { gate, text }, index).map_err(explained)
}

/// The call that a site belongs to.
///
/// # Safety
/// The site must be one of a registered module, and of a call.
pub unsafe fn call_of(site: &Site) -> &'static StaticCall {
    // SAFETY: the macro wrote the address of a `static` of this type.
    unsafe { &*(site.owner() as *const StaticCall) }
}

fn aim(text: &mut Text, gate: Gate, target: u64) -> Result<(), UpdateError> {
    let slot = gate.slot_for(text, target)?;
    select(text, gate, slot)
}

/// Brings a new gate to the target its call has by now.
pub fn arm(text: &mut Text, site: &Site) -> Result<(), UpdateError> {
    // SAFETY: the caller looked at the kind.
    let call = unsafe { call_of(site) };
    aim(text, Gate { at: site.code }, call.target() as u64)
}

/// Lets a gate jump through the pointer.
pub fn disarm(text: &mut Text, site: &Site) -> Result<(), UpdateError> {
    select(text, Gate { at: site.code }, POINTER)
}

/// Brings a new branch of an inline call into the form that suits its call's target.
pub fn arm_inline(text: &mut Text, site: &Site) -> Result<(), UpdateError> {
    // SAFETY: the caller looked at the kind.
    let call = unsafe { call_of(site) };
    let form = if call.is_at_first() { keys::Form::FallingThrough } else { keys::Form::Jumping };
    keys::bring(text, site, form)
}

/// Re-points a call. On an error it goes where it went before.
///
/// Branches of the inline form go to the first target without asking the gate. So they are led to the gate
/// before it is re-pointed, while it still goes there too; and led past it again after it has come back.
pub fn update_call(call: &StaticCall, target: *const ()) -> Result<(), UpdateError> {
    locked(|modules| update_under_lock(modules, call, target))
}

fn update_under_lock(modules: &Modules, call: &StaticCall, target: *const ()) -> Result<(), UpdateError> {
    modules.reaches(core::ptr::from_ref(call) as u64)?;
    let before = call.target();
    if modules.sealed {
        call.store(target);
        return Ok(());
    }
    let mut text = Text::default();
    let sites = |kind: Kind| modules.of(core::ptr::from_ref(call) as u64).filter(move |s| s.kind() == Some(kind));
    if !call.is_first(target) {
        for site in sites(Kind::Inline) {
            keys::bring(&mut text, site, keys::Form::Jumping)?;
        }
    }
    callers::leave(modules, &mut text, call)?;
    call.store(target);
    for site in sites(Kind::Call) {
        let gate = Gate { at: site.code };
        match aim(&mut text, gate, target as u64) {
            // Through the pointer the call goes to the new target already.
            Err(_) if current(gate) == POINTER => {}
            Err(refusal) => {
                call.store(before);
                return Err(refusal);
            }
            Ok(()) => {}
        }
    }
    // Callers that cannot be led straight there go by the gate.
    let _ = callers::arrive(modules, &mut text, call);
    if call.is_first(target) {
        for site in sites(Kind::Inline) {
            // One that cannot be led past the gate goes through it.
            let _ = keys::bring(&mut text, site, keys::Form::FallingThrough);
        }
    }
    text.fence()
}

/// Counts the calls of `call` that were found, and those that go straight to its target.
pub fn call_callers(call: &StaticCall) -> Callers {
    locked(|modules| callers::count(modules, call))
}

/// How calls reach the current target.
pub fn call_form(call: &StaticCall) -> Form {
    let through_pointer = locked(|modules| {
        modules
            .of(core::ptr::from_ref(call) as u64)
            .any(|site| site.kind() == Some(Kind::Call) && current(Gate { at: site.code }) == POINTER)
    });
    if through_pointer { Form::Pointer } else { Form::Direct }
}
