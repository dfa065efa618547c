//! Links: the one byte by which a site goes to its tree directly, past its gate.
//!
//! This is the only change that the running engine makes to the program's own text, and the only one that
//! needs a system call. It is made by whoever holds the lock, and nobody else gets the lock meanwhile: text
//! is put back by the tool, and unmapped by the loader, while the lock is free or theirs. A thread that was
//! overtaken, and a child made by vfork, leave the text as it is. A site that is still linked then, although
//! it has no tree any more, is astray, and whoever looks at it next mends it.
//!
//! In a crowd, sites that are left alone are linked too: to their column's copy of the thunk
//! ([`crate::head`]).
//!
//! A link that cannot be undone at all (after setuid the text can no longer be opened) leaves its site
//! *stuck*: from then on everything happens at its miss gate, behind the old tree. Several sites may be stuck
//! with a head that they share: the first of them that wants to learn takes what all of them miss, the others
//! keep their tree. Behind a thunk nothing happens any more.

use crate::fork;
use crate::hold;
use crate::judge::LATER;
use crate::memory::Reader;
use crate::sandbox;
use crate::site::{NONE, Site};
use crate::state::{Engine, LOCK};
use core::sync::atomic::Ordering;
use relpoline_core::policy::Reason;
use relpoline_text::broken;
use relpoline_text::cells::Cell;
use relpoline_text::poke::{self, Pen, PokeError};

/// A displacement, as it lies in memory.
type Bytes = [u8; 4];

/// The displacement by which a site leads to `to`.
fn displacement(site: &Site, to: u64) -> Bytes {
    (to.wrapping_sub(site.field + 4) as u32).to_le_bytes()
}

/// Lets a site's displacement be `to`. Not in a sandbox; and not when this process came out of the judgement
/// that wants it: the tree that it is to lead to may exist in the parent only.
///
/// # Errors
/// As for [`poke::link`].
#[inline(never)]
fn lead(site: &Site, to: Bytes) -> Result<(), PokeError> {
    with_pen(|pen| lead_by(pen, site, to))?
}

fn lead_by(pen: &Pen, site: &Site, to: Bytes) -> Result<(), PokeError> {
    pen.link(site.field, to, Some(displacement(site, site.thunk_at)))
}

/// Lets `work` change the program's text.
fn with_pen<R>(work: impl FnOnce(&Pen) -> R) -> Result<R, PokeError> {
    if fork::is_inside() || !sandbox::may_call() {
        return Err(PokeError::Refused);
    }
    // Its child would get this process' memory in hand. (Forks wait for who has pinned the lock.)
    if fork::is_under_way() && !LOCK.is_pinned() {
        return Err(PokeError::Overtaken);
    }
    poke::with_pen(&LOCK, hold::me(), work)
}

impl Engine {
    /// Links the site to its tree by one byte.
    ///
    /// # Errors
    /// Always the same reason: it stays promoted, through its gate.
    #[inline(never)]
    pub fn link(&mut self, id: u32) -> Result<(), Reason> {
        let is_stuck = self.sites.as_slice().get(id as usize).is_none_or(|site| site.stuck);
        if self.options().no_link || is_stuck || self.asleep || !sandbox::may_call() {
            return Err(Reason::Promoted);
        }
        let (cell, head) = self.head_to_link(id).ok_or(Reason::Promoted)?;
        self.link_to(id, cell, head)
    }

