//! Gates: functions whose body is exchanged while threads call them.
//!
//! A gate is a [word](crate::word) that jumps to an [`Entry`]. Threads call it through [`Gate::enter`];
//! generated code calls it by its [address](Gate::address), with a direct call, and
//! [keeps](crate::code::Draft::keep) it. To lead it elsewhere is one store. What it led to before is freed
//! one grace period later: when nobody who came in before is there any more.

use crate::code::{CodeError, Entry, Owned, function_at};
use crate::grace;
use crate::reclaim::{self, Section};
use crate::word::{WORD, gate_word};
use core::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A function whose body can be exchanged.
pub struct Gate<F: Send + Sync + 'static> {
    /// Taken when the gate is dropped.
    inner: Option<Inner<F>>,
}

struct Inner<F> {
    owned: Owned,
    leads: Mutex<Entry<F>>,
}

impl<F: Copy + Send + Sync + 'static> Gate<F> {
    /// A gate that leads to `entry`.
    ///
    /// # Errors
    /// [`CodeError::NoRoom`], [`CodeError::Inherited`].
    pub fn new(entry: &Entry<F>) -> Result<Gate<F>, CodeError> {
        let space = entry.code().space();
        let owned = Owned::take(space, WORD)?;
        let word = word_at(&owned, entry)?;
        // SAFETY: nobody knows the block yet.
        unsafe { space.memory().write(owned.block.offset, &word.to_le_bytes()) };
        grace::sync_cores();
        Ok(Gate { inner: Some(Inner { owned, leads: Mutex::new(entry.clone()) }) })
    }

    fn inner(&self) -> &Inner<F> {
        // It is there until the gate is dropped.
        self.inner.as_ref().expect("a gate that lives")
    }

    /// Where generated code calls it. Such code must [keep](crate::code::Draft::keep) the gate.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.inner().owned.address(0)
    }

    /// Where it leads.
    #[must_use]
    pub fn leads_to(&self) -> Entry<F> {
        self.inner().leads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls `run` with the function, which goes wherever the gate leads at that time. All code that is
    /// reached by way of gates lives while `run` does; the function must not be called later.
    ///
    /// # Errors
    /// [`CodeError::Inherited`]: `run` was not called.
    #[inline]
    pub fn enter<R>(&self, run: impl FnOnce(F) -> R) -> Result<R, CodeError> {
        let inner = self.inner();
        if inner.owned.space.is_inherited() {
            return Err(CodeError::Inherited);
        }
        let section = Section::enter();
        let result = run(function_at(inner.owned.address(0)));
        drop(section);
        // Code that re-points gates from within, as it gets hot, frees nothing by itself.
        reclaim::reap_if_crowded();
        Ok(result)
    }

    /// Leads it to `entry`. Every call that begins after this has returned goes there, on any thread; one
    /// that is under way ends where it is. From any thread, also within [`enter`](Gate::enter).
    ///
    /// # Errors
    /// [`CodeError::OtherSpace`], [`CodeError::Inherited`]; it leads where it led, then.
    pub fn lead_to(&self, entry: &Entry<F>) -> Result<(), CodeError> {
        let Inner { owned, leads } = self.inner();
        if owned.space.is_inherited() {
            return Err(CodeError::Inherited);
        }
        let word = word_at(owned, entry)?;
        let mut leads = leads.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: both words jump to functions of the gate's type; the old one lives for a grace period.
        unsafe { owned.space.memory().replace_word(owned.block.offset, word) };
        let old = core::mem::replace(&mut *leads, entry.clone());
        drop(leads);
        // The broken variant that the tests must catch: what a gate led to is freed at once.
        if cfg!(relpoline_broken = "freed-at-once") {
            drop(old);
            return Ok(());
        }
        // This synchronises cores, too.
        reclaim::retire(Box::new(old));
        if !reclaim::is_inside() {
            reclaim::reap();
        }
        Ok(())
    }
}

fn word_at<F>(owned: &Owned, entry: &Entry<F>) -> Result<u64, CodeError> {
    if !Arc::ptr_eq(&owned.space, entry.code().space()) {
        return Err(CodeError::OtherSpace);
    }
    gate_word(owned.address(0), entry.address()).ok_or(CodeError::OtherSpace)
}

impl<F: Send + Sync + 'static> Drop for Gate<F> {
    fn drop(&mut self) {
        // Threads may be on their way through it.
        if let Some(inner) = self.inner.take() {
            reclaim::retire(Box::new(inner));
        }
    }
}

impl<F: Copy + Send + Sync + 'static> fmt::Debug for Gate<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({:#x} → {:?})", self.address(), self.leads_to())
    }
}
