//! Which sites there are: what the assembly of [`super::asm`] noted down, module by module.
//!
//! A module's sites are an array in its own data. When it is registered the array is sorted by owner, so the
//! sites of one key or call are a range in each module. Sites of modules that were unloaded are gone with
//! the module.

use super::mirror::Mirror;
use super::text::Text;
use super::unload::{self, Cause};
use super::{callers, calls, fork, hold, keys, learn};
use crate::UpdateError;
use crate::{StaticCall, StaticKey};
use core::cell::{RefCell, UnsafeCell};
use relpoline_patch::membarrier;

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
    /// A call of a static call's gate: as written, a place shortly before it; then its displacement, or 0.
    Caller,
    /// A branch in front of a dynamic call: falls through to the plain call while that is left alone.
    Plain,
}

const KIND_BITS: u64 = 7;

/// An entry of the section, as the assembly writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Address of the instruction; of a caller's displacement.
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
            5 => Some(Kind::Caller),
            6 => Some(Kind::Plain),
            _ => None,
        }
    }
}

/// The registered modules, and whether text may still be changed.
pub struct Modules {
    modules: Vec<&'static [Site]>,
    /// Statics of which a module that was unloaded had sites that could not be changed any more.
    lost: Vec<u64>,
    /// [`prepare_for_sandbox`] was called: no system calls any more.
    pub sealed: bool,
    /// Where calls pass through.
    pub mirror: RefCell<Mirror>,
}

/// What is done to a site.
type Step = fn(&mut Text, &Site) -> Result<(), UpdateError>;

struct Shared(UnsafeCell<Modules>);

// SAFETY: only touched by who holds the lock.
unsafe impl Sync for Shared {}

static MODULES: Shared = Shared(UnsafeCell::new(Modules {
    modules: Vec::new(),
    lost: Vec::new(),
    sealed: false,
    mirror: RefCell::new(Mirror::new()),
}));

/// Does something under the one lock under which anything is changed. `act` allocates nothing.
pub fn locked<R>(act: impl FnOnce(&mut Modules) -> R) -> R {
    hold::locked(|torn| {
        // SAFETY: the lock is held, by this thread; nobody else has a reference, since `act` never comes back
        // here.
        let modules = unsafe { &mut *MODULES.0.get() };
        if torn && !modules.sealed && modules.mend().is_err() {
            hold::still_torn();
        }
        act(modules)
    })
}

impl Modules {
    /// All sites that belong to the static at `owner`.
    pub fn of(&self, owner: u64) -> impl Iterator<Item = &'static Site> + Clone + '_ {
        self.modules.iter().flat_map(move |&sites| {
            let first = sites.partition_point(|s| s.owner() < owner);
            sites[first..].iter().take_while(move |s| s.owner() == owner)
        })
    }

    /// Brings the callers in a module to their gates; calls of which one is left are noted. Whether there is
    /// none.
    fn callers_to_gates(&mut self, module: usize) -> bool {
        let Some(&sites) = self.modules.get(module) else { return true };
        let mut text = Text::default();
        let mut all = true;
        for site in sites.iter().filter(|site| site.kind() == Some(Kind::Call)) {
            // SAFETY: the kind says that its owner is a call.
            let call = unsafe { calls::call_of(site) };
            if callers::to_gate(self, &mut text, call).is_err() {
                all = false;
                if !self.lost.contains(&site.owner()) && self.lost.len() < self.lost.capacity() {
                    self.lost.push(site.owner());
                }
            }
        }
        all
    }

    /// All sites.
    pub fn all(&self) -> impl Iterator<Item = &'static Site> + '_ {
        self.modules.iter().flat_map(|&sites| sites)
    }

    /// Whether all sites of the static at `owner` can be reached.
    ///
    /// # Errors
    /// A module that had some is being unloaded, and they could not be brought into a form that follows by
    /// itself.
    pub fn reaches(&self, owner: u64) -> Result<(), UpdateError> {
        if self.lost.contains(&owner) { Err(UpdateError::TextUnavailable) } else { Ok(()) }
    }

