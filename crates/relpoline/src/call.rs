//! Static calls: function pointers that change rarely and cost a direct call.
//!
//! The caller calls a *gate*, a few bytes of its own module that jump to the target; see
//! `patched/calls.rs` for how the gate is re-pointed while threads run through it. A gate only jumps: in
//! the callee the stack is that of a direct call, so that any signature works, and unwinding, backtraces and
//! profilers see the true caller.

use crate::UpdateError;
use crate::imp;
use crate::name::Name;
use core::fmt;
use core::sync::atomic::{AtomicPtr, Ordering};

/// The state of a static call; [`static_call!`](crate::static_call) defines one and gives it typed functions.
#[repr(C, align(8))]
pub struct StaticCall {
    /// First, since the gate's assembly jumps through it.
    target: AtomicPtr<()>,
    initial: *const (),
    name: Name,
}

// SAFETY: the pointers are addresses of functions, which any thread may call.
unsafe impl Sync for StaticCall {}

/// How calls reach their target: see [`StaticCall::form`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Form {
    /// By direct jumps.
    Direct,
    /// By a jump through a pointer in memory: text may not be patched, the target is farther than 2 GiB away,
    /// or more than eight different targets were used.
    Pointer,
}

impl StaticCall {
    /// A call that goes to `target`; [`static_call!`](crate::static_call) writes this.
    ///
    /// # Safety
    /// `target` must be a function of the type that the call is used with.
    #[must_use]
    pub const unsafe fn new(name: &'static str, target: *const ()) -> StaticCall {
        StaticCall { target: AtomicPtr::new(target.cast_mut()), initial: target, name: Name::new(name) }
    }

    /// The call's name, as it was defined.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name.text()
    }

    /// Where calls go.
    #[inline]
    #[must_use]
    pub fn target(&self) -> *const () {
        self.target.load(Ordering::Acquire)
    }

    /// Lets calls go to `target`.
    ///
    /// # Errors
    /// Why the gate could not be patched; calls then go where they went before.
    ///
    /// # Safety
    /// `target` must be a function of the type that the call is used with, and stay callable while it is the
    /// target.
    pub unsafe fn update(&self, target: *const ()) -> Result<(), UpdateError> {
        imp::update_call(self, target)
    }

    /// Lets calls go where they went when the program started.
    ///
    /// # Errors
    /// As for [`StaticCall::update`].
    pub fn reset(&self) -> Result<(), UpdateError> {
        imp::update_call(self, self.initial)
    }

    /// How calls reach their target.
    #[must_use]
    pub fn form(&self) -> Form {
        imp::call_form(self)
    }

    /// Sets the pointer alone.
    pub(crate) fn store(&self, target: *const ()) {
        self.target.store(target.cast_mut(), Ordering::Release);
    }
}

impl fmt::Debug for StaticCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticCall")
            .field("name", &self.name())
            .field("target", &self.target())
            .field("form", &self.form())
            .finish_non_exhaustive()
    }
}

/// Defines a static call: a function whose body can be exchanged while threads call it.
///
/// ```
/// fn portable(data: &[u8]) -> u32 { data.iter().map(|&b| u32::from(b)).sum() }
/// fn faster(data: &[u8]) -> u32 { data.iter().fold(0, |sum, &b| sum + u32::from(b)) }
///
/// relpoline::static_call! {
///     /// Adds bytes up.
///     pub fn checksum(data: &[u8]) -> u32 = portable;
/// }
/// assert_eq!(checksum(&[1, 2]), 3);
/// checksum::update(faster)?;
/// assert_eq!(checksum(&[1, 2]), 3);
/// # Ok::<(), relpoline::UpdateError>(())
/// ```
///
/// This makes a function `checksum`, to call, and a type `checksum` with
///
/// * `checksum::update(f)`: every call that begins on any thread after it returned goes to `f`. From any
///   thread; calls that are under way end where they are;
/// * `checksum::reset()`: back to the first target;
/// * `checksum::target()`: the present one;
/// * `checksum::state()`: the [`StaticCall`] behind it.
///
/// `fn` may be `unsafe` and have any `extern "ABI"`, and lifetimes: `fn first<'a>(a: &'a str, b: &str) -> &'a str`.
/// The first target is the path of a function, or
///
/// * `= null`: a call that does nothing;
/// * `= return value`: a call that returns a value without being one, for a signature with a result.
///
/// Like any function pointer, a static call needs a signature without type parameters.
#[macro_export]
macro_rules! static_call {
    ($($all:tt)*) => { $crate::__static_call!($($all)*); };
}

