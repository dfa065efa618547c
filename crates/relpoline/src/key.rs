//! Static keys: branches that cost nothing while they are not taken.
//!
//! A site is one instruction whose first byte decides: a jump to the out-of-line block, or a `test` that
//! swallows the jump's displacement as its operand and falls through. That block reads the key's value, so a
//! site in its jumping form is right whatever the key says; it is shipped in that form, and works where
//! nothing may be patched. What falls through is only ever what the key said when it was patched:
//!
//! ```text
//!                  unlikely!(K)              likely!(K)
//! key is false     test $…,%eax: false       jmp block: reads the key
//! key is true      jmp block: reads the key  test $…,%eax: true
//! ```
//!
//! A change therefore stores the value first and pokes the sites afterwards. A thread that still meets the
//! old byte acts on the old value; one that meets a jump acts on the new one; both are what a thread that
//! runs concurrently with the change may see.

use crate::UpdateError;
use crate::imp;
use crate::name::Name;
use crate::sync::{AtomicU32, Ordering};
use core::fmt;

/// A switch that is read by patched branches: see [`static_key!`](crate::static_key).
///
/// It is counted: [`inc`](StaticKey::inc) and [`dec`](StaticKey::dec) let several users share one; the key is
/// on while the count is not zero.
#[repr(C, align(8))]
pub struct StaticKey {
    /// First, since code in other languages reads it there.
    count: AtomicU32,
    initially: bool,
    name: Name,
}

/// What is to become of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Set(bool),
    Inc,
    Dec,
}

impl Change {
    /// The count after the change.
    pub(crate) fn applied(self, count: u32) -> u32 {
        match self {
            Change::Set(false) => 0,
            Change::Set(true) => count.max(1),
            Change::Inc => count.saturating_add(1),
            Change::Dec => count.saturating_sub(1),
        }
    }
}

impl StaticKey {
    /// A key for a `static`; [`static_key!`](crate::static_key) writes this.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(name: &'static str, initially: bool) -> StaticKey {
        StaticKey { count: AtomicU32::new(initially as u32), initially, name: Name::new(name) }
    }

    /// A key for a loom model, whose atomics are not const.
    #[cfg(loom)]
    #[must_use]
    pub fn new(name: &'static str, initially: bool) -> StaticKey {
        StaticKey { count: AtomicU32::new(u32::from(initially)), initially, name: Name::new(name) }
    }

    /// Whether the key is on, by its value rather than by a patched branch: a load and a compare.
    #[inline]
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// How many users have the key on.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// The key's name, as it was defined.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name.text()
    }

    /// What the key was when the program started.
    #[must_use]
    pub fn initially(&self) -> bool {
        self.initially
    }

    /// Switches the key on, if it is off. Once this has returned, every later branch on any thread takes the
    /// new direction.
    ///
    /// Waits for other changes of keys and calls; not for signal handlers.
    ///
    /// # Errors
    /// Why the sites could not be patched; see [`UpdateError`].
    pub fn enable(&self) -> Result<(), UpdateError> {
        imp::change_keys(&[(self, Change::Set(true))])
    }

    /// Switches the key off, however many users have it on.
    ///
    /// # Errors
    /// As for [`StaticKey::enable`].
    pub fn disable(&self) -> Result<(), UpdateError> {
        imp::change_keys(&[(self, Change::Set(false))])
    }

    /// Switches the key to `on`.
    ///
    /// # Errors
    /// As for [`StaticKey::enable`].
    pub fn set(&self, on: bool) -> Result<(), UpdateError> {
        imp::change_keys(&[(self, Change::Set(on))])
    }

    /// Adds a user: the first one switches the key on.
    ///
    /// # Errors
    /// As for [`StaticKey::enable`]; the user is not counted then.
    pub fn inc(&self) -> Result<(), UpdateError> {
        imp::change_keys(&[(self, Change::Inc)])
    }

    /// Removes a user: the last one switches the key off. Without users it does nothing.
    ///
    /// # Errors
    /// As for [`StaticKey::enable`]; the user still counts then.
    pub fn dec(&self) -> Result<(), UpdateError> {
        imp::change_keys(&[(self, Change::Dec)])
    }

    /// How many branches on this key there are in the modules that are loaded, and how many of them fall
    /// through at no cost right now. Both are 0 where nothing is patched.
    #[must_use]
    pub fn sites(&self) -> Sites {
        imp::key_sites(self)
    }

    /// Sets the count, and lets sites follow when that switches the key: the value first, since a site that
    /// jumps reads it.
    #[cfg(any(patched, loom))]
    pub(crate) fn recount(
        &self,
        count: u32,
        follow: impl FnOnce() -> Result<(), UpdateError>,
    ) -> Result<(), UpdateError> {
        let before = self.count();
        // The deliberate fault that the model must notice.
        if cfg!(relpoline_broken = "key-forgets") {
            return follow();
        }
        self.count.store(count, Ordering::Release);
        if (before != 0) == (count != 0) { Ok(()) } else { follow() }
    }

    /// Changes the value alone.
    #[cfg(not(patched))]
    pub(crate) fn change(&self, change: Change) {
        let changed = self.count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| Some(change.applied(count)));
        debug_assert!(changed.is_ok(), "the closure never declines");
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticKey")
            .field("name", &self.name())
            .field("enabled", &self.is_enabled())
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

