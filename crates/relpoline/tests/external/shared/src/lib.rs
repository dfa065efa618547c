//! A dylib whose key and calls are used from inside and from the program that links it. Both share one copy of
//! relpoline.

use relpoline::{dynamic_call, likely, static_call, static_key, unlikely};

static_key!(pub static LOUD: bool = false);
static_call! {
    pub fn greet(n: u64) -> u64 = quietly;
    inline pub fn greet_inline(n: u64) -> u64 = quietly;
}
dynamic_call!(pub fn apply(n: u64) -> u64);

// Not copied into the program, which is too far away for the library's branch trees.
#[inline(never)]
pub fn quietly(n: u64) -> u64 {
    n + 1
}
#[inline(never)]
pub fn loudly(n: u64) -> u64 {
    n + 100
}

/// What the library itself sees of its key and calls.
#[inline(never)]
pub fn inside(n: u64) -> (bool, bool, u64, u64, u64) {
    (unlikely!(LOUD), likely!(LOUD), greet(n), greet_inline(n), apply(quietly, n))
}

/// Compiled into whoever uses it.
#[inline(always)]
pub fn inlined() -> bool {
    unlikely!(LOUD)
}

/// Compiled where it is instantiated.
pub fn generic<T: Default + PartialEq>(x: T) -> bool {
    x == T::default() && likely!(LOUD)
}
