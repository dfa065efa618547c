//! The interface for C and C++: what `relpoline.h` declares. Rust programs do not need it.
//!
//! The header is generated from this file (types, functions) and from `src/c/macros.h` (what is assembly); a
//! test keeps it in step. Build the library with
//! `cargo rustc --release -p relpoline --features c --crate-type staticlib` (or `cdylib`).
//!
//! The macros of the header leave the same sites in the same section as those of Rust, so all of this crate
//! applies to them.

#![allow(non_camel_case_types, reason = "C's names")]

use crate::{DynamicCall, State, StaticCall, StaticKey, UpdateError};
use core::ffi::{c_char, c_int, c_void};
use core::mem::offset_of;

/// A static key. Define it by `RELPOLINE_STATIC_KEY`.
#[repr(C)]
pub struct relpoline_key {
    /// Users that have it on; to be read atomically.
    pub count: u32,
    /// Whether it was on when the program started.
    pub initially: bool,
    /// Its name, not terminated.
    pub name: *const c_char,
    /// Length of its name.
    pub name_length: usize,
}

/// A static call's state. Define it by `RELPOLINE_STATIC_CALL`.
#[repr(C)]
pub struct relpoline_call {
    /// Where it goes; to be read atomically.
    pub target: relpoline_function,
    /// Where it went when the program started.
    pub initial: relpoline_function,
    /// Its name, not terminated.
    pub name: *const c_char,
    /// Length of its name.
    pub name_length: usize,
    /// The library's own; 0 to begin with.
    pub way: u64,
}

/// A dynamic call's state. Define it by `RELPOLINE_DYNAMIC_CALL`.
#[repr(C)]
pub struct relpoline_dynamic {
    /// The library's own; 0 to begin with.
    pub id: u32,
    /// Number of the register that targets travel in.
    pub target_register: u8,
    /// Its name, not terminated.
    pub name: *const c_char,
    /// Length of its name.
    pub name_length: usize,
}

const _: () = assert!(size_of::<relpoline_key>() == size_of::<StaticKey>());
const _: () = assert!(size_of::<relpoline_call>() == size_of::<StaticCall>());
const _: () = assert!(size_of::<relpoline_dynamic>() == size_of::<DynamicCall>());
const _: () = assert!(offset_of!(relpoline_key, name) == 8 && offset_of!(relpoline_dynamic, name) == 8);

/// Any function, to be cast.
pub type relpoline_function = Option<unsafe extern "C" fn()>;

/// Why a change could not be made: see `relpoline_error_text`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum relpoline_error {
    /// It was made.
    RELPOLINE_OK = 0,
    /// `/proc/self/mem` cannot be opened.
    RELPOLINE_TEXT_UNAVAILABLE = 1,
    /// The kernel refuses to write to the program's text.
    RELPOLINE_TEXT_REFUSED = 2,
    /// Something else patches the program's text.
    RELPOLINE_TEXT_CHANGED = 3,
    /// It was made, but membarrier(2) is refused.
    RELPOLINE_UNFENCED = 4,
}
use relpoline_error::{
    RELPOLINE_OK, RELPOLINE_TEXT_CHANGED, RELPOLINE_TEXT_REFUSED, RELPOLINE_TEXT_UNAVAILABLE, RELPOLINE_UNFENCED,
};

fn told(outcome: Result<(), UpdateError>) -> relpoline_error {
    match outcome {
        Ok(()) => RELPOLINE_OK,
        Err(UpdateError::TextUnavailable) => RELPOLINE_TEXT_UNAVAILABLE,
        Err(UpdateError::TextRefused) => RELPOLINE_TEXT_REFUSED,
        Err(UpdateError::TextChanged) => RELPOLINE_TEXT_CHANGED,
        Err(UpdateError::Unfenced) => RELPOLINE_UNFENCED,
    }
}

/// What a `relpoline_error` means and what to do about it, in a sentence; terminated, and never to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_error_text(error: c_int) -> *const c_char {
    let text = match error {
        0 => c"no error",
        1 => {
            c"/proc/self/mem cannot be opened: mount /proc, or call relpoline_prepare_for_sandbox() before giving up \
              privileges"
        }
        2 => {
            c"the kernel refuses to write to the program's text: see proc_mem.force_override, or define \
              RELPOLINE_NO_PATCH"
        }
        3 => c"the program's text is not what was expected: something else patches it too",
        4 => c"changed, but membarrier(2) is refused: threads that run the old code now may do so once more",
        _ => c"not an error of relpoline's",
    };
    text.as_ptr()
}

/// The key behind C's view of it.
///
/// # Safety
/// It must have been defined by the header's macro, with static storage duration.
unsafe fn key(key: *const relpoline_key) -> &'static StaticKey {
    // SAFETY: the header's macro made it, says the caller; the layouts are the same, as asserted above.
    unsafe { &*key.cast::<StaticKey>() }
}

