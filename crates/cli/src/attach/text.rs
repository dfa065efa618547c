//! Changing the text of a process whose threads stand still.
//!
//! What is to be written is worked out beforehand; in the stop, each page is read, changed and written whole.
//! A displacement is only changed if it is what it was or what the engine makes of it: a page that was mapped
//! anew, or changed by somebody else, is left as it is.

use std::collections::BTreeMap;
use std::ops::Range;

use relpoline_stats::control::Displacement;

use super::memory::{Mapping, Memory, PAGE, Space as _};

/// Which way displacements are changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// To the gates.
    ToGates,
    /// To what they were.
    Back,
}

/// Changes of text, by page.
#[derive(Debug)]
pub struct Edit {
    way: Way,
    pages: BTreeMap<u64, Vec<Displacement>>,
    /// Those that lie in two pages.
    straddling: Vec<Displacement>,
    /// What the program may write to.
    writable: Vec<Range<u64>>,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Edited {
    /// Displacements that are as wanted now.
    pub done: usize,
    /// Displacements that were left as they are, since somebody else has changed them.
    pub foreign: usize,
}

impl Edit {
    /// To change `displacements` in a process that has `mappings`.
    pub fn new(way: Way, displacements: &[Displacement], mappings: &[Mapping]) -> Self {
        let writable = mappings.iter().filter(|mapping| mapping.access.as_bytes().get(1) == Some(&b'w'));
        let writable = writable.map(|mapping| mapping.start..mapping.end).collect();
        let mut edit = Self { way, pages: BTreeMap::new(), straddling: Vec::new(), writable };
        for &displacement in displacements {
            let page = displacement.at & !(PAGE - 1);
            if displacement.at - page + 4 > PAGE {
                edit.straddling.push(displacement);
            } else {
                edit.pages.entry(page).or_default().push(displacement);
            }
        }
        edit
    }

    /// Lets the kernel make the process' own copies of the pages, which takes longer than writing them: while
    /// threads run, a byte of each that nobody changes is written as it is.
    pub fn copy_pages(&self, memory: &Memory) {
        for displacement in self.pages.values().filter_map(|all| all.first()) {
            if let Ok(byte) = memory.array::<1>(displacement.at) {
                let _ = memory.write(displacement.at, &byte);
            }
        }
    }

    /// Makes the changes. Threads must stand still.
    ///
    /// A page that the program may write to is not written whole: a child that shares its memory does not
    /// stand still.
    pub fn make(&self, memory: &Memory) -> anyhow::Result<Edited> {
        let mut edited = Edited::default();
        for (&page, displacements) in &self.pages {
            if self.writable.iter().any(|range| range.contains(&page)) {
                displacements.iter().try_for_each(|one| self.change_alone(memory, one, &mut edited))?;
                continue;
            }
            let Ok(mut bytes) = memory.array::<{ PAGE as usize }>(page) else {
                edited.foreign += displacements.len();
                continue;
            };
            let before = edited.done;
            for displacement in displacements {
                let at = (displacement.at - page) as usize;
                self.change(displacement, &mut bytes[at..at + 4], &mut edited);
            }
            if edited.done != before {
                memory.write(page, &bytes)?;
            }
        }
        for displacement in &self.straddling {
            self.change_alone(memory, displacement, &mut edited)?;
        }
        Ok(edited)
    }

    fn change_alone(&self, memory: &Memory, displacement: &Displacement, edited: &mut Edited) -> anyhow::Result<()> {
        let Ok(mut bytes) = memory.array::<4>(displacement.at) else {
            edited.foreign += 1;
            return Ok(());
        };
        let before = edited.done;
        self.change(displacement, &mut bytes, edited);
        if edited.done != before {
            memory.write(displacement.at, &bytes)?;
        }
        Ok(())
    }

    fn change(&self, displacement: &Displacement, bytes: &mut [u8], edited: &mut Edited) {
        let (own, gate) = (displacement.own.to_le_bytes(), displacement.gate.to_le_bytes());
        // A link changes the second byte.
        let is_ours = bytes[0] == gate[0] && bytes[2] == gate[2] && bytes[3] == gate[3];
        if bytes != own && !is_ours {
            edited.foreign += 1;
            return;
        }
        bytes.copy_from_slice(if self.way == Way::ToGates { &gate } else { &own });
        edited.done += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_has_changed_is_left_alone() {
        let text = Box::leak(Box::new([0x90_u8; 3 * PAGE as usize]));
        // As whole pages, and as if the program might write to them.
        for mappings in [Vec::new(), Memory::open(std::process::id().cast_signed()).unwrap().mappings().unwrap()] {
            text.fill(0x90);
            changes_are_made_and_foreign_ones_left(text, &mappings);
        }
    }

    fn changes_are_made_and_foreign_ones_left(text: &[u8], mappings: &[Mapping]) {
        let start = (text.as_ptr() as u64).next_multiple_of(PAGE);
        let memory = Memory::open(std::process::id().cast_signed()).unwrap();
        let at = |offset: u64, own: i32| Displacement { at: start + offset, own, gate: 0x0102_0304 };
        let all = [at(8, 77), at(100, 78), at(200, 79), at(PAGE - 2, 80)];
        for displacement in &all {
            memory.write(displacement.at, &displacement.own.to_le_bytes()).unwrap();
        }
        memory.write(start + 100, &[0xcc]).unwrap();
        let made = Edit::new(Way::ToGates, &all, mappings).make(&memory).unwrap();
        assert_eq!(made, Edited { done: 3, foreign: 1 });
        assert_eq!(memory.half(start + PAGE - 2).unwrap(), 0x0102_0304);
        // As after a link.
        memory.write(start + 9, &[0x55]).unwrap();
        assert_eq!(Edit::new(Way::Back, &all, mappings).make(&memory).unwrap(), Edited { done: 3, foreign: 1 });
        assert_eq!([8, 200, PAGE - 2].map(|offset| memory.half(start + offset).unwrap()), [77, 79, 80]);
    }
}
