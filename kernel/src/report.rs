// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the module's devices show: figures of the whole, and one line per site. The shim prints them.

use relpoline_core::policy::Phase;

use crate::engine::Engine;
use crate::layout::TARGETS;
use crate::machine::Machine;
use crate::site::{Counts, Kind};

/// What has happened since the module was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub(crate) ticks: u64,
    pub(crate) records: u64,
    pub(crate) lost: u64,
    pub(crate) lost_before: u64,
    pub(crate) windows: u64,
    pub(crate) promotions: u64,
    pub(crate) demotions: u64,
    pub(crate) relearned: u64,
    pub(crate) evicted: u64,
    pub(crate) pokes: u64,
    pub(crate) postponed: u64,
    pub(crate) graces: u64,
    pub(crate) refused: u64,
    pub(crate) unnumbered: u64,
}

impl Totals {
    pub(crate) const NONE: Totals = Totals {
        ticks: 0,
        records: 0,
        lost: 0,
        lost_before: 0,
        windows: 0,
        promotions: 0,
        demotions: 0,
        relearned: 0,
        evicted: 0,
        pokes: 0,
        postponed: 0,
        graces: 0,
        refused: 0,
        unnumbered: 0,
    };
}

/// A figure with its name.
pub type Figure = (&'static str, u64);

/// Figures of a report.
pub const FIGURES: usize = 39;

/// A site, for a line of the report.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Address of its opcode.
    pub address: u64,
    /// Its kind's name.
    pub kind: Word,
    /// Its register's name.
    pub reg: Word,
    /// Its phase's name.
    pub phase: Word,
    /// Its reason.
    pub reason: Word,
    /// Trees that were put in place.
    pub promotions: u32,
    /// Learnings that began from a tree.
    pub relearned: u32,
    /// Calls while they were counted.
    pub counts: Counts,
    /// The hottest target of an earlier tree, 0 if there was no other.
    pub before: u64,
    /// Targets of the tree in place: address and share (1/65536).
    pub targets: [u64; TARGETS],
    /// Their shares.
    pub shares: [u32; TARGETS],
    /// How many there are.
    pub len: u32,
    /// Calls that its counting stub has ever seen: cold calls, and those of sites left alone while calls are
    /// counted.
    pub cold: u32,
}

/// A text without a terminating zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// Its first byte.
    pub at: *const u8,
    /// Bytes.
    pub len: u64,
}

impl Word {
    /// Of nothing.
    pub const EMPTY: Word = Word { at: core::ptr::null(), len: 0 };
}

impl From<&'static str> for Word {
    fn from(text: &'static str) -> Word {
        Word { at: text.as_ptr(), len: text.len() as u64 }
    }
}

/// The reason of a site whose change waits until somebody else lets its instruction go.
pub const WAITS: &str = "another has its instruction (kprobe?): its change waits";

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Cold => "cold",
        Phase::Learning => "learning",
        Phase::Promoted | Phase::Linked => "promoted",
        Phase::Retpolined => "retpoline",
        Phase::Barred => "barred",
    }
}

impl<M: Machine> Engine<M> {
    /// The line of site `id`, or `None` when there is no such site (any more).
    pub fn line(&mut self, id: usize) -> Option<Line> {
        self.add_up(id);
        let site = self.sites.get(id).filter(|site| !site.gone)?;
        let mut line = Line {
            address: site.address,
            kind: match site.kind {
                Kind::Call => "call",
                Kind::Jump => "jmp",
            }
            .into(),
            reg: site.reg.name().into(),
            phase: phase_name(site.state.phase()).into(),
            reason: if site.is_pending() { WAITS } else { site.state.reason().text() }.into(),
            promotions: site.promotions,
            relearned: site.relearned,
            counts: site.counts,
            before: site.before,
            targets: [0; TARGETS],
            shares: [0; TARGETS],
            len: 0,
            cold: self.machine.cold_calls(id),
        };
        if let Some(tree) = self.trees.get(site.tree) {
            for ((address, share), target) in line.targets.iter_mut().zip(&mut line.shares).zip(tree.targets()) {
                (*address, *share) = (target.address, target.share);
                line.len += 1;
            }
        }
        Some(line)
    }

    /// The figures of the whole.
    pub fn figures(&mut self) -> [Figure; FIGURES] {
        for id in 0..self.sites.len() {
            self.add_up(id);
        }
        let mut phases = [0u64; 6];
        let (mut kernel, mut modules, mut calls, mut jumps, mut pending, mut run, mut ever) = (0, 0, 0, 0, 0, 0, 0);
        let (mut all, mut settled) = (Counts::default(), Counts::default());
        for site in self.sites.iter().filter(|site| !site.gone) {
            *(if site.owner == 0 { &mut kernel } else { &mut modules }) += 1;
            if site.owner == 0 {
                *(if site.kind == Kind::Call { &mut calls } else { &mut jumps }) += 1;
            }
            if let Some(count) = phases.get_mut(site.state.phase() as usize) {
                *count += 1;
            }
            pending += u64::from(site.is_pending());
            ever += u64::from(site.promotions > 0);
            let Counts { calls, misses, plain } = site.counts;
            run += u64::from(calls + plain > 0);
            all = Counts { calls: all.calls + calls, misses: all.misses + misses, plain: all.plain + plain };
            if site.state.has_tree() {
                settled = Counts { calls: settled.calls + calls, misses: settled.misses + misses, plain: 0 };
            }
        }
        let [cold, learning, promoted, linked, retpolined, barred] = phases;
        let t = self.totals;
        let lost = t.lost - t.lost_before;
        [
            ("enabled", u64::from(self.enabled)),
            ("counting", u64::from(self.counting)),
            ("sites_kernel", kernel),
            ("sites_modules", modules),
            ("sites_kernel_calls", calls),
            ("sites_kernel_jumps", jumps),
            ("sites_refused", t.refused),
            ("sites_without_number", t.unnumbered),
            ("now_cold", cold),
            ("now_learning", learning),
            ("now_promoted", promoted + linked),
            ("now_retpolined", retpolined),
            ("now_barred", barred),
            ("now_pending", pending),
            ("ever_promoted", ever),
            ("promotions", t.promotions),
            ("demotions", t.demotions),
            ("relearned", t.relearned),
            ("evicted", t.evicted),
            ("windows", t.windows),
            ("records", t.records),
            ("records_lost", t.lost),
            ("pokes", t.pokes),
            ("pokes_postponed", t.postponed),
            ("patch_cycles", u64::from(self.price.cycles())),
            ("cycles_per_ms", u64::from(self.policy.costs.cycles_per_ms)),
            ("grace_periods", t.graces),
            ("tree_slots_free", self.trees.slots.free() as u64),
            ("tree_slots_leaving", self.trees.slots.leaving() as u64),
            ("windows_open", self.windows.open_windows() as u64),
            ("counted_sites", run),
            ("counted_calls", all.calls + all.plain + lost),
            ("counted_tree_calls", all.calls),
            ("counted_tree_misses", all.misses),
            ("counted_tree_hits", all.calls.saturating_sub(all.misses)),
            ("counted_promoted_calls", settled.calls),
            ("counted_promoted_misses", settled.misses),
            ("learning_cycles", self.policy.budget.spent()),
            ("ticks", t.ticks),
        ]
    }
}
