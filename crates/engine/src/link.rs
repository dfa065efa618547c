//! Links: the one byte by which a site goes to its tree directly, past its gate.
//!
//! This is the only change that the running engine makes to the program's own text, and the only one that needs a system
//! call. It is made by whoever holds the lock, and nobody else gets the lock meanwhile: text is put back by the tool, and
//! unmapped by the loader, while the lock is free or theirs. A thread that was overtaken, and a child made by vfork, find
//! that it is *not theirs*: they leave the text as it is. A site that is still linked although it has no tree any more is
//! astray, and whoever looks at it next mends it; one that could not be linked is tried again.
//!
//! A link that cannot be undone at all (after setuid the text can no longer be opened) leaves its site *stuck*: from then on
//! everything happens at its miss gate, behind the old tree.

use crate::fork;
use crate::hold;
use crate::judge::LATER;
use crate::sandbox;
use crate::site::Site;
use crate::state::{Engine, LOCK};
use core::sync::atomic::Ordering;
use relpoline_core::policy::Reason;
use relpoline_text::poke::{self, PokeError};

/// A displacement, as it lies in memory.
type Bytes = [u8; 4];

/// The displacement by which a site leads to `to`.
fn displacement(site: &Site, to: u64) -> Bytes {
    (to.wrapping_sub(site.field + 4) as u32).to_le_bytes()
}

/// Lets a site's displacement be `to`. Nothing is changed in a sandbox, and when this process came out of the judgement that
/// wants it: the tree that it is to lead to may exist in the parent only.
///
/// # Errors
/// As for [`poke::link`].
#[inline(never)]
fn lead(site: &Site, to: Bytes) -> Result<(), PokeError> {
    if fork::is_inside() || !sandbox::may_call() {
        // SAFETY: the text of an object that is mapped, while this thread holds the lock.
        let seen = unsafe { (site.field as *const Bytes).read_volatile() };
        return if seen == to { Ok(()) } else { Err(PokeError::Refused) };
    }
    // SAFETY: an object's sites are gone before it is unmapped, while the loader's thread holds the lock.
    unsafe { poke::link(&LOCK, hold::me(), site.field, to, Some(displacement(site, site.thunk_at))) }
}

impl Engine {
    /// Links the site to its tree by one byte.
    ///
    /// # Errors
    /// Always the same reason: it stays promoted, through its gate.
    #[inline(never)]
    pub fn link(&mut self, id: u32) -> Result<(), Reason> {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return Ok(()) };
        if self.options().no_link || site.stuck || !sandbox::may_call() {
            return Err(Reason::Promoted);
        }
        let to = self.way_to_tree(&site).ok_or(Reason::Promoted)?;
        match lead(&site, to) {
            Ok(()) => {}
            Err(PokeError::NotYours) => {
                site.counters().settle.store(LATER, Ordering::Relaxed);
                return Ok(());
            }
            Err(_) => {
                self.share.header().links_refused += 1;
                return Err(Reason::Promoted);
            }
        }
        self.publish_head(id);
        self.share.header().links += 1;
        self.count_patch();
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.linked = true;
        }
        Ok(())
    }

    /// Leads a linked site back to its gate. When that is refused the site is stuck with its tree.
    pub fn unlink(&mut self, id: u32) {
        if let Some(&site) = self.sites.as_slice().get(id as usize)
            && site.linked
        {
            self.lead_to_gate(&site, id);
            self.count_patch();
        }
    }

    /// Undoes a site's link whether or not it was noted.
    #[inline(never)]
    pub fn lead_to_gate(&mut self, site: &Site, id: u32) {
        let Some(arena) = self.arena(site).filter(|_| !site.stuck) else { return };
        let gate = displacement(site, site.gate.address(arena));
        let is_linked = match lead(site, gate) {
            // Text that leads elsewhere was put back, or is not ours any more.
            Ok(()) | Err(PokeError::Unexpected) => false,
            Err(PokeError::NotYours) => return,
            Err(PokeError::NoMem | PokeError::Refused) => true,
        };
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