    /// Lets all sites say what their keys and calls say: somebody vanished in the middle of a change.
    fn mend(&self) -> Result<(), UpdateError> {
        let mut text = Text::default();
        // In the order of an update: no branch of the inline form goes to the first target while the gate
        // does not, and no caller past it.
        for call in self.calls() {
            callers::to_gate(self, &mut text, call)?;
        }
        let steps: [Step; 3] = [
            |text, site| if site.kind() == Some(Kind::Inline) { keys::disarm(text, site) } else { Ok(()) },
            |text, site| if site.kind() == Some(Kind::Call) { calls::arm(text, site) } else { Ok(()) },
            |text, site| match site.kind() {
                Some(Kind::Unlikely | Kind::Likely) => keys::arm(text, site),
                Some(Kind::Inline) => calls::arm_inline(text, site),
                _ => Ok(()),
            },
        ];
        steps.iter().try_for_each(|step| self.all().try_for_each(|site| step(&mut text, site)))?;
        for call in self.calls() {
            callers::arrive(self, &mut text, call)?;
        }
        text.fence()
    }

    /// All static calls that have a gate.
    fn calls(&self) -> impl Iterator<Item = &'static StaticCall> + '_ {
        // SAFETY: the kind says that their owners are calls.
        self.all().filter(|site| site.kind() == Some(Kind::Call)).map(|site| unsafe { calls::call_of(site) })
    }
}