/// The branches on a key: see [`StaticKey::sites`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sites {
    /// All of them.
    pub all: usize,
    /// Those that fall through.
    pub falling_through: usize,
}

/// Switches many keys in one go, with one open of the text and one barrier: cheaper than one by one.
///
/// All of them change or none does; but they do not change at the same instant.
///
/// # Errors
/// As for [`StaticKey::enable`].
pub fn set_keys(changes: &[(&StaticKey, bool)]) -> Result<(), UpdateError> {
    let changes: Vec<_> = changes.iter().map(|&(key, on)| (key, Change::Set(on))).collect();
    imp::change_keys(&changes)
}

/// Defines static keys.
///
/// ```
/// relpoline::static_key! {
///     /// Whether requests are traced.
///     pub static TRACING: bool = false;
///     static CHECKED: bool = true;
/// }
/// if relpoline::unlikely!(TRACING) { eprintln!("traced") }
/// TRACING.enable()?;
/// assert!(relpoline::unlikely!(TRACING));
/// # Ok::<(), relpoline::UpdateError>(())
/// ```
///
/// Each is a `static` of type [`StaticKey`]. Which form reads it, [`likely!`](crate::likely) or
/// [`unlikely!`](crate::unlikely), is decided at each branch, whatever the key starts with.
#[macro_export]
macro_rules! static_key {
    ($($(#[$meta:meta])* $vis:vis static $name:ident: bool = $initially:expr);+ $(;)?) => {
        $($(#[$meta])* $vis static $name: $crate::StaticKey =
            $crate::StaticKey::new(::core::stringify!($name), $initially);)+
    };
    ($($(#[$meta:meta])* $vis:vis static $name:ident: $not:ty = $initially:expr);+ $(;)?) => {
        // Statics all the same, so that branches on them are not mistakes as well.
        $($vis static $name: $crate::StaticKey =
            ::core::compile_error!("static keys are defined by `static NAME: bool = false;`: they are on or off");)+
    };
    ($($not:tt)*) => {
        ::core::compile_error!("static keys are defined by `static NAME: bool = false;`");
    };
}

/// Whether the key is on, laid out for a key that is mostly off: then it costs one instruction that reads
/// nothing. While the key is on: a jump and a load.
///
/// Takes the path of a `static` that [`static_key!`](crate::static_key) defined. Not usable in `const fn`.
#[macro_export]
macro_rules! unlikely {
    ($key:path) => {
        $crate::__branch!($key, "0", false)
    };
    ($($not:tt)*) => {
        ::core::compile_error!("a branch takes the path of a `static` that `static_key!` defined, not an expression")
    };
}

/// Whether the key is on, laid out for a key that is mostly on: then it costs one instruction that reads
/// nothing. While the key is off: a jump and a load.
///
/// Takes the path of a `static` that [`static_key!`](crate::static_key) defined. Not usable in `const fn`.
#[macro_export]
macro_rules! likely {
    ($key:path) => {
        $crate::__branch!($key, "1", true)
    };
    ($($not:tt)*) => {
        ::core::compile_error!("a branch takes the path of a `static` that `static_key!` defined, not an expression")
    };
}
