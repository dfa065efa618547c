// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Text that comes and goes: the kernel's own, and that of modules.
//!
//! Sites are found by core's scanner: every `call` and `jmp` whose displacement names a thunk and that starts
//! where an instruction starts. The kernel has code of which no instruction may be changed (`noinstr`, entry
//! code), and two functions that are left alone by name; their sites are known, and barred.

use relpoline_core::arch::Reg;
use relpoline_core::arch::encode::{Code, INT3};
use relpoline_core::policy::Reason;
use relpoline_core::scan::{self, Function, Functions, Region, SiteKind, Sites};

use crate::engine::Engine;
use crate::layout::{COLD_JUMP, COLD_STUB, SITES};
use crate::machine::{Machine, Text};
use crate::site::{Kind, NONE, Site};
use crate::slots::Slots;
use crate::table::Table;

/// rsp's place in the list of thunks, which exists and which nobody calls.
const RSP: usize = 4;

/// Asks the kernel's symbols which function an address lies in.
struct Symbols<'a, M>(&'a M);

impl<M: Machine> Functions for Symbols<'_, M> {
    fn containing(&self, address: u64) -> Option<Function> {
        let (start, end) = self.0.function(address)?;
        Some(Function::new(start, end))
    }
}

/// What the engine keeps of a site that the scanner found.
fn known(machine: &impl Machine, text: &Text, site: &scan::Site, thunks: &[u64; 16]) -> Option<Site> {
    let kind = match site.kind {
        SiteKind::Call => Kind::Call,
        SiteKind::Jump => Kind::Jump,
        SiteKind::Cond => return None,
    };
    let (reg, thunk) = (Reg::new(site.thunk as u8)?, *thunks.get(site.thunk)?);
    let address = site.field - 1;
    let known = Site::new(address, kind, reg, thunk, text.owner).padded(site.cs_prefix);
    let is_barred = text.barred.iter().any(|&(start, end)| (start..end).contains(&address))
        || site.thunk == RSP
        || machine.is_barred(site.function.start);
    Some(if is_barred { known.barred(Reason::Excluded) } else { known })
}

/// Gives a site a number that nobody has.
fn number(sites: &mut Table<Site>, numbers: &mut Slots<SITES>, site: Site) -> Option<usize> {
    let id = numbers.take()?;
    match sites.get_mut(id) {
        Some(before) => *before = site,
        None => {
            sites.push(site)?;
        }
    }
    Some(id)
}

impl<M: Machine> Engine<M> {
    /// Text has come: finds its sites, and lets them begin if promotion is on. Returns how many there are.
    pub fn text_comes(&mut self, text: &Text) -> usize {
        let found = self.find(text);
        for id in 0..self.sites.len() {
            if self.sites.get(id).is_some_and(|site| !site.has_stub && !site.gone && !site.is_barred()) {
                self.write_cold_stub(id);
                if self.enabled {
                    self.begin(id);
                }
            }
        }
        self.poke();
        found
    }

    /// Takes in all sites of a text.
    fn find(&mut self, text: &Text) -> usize {
        let Engine { machine, sites, numbers, totals, places, .. } = self;
        let bytes = machine.text(text.start, text.end);
        let mut found = 0;
        for site in Sites::new(Region { address: text.start, bytes }, &places.thunks, Symbols(&*machine)) {
            let Some(known) = site.ok().and_then(|site| known(machine, text, &site, &places.thunks)) else {
                totals.refused += 1;
                continue;
            };
            match number(sites, numbers, known) {
                Some(id) => {
                    let reading = machine.cold_calls(id);
                    if let Some(site) = sites.get_mut(id) {
                        site.cold_reading = reading;
                    }
                    found += 1;
                }
                None => totals.unnumbered += 1,
            }
        }
        found
    }

    fn write_cold_stub(&mut self, id: usize) {
        let Some(site) = self.sites.get_mut(id) else { return };
        let at = self.places.cold + id as u64 * COLD_STUB + COLD_JUMP;
        let mut bytes = [INT3; 6];
        let mut code = Code::new(&mut bytes, at);
        code.jmp(site.thunk);
        match code.finish() {
            Ok(_) => self.machine.write(at, &bytes),
            Err(_) => *site = site.barred(Reason::OutOfRange),
        }
        site.has_stub = true;
    }

    /// A module goes: its sites are forgotten, as nobody runs them any more, and no tree leads into its text
    /// (`start..end`) any more when this returns.
    pub fn text_goes(&mut self, owner: u64, start: u64, end: u64) {
        for id in 0..self.sites.len() {
            let Some(site) = self.sites.get(id) else { continue };
            if site.gone {
                continue;
            }
            if site.owner == owner {
                self.bury(id);
            } else if self.leads_into(site, start, end) {
                self.totals.demotions += 1;
                self.begin(id);
            }
        }
        self.poke();
    }

    fn leads_into(&self, site: &Site, start: u64, end: u64) -> bool {
        // The broken variant that the tests must catch: nobody looks.
        let is_inside =
            |address: u64| (start..end).contains(&address) && !cfg!(relpoline_broken = "kernel-stale-target");
        self.trees.get(site.tree).is_some_and(|tree| tree.targets().iter().any(|t| is_inside(t.address)))
    }

    /// The text of site `id` is going.
    fn bury(&mut self, id: usize) {
        if let Some(site) = self.sites.get_mut(id) {
            site.gone = true;
            site.want = site.to;
        }
        self.forget(id);
        if let Some(site) = self.sites.get_mut(id) {
            let old = core::mem::replace(&mut site.old_tree, NONE);
            if old != NONE {
                self.trees.slots.leave(usize::from(old));
            }
        }
        self.numbers.leave(id);
    }
}