/// Room for one more, made without the lock; what it had before goes the same way.
fn with_room<T: Copy>(more: usize, list: impl Fn(&mut Modules) -> &mut Vec<T> + Copy) {
    loop {
        let (len, room) = locked(|modules| (list(modules).len(), list(modules).capacity()));
        if room - len >= more {
            return;
        }
        let mut larger = Vec::with_capacity(len + more);
        locked(|modules| {
            let list = list(modules);
            if list.len() + more <= larger.capacity() {
                larger.extend_from_slice(list);
                core::mem::swap(list, &mut larger);
            }
        });
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
    fork::prepare();
    if locked(|modules| modules.modules.iter().any(|m| m.as_ptr() == start)) {
        return;
    }
    // SAFETY: the section belongs to this function alone until it is in the list, and is not written after.
    let sites = unsafe { core::slice::from_raw_parts_mut(start, count) };
    sites.sort_unstable_by_key(|s| (s.owner(), s.code));
    callers::find_all(sites);
    if sites.iter().any(|s| s.kind() == Some(Kind::Table)) {
        learn::prepare();
    }
    with_room(1, |modules| &mut modules.modules);
    locked(|modules| {
        modules.modules.push(sites);
        modules.lost.retain(|owner| sites.binary_search_by_key(owner, Site::owner).is_err());
        if !modules.sealed {
            // Early, while the process probably has one thread, since later it is slow.
            let fences = membarrier::register().is_ok();
            let mut text = arm(sites);
            // Where callers could not be brought back step by step they stay with their gates.
            if fences {
                let _ = callers::arm(modules, &mut text, sites, is_alone());
            }
        }
    });
}

/// Brings the sites of a new module into the form in which they cost least. Those that may not be changed
/// stay as they are shipped, and right.
fn arm(sites: &'static [Site]) -> Text {
    let mut text = Text::default();
    for site in sites {
        let armed = match site.kind() {
            Some(Kind::Unlikely | Kind::Likely) => keys::arm(&mut text, site),
            Some(Kind::Call) => calls::arm(&mut text, site),
            Some(Kind::Inline) => calls::arm_inline(&mut text, site),
            Some(Kind::Table) => learn::arm(&mut text, site, own(sites, site.owner())),
            Some(Kind::Caller | Kind::Plain) | None => Ok(()),
        };
        if armed == Err(UpdateError::TextUnavailable) {
            return text;
        }
    }
    let _ = text.fence();
    text
}

/// Those of a module's sites that belong to the static at `owner`.
fn own(sites: &'static [Site], owner: u64) -> &'static [Site] {
    let first = sites.partition_point(|site| site.owner() < owner);
    let end = sites.partition_point(|site| site.owner() <= owner);
    sites.get(first..end).unwrap_or_default()
}

/// Whether no other thread runs, for certain.
fn is_alone() -> bool {
    // A link for each thread, besides the directory's own two.
    rustix::fs::stat(c"/proc/self/task").is_ok_and(|task| task.st_nlink == 3)
}

/// Called by a module's registrar when it is unloaded, or the program ends: then everything goes on as
/// before, for other threads and later destructors.
///
/// What is unloaded has later destructors, too. So its sites are brought into the form that needs no
/// patching, and changes work; where text cannot be changed, those that would not be seen are refused.
///
/// # Safety
/// `start` must be what it was registered with.
pub unsafe extern "C" fn unregister(start: *mut Site) {
    let cause = unload::cause();
    // The broken variant that the tests must catch: sites are forgotten as they are.
    let forgets = cfg!(relpoline_broken = "forgets-at-exit");
    if cause == Cause::Exit && !forgets {
        return;
    }
    let of_module = |modules: &Modules| modules.modules.iter().position(|m| m.as_ptr() == start);
    let count =
        locked(|modules| of_module(modules).and_then(|at| modules.modules.get(at)).map_or(0, |sites| sites.len()));
    with_room(count, |modules| &mut modules.lost);
    let emptied = locked(|modules| {
        let Some(at) = of_module(modules) else { return Vec::new() };
        let at_gates = modules.sealed || (!forgets && modules.callers_to_gates(at));
        let sites = modules.modules.swap_remove(at);
        let freed = modules.sealed || (!forgets && shut(sites, &mut modules.lost));
        if modules.modules.is_empty() && at_gates && cause == Cause::Unload {
            // SAFETY: the last module that used the mirror is being unloaded, and nobody may be on the way to
            // its code.
            unsafe { modules.mirror.get_mut().give_back() };
        }
        if modules.modules.is_empty() && freed && cause == Cause::Unload {
            // SAFETY: the last module that used the learner is being unloaded, and nobody may be in its code.
            unsafe { learn::end() };
            return core::mem::take(&mut modules.modules);
        }
        Vec::new()
    });
    drop(emptied);
}

/// Brings the sites of a module into the form that needs no patching. Owners of those that cannot be are
/// noted. Whether none leads to the learner's memory any more.
fn shut(sites: &'static [Site], lost: &mut Vec<u64>) -> bool {
    let mut text = Text::default();
    let mut apart = true;
    for inline in [true, false] {
        for site in sites.iter().filter(|site| (site.kind() == Some(Kind::Inline)) == inline) {
            let shut = match site.kind() {
                Some(Kind::Unlikely | Kind::Likely | Kind::Inline) => keys::disarm(&mut text, site),
                Some(Kind::Call) => calls::disarm(&mut text, site),
                Some(Kind::Table) => {
                    apart &= learn::gone(site);
                    Ok(())
                }
                Some(Kind::Caller | Kind::Plain) | None => Ok(()),
            };
            if shut.is_err() && !lost.contains(&site.owner()) && lost.len() < lost.capacity() {
                lost.push(site.owner());
            }
        }
    }
    let _ = text.fence();
    apart
}

/// Brings every site into the form that needs no patching, and leaves it there: branches read their key,
/// static calls jump through a pointer. Every later change then works without any system call. Dynamic calls
/// keep the trees they have and learn nothing more; what would change them does nothing.
///
/// To be called before a seccomp filter is installed, privileges are dropped, or `/proc` is unmounted.
/// Without it a change after that point may fail, with nothing changed.
///
/// # Errors
/// The first site that could not be brought back; those before it have been.
pub fn prepare_for_sandbox() -> Result<(), UpdateError> {
    locked(|modules| {
        let mut text = Text::default();
        for call in modules.calls() {
            callers::to_gate(modules, &mut text, call)?;
        }
        for site in modules.all() {
            match site.kind() {
                Some(Kind::Unlikely | Kind::Likely | Kind::Inline) => keys::disarm(&mut text, site)?,
                Some(Kind::Call) => calls::disarm(&mut text, site)?,
                Some(Kind::Table | Kind::Caller | Kind::Plain) | None => {}
            }
        }
        learn::seal();
        modules.sealed = true;
        text.fence()
    })
}

/// The key that a site belongs to.
///
/// # Safety
/// The site must be one of a registered module, and of a key.
pub unsafe fn key_of(site: &Site) -> &'static StaticKey {
    // SAFETY: the macro wrote the address of a `static` of this type.
    unsafe { &*(site.owner() as *const StaticKey) }
}