    #[inline(never)]
    fn link_to(&mut self, id: u32, cell: Cell, head: u32) -> Result<(), Reason> {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return Ok(()) };
        let to = self.way_to(&site, cell).ok_or(Reason::Promoted)?;
        // Noted first: a thread that stands still in between, and loses the lock, must not leave a link that
        // nobody knows of.
        self.note_link(id, true, head);
        match lead(&site, to) {
            Ok(()) => {}
            // Whoever overtook it may have led the site anywhere. It is tried again, should it be here still.
            Err(PokeError::Overtaken) => {
                site.counters().settle.store(LATER, Ordering::Relaxed);
                return Ok(());
            }
            // It may have been linked before: a late thread can have counted to the end what nobody waits for
            // any more.
            Err(_) => {
                self.note_link(id, site.linked, site.head);
                self.share.header().links_refused += 1;
                return Err(Reason::Promoted);
            }
        }
        self.publish_head(id);
        self.share.header().links += 1;
        self.count_patch();
        Ok(())
    }

    /// Links a site that is left alone to the copy of the thunk that its column shares. `None` when it stays
    /// at its gate.
    #[inline(never)]
    pub fn link_to_thunk(&mut self, id: u32) -> Option<()> {
        self.lead_to_thunk(id, lead)
    }

    /// Links all of these likewise, by one opening of the file.
    #[inline(never)]
    pub fn link_all_to_thunk(&mut self, ids: &[u32]) {
        let _ = with_pen(|pen| {
            for &id in ids {
                let _ = self.lead_to_thunk(id, |site, to| lead_by(pen, site, to));
            }
        });
    }

    fn lead_to_thunk(&mut self, id: u32, lead: impl Fn(&Site, Bytes) -> Result<(), PokeError>) -> Option<()> {
        let &site = self.sites.as_slice().get(id as usize)?;
        if self.options().no_link || site.stuck || site.alone || self.asleep || !self.enabled || !sandbox::may_call() {
            return None;
        }
        let to = self.way_to(&site, self.column_thunk(&site)?)?;
        self.note_link(id, true, NONE);
        self.note_alone(id, true);
        match lead(&site, to) {
            // Whoever overtook it may have led the site anywhere: it is led back before anything else is done
            // with it.
            Ok(()) | Err(PokeError::Overtaken) => {}
            Err(_) => {
                self.note_link(id, site.linked, site.head);
                self.share.header().links_refused += 1;
                return None;
            }
        }
        self.share.header().links += 1;
        self.count_patch();
        Some(())
    }

    fn note_link(&mut self, id: u32, linked: bool, head: u32) {
        if let Some(site) = self.sites.get_mut(id as usize) {
            (site.linked, site.alone, site.head) = (linked, false, head);
        }
    }

    fn note_alone(&mut self, id: u32, alone: bool) {
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.alone = alone;
        }
    }

    /// Whether a site that was to be led to its gate can learn: it is there, or what it is stuck with leaves
    /// by a miss gate that no other site has taken.
    pub fn can_learn(&mut self, id: u32) -> bool {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return false };
        !site.stuck || (!site.alone && self.misses_by(id, &site).is_some())
    }

    /// Notes that the site is linked where its text says so. A thread that was overtaken while it undid a
    /// link may have noted that it is not, after somebody else had linked it again.
    pub fn see_link(&mut self, id: u32, text: &Reader) {
        // The broken variant that the tests must catch: nobody looks.
        if broken!("links-unseen") {
            return;
        }
        let Some(&site) = self.sites.as_slice().get(id as usize).filter(|site| !site.gone && !site.linked) else {
            return;
        };
        let Some(arena) = self.arena(&site) else { return };
        let (gate, mut seen) = (displacement(&site, site.gate.address(arena)), Bytes::default());
        let is_read = text.read(site.field, &mut seen) == seen.len();
        if is_read && seen != gate && poke::same_column(seen, gate) && seen != displacement(&site, site.thunk_at) {
            self.note_link(id, true, NONE);
        }
    }

    /// Leads a linked site back to its gate. When that is refused the site is stuck with its tree.
    #[inline(never)]
    pub fn unlink(&mut self, id: u32) {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return };
        let Some(arena) = self.arena(&site).filter(|_| site.linked && !site.stuck) else { return };
        let gate = displacement(&site, site.gate.address(arena));
        let is_linked = match lead(&site, gate) {
            // Text that leads elsewhere was put back, or is not ours any more.
            Ok(()) | Err(PokeError::Unexpected) => false,
            Err(PokeError::Overtaken | PokeError::NotHere) => return,
            Err(PokeError::NoMem | PokeError::Refused) => true,
        };
        if is_linked && !site.state.has_tree() {
            // It may be at its gate after all, where nothing will be changed any more.
            site.gate.point_to(arena, site.gate.counting(arena));
        }
        self.count_patch();
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.linked = is_linked;
            site.stuck = is_linked;
            if !is_linked {
                (site.alone, site.head) = (false, NONE);
            }
        }
        // The policy does not know of links of sites without a tree.
        if site.alone {
            self.policy.budget.charge(u64::from(self.policy.costs.link));
        }
    }

    /// The displacement to `cell`. `None` when it differs from that to the gate in more than a byte, or not
    /// at all.
    fn way_to(&self, site: &Site, cell: Cell) -> Option<Bytes> {
        let arena = self.arena(site)?;
        let (gate, to) = (displacement(site, site.gate.address(arena)), displacement(site, arena.address(cell)));
        (poke::same_column(gate, to) && gate != to).then_some(to)
    }
}
