//! Dynamic calls: calls through function pointers that learn where they go.
//!
//! Calls through one table go to its gate with the function pointer in a register; the gate leads to a
//! branch tree that compares it with the targets that were learned and jumps to the one that it equals, or
//! else through the pointer. Trees are right whatever they know and are never changed, so there is no read
//! section: callees may block, recurse, fork, or be unloaded.

use crate::call::Callers;
use crate::imp;
use crate::name::Name;
use crate::sync::AtomicU32;
#[cfg(patched)]
use crate::sync::Ordering;
use core::fmt;

/// The state of a dynamic call; [`dynamic_call!`](crate::dynamic_call) defines one and gives it typed
/// functions.
#[repr(C, align(8))]
pub struct DynamicCall {
    /// Its place in the learner's list, counted from 1; 0 before it was registered.
    id: AtomicU32,
    register: u8,
    name: Name,
}

/// What a dynamic call is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum State {
    /// Nothing is learned: this platform, or this process, does not patch.
    Plain,
    /// Calls are counted until there are enough of them to be worth learning.
    Cold,
    /// Targets are being recorded.
    Learning,
    /// A tree and the plain call take turns, to see which is faster.
    Timed,
    /// Calls go through a tree.
    Promoted,
    /// Calls go through the pointer, since a tree would not be faster; they will be looked at again.
    Unpromoted,
    /// It was told to [`pause`](DynamicCall::pause).
    Paused,
    /// It was given its targets by [`pin`](DynamicCall::pin).
    Pinned,
}

/// A target of a tree.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TargetStats {
    /// Address of the function.
    pub address: usize,
    /// Its share of calls when it was learned, 0 to 1.
    pub share: f64,
}

impl TargetStats {
    /// The function's name, demangled, where the feature `names` is on and the symbols of the module know it.
    ///
    /// Reads files and allocates: not for signal handlers or after
    /// [`prepare_for_sandbox`](crate::prepare_for_sandbox).
    #[must_use]
    pub fn name(&self) -> Option<String> {
        #[cfg(feature = "names")]
        {
            let mut name = None;
            // Looked up as a return address is: by the byte before it.
            backtrace::resolve((self.address + 1) as *mut _, |symbol| {
                // Without the hash that tells two versions of a crate apart.
                name = name.take().or_else(|| symbol.name().map(|n| format!("{n:#}")));
            });
            name
        }
        #[cfg(not(feature = "names"))]
        None
    }
}

/// Its name and share, `echo 87 %`; or its address and share.
impl fmt::Display for TargetStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(&name)?,
            None => write!(f, "{:#x}", self.address)?,
        }
        write!(f, " {:.0} %", self.share * 100.0)
    }
}

/// What a dynamic call has learned and done: see [`DynamicCall::stats`].
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// What it is doing.
    pub state: State,
    /// Why, in a few words.
    pub reason: &'static str,
    /// The targets that were learned last, hottest first. Calls take them directly while the state is
    /// [`Promoted`](State::Promoted) or [`Pinned`](State::Pinned); in other states they are what the clock
    /// found no faster, or is about to judge.
    pub targets: Vec<TargetStats>,
    /// Calls through trees, if [`count_calls`](DynamicCall::count_calls) asked for them: otherwise 0.
    pub hits: u64,
    /// Calls that no tree had a target for, in whole windows.
    pub misses: u64,
    /// Times it learned anew.
    pub relearnings: u32,
    /// Times its gate was re-pointed.
    pub patches: u32,
}

impl DynamicCall {
    /// A call whose targets travel in the register with this hardware number;
    /// [`dynamic_call!`](crate::dynamic_call) writes this.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(name: &'static str, register: u8) -> DynamicCall {
        DynamicCall { id: AtomicU32::new(0), register, name: Name::new(name) }
    }

    /// The call's name, as it was defined.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name.text()
    }

    /// What it has learned and done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        imp::stats(self)
    }

    /// Leaves calls to the pointer until [`resume`](DynamicCall::resume).
    pub fn pause(&self) {
        imp::pause(self);
    }

    /// Begins anew after [`pause`](DynamicCall::pause) or [`pin`](DynamicCall::pin).
    pub fn resume(&self) {
        imp::forget(self);
    }

    /// Forgets what was learned, and learns again.
    pub fn forget(&self) {
        imp::forget(self);
    }

    /// Counts calls through trees exactly, or stops doing so; at a few tenths of a nanosecond per call.
    /// Begins anew.
    pub fn count_calls(&self, on: bool) {
        imp::count_calls(self, on);
    }

    /// Promotes whatever the policy wants to promote, without timing the tree against the plain call first;
    /// or asks the clock again, as it does from the start. Begins anew.
    pub fn always_promote(&self, on: bool) {
        imp::always_promote(self, on);
    }

    /// Gives the call its targets, hottest first, instead of learning them: at most 16. Returns whether a
    /// tree could be built; other targets still work.
    ///
    /// Addresses that are no functions of the call's type are harmless until one is called.
    pub fn pin(&self, targets: &[*const ()]) -> bool {
        imp::pin(self, targets)
    }

    /// How many calls of it there are in the modules that are loaded, and how many of them are plain calls of
    /// the pointer right now: all while it is left alone or paused, none otherwise. Both are 0 where nothing
    /// is patched, for C code, and with the feature `retpoline`.
    #[must_use]
    pub fn callers(&self) -> Callers {
        imp::dynamic_callers(self)
    }

    /// Hardware number of the register that targets travel in.
    #[must_use]
    pub fn register(&self) -> u8 {
        self.register
    }

    /// Its index in the learner's list.
    #[cfg(patched)]
    pub(crate) fn index(&self) -> Option<u32> {
        self.id.load(Ordering::Acquire).checked_sub(1)
    }

    /// Gives it a place in the learner's list.
    #[cfg(patched)]
    pub(crate) fn place(&self, index: u32) {
        self.id.store(index + 1, Ordering::Release);
    }
}

