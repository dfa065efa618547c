//! Links: the one byte by which a site goes to its tree directly, past its gate.
//!
//! This is the only change that the running engine makes to the program's own text, and the only one that needs a system
//! call. It is made by whoever holds the lock, and nobody else gets the lock meanwhile: text is put back by the tool, and
//! unmapped by the loader, while the lock is free or theirs. A thread that was overtaken, and a child made by vfork, find
//! that it is *not theirs*: they leave the site as it is, and whoever looks at it next finds it astray
//! ([`Engine::is_astray`]) and mends it.
//!
//! A link that cannot be undone at all (after setuid the text can no longer be opened) leaves its site *stuck*: from then on
//! everything happens at its miss gate, behind the old tree.

use crate::fork;
use crate::hold;
use crate::sandbox;
use crate::site::Site;
use crate::state::{Engine, LOCK};
use relpoline_core::policy::Reason;
use relpoline_text::poke::{self, PokeError};

/// A displacement, as it lies in memory.
type Bytes = [u8; 4];

/// Whether the displacements `a` and `b` differ, at most, in the byte that links change.
fn same_column(a: Bytes, b: Bytes) -> bool {
    a[0] == b[0] && a[1] == b[1] && a[3] == b[3]
}

/// Changes the displacement at `field`. Not in a sandbox; and not when this process came out of the judgement that
/// wants it: the tree that it is to lead to may exist in the parent only.
///
/// # Errors
/// As for [`poke::poke_byte`].
#[inline(never)]
fn poke(field: u64, old: Bytes, new: Bytes) -> Result<(), PokeError> {
    if fork::is_inside() || !sandbox::may_call() {
        return Err(PokeError::Refused);
    }
    poke::poke_byte(&LOCK, hold::me(), field, old, new)
}

impl Engine {
    /// Links the site to its tree by one byte.
    ///
    /// # Errors
    /// Always the same reason: it stays promoted, through its gate.
    #[inline(never)]
    pub fn link(&mut self, id: u32) -> Result<(), Reason> {
        self.publish_head(id);
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return Ok(()) };
        if self.options().no_link || site.stuck || site.linked || !sandbox::may_call() {
            return Err(Reason::Promoted);
        }
        let (gate, tree) = self.ways(&site).ok_or(Reason::Promoted)?;
        let written = poke(site.field, gate, tree);
        let header = self.share.header();
        if written.is_err() {
            header.links_refused += 1;
            return Err(Reason::Promoted);
        }
        header.links += 1;
        self.count_patch();
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.linked = true;
        }
        Ok(())
    }

    /// Leads a linked site back to its gate. When that is refused the site is stuck with its tree.
    #[inline(never)]
    pub fn unlink(&mut self, id: u32) {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return };
        if !site.linked || site.stuck {
            return;
        }
        let undone = match self.ways(&site) {
            Some((gate, tree)) => poke(site.field, tree, gate),
            None => Err(PokeError::Unexpected),
        };
        self.count_patch();
        self.note_unlinked(id, undone);
    }

    /// Undoes a site's link whether or not it was noted. Text that leads to neither gate nor tree is not ours any more.
    pub fn lead_to_gate(&mut self, site: &Site, id: u32) {
        let Some(arena) = self.arena(site).filter(|_| !site.stuck) else { return };
        let gate = displacement(site, site.gate.address(arena));
        // SAFETY: the text of an object that is mapped. One byte of it may change meanwhile.
        let found = unsafe { (site.field as *const Bytes).read_volatile() };
        let undone = if found == gate || !same_column(found, gate) { Ok(()) } else { poke(site.field, found, gate) };
        self.note_unlinked(id, undone);
    }

    fn note_unlinked(&mut self, id: u32, undone: Result<(), PokeError>) {
        if undone == Err(PokeError::NotYours) {
            return;
        }
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.linked = undone.is_err();
            site.stuck = undone.is_err();
        }
    }

    /// The displacements to the site's gate and to its tree. `None` when they differ in more than a byte, or not at all.
    fn ways(&self, site: &Site) -> Option<(Bytes, Bytes)> {
        let arena = self.arena(site)?;
        let head = self.trees.as_slice().get(site.tree as usize)?.head;
        let (gate, tree) = (displacement(site, site.gate.address(arena)), displacement(site, arena.address(head)));
        (same_column(gate, tree) && gate != tree).then_some((gate, tree))
    }
}

/// The displacement by which a site leads to `to`.
fn displacement(site: &Site, to: u64) -> Bytes {
    (to.wrapping_sub(site.field + 4) as u32).to_le_bytes()
}
