//! What threads share is reached through these types: the seam at which a model checker gets in between.
//!
//! They are those of `core`, and [`step`] and [`relax`] are nothing and a `pause`. Only under
//! `--cfg relpoline_model` (crates/engine/model and crates/learn/model, and nothing else) each access to
//! shared memory is first announced to a `World`, which lets other threads run there, delivers signals,
//! leaves judgements half-done, and says what time it is. The types keep their layout, so the very arenas,
//! gates and stubs of the engine are driven: none of its code is written twice.

#[cfg(not(relpoline_model))]
pub use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize};

/// Whether the deliberate mistake of that name is to be made: in a build with
/// `--cfg relpoline_broken="name"`, in one with `--cfg relpoline_breakable` into whose file that name was
/// written, or in a model that was asked to.
#[macro_export]
macro_rules! broken {
    ($name:tt) => {
        cfg!(relpoline_broken = $name) || $crate::sync::makes_mistake($name)
    };
}

/// For [`broken!`]: never.
#[cfg(not(any(relpoline_model, relpoline_breakable)))]
#[inline(always)]
#[must_use]
pub const fn makes_mistake(_name: &str) -> bool {
    false
}

/// For [`broken!`], in an engine that is built to be broken by tests: the mistakes whose names, joined by
/// `+`, were written behind these words into its file (`tests/src/tool.rs`). So one build serves for all of
/// them.
#[cfg(relpoline_breakable)]
#[must_use]
pub fn makes_mistake(name: &str) -> bool {
    use core::sync::atomic::Ordering::Relaxed;
    const WORDS: [u8; 31] = *b"relpoline makes these mistakes:";
    const ROOM: usize = 160;
    static MISTAKES: [AtomicU8; ROOM] = {
        let mut all = [const { AtomicU8::new(0) }; ROOM];
        let mut n = 0;
        while n < WORDS.len() {
            all[n] = AtomicU8::new(WORDS[n]);
            n += 1;
        }
        all
    };
    // Lest the compiler believe what it sees.
    let names = &core::hint::black_box(&MISTAKES)[WORDS.len()..];
    let is_end = |letter: &AtomicU8| matches!(letter.load(Relaxed), 0 | b'+');
    let is_name = |rest: &[AtomicU8]| {
        let mut letters = rest.iter();
        name.bytes().all(|letter| letters.next().is_some_and(|l| l.load(Relaxed) == letter))
            && letters.next().is_none_or(is_end)
    };
    let begins = |at: &usize| at.checked_sub(1).and_then(|before| names.get(before)).is_none_or(is_end);
    (0..names.len()).take_while(|&at| names[at].load(Relaxed) != 0).filter(begins).any(|at| is_name(&names[at..]))
}

/// Between two accesses to shared memory that are no atomics: text is about to be written.
#[cfg(not(relpoline_model))]
#[inline(always)]
pub fn step() {}

/// Once around a loop that waits for another thread.
#[cfg(not(relpoline_model))]
#[inline(always)]
pub fn relax() {
    core::hint::spin_loop();
}

/// Whether programs may read the register that holds the thread pointer.
#[cfg(not(relpoline_model))]
static READABLE: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);

/// Lets [`thread`] read a register instead of memory, if the kernel allows it to programs: AT_HWCAP2 of
/// getauxval(3) says so.
#[cfg(not(relpoline_model))]
pub fn know_processor(hwcap2: u64) {
    const FSGSBASE: u64 = 2;
    // The broken variant that the tests must catch: the thread pointer is believed to be libc's.
    if !broken!("trusts-thread-pointer") {
        READABLE.store(hwcap2 & FSGSBASE != 0, core::sync::atomic::Ordering::Relaxed);
    }
}