/// # Safety
/// As for [`key`].
unsafe fn call(call: *const relpoline_call) -> &'static StaticCall {
    // SAFETY: the header's macro made it, says the caller; the layouts are the same, as asserted above.
    unsafe { &*call.cast::<StaticCall>() }
}

/// # Safety
/// As for [`key`].
unsafe fn dynamic(call: *const relpoline_dynamic) -> &'static DynamicCall {
    // SAFETY: the header's macro made it, says the caller; the layouts are the same, as asserted above.
    unsafe { &*call.cast::<DynamicCall>() }
}

/// Switches a key on or off. Once this has returned, every later branch on any thread takes the new
/// direction.
///
/// # Safety
/// `k` was defined by `RELPOLINE_STATIC_KEY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_key_set(k: *const relpoline_key, on: bool) -> relpoline_error {
    // SAFETY: a key that the header's macro made, says the caller.
    told(unsafe { key(k) }.set(on))
}

/// Adds a user: the first one switches the key on.
///
/// # Safety
/// As for `relpoline_key_set`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_key_inc(k: *const relpoline_key) -> relpoline_error {
    // SAFETY: a key that the header's macro made, says the caller.
    told(unsafe { key(k) }.inc())
}

/// Removes a user: the last one switches the key off. Without users it does nothing.
///
/// # Safety
/// As for `relpoline_key_set`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_key_dec(k: *const relpoline_key) -> relpoline_error {
    // SAFETY: a key that the header's macro made, says the caller.
    told(unsafe { key(k) }.dec())
}

/// A key and what it is to become.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct relpoline_key_change {
    /// The key.
    pub key: *const relpoline_key,
    /// Its new value.
    pub on: bool,
}

/// Switches `count` keys in one go: all of them change or none does.
///
/// # Safety
/// `changes` points to `count` changes, whose keys are as for `relpoline_key_set`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_keys_set(changes: *const relpoline_key_change, count: usize) -> relpoline_error {
    if count == 0 {
        return RELPOLINE_OK;
    }
    // SAFETY: so many changes lie there, says the caller.
    let changes = unsafe { core::slice::from_raw_parts(changes, count) };
    // SAFETY: the keys in them are the header's, says the caller.
    let changes: Vec<_> = changes.iter().map(|change| (unsafe { key(change.key) }, change.on)).collect();
    told(crate::set_keys(&changes))
}

/// How many branches on a key there are, and through `falling_through` (unless null) how many of them cost
/// nothing right now.
///
/// # Safety
/// As for `relpoline_key_set`; `falling_through` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_key_sites(k: *const relpoline_key, falling_through: *mut usize) -> usize {
    // SAFETY: a key that the header's macro made, says the caller.
    let sites = unsafe { key(k) }.sites();
    if !falling_through.is_null() {
        // SAFETY: it is writable if it is not null, says the caller.
        unsafe { falling_through.write(sites.falling_through) };
    }
    sites.all
}

/// Lets calls go to `target`: every call that begins after this has returned does. The macro
/// `relpoline_update` checks types.
///
/// # Safety
/// `c` was defined by `RELPOLINE_STATIC_CALL`; `target` is a function of its type, or null for the first one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_call_update(
    c: *const relpoline_call,
    target: relpoline_function,
) -> relpoline_error {
    // SAFETY: a call that the header's macro made, says the caller.
    let c = unsafe { call(c) };
    match target {
        // SAFETY: a function of the call's type, says the caller.
        Some(target) => told(unsafe { c.update(target as *const ()) }),
        None => told(c.reset()),
    }
}

/// Whether calls take direct jumps; otherwise they jump through a pointer.
///
/// # Safety
/// As for `relpoline_call_update`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_call_is_direct(c: *const relpoline_call) -> bool {
    // SAFETY: a call that the header's macro made, says the caller.
    unsafe { call(c) }.form() == crate::Form::Direct
}

/// What a static call without a target goes to: it returns 0, in whatever register, or nothing.
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_return_zero() -> usize {
    0
}

/// What a dynamic call is doing.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum relpoline_state {
    /// Nothing is learned here.
    RELPOLINE_PLAIN = 0,
    /// Calls are counted.
    RELPOLINE_COLD = 1,
    /// Targets are recorded.
    RELPOLINE_LEARNING = 2,
    /// A tree and the plain call take turns.
    RELPOLINE_TIMED = 3,
    /// Calls go through a tree.
    RELPOLINE_PROMOTED = 4,
    /// Calls go through the pointer, since a tree would not be faster.
    RELPOLINE_UNPROMOTED = 5,
    /// Told to pause.
    RELPOLINE_PAUSED = 6,
    /// Given its targets.
    RELPOLINE_PINNED = 7,
}

/// A target that was learned.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct relpoline_target {
    /// Address of the function.
    pub address: usize,
    /// Its share of calls when it was learned, 0 to 1.
    pub share: f64,
}

