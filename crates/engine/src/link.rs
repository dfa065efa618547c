//! Links: the one byte by which a site goes to its tree directly, past its gate.
//!
//! This is the only change that the running engine makes to the program's own text, and the only one that needs a system
//! call. It is made by whoever holds the lock, and nobody else gets the lock meanwhile: text is put back by the tool, and
//! unmapped by the loader, while the lock is free or theirs. A thread that was overtaken, and a child made by vfork, leave
//! the text as it is. A site that is still linked then, although it has no tree any more, is astray, and whoever looks at it next
//! mends it.
//!
//! A link that cannot be undone at all (after setuid the text can no longer be opened) leaves its site *stuck*: from then on
//! everything happens at its miss gate, behind the old tree.

use crate::fork;
use crate::hold;
use crate::judge::LATER;
use crate::memory::Reader;
use crate::sandbox;
use crate::site::Site;
use crate::state::{Engine, LOCK};
use core::sync::atomic::Ordering;
use relpoline_core::policy::Reason;
use relpoline_text::broken;
use relpoline_text::poke::{self, PokeError};

/// A displacement, as it lies in memory.
type Bytes = [u8; 4];

/// The displacement by which a site leads to `to`.
fn displacement(site: &Site, to: u64) -> Bytes {
    (to.wrapping_sub(site.field + 4) as u32).to_le_bytes()
}

/// Lets a site's displacement be `to`. Not in a sandbox; and not when this process came out of the judgement that wants it:
/// the tree that it is to lead to may exist in the parent only.
///
/// # Errors
/// As for [`poke::link`].
#[inline(never)]
fn lead(site: &Site, to: Bytes) -> Result<(), PokeError> {
    if fork::is_inside() || !sandbox::may_call() {
        return Err(PokeError::Refused);
    }
    // Its child would get this process' memory in hand. (Forks wait for who has pinned the lock.)
    if fork::is_under_way() && !LOCK.is_pinned() {
        return Err(PokeError::Overtaken);
    }
    poke::link(&LOCK, hold::me(), site.field, to, Some(displacement(site, site.thunk_at)))
}

impl Engine {
    /// Links the site to its tree by one byte.
    ///
    /// # Errors
    /// Always the same reason: it stays promoted, through its gate.
    #[inline(never)]
    pub fn link(&mut self, id: u32) -> Result<(), Reason> {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return Ok(()) };
        if self.options().no_link || site.stuck || self.asleep || !sandbox::may_call() {
            return Err(Reason::Promoted);
        }
        let to = self.way_to_tree(&site).ok_or(Reason::Promoted)?;
        // Noted first: a thread that stands still in between, and loses the lock, must not leave a link that nobody knows of.
        self.note_link(id, true);
        match lead(&site, to) {
            Ok(()) => {}
            // Whoever overtook it may have led the site anywhere. It is tried again, should it be here still.
            Err(PokeError::Overtaken) => {
                site.counters().settle.store(LATER, Ordering::Relaxed);
                return Ok(());
            }
            Err(_) => {
                self.note_link(id, false);
                self.share.header().links_refused += 1;
                return Err(Reason::Promoted);
            }
        }
        self.publish_head(id);
        self.share.header().links += 1;
        self.count_patch();
        Ok(())
    }

    fn note_link(&mut self, id: u32, linked: bool) {
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.linked = linked;
        }
    }

    /// Notes that the site is linked where its text says so. A thread that was overtaken while it undid a link may have noted
    /// that it is not, after somebody else had linked it again.
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
            self.note_link(id, true);
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
        }
    }

    /// The displacement to the site's tree. `None` when it differs from that to the gate in more than a byte, or not at all.
    fn way_to_tree(&self, site: &Site) -> Option<Bytes> {
        let arena = self.arena(site)?;
        let head = self.trees.as_slice().get(site.tree as usize)?.head;
        let (gate, tree) = (displacement(site, site.gate.address(arena)), displacement(site, arena.address(head)));
        (poke::same_column(gate, tree) && gate != tree).then_some(tree)
    }
}
