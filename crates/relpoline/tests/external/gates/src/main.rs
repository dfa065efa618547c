//! Two calls that differ in nothing but their names: each has statistics, pins and pauses of its own, whatever the linker
//! folds.

use relpoline::{State, dynamic_call, static_call, static_key, unlikely};

static_key! {
    static FIRST: bool = false;
    static SECOND: bool = false;
}
static_call! {
    fn hook(x: u64) -> u64 = plus;
    fn other_hook(x: u64) -> u64 = plus;
}
dynamic_call! {
    fn one(x: u64, y: u64) -> u64;
    fn two(x: u64, y: u64) -> u64;
}

fn plus(x: u64) -> u64 {
    x + 1
}
fn minus(x: u64) -> u64 {
    x.wrapping_sub(1)
}
fn sum(x: u64, y: u64) -> u64 {
    x + y
}
fn product(x: u64, y: u64) -> u64 {
    x * y
}

#[inline(never)]
fn first() -> bool {
    unlikely!(FIRST)
}
#[inline(never)]
fn second() -> bool {
    unlikely!(SECOND)
}

fn main() {
    assert_ne!(one::__parts().1, two::__parts().1, "one gate for two calls");
    assert!(one::pin(&[sum, product]));
    two::pause();
    assert_eq!((one(sum, 2, 5), two(sum, 2, 5), two(product, 2, 5)), (7, 7, 10));
    assert_eq!((one::stats().state, two::stats().state), (State::Pinned, State::Paused));
    assert!(two::pin(&[product]));
    one::forget();
    assert_eq!((one::stats().state, two::stats().state), (State::Cold, State::Pinned));
    hook::update(minus).unwrap();
    assert_eq!((hook(5), other_hook(5)), (4, 6));
    FIRST.enable().unwrap();
    assert_eq!((first(), second()), (true, false));
    println!("all right");
}