impl Stats {
    /// Of a call that learns nothing.
    pub(crate) fn plain(reason: &'static str) -> Stats {
        Stats { state: State::Plain, reason, targets: Vec::new(), hits: 0, misses: 0, relearnings: 0, patches: 0 }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Plain => "plain",
            State::Cold => "cold",
            State::Learning => "learning",
            State::Timed => "timed",
            State::Promoted => "promoted",
            State::Unpromoted => "not promoted",
            State::Paused => "paused",
            State::Pinned => "pinned",
        })
    }
}

/// One line: `promoted; echo 87 %, refuse 13 %; 0 hits, 256 misses, learned 2 times`. Hits are counted only
/// if asked for. Without the feature `names`, and where a module has no symbols, targets are addresses.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.state)?;
        if matches!(self.state, State::Plain | State::Unpromoted) {
            write!(f, " ({})", self.reason)?;
        }
        for (i, target) in self.targets.iter().enumerate() {
            let separator = if i == 0 { "; " } else { ", " };
            write!(f, "{separator}{target}")?;
        }
        let times = self.relearnings + u32::from(!self.targets.is_empty());
        write!(f, "; {} hits, {} misses, learned {times} times", self.hits, self.misses)
    }
}

impl fmt::Debug for DynamicCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamicCall").field("name", &self.name()).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Defines a dynamic call: a function that calls a function pointer, and learns which ones it is given.
///
/// ```
/// relpoline::dynamic_call! {
///     /// Gives a packet to its handler.
///     pub fn deliver(packet: &mut [u8], port: u16) -> bool;
/// }
/// fn echo(packet: &mut [u8], _port: u16) -> bool { packet.reverse(); true }
/// fn refuse(_: &mut [u8], _port: u16) -> bool { false }
///
/// let mut packet = [1, 2];
/// assert!(deliver(echo, &mut packet, 7));
/// assert!(!deliver(refuse, &mut packet, 9));
/// println!("{}", deliver::stats());
/// ```
///
/// This makes a function whose first parameter is the function to call, and a type of the same name with
/// `stats()`, `pause()`, `resume()`, `forget()`, `count_calls(on)`, `pin(&[f, g])` and `state()`: see
/// [`DynamicCall`].
///
/// One definition is one table that all its callers share. Written inside a block, right before its one use,
/// it is a table for that call alone.
///
/// `fn` may be `unsafe` and `extern "C"`. Arguments and results are those of [`Passed`](crate::Passed) and
/// [`Returned`](crate::Returned): scalars, references, pointers, slices; five words of integers and pointers
/// at most. Anything else does not compile, and the compiler says why:
///
/// ```compile_fail
/// relpoline::dynamic_call!(fn by_value(text: String)); // pass it by reference
/// fn f(_: String) {}
/// by_value(f, String::new());
/// ```
/// ```compile_fail
/// relpoline::dynamic_call!(fn too_many(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64)); // no register is left
/// fn f(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) {}
/// too_many(f, 1, 2, 3, 4, 5, 6);
/// ```
#[macro_export]
macro_rules! dynamic_call {
    ($($all:tt)*) => { $crate::__dynamic_call!($($all)*); };
}