/// What a dynamic call has learned and done.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct relpoline_stats {
    /// What it is doing.
    pub state: relpoline_state,
    /// Times it learned anew.
    pub relearnings: u32,
    /// Times its gate was re-pointed.
    pub patches: u32,
    /// Targets that were learned last: how many. The hottest of them are in `targets`.
    pub target_count: u32,
    /// Calls through trees, if `relpoline_dynamic_count_calls` asked for them.
    pub hits: u64,
    /// Calls that no tree had a target for, in whole windows.
    pub misses: u64,
    /// The hottest targets.
    pub targets: [relpoline_target; 16],
}

/// What a dynamic call has learned and done so far.
///
/// # Safety
/// `d` was defined by `RELPOLINE_DYNAMIC_CALL`; `stats` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_dynamic_stats(d: *const relpoline_dynamic, stats: *mut relpoline_stats) {
    // SAFETY: a call that the header's macro made, says the caller.
    let known = unsafe { dynamic(d) }.stats();
    let mut targets = [relpoline_target { address: 0, share: 0.0 }; 16];
    for (to, from) in targets.iter_mut().zip(&known.targets) {
        *to = relpoline_target { address: from.address, share: from.share };
    }
    let state = match known.state {
        State::Plain => relpoline_state::RELPOLINE_PLAIN,
        State::Cold => relpoline_state::RELPOLINE_COLD,
        State::Learning => relpoline_state::RELPOLINE_LEARNING,
        State::Timed => relpoline_state::RELPOLINE_TIMED,
        State::Promoted => relpoline_state::RELPOLINE_PROMOTED,
        State::Unpromoted => relpoline_state::RELPOLINE_UNPROMOTED,
        State::Paused => relpoline_state::RELPOLINE_PAUSED,
        State::Pinned => relpoline_state::RELPOLINE_PINNED,
    };
    let told = relpoline_stats {
        state,
        relearnings: known.relearnings,
        patches: known.patches,
        target_count: u32::try_from(known.targets.len()).unwrap_or(u32::MAX),
        hits: known.hits,
        misses: known.misses,
        targets,
    };
    // SAFETY: it is writable, says the caller.
    unsafe { stats.write(told) };
}

/// Leaves a dynamic call to the pointer until `relpoline_dynamic_forget`.
///
/// # Safety
/// As for `relpoline_dynamic_stats`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_dynamic_pause(d: *const relpoline_dynamic) {
    // SAFETY: a call that the header's macro made, says the caller.
    unsafe { dynamic(d) }.pause();
}

/// Forgets what a dynamic call learned, or was given, and learns again.
///
/// # Safety
/// As for `relpoline_dynamic_stats`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_dynamic_forget(d: *const relpoline_dynamic) {
    // SAFETY: a call that the header's macro made, says the caller.
    unsafe { dynamic(d) }.forget();
}

/// Counts calls through trees exactly, or stops doing so. Begins anew.
///
/// # Safety
/// As for `relpoline_dynamic_stats`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_dynamic_count_calls(d: *const relpoline_dynamic, on: bool) {
    // SAFETY: a call that the header's macro made, says the caller.
    unsafe { dynamic(d) }.count_calls(on);
}

/// Promotes without timing the tree against the plain call first, or with it. Begins anew.
///
/// # Safety
/// As for `relpoline_dynamic_stats`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_dynamic_always_promote(d: *const relpoline_dynamic, on: bool) {
    // SAFETY: a call that the header's macro made, says the caller.
    unsafe { dynamic(d) }.always_promote(on);
}

/// Gives a dynamic call its targets, hottest first, at most 16. Returns whether a tree could be built.
///
/// # Safety
/// As for `relpoline_dynamic_stats`; `targets` points to `count` functions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_dynamic_pin(
    d: *const relpoline_dynamic,
    targets: *const *const c_void,
    count: usize,
) -> bool {
    if count == 0 {
        return false;
    }
    // SAFETY: so many functions lie there, says the caller; pointers to anything have the same layout.
    let targets = unsafe { core::slice::from_raw_parts(targets.cast::<*const ()>(), count) };
    // SAFETY: a call that the header's macro made, says the caller.
    unsafe { dynamic(d) }.pin(targets)
}

/// Brings every site into the form that needs no system calls: see the Rust function of this name.
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_prepare_for_sandbox() -> relpoline_error {
    told(crate::prepare_for_sandbox())
}

/// Called by what the macros leave in every module; not to be called by hand.
///
/// # Safety
/// `start` to `end` is the module's section of sites.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_register(start: *mut c_void, end: *mut c_void) {
    // SAFETY: the module's own section, says the caller, who is what the macros left in it.
    unsafe { crate::imp::register(start.cast(), end.cast()) };
}

/// Called by what the macros leave in every module; not to be called by hand.
///
/// # Safety
/// `start` is what the module was registered with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn relpoline_unregister(start: *mut c_void) {
    // SAFETY: what it was registered with, says the caller, who is what the macros left in the module.
    unsafe { crate::imp::unregister(start.cast()) };
}
