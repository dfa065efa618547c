//! Making a place for a table: its gate word, in an arena near its text.

use super::table::{NONE, Table, plain_jump};
use super::{TABLES, Tables, arenas};
use crate::imp::sites::Site;
use crate::table::DynamicCall;
use core::sync::atomic::Ordering::Relaxed;
use relpoline_core::arch::Reg;
use relpoline_learn::Memory;
use relpoline_text::frames::Frame;
use relpoline_text::gate::{Gate, GateSpec};

impl Tables {
    /// Makes a place for a table: the address of its gate word. `None` when there is no room for it.
    ///
    /// A library that comes back to where it was gets the place that it had. (Other places are not given
    /// anew: a forked child may still have what was there, and runs this process' code until it gets some of
    /// its own.)
    pub fn admit(&mut self, call: &DynamicCall, text_gate: u64, own: &'static [Site]) -> Option<u64> {
        let reg = Reg::new(call.register())?;
        // Two gates in one place, which only a linker can make, would share everything: the second does
        // without.
        if self.tables.iter().any(|table| table.text_gate == text_gate && !table.gone) {
            return None;
        }
        let old = self.tables.iter().position(|table| table.text_gate == text_gate && table.reg == reg);
        if let Some(id) = old.filter(|_| !cfg!(relpoline_broken = "forgets-records")) {
            return self.readmit(call, id as u32, own);
        }
        if self.tables.len() >= TABLES {
            return None;
        }
        let index = arenas::near(&mut self.arenas, text_gate)?;
        let group = self.arenas.get_mut(index)?;
        let slow_at = group.slow_path(reg)?;
        let counters = group.arena.take_counters()?;
        let id = self.tables.len() as u32;
        // Spread over columns, for each has trees of its own.
        let cell = group.arena.take_gate(group.arena.parity(text_gate + 5), id as usize)?;
        let spec = GateSpec {
            site: id,
            counters,
            thunk: &plain_jump(reg),
            thunk_at: text_gate + 5,
            slow_at,
            counting: None,
            frame: Frame::NONE,
        };
        let gate = Gate::build(&group.arena, cell, &spec).ok()?;
        let at = gate.address(&group.arena);
        self.tables.push(Table {
            text_gate,
            own,
            counters,
            gate,
            memory: Memory::new(),
            tree: NONE,
            rejected: NONE,
            newest_tree: NONE,
            recording: NONE,
            patches: 0,
            group: index as u8,
            reg,
            contest: None,
            unchallenged: false,
            counted: false,
            pinned: false,
            resting: false,
            gone: false,
        });
        call.place(id);
        let calls = self.learner.policy.config.cold_calls;
        let (learner, mut hand) = self.at(id)?;
        relpoline_learn::open(&mut hand, learner.rings.nobodys(), calls);
        Some(at)
    }

    /// Gives a table to the call that is in its place now, whose text is as it was shipped.
    fn readmit(&mut self, call: &DynamicCall, id: u32, own: &'static [Site]) -> Option<u64> {
        let table = self.tables.get_mut(id as usize)?;
        (table.gone, table.resting, table.unchallenged, table.counted) = (false, false, false, false);
        (table.tree, table.patches, table.memory) = (NONE, 0, Memory::new());
        table.own = own;
        table.counters().calls.store(0, Relaxed);
        call.place(id);
        self.begin_anew(id);
        let (_, hand) = self.at(id)?;
        Some(hand.reset())
    }
}
