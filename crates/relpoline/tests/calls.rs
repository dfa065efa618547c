//! Static calls, as a user sees them.

use relpoline::{Form, static_call};
use std::panic::{AssertUnwindSafe, catch_unwind};

const PATCHED: bool = cfg!(all(target_arch = "x86_64", target_os = "linux", not(feature = "no-patch"), not(miri)));

fn one(data: &[u8]) -> u32 {
    1 + data.len() as u32
}
fn two(data: &[u8]) -> u32 {
    2 + data.len() as u32
}

static_call!(
    /// Documented.
    pub fn sized(data: &[u8]) -> u32 = one
);

#[test]
fn an_update_redirects_and_a_reset_returns() {
    assert_eq!(sized(&[0; 10]), 11);
    assert_eq!(sized::state().form(), if PATCHED { Form::Direct } else { Form::Pointer });
    sized::update(two).unwrap();
    assert_eq!(sized(&[0; 10]), 12);
    assert_eq!(sized::target()(&[]), 2);
    assert_eq!(sized::state().form(), if PATCHED { Form::Direct } else { Form::Pointer });
    sized::reset().unwrap();
    assert_eq!(sized(&[0; 10]), 11);
    assert_eq!(sized::state().name(), "sized");
}

static_call! {
    fn nothing_yet(counter: &mut u32) = null;
    fn zero(_x: u64) -> i64 = return 0;
    fn tried(input: &str) -> Result<[u64; 5], String> = parse;
    fn longer<'a>(a: &'a str, b: &'a str) -> &'a str = first;
    unsafe extern "C" fn c_like(p: *const u32, x: f64) -> f64 = scaled;
    fn panics(x: Box<u32>) -> u32 = panicking;
    extern "sysv64" fn other_abi(x: u128, y: f32) -> u128 = wide;
}

fn parse(input: &str) -> Result<[u64; 5], String> {
    input.parse().map(|n| [n; 5]).map_err(|e: std::num::ParseIntError| e.to_string())
}
fn first<'a>(a: &'a str, _: &'a str) -> &'a str {
    a
}
fn second<'a>(_: &'a str, b: &'a str) -> &'a str {
    b
}
unsafe extern "C" fn scaled(p: *const u32, x: f64) -> f64 {
    // SAFETY: the test passes a valid pointer.
    f64::from(unsafe { *p }) * x
}
fn panicking(x: Box<u32>) -> u32 {
    panic!("{x}")
}
extern "sysv64" fn wide(x: u128, y: f32) -> u128 {
    x + y as u128
}

#[test]
fn null_and_value_forms_do_as_they_say() {
    let mut counter = 0;
    nothing_yet(&mut counter);
    assert_eq!((counter, zero(7)), (0, 0));
    nothing_yet::update(|c| *c += 1).unwrap();
    zero::update(|x| x as i64).unwrap();
    nothing_yet(&mut counter);
    assert_eq!((counter, zero(7)), (1, 7));
    nothing_yet::reset().unwrap();
    nothing_yet(&mut counter);
    assert_eq!(counter, 1);
}

#[test]
fn any_signature_works() {
    assert_eq!(tried("7").unwrap(), [7; 5]);
    assert!(tried("x").unwrap_err().contains("invalid digit"));
    assert_eq!(longer("a", "b"), "a");
    longer::update(second).unwrap();
    assert_eq!(longer("a", "b"), "b");
    // SAFETY: the pointer is valid.
    assert_eq!(unsafe { c_like(&3, 1.5) }, 4.5);
    assert_eq!(other_abi(1 << 100, 2.0), (1 << 100) + 2);
}

#[test]
fn panics_unwind_through_the_gate() {
    let caught = catch_unwind(AssertUnwindSafe(|| panics(Box::new(42))));
    assert_eq!(caught.unwrap_err().downcast_ref::<String>().map(String::as_str), Some("42"));
}

/// Functions that differ in what they return alone.
fn numbered<const N: u32>(_: u32) -> u32 {
    N
}
static_call!(fn number(x: u32) -> u32 = numbered::<0>);

#[test]
fn more_targets_than_slots_go_through_the_pointer() {
    let targets: [fn(u32) -> u32; 12] = [
        numbered::<0>,
        numbered::<1>,
        numbered::<2>,
        numbered::<3>,
        numbered::<4>,
        numbered::<5>,
        numbered::<6>,
        numbered::<7>,
        numbered::<8>,
        numbered::<9>,
        numbered::<10>,
        numbered::<11>,
    ];
    for round in 0..3 {
        for i in [0, 3, 1, 7, 2, 6, 5, 4, 8, 11, 9, 10] {
            number::update(targets[i]).unwrap();
            assert_eq!(number(0), i as u32, "round {round}");
        }
    }
    number::reset().unwrap();
    if PATCHED {
        assert_eq!(number::state().form(), Form::Direct, "the default keeps its slot");
    }
}