/// This thread's name: its thread pointer. Children made by fork have it too, and those made by vfork.
///
/// A program may have put anything there, for code that it runs as another system would (emulators, library
/// operating systems), so it is not followed: only where the kernel does not let it be read (before Linux
/// 5.9) the word is read that it points to. Threads without one are told apart by where their stacks lie.
#[cfg(all(not(relpoline_model), target_arch = "x86_64"))]
#[inline]
#[must_use]
pub fn thread() -> u64 {
    /// Stacks of threads are farther apart than this, mostly.
    const APART: u64 = 1 << 20;
    let pointer: u64;
    if READABLE.load(core::sync::atomic::Ordering::Relaxed) {
        // SAFETY: the kernel allows it, and it reads a register only.
        unsafe { core::arch::asm!("rdfsbase {}", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    } else {
        // SAFETY: the first word of the thread's control block points to itself (System V ABI for x86-64, TLS
        // variant II).
        unsafe { core::arch::asm!("mov {}, fs:[0]", out(reg) pointer, options(nostack, readonly, preserves_flags)) };
    }
    let here = 0u8;
    if pointer == 0 { ((&raw const here) as u64 / APART).max(1) } else { pointer }
}

/// From here on a judgement of the site number `_site` is under way.
#[cfg(not(relpoline_model))]
#[inline(always)]
pub fn begins(_site: u32) {}

/// The judgement that began last has come to its end.
#[cfg(not(relpoline_model))]
#[inline(always)]
pub fn ends() {}

#[cfg(relpoline_model)]
pub use modelled::{
    AtomicU8, AtomicU32, AtomicU64, AtomicUsize, World, begins, ends, enter, hold_back, know_processor, makes_mistake,
    now, relax, step, thread,
};

#[cfg(relpoline_model)]
mod modelled {
    use core::sync::atomic::{self, AtomicPtr, Ordering};

    /// What a model checker provides.
    pub struct World {
        /// Other threads may run here.
        pub step: fn(),
        /// Others have to run here.
        pub relax: fn(),
        /// The time-stamp counter.
        pub now: fn() -> u64,
        /// This thread's name, not 0.
        pub thread: fn() -> u64,
        /// Whether signals shall wait; whether they did before.
        pub hold_back: fn(bool) -> bool,
        /// A judgement begins.
        pub begins: fn(u32),
        /// A judgement ends.
        pub ends: fn(),
        /// Whether the mistake of that name is to be made.
        pub makes_mistake: fn(&str) -> bool,
    }

    static WORLD: AtomicPtr<World> = AtomicPtr::new(core::ptr::null_mut());

    /// Lets everything happen in `world` from now on.
    pub fn enter(world: &'static World) {
        WORLD.store(core::ptr::from_ref(world).cast_mut(), Ordering::SeqCst);
    }

    fn world() -> Option<&'static World> {
        // SAFETY: null, or what `enter` was given.
        unsafe { WORLD.load(Ordering::SeqCst).as_ref() }
    }

    /// See the variant without a model.
    pub fn step() {
        if let Some(world) = world() {
            (world.step)();
        }
    }

    /// See the variant without a model.
    pub fn relax() {
        if let Some(world) = world() {
            (world.relax)();
        }
    }

    /// See the variant without a model.
    pub fn know_processor(_hwcap2: u64) {}

    /// What the time-stamp counter would say.
    pub fn now() -> u64 {
        world().map_or(0, |world| (world.now)())
    }

    /// See the variant without a model.
    #[must_use]
    pub fn thread() -> u64 {
        world().map_or(1, |world| (world.thread)())
    }

    /// Lets signals of this thread wait, or not; what it was before.
    pub fn hold_back(wait: bool) -> bool {
        world().is_some_and(|world| (world.hold_back)(wait))
    }

    /// See the variant without a model.
    pub fn begins(site: u32) {
        if let Some(world) = world() {
            (world.begins)(site);
        }
    }

    /// See the variant without a model.
    pub fn ends() {
        if let Some(world) = world() {
            (world.ends)();
        }
    }

    /// Whether the deliberate mistake of that name is to be made.
    pub fn makes_mistake(name: &str) -> bool {
        world().is_some_and(|world| (world.makes_mistake)(name))
    }

    macro_rules! exchanging {
        ($value:ty: $($name:ident)*) => {$(
            pub fn $name(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.$name(value, order)
            }
        )*};
    }

    macro_rules! stepping {
        ($($name:ident, $value:ty;)*) => {$(
            /// The atomic of `core`, each access to which is a step of the model.
            #[derive(Debug)]
            #[repr(transparent)]
            pub struct $name(atomic::$name);

            #[expect(missing_docs, reason = "as in core")]
            impl $name {
                #[must_use]
                pub const fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }

                pub fn load(&self, order: Ordering) -> $value {
                    step();
                    self.0.load(order)
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    step();
                    self.0.store(value, order);
                }

                exchanging! { $value: swap fetch_add fetch_or fetch_min fetch_max }

                /// # Errors
                /// As in core.
                pub fn compare_exchange(
                    &self,
                    old: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    step();
                    self.0.compare_exchange(old, new, success, failure)
                }

                /// # Errors
                /// As in core.
                pub fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    f: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    step();
                    self.0.fetch_update(set, fetch, f)
                }
            }
        )*};
    }

    stepping! { AtomicU8, u8; AtomicU32, u32; AtomicU64, u64; AtomicUsize, usize; }
}
