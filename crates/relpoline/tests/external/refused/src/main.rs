//! What cannot be patched does not compile: one feature for each.
#![allow(dead_code)]

use relpoline::{StaticKey, static_call, static_key, unlikely};

static_key!(static KEY: bool = false);
static ALIAS: &StaticKey = &KEY;
struct Switch {
    key: &'static StaticKey,
}
impl std::ops::Deref for Switch {
    type Target = StaticKey;
    fn deref(&self) -> &StaticKey {
        self.key
    }
}
static SWITCH: Switch = Switch { key: &KEY };
static LAZY: std::sync::LazyLock<&'static StaticKey> = std::sync::LazyLock::new(|| &KEY);
const CONSTANT: &StaticKey = &KEY;
fn function() -> &'static StaticKey {
    &KEY
}
fn one() -> u32 {
    1
}
static POINTER: fn() -> u32 = one;
const CONSTANT_POINTER: fn() -> u32 = one;

/// What can: by another name, in a module, in a macro, in a generic function.
mod other {
    pub(super) use super::KEY as RENAMED;
}
macro_rules! own {
    ($name:ident) => {{
        static_key!(static $name: bool = true);
        unlikely!($name)
    }};
}
fn generic<T>() -> bool {
    static_key!(static INNER: bool = false);
    unlikely!(INNER) || unlikely!(other::RENAMED)
}

fn main() {
    println!("{} {} {}", unlikely!(KEY), own!(MINE), generic::<u8>());
    #[cfg(feature = "alias")]
    println!("{}", relpoline::likely!(ALIAS));
    #[cfg(feature = "deref")]
    println!("{}", unlikely!(SWITCH));
    #[cfg(feature = "lazy")]
    println!("{}", unlikely!(LAZY));
    #[cfg(feature = "constant")]
    println!("{}", unlikely!(CONSTANT));
    #[cfg(feature = "function")]
    println!("{}", unlikely!(function));
    #[cfg(feature = "pointer")]
    {
        static_call!(fn call() -> u32 = POINTER);
        println!("{}", call());
    }
    #[cfg(feature = "constant_pointer")]
    {
        static_call!(fn call() -> u32 = CONSTANT_POINTER);
        println!("{}", call());
    }
    static_call!(fn call() -> u32 = one);
    println!("{}", call());
}
