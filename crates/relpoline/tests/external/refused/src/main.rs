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
    calls::mistakes();
}

/// Mistakes in the other macros.
mod calls {
    #[allow(unused_imports)]
    use relpoline::{dynamic_call, dynamic_method, static_call, static_key};

    trait Shape {
        fn area(&self, scale: u64) -> u64;
        #[allow(dead_code)]
        fn name(&self) -> String;
    }
    struct Square(u64);
    impl Shape for Square {
        fn area(&self, scale: u64) -> u64 {
            self.0 * self.0 * scale
        }
        fn name(&self) -> String {
            String::from("square")
        }
    }
    // With bounds, and with what a call may have: all of it compiles.
    dynamic_method! {
        fn area_of(shape: &dyn Shape, scale: u64) -> u64 = area;
        fn area_of_sent(shape: &(dyn Shape + Send), scale: u64) -> u64 = area;
        fn area_of_static(shape: &mut (dyn Shape + Send + 'static), scale: u64) -> u64 = area;
    }

    pub fn mistakes() {
        let mut square = Square(2);
        println!("{} {}", area_of(&square, 1), area_of_sent(&square, 1) + area_of_static(&mut square, 1));
        #[cfg(feature = "method_object")]
        {
            dynamic_method!(fn wrong(shape: &Square, scale: u64) -> u64 = area);
            println!("{}", wrong(&square, 1));
        }
        #[cfg(feature = "method_result")]
        {
            dynamic_method!(fn wrong(shape: &dyn Shape) -> String = name);
            println!("{}", wrong(&square));
        }
        #[cfg(feature = "by_value")]
        {
            dynamic_call!(fn wrong(text: String));
            wrong(drop, String::new());
        }
        #[cfg(feature = "result")]
        {
            dynamic_call!(fn wrong(from: u32) -> Result<u32, String>);
            println!("{:?}", wrong(Ok, 1));
        }
        #[cfg(feature = "too_many")]
        {
            dynamic_call!(fn wrong(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64));
            wrong(|_, _, _, _, _, _| (), 1, 2, 3, 4, 5, 6);
        }
        #[cfg(feature = "abi")]
        {
            dynamic_call!(extern "system" fn wrong(a: u64));
            extern "system" fn system(_: u64) {}
            wrong(system, 1);
        }
        #[cfg(feature = "parameters")]
        {
            static_call!(fn wrong<T>(a: T) -> T = core::convert::identity);
            println!("{}", wrong(1));
        }
        #[cfg(feature = "call_parameters")]
        {
            dynamic_call!(fn wrong<T>(a: T) -> T);
            println!("{}", wrong(core::convert::identity, 1));
        }
        #[cfg(feature = "closure")]
        {
            static_call!(fn wrong(a: u64) -> u64 = |a| a + 1);
            println!("{}", wrong(1));
        }
        #[cfg(feature = "no_target")]
        {
            static_call!(fn wrong(a: u64) -> u64);
            println!("{}", wrong(1));
        }
        #[cfg(feature = "other_type")]
        {
            static_call!(fn wrong(a: u64) -> u64 = u32::is_power_of_two);
            println!("{}", wrong(1));
        }
        #[cfg(feature = "key_type")]
        {
            static_key!(static WRONG: u32 = 1);
            println!("{}", relpoline::unlikely!(WRONG));
        }
        #[cfg(feature = "key_expression")]
        println!("{}", relpoline::unlikely!(1 + 1));
    }
}