/// The arms of [`dynamic_call!`](crate::dynamic_call).
#[doc(hidden)]
#[macro_export]
macro_rules! __dynamic_call {
    () => {};
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => {
        $crate::__dynamic_call_define!([$(#[$meta])* $vis] [] [] $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => {
        $crate::__dynamic_call_define!([$(#[$meta])* $vis] [unsafe] [] $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis extern "C" fn $($rest:tt)*) => {
        $crate::__dynamic_call_define!([$(#[$meta])* $vis] [] [extern "C"] $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis unsafe extern "C" fn $($rest:tt)*) => {
        $crate::__dynamic_call_define!([$(#[$meta])* $vis] [unsafe] [extern "C"] $($rest)*);
    };
    ($(#[$meta:meta])* $vis:vis $(unsafe)? extern $abi:literal fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $(; $($more:tt)*)?) => {
        // A function all the same, so that its uses are not mistakes as well.
        $vis fn $name(_: extern $abi fn($($ty),*) $(-> $ret)? $(, _: $ty)*) $(-> $ret)? {
            ::core::compile_error!(::core::concat!(
                "a dynamic call has Rust's ABI or `extern \"C\"`, not `extern ", ::core::stringify!($abi), "`: \
                 which registers are free is known of those alone"
            ))
        }
    };
    ($($not:tt)*) => {
        ::core::compile_error!("a dynamic call is defined by `fn name(argument: Type) -> Type;`");
    };
}

/// The items of one dynamic call.
#[doc(hidden)]
#[macro_export]
macro_rules! __dynamic_call_define {
    ([$($head:tt)*] [$($unsafe:tt)?] [$($abi:tt)*] $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $(; $($more:tt)*)?) => {
        $crate::__static_call_type! {
            [$($head)*] $name
            impl $name {
                /// Its state, and what callers call.
                #[doc(hidden)]
                #[inline(always)]
                pub fn __parts() -> (&'static $crate::DynamicCall, *const ()) {
                    let (state, gate, _) = Self::__branch::<false>();
                    (state, gate)
                }

                /// Its state, its gate, and whether a call here is left alone: only looked at if `SITE`.
                #[doc(hidden)]
                #[inline(always)]
                pub fn __branch<const SITE: bool>() -> (&'static $crate::DynamicCall, *const (), bool) {
                    const INTEGERS: usize = 0 $(+ <$ty as $crate::Passed>::INTEGERS)* $(+ <$ret as $crate::Returned>::HIDDEN)?;
                    const REGISTER: u8 = $crate::__private::register_behind(INTEGERS);
                    static STATE: $crate::DynamicCall = $crate::DynamicCall::new(::core::stringify!($name), REGISTER);
                    let plain = if SITE { $crate::__plain_here!(STATE) } else { false };
                    (&STATE, $crate::__table_gate!(STATE, REGISTER), plain)
                }

                /// What it has learned and done so far.
                pub fn stats() -> $crate::Stats {
                    Self::__parts().0.stats()
                }

                /// Leaves calls to the pointer until `resume`.
                pub fn pause() {
                    Self::__parts().0.pause();
                }

                /// Begins anew after `pause` or `pin`.
                pub fn resume() {
                    Self::__parts().0.resume();
                }

                /// Forgets what was learned, and learns again.
                pub fn forget() {
                    Self::__parts().0.forget();
                }

                /// Counts calls through trees exactly, or stops doing so. Begins anew.
                pub fn count_calls(on: bool) {
                    Self::__parts().0.count_calls(on);
                }

                /// Gives the call its targets, hottest first, instead of learning them. Returns whether a
                /// tree could be built; other targets still work.
                pub fn pin(targets: &[$($unsafe)? $($abi)* fn($($ty),*) $(-> $ret)?]) -> bool {
                    let targets: ::std::vec::Vec<*const ()> = targets.iter().map(|&f| f as *const ()).collect();
                    Self::__parts().0.pin(&targets)
                }

                /// The state behind it.
                pub fn state() -> &'static $crate::DynamicCall {
                    Self::__parts().0
                }
            }
        }
        $crate::__dynamic_call_function!([$($head)*] [$($unsafe)?] [$($abi)*] $name($($arg: $ty),*) [$(-> $ret)?]);
        $($crate::__dynamic_call!($($more)*);)?
    };
    ([$($head:tt)*] [$($unsafe:tt)?] [$($abi:tt)*] $name:ident <$($parameter:ident $(: $bound:path)?),+ $(,)?> ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $(; $($more:tt)*)?) => {
        // A function all the same, so that its uses are not mistakes as well.
        $($head)* $($unsafe)? fn $name <$($parameter $(: $bound)?),+> (_: $($unsafe)? $($abi)* fn($($ty),*) $(-> $ret)? $(, _: $ty)*) $(-> $ret)? {
            ::core::compile_error!(::core::concat!(
                "`", ::core::stringify!($name), "` cannot have parameters of its own: a table is one for all its calls, and of one \
                 type; for other types define other dynamic calls"
            ))
        }
    };
    ($head:tt $unsafe:tt $abi:tt $name:ident <$($rest:tt)*) => {
        ::core::compile_error!(::core::concat!(
            "`", ::core::stringify!($name), "` cannot have parameters of its own: a table is one for all its calls, and of one \
             type; for other types define other dynamic calls"
        ));
    };
    ($head:tt $unsafe:tt $abi:tt $name:ident $($rest:tt)*) => {
        ::core::compile_error!(::core::concat!(
            "`", ::core::stringify!($name), "` needs a name and a type for each argument: `fn name(argument: Type) -> Type;`"
        ));
    };
}
