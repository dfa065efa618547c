//! What became of tail calls whose index is computed at run time, for people.

use crate::code::MapRef;
use crate::learn::Known;
use crate::program::Program;
use relpoline_core::policy::{Phase, Reason};
use relpoline_patch::reclaim::Section;
use std::sync::Arc;

/// A tail call whose index is computed at run time: whether its usual targets were promoted to direct jumps,
/// and why or why not. See [`crate::IndirectBranches`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VariableCall {
    /// Slot of the tail call.
    pub instruction: usize,
    /// Name of its program array.
    pub array: String,
    /// Whether a tree is in place.
    pub promoted: bool,
    /// Why it is what it is.
    pub reason: Reason,
    /// What the tree jumps to, hottest first.
    pub targets: Vec<HotTarget>,
    /// How many trees it was given so far, up to 255. A swap makes new code, for which it begins at zero.
    pub promotions: u8,
    /// How often it went through one of its trees, if the program was loaded to be counted; slots that were
    /// not hot are included. Several threads lose some counts to each other.
    pub through_trees: Option<u64>,
}

/// A program that a tree jumps to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HotTarget {
    /// Its name, or `None` when it has left the array since.
    pub program: Option<Arc<str>>,
    /// Its share of calls while they were learned, in percent.
    pub percent: u32,
}

impl Program {
    /// Its tail calls with computed indexes, and what became of them.
    #[must_use]
    pub fn variable_calls(&self) -> Vec<VariableCall> {
        // First all that needs the code, inside a section; then the lock, whose holder may be waiting for
        // sections.
        let found: Vec<_> = {
            let _section = Section::enter();
            // SAFETY: current inside the section, and so not freed before its end.
            let code = unsafe { &*self.core.code_ptr() };
            code.gates.iter().map(|(at, site)| (*at, site.as_ref().map(|site| site.known()))).collect()
        };
        let plain = self.core.body.tails.iter().filter(|(_, call)| call.index.is_none());
        let known = |slot: u32| found.iter().find(|(at, _)| at.slot == slot).map(|(_, known)| known.clone());
        plain.map(|(slot, call)| self.describe(*slot, call.map, known(*slot))).collect()
    }

    /// `known` is `None` without a gate, and contains `None` where there was no room for a site.
    fn describe(&self, slot: u32, map: u32, known: Option<Option<Known>>) -> VariableCall {
        let nothing = |reason| Known { phase: Phase::Barred, reason, targets: Vec::new(), promotions: 0, direct: None };
        let known = match known {
            None => nothing(Reason::Disabled),
            Some(known) => known.unwrap_or_else(|| nothing(Reason::NoArena)),
        };
        let names = self.entries_of(map);
        let target = |&(entry, share): &(u64, u32)| HotTarget {
            program: names.iter().find(|(e, _)| *e == entry).map(|(_, name)| name.clone()),
            percent: (share * 100 + (1 << 15)) >> 16,
        };
        VariableCall {
            instruction: slot as usize,
            array: self.array_name(map),
            promoted: matches!(known.phase, Phase::Promoted | Phase::Linked),
            reason: known.reason,
            targets: known.targets.iter().map(target).collect(),
            promotions: known.promotions,
            through_trees: known.direct,
        }
    }

    fn array_name(&self, map: u32) -> String {
        match &self.core.body.maps[map as usize] {
            MapRef::Array(array) => array.name().into(),
            MapRef::Map(_) => String::new(),
        }
    }

    /// Entries and names of the programs in the slots of array number `map`.
    fn entries_of(&self, map: u32) -> Vec<(u64, Arc<str>)> {
        match &self.core.body.maps[map as usize] {
            MapRef::Array(array) => self.core.body.shared.links().entries_of(array),
            MapRef::Map(_) => Vec::new(),
        }
    }
}