/// The arms of [`static_call!`](crate::static_call).
#[doc(hidden)]
#[macro_export]
macro_rules! __static_call {
    () => {};
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => {
        $crate::__static_call_sort!([$(#[$meta])* $vis] [] $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => {
        $crate::__static_call_sort!([$(#[$meta])* $vis] [unsafe] $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis extern $abi:literal fn $($rest:tt)*) => {
        $crate::__static_call_sort!([$(#[$meta])* $vis] [extern $abi] $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis unsafe extern $abi:literal fn $($rest:tt)*) => {
        $crate::__static_call_sort!([$(#[$meta])* $vis] [unsafe extern $abi] $($rest)*);
    };
}

/// Finds out what the first target is.
#[doc(hidden)]
#[macro_export]
macro_rules! __static_call_sort {
    ([$($head:tt)*] [$($q:tt)*] $name:ident $(<$($lt:lifetime),+>)? ($($arg:ident: $ty:ty),* $(,)?) = null $(; $($more:tt)*)?) => {
        $crate::__static_call_define!([$($head)*] [$($q)*] $name [$(for<$($lt),+>)?] [$(<$($lt),+>)?] ($($arg: $ty),*) [] {
            $($q)* fn nothing $(<$($lt),+>)? ($(_: $ty),*) {}
        } nothing);
        $($crate::__static_call!($($more)*);)?
    };
    ([$($head:tt)*] [$($q:tt)*] $name:ident $(<$($lt:lifetime),+>)? ($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty = return $value:expr $(; $($more:tt)*)?) => {
        $crate::__static_call_define!([$($head)*] [$($q)*] $name [$(for<$($lt),+>)?] [$(<$($lt),+>)?] ($($arg: $ty),*) [-> $ret] {
            $($q)* fn value $(<$($lt),+>)? ($(_: $ty),*) -> $ret { $value }
        } value);
        $($crate::__static_call!($($more)*);)?
    };
    ([$($head:tt)*] [$($q:tt)*] $name:ident $(<$($lt:lifetime),+>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $target:path $(; $($more:tt)*)?) => {
        $crate::__static_call_define!([$($head)*] [$($q)*] $name [$(for<$($lt),+>)?] [$(<$($lt),+>)?] ($($arg: $ty),*) [$(-> $ret)?] {} $target);
        $($crate::__static_call!($($more)*);)?
    };
}

/// The items of one static call.
#[doc(hidden)]
#[macro_export]
macro_rules! __static_call_define {
    ([$($head:tt)*] [$($q:tt)*] $name:ident [$($for:tt)*] [$($generics:tt)*] ($($arg:ident: $ty:ty),*) [$($ret:tt)*] {$($items:tt)*} $target:path) => {
        $crate::__static_call_type! {
            [$($head)*] $name
            impl $name {
                /// Its state, and what callers call.
                #[doc(hidden)]
                #[inline(always)]
                pub fn __parts() -> (&'static $crate::StaticCall, *const ()) {
                    $($items)*
                    static STATE: $crate::StaticCall = {
                        let target: $($for)* $($q)* fn($($ty),*) $($ret)* = $target;
                        // SAFETY: of the call's type, as the line above checks.
                        unsafe { $crate::StaticCall::new(::core::stringify!($name), target as *const ()) }
                    };
                    (&STATE, $crate::__call_gate!(STATE, $target))
                }

                /// The gate as what it behaves like.
                #[doc(hidden)]
                #[inline(always)]
                pub fn __gate() -> $($for)* $($q)* fn($($ty),*) $($ret)* {
                    // SAFETY: the gate only jumps, to a function of this type, with registers and stack untouched.
                    unsafe { ::core::mem::transmute(Self::__parts().1) }
                }

                /// Lets every call that begins after this has returned go to `target`.
                ///
                /// # Errors
                /// Why the gate could not be patched; calls then go where they went before.
                pub fn update(target: $($for)* $($q)* fn($($ty),*) $($ret)*) -> ::core::result::Result<(), $crate::UpdateError> {
                    // SAFETY: a function of the call's type; functions of Rust stay.
                    unsafe { Self::__parts().0.update(target as *const ()) }
                }

                /// Lets calls go where they went when the program started.
                ///
                /// # Errors
                /// As for `update`.
                pub fn reset() -> ::core::result::Result<(), $crate::UpdateError> {
                    Self::__parts().0.reset()
                }

                /// Where calls go.
                pub fn target() -> $($for)* $($q)* fn($($ty),*) $($ret)* {
                    // SAFETY: only functions of this type are ever stored.
                    unsafe { ::core::mem::transmute(Self::__parts().0.target()) }
                }

                /// The state behind it.
                pub fn state() -> &'static $crate::StaticCall {
                    Self::__parts().0
                }
            }
        }
        $crate::__static_call_function!([$($head)*] [$($q)*] $name [$($generics)*] ($($arg: $ty),*) [$($ret)*] {
            // SAFETY: what an unsafe signature asks for was promised by the caller.
            #[allow(unused_unsafe)]
            unsafe { $name::__gate()($($arg),*) }
        });
    };
}

/// The type that carries a call's operations.
#[doc(hidden)]
#[macro_export]
macro_rules! __static_call_type {
    ([$(#[$meta:meta])* $vis:vis] $name:ident $($rest:tt)*) => {
        #[doc = ::core::concat!("What can be done with the call [`", ::core::stringify!($name), "`](fn@", ::core::stringify!($name), ").")]
        #[allow(non_camel_case_types, dead_code)]
        $vis enum $name {}
        #[allow(dead_code)]
        $($rest)*
    };
}

/// The function that callers see.
#[doc(hidden)]
#[macro_export]
macro_rules! __static_call_function {
    ([$(#[$meta:meta])* $vis:vis] [$($q:tt)*] $name:ident [$($generics:tt)*] ($($arg:ident: $ty:ty),*) [$($ret:tt)*] $body:block) => {
        $(#[$meta])*
        #[inline(always)]
        $vis $($q)* fn $name $($generics)* ($($arg: $ty),*) $($ret)* $body
    };
}
