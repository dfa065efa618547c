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
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The state of a static call; [`static_call!`](crate::static_call) defines one and gives it typed functions.
#[repr(C, align(8))]
pub struct StaticCall {
    /// First, since the gate's assembly jumps through it.
    target: AtomicPtr<()>,
    initial: *const (),
    name: Name,
    /// Where callers were led, and by which way: the address times 256, and a signed byte. See
    /// `patched/callers.rs`.
    way: AtomicU64,
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

/// The calls of a static call: see [`StaticCall::callers`]; or of a dynamic call: see
/// [`DynamicCall::callers`](crate::DynamicCall::callers).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Callers {
    /// Those that were found.
    pub all: usize,
    /// Those that go straight to the target now, past the gate.
    pub direct: usize,
}

impl StaticCall {
    /// A call that goes to `target`; [`static_call!`](crate::static_call) writes this.
    ///
    /// # Safety
    /// `target` must be a function of the type that the call is used with.
    #[must_use]
    pub const unsafe fn new(name: &'static str, target: *const ()) -> StaticCall {
        StaticCall {
            target: AtomicPtr::new(target.cast_mut()),
            initial: target,
            name: Name::new(name),
            way: AtomicU64::new(0),
        }
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

    /// How many calls of it were found in the modules that are loaded, and how many of them are direct calls
    /// of the target right now. Others go by a gate, which costs a jump: those that were not found (all,
    /// without optimisation), and those for which there was no place. Both are 0 where nothing is patched.
    #[must_use]
    pub fn callers(&self) -> Callers {
        imp::call_callers(self)
    }

    /// Where callers were led, and the distance of their islands.
    #[cfg(patched)]
    pub(crate) fn way(&self) -> (u64, i8) {
        let way = self.way.load(Ordering::Relaxed);
        (way >> 8, (way as u8).cast_signed())
    }

    /// Says so.
    #[cfg(patched)]
    pub(crate) fn set_way(&self, to: u64, distance: i8) {
        self.way.store(to << 8 | u64::from(distance.cast_unsigned()), Ordering::Relaxed);
    }

    /// Whether `target` is the first one.
    #[cfg(patched)]
    pub(crate) fn is_first(&self, target: *const ()) -> bool {
        core::ptr::eq(target, self.initial)
    }

    /// Whether calls go to the first target.
    #[cfg(patched)]
    pub(crate) fn is_at_first(&self) -> bool {
        self.is_first(self.target())
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
/// `fn` may be `unsafe` and have any `extern "ABI"`, and lifetimes:
/// `fn first<'a>(a: &'a str, b: &str) -> &'a str`. The first target is the path of a function, or
///
/// * `= null`: a call that does nothing;
/// * `= return value`: a call that returns a value without being one, for a signature with a result.
///
/// # The inline form
/// `inline fn` puts the call of the *first* target into each caller, where the compiler may even inline it,
/// behind one instruction as of a static key. So while the call goes to its first target it costs that and
/// nothing else; after an update it costs a jump more than without `inline`, and an update changes every
/// caller's byte. For calls that are mostly left at what they start with: hooks, a portable version that is
/// seldom replaced.
///
/// ```
/// relpoline::static_call! {
///     /// Called for every event; mostly nobody listens.
///     inline pub fn listener(event: u32) = null;
/// }
/// listener(7);
/// listener::update(|event| println!("{event}"))?;
/// listener(8);
/// # Ok::<(), relpoline::UpdateError>(())
/// ```
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
        $crate::__static_call_sort!([$(#[$meta])* $vis] [] [outline] $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => {
        $crate::__static_call_sort!([$(#[$meta])* $vis] [unsafe] [outline] $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis extern $abi:literal fn $($rest:tt)*) => {
        $crate::__static_call_sort!([$(#[$meta])* $vis] [extern $abi] [outline] $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis unsafe extern $abi:literal fn $($rest:tt)*) => {
        $crate::__static_call_sort!([$(#[$meta])* $vis] [unsafe extern $abi] [outline] $($rest)*);
    };
    ($(#[$meta:meta])* inline $vis:vis fn $($rest:tt)*) => {
        $crate::__static_call_sort!([$(#[$meta])* $vis] [] [inline] $($rest)*);
    };
    ($(#[$meta:meta])* inline $vis:vis unsafe fn $($rest:tt)*) => {
        $crate::__static_call_sort!([$(#[$meta])* $vis] [unsafe] [inline] $($rest)*);
    };
    ($(#[$meta:meta])* inline $vis:vis extern $abi:literal fn $($rest:tt)*) => {
        $crate::__static_call_sort!([$(#[$meta])* $vis] [extern $abi] [inline] $($rest)*);
    };
    ($(#[$meta:meta])* inline $vis:vis unsafe extern $abi:literal fn $($rest:tt)*) => {
        $crate::__static_call_sort!([$(#[$meta])* $vis] [unsafe extern $abi] [inline] $($rest)*);
    };
    ($($not:tt)*) => {
        ::core::compile_error!("a static call is defined by `fn name(argument: Type) -> Type = function;`");
    };
}

/// Finds out what the first target is.
#[doc(hidden)]
#[macro_export]
macro_rules! __static_call_sort {
    ([$($head:tt)*] [$($q:tt)*] [$form:ident] $name:ident $(<$($lt:lifetime),+>)? ($($arg:ident: $ty:ty),* $(,)?) = null $(; $($more:tt)*)?) => {
        $crate::__static_call_define!([$($head)*] [$($q)*] [$form] $name [$(for<$($lt),+>)?] [$(<$($lt),+>)?] ($($arg: $ty),*) [] {
            $($q)* fn nothing $(<$($lt),+>)? ($(_: $ty),*) {}
        } nothing);
        $($crate::__static_call!($($more)*);)?
    };
    ([$($head:tt)*] [$($q:tt)*] [$form:ident] $name:ident $(<$($lt:lifetime),+>)? ($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty = return $value:expr $(; $($more:tt)*)?) => {
        $crate::__static_call_define!([$($head)*] [$($q)*] [$form] $name [$(for<$($lt),+>)?] [$(<$($lt),+>)?] ($($arg: $ty),*) [-> $ret] {
            $($q)* fn value $(<$($lt),+>)? ($(_: $ty),*) -> $ret { $value }
        } value);
        $($crate::__static_call!($($more)*);)?
    };
    ([$($head:tt)*] [$($q:tt)*] [$form:ident] $name:ident $(<$($lt:lifetime),+>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $target:path $(; $($more:tt)*)?) => {
        $crate::__static_call_define!([$($head)*] [$($q)*] [$form] $name [$(for<$($lt),+>)?] [$(<$($lt),+>)?] ($($arg: $ty),*) [$(-> $ret)?] {} $target);
        $($crate::__static_call!($($more)*);)?
    };
    ([$($head:tt)*] [$($q:tt)*] [$form:ident] $name:ident $(<$($lt:lifetime),+>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $(= $($not:tt)*)?) => {
        // A function all the same, so that its uses are not mistakes as well.
        $($head)* $($q)* fn $name $(<$($lt),+>)? ($(_: $ty),*) $(-> $ret)? {
            ::core::compile_error!(::core::concat!(
                "`", ::core::stringify!($name), "` has no first target: write `= function` (the path of a function, not a \
                 closure or an expression), `= null` for one that does nothing, or `= return value`"
            ))
        }
    };
    ([$($head:tt)*] [$($q:tt)*] [$form:ident] $name:ident <$($parameter:ident $(: $bound:path)?),+ $(,)?> ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $($not:tt)*) => {
        // Likewise.
        $($head)* $($q)* fn $name <$($parameter $(: $bound)?),+> ($(_: $ty),*) $(-> $ret)? {
            ::core::compile_error!(::core::concat!(
                "`", ::core::stringify!($name), "` cannot have type parameters, only lifetimes: all its calls go to one function"
            ))
        }
    };
    ($head:tt $q:tt $form:tt $name:ident <$($rest:tt)*) => {
        ::core::compile_error!(::core::concat!(
            "`", ::core::stringify!($name), "` cannot have type parameters, only lifetimes: all its calls go to one function"
        ));
    };
    ($head:tt $q:tt $form:tt $name:ident $($rest:tt)*) => {
        ::core::compile_error!(::core::concat!(
            "`", ::core::stringify!($name), "` needs a name and a type for each argument: \
             `fn name(argument: Type) -> Type = function;`"
        ));
    };
}

/// The items of one static call.
#[doc(hidden)]
#[macro_export]
macro_rules! __static_call_define {
    ([$($head:tt)*] [$($q:tt)*] [$form:ident] $name:ident [$($for:tt)*] [$($generics:tt)*] ($($arg:ident: $ty:ty),*) [$($ret:tt)*] {$($items:tt)*} $target:path) => {
        $crate::__static_call_type! {
            [$($head)*] $name
            impl $name {
                /// Its state, and what callers call.
                #[doc(hidden)]
                #[inline(always)]
                pub fn __parts() -> (&'static $crate::StaticCall, *const ()) {
                    let (state, gate, _, _) = Self::__branch::<false, false>();
                    (state, gate)
                }

                /// Its state, its gate, its first target, and whether a call here goes there: only looked at
                /// if `SITE`. With `CALLER` the gate is called next.
                #[doc(hidden)]
                #[inline(always)]
                #[allow(clippy::type_complexity)]
                pub fn __branch<const SITE: bool, const CALLER: bool>() -> (&'static $crate::StaticCall, *const (), $($for)* $($q)* fn($($ty),*) $($ret)*, bool) {
                    $($items)*
                    const TARGET: $($for)* $($q)* fn($($ty),*) $($ret)* = $target;
                    static STATE: $crate::StaticCall = {
                        $crate::__private::is_a_function(&$target);
                        // SAFETY: of the call's type, as its constant's type says.
                        unsafe { $crate::StaticCall::new(::core::stringify!($name), TARGET as *const ()) }
                    };
                    let first = if SITE { $crate::__first_target_here!(STATE) } else { false };
                    if CALLER {
                        $crate::__caller_here!(STATE);
                    }
                    (&STATE, $crate::__call_gate!(STATE, $target), TARGET, first)
                }

                /// The gate as what it behaves like, to be called here.
                #[doc(hidden)]
                #[inline(always)]
                pub fn __gate() -> $($for)* $($q)* fn($($ty),*) $($ret)* {
                    let (_, gate, _, _) = Self::__branch::<false, true>();
                    // SAFETY: the gate only jumps, to a function of this type, with registers and stack
                    // untouched.
                    unsafe { ::core::mem::transmute(gate) }
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
            unsafe { $crate::__static_call_body!($form $name ($($arg),*)) }
        });
    };
}

/// The call itself, in either form.
#[doc(hidden)]
#[macro_export]
macro_rules! __static_call_body {
    (outline $name:ident ($($arg:ident),*)) => {
        $name::__gate()($($arg),*)
    };
    (inline $name:ident ($($arg:ident),*)) => {{
        let (_, _, first_target, first) = $name::__branch::<true, false>();
        if first { first_target($($arg),*) } else { $name::__gate()($($arg),*) }
    }};
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
