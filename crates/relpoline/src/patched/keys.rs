//! Toggling the sites of a key.
//!
//! A site is a [switch](relpoline_patch::switch): one byte changes, whatever its alignment, between a jump
//! and a `test` of the same length. Whether it is the long or the short pair was the assembler's choice.
//!
//! An error leaves all keys as they were: the values are put back, and sites that had been toggled to the
//! jumping form may stay there, since that form reads the value.

use super::sites::{Kind, Modules, Site, key_of, locked};
use super::text::Text;
use crate::UpdateError;
use crate::call::Callers;
use crate::key::{Change, Sites, StaticKey};
use crate::table::DynamicCall;
use relpoline_patch::switch;
pub use relpoline_patch::switch::{Form, opcode_in};

/// The site's first byte.
fn opcode(site: &Site) -> u8 {
    // SAFETY: sites lie in text of a registered module; it may change meanwhile, but by the lock's owner
    // alone.
    unsafe { (site.code as *const u8).read_volatile() }
}

fn form(site: &Site) -> Option<Form> {
    switch::form(opcode(site))
}

/// The form in which a site costs least while its key is `on`.
fn best(site: &Site, on: bool) -> Form {
    if on == (site.kind() == Some(Kind::Likely)) { Form::FallingThrough } else { Form::Jumping }
}

/// Brings a site into a form.
pub fn bring(text: &mut Text, site: &Site, wanted: Form) -> Result<(), UpdateError> {
    let old = opcode(site);
    if form(site) == Some(wanted) {
        return Ok(());
    }
    let new = switch::toggled(old).ok_or(UpdateError::TextChanged)?;
    // SAFETY: a site of a registered module.
    unsafe { text.byte(site.code, old, new) }
}

/// Brings a new site into the form that suits its key.
pub fn arm(text: &mut Text, site: &Site) -> Result<(), UpdateError> {
    // SAFETY: the caller looked at the kind.
    let key = unsafe { key_of(site) };
    bring(text, site, best(site, key.is_enabled()))
}

/// Brings a site into the form that reads its key.
pub fn disarm(text: &mut Text, site: &Site) -> Result<(), UpdateError> {
    bring(text, site, Form::Jumping)
}

/// Changes keys: all of them, or none and an error.
pub fn change_keys(changes: &[(&StaticKey, Change)]) -> Result<(), UpdateError> {
    let (mut one, mut many) = ([0], Vec::new());
    // Nobody allocates under the lock: not for one key either, in a child where another thread had the
    // allocator's.
    let before = if changes.len() <= 1 {
        &mut one[..]
    } else {
        many.resize(changes.len(), 0);
        &mut many[..]
    };
    locked(|modules| {
        for (key, _) in changes {
            modules.reaches(core::ptr::from_ref(*key) as u64)?;
        }
        let mut text = Text::default();
        for (done, &(key, change)) in changes.iter().enumerate() {
            before[done] = key.count();
            if let Err(refusal) = recount(modules, &mut text, key, change.applied(before[done])) {
                for (&(key, _), &before) in changes.iter().zip(&*before).take(done + 1).rev() {
                    let _ = recount(modules, &mut text, key, before);
                }
                let _ = text.fence();
                return Err(refusal);
            }
        }
        text.fence()
    })
}

/// Sets a key's count, and lets its sites follow when that switches it.
fn recount(modules: &Modules, text: &mut Text, key: &StaticKey, count: u32) -> Result<(), UpdateError> {
    key.recount(count, || follow(modules, text, key))
}

/// Lets every site of `key` follow its value. What falls through against the value must be changed; what
/// jumps may stay if the text cannot be opened any more.
fn follow(modules: &Modules, text: &mut Text, key: &StaticKey) -> Result<(), UpdateError> {
    if modules.sealed {
        return Ok(());
    }
    let on = key.is_enabled();
    for site in modules.of(core::ptr::from_ref(key) as u64) {
        let wanted = best(site, on);
        // The deliberate fault that the tests must notice: every other site is forgotten.
        if cfg!(relpoline_broken = "key-skips") && site.code & 1 == 0 && wanted == Form::Jumping {
            continue;
        }
        match bring(text, site, wanted) {
            Err(_) if wanted == Form::FallingThrough => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Counts the sites of a key.
pub fn key_sites(key: &StaticKey) -> Sites {
    locked(|modules| {
        let mut sites = Sites::default();
        for site in modules.of(core::ptr::from_ref(key) as u64) {
            sites.all += 1;
            sites.falling_through += usize::from(form(site) == Some(Form::FallingThrough));
        }
        sites
    })
}

/// Counts the calls of a dynamic call, and those that are plain calls.
pub fn dynamic_callers(call: &DynamicCall) -> Callers {
    locked(|modules| {
        let mut callers = Callers::default();
        for site in modules.of(core::ptr::from_ref(call) as u64).filter(|site| site.kind() == Some(Kind::Plain)) {
            callers.all += 1;
            callers.direct += usize::from(form(site) == Some(Form::FallingThrough));
        }
        callers
    })
}

/// Counts the branches on all keys.
pub fn branch_count() -> usize {
    let is_branch = |site: &&Site| matches!(site.kind(), Some(Kind::Unlikely | Kind::Likely));
    locked(|modules| modules.all().filter(is_branch).count())
}
