//! Which sites there are: what the assembly of [`super::asm`] noted down, module by module.
//!
//! A module's sites are an array in its own data. When it is registered the array is sorted by owner, so the
//! sites of one key or call are a range in each module. Sites of modules that were unloaded are gone with
//! the module.

use super::text::Text;
use super::{calls, keys, learn};
use crate::StaticKey;
use crate::UpdateError;
use relpoline_text::membarrier;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a site is, in the low bits of its owner's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A branch that falls through while its key is off.
    Unlikely,
    /// A branch that falls through while its key is on.
    Likely,
    /// The gate of a static call.
    Call,
    /// The gate of a dynamic call's table.
    Table,
    /// A branch in front of an inline static call: falls through while that goes to its first target.
    Inline,
}

const KIND_BITS: u64 = 7;

/// An entry of the section, as the assembly writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Address of the instruction.
    pub code: u64,
    tagged: u64,
}

impl Site {
    /// Address of the static that the site belongs to.
    pub fn owner(&self) -> u64 {
        self.tagged & !KIND_BITS
    }

    /// What it is; `None` for what a later version might write.
    pub fn kind(&self) -> Option<Kind> {
        match self.tagged & KIND_BITS {
            0 => Some(Kind::Unlikely),
            1 => Some(Kind::Likely),
            2 => Some(Kind::Call),
            3 => Some(Kind::Table),
            4 => Some(Kind::Inline),
            _ => None,
        }
    }
}

/// The registered modules, and whether text may still be changed.
pub struct Modules {
    modules: Vec<&'static [Site]>,
    /// [`prepare_for_sandbox`] was called: no system calls any more.
    pub sealed: bool,
}

static MODULES: Mutex<Modules> = Mutex::new(Modules { modules: Vec::new(), sealed: false });

/// Takes the one lock under which anything is changed.
pub fn lock() -> MutexGuard<'static, Modules> {
    // A panic under the lock would come from an allocation that failed; the list is whole all the same.
    MODULES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Modules {
    /// All sites that belong to the static at `owner`.
    pub fn of(&self, owner: u64) -> impl Iterator<Item = &'static Site> + '_ {
        self.modules.iter().flat_map(move |&sites| {
            let first = sites.partition_point(|s| s.owner() < owner);
            sites[first..].iter().take_while(move |s| s.owner() == owner)
        })
    }

    fn all(&self) -> impl Iterator<Item = &'static Site> + '_ {
        self.modules.iter().flat_map(|&sites| sites)
    }
}

/// Called by a module's registrar when it is loaded.
///
/// # Safety
/// `start..end` must be the module's section of sites, which nobody else uses, and the code they name must
/// stay mapped until [`unregister`].
pub unsafe extern "C" fn register(start: *mut Site, end: *mut Site) {
    let count = (end as usize).saturating_sub(start as usize) / size_of::<Site>();
    if count == 0 {
        return;
    }
    let mut modules = lock();
    if modules.modules.iter().any(|m| m.as_ptr() == start) {
        return;
    }
    // SAFETY: the section belongs to this function alone until it is in the list, and is not written after.
    let sites = unsafe { core::slice::from_raw_parts_mut(start, count) };
    sites.sort_unstable_by_key(|s| (s.owner(), s.code));
    modules.modules.push(sites);
    if !modules.sealed {
        // Early, while the process probably has one thread, since later it is slow.
        let _ = membarrier::register();
        arm(sites);
    }
}

/// Brings the sites of a new module into the form in which they cost least. Those that may not be changed
/// stay as they are shipped, and right.
fn arm(sites: &'static [Site]) {
    let mut text = Text::default();
    for site in sites {
        let armed = match site.kind() {
            Some(Kind::Unlikely | Kind::Likely) => keys::arm(&mut text, site),
            Some(Kind::Call) => calls::arm(&mut text, site),
            Some(Kind::Inline) => calls::arm_inline(&mut text, site),
            Some(Kind::Table) => learn::arm(&mut text, site),
            None => Ok(()),
        };
        if armed == Err(UpdateError::TextUnavailable) {
            return;
        }
    }
    let _ = text.fence();
}

/// Called by a module's registrar when it is unloaded, or the program ends.
///
/// # Safety
/// `start` must be what it was registered with.
pub unsafe extern "C" fn unregister(start: *mut Site) {
    let mut modules = lock();
    let gone = modules.modules.iter().position(|m| m.as_ptr() == start);
    if let Some(gone) = gone {
        let sites = modules.modules.swap_remove(gone);
        sites.iter().filter(|s| s.kind() == Some(Kind::Table)).for_each(learn::gone);
    }
}

/// Brings every site into the form that needs no patching, and leaves it there: branches read their key,
/// static calls jump through a pointer. Every later change then works without any system call. Dynamic calls keep
/// the trees they have and learn nothing more; what would change them does nothing.
///
/// To be called before a seccomp filter is installed, privileges are dropped, or `/proc` is unmounted.
/// Without it a change after that point may fail, with nothing changed.
///
/// # Errors
/// The first site that could not be brought back; those before it have been.
pub fn prepare_for_sandbox() -> Result<(), UpdateError> {
    let mut modules = lock();
    let mut text = Text::default();
    for site in modules.all() {
        match site.kind() {
            Some(Kind::Unlikely | Kind::Likely | Kind::Inline) => keys::disarm(&mut text, site)?,
            Some(Kind::Call) => calls::disarm(&mut text, site)?,
            Some(Kind::Table) | None => {}
        }
    }
    learn::seal();
    modules.sealed = true;
    text.fence()
}

/// The key that a site belongs to.
///
/// # Safety
/// The site must be one of a registered module, and of a key.
pub unsafe fn key_of(site: &Site) -> &'static StaticKey {
    // SAFETY: the macro wrote the address of a `static` of this type.
    unsafe { &*(site.owner() as *const StaticKey) }
}
