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

static_call! {
    /// Documented.
    inline fn plus(x: u64, by: &u64) -> u64 = plus_once;
    inline fn hook(counter: &mut u32) = null;
    inline fn answer() -> &'static str = return "none";
    inline unsafe extern "C" fn scaled_inline(p: *const u32, x: f64) -> f64 = scaled;
}
#[inline(always)]
fn plus_once(x: u64, by: &u64) -> u64 {
    x + by
}
fn plus_twice(x: u64, by: &u64) -> u64 {
    x + 2 * by
}
fn plus_thrice(x: u64, by: &u64) -> u64 {
    x + 3 * by
}

#[test]
fn the_inline_form_behaves_the_same() {
    let several = |x| [plus(x, &10), plus(x + 1, &10), plus(x + 2, &10)];
    for _ in 0..3 {
        assert_eq!(several(1), [11, 12, 13]);
        plus::update(plus_twice).unwrap();
        assert_eq!(several(1), [21, 22, 23]);
        plus::update(plus_thrice).unwrap();
        assert_eq!(several(1), [31, 32, 33]);
        plus::reset().unwrap();
    }
    let mut counter = 0;
    hook(&mut counter);
    hook::update(|c| *c += 1).unwrap();
    hook(&mut counter);
    hook::reset().unwrap();
    hook(&mut counter);
    assert_eq!((counter, answer()), (1, "none"));
    answer::update(|| "one").unwrap();
    assert_eq!(answer(), "one");
    // SAFETY: the pointer is valid.
    assert_eq!(unsafe { scaled_inline(&3, 1.5) }, 4.5);
}

/// Every thread sees the new target once `update` has returned, whichever thread made the update.
#[test]
fn several_threads_update_while_others_call() {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    static_call! {
        fn outline_shared(x: u32) -> u32 = numbered::<0>;
        inline fn inline_shared(x: u32) -> u32 = numbered::<0>;
    }
    const TARGETS: [fn(u32) -> u32; 5] = [numbered::<0>, numbered::<1>, numbered::<2>, numbered::<3>, numbered::<4>];
    static STOP: AtomicBool = AtomicBool::new(false);
    /// Twice the number of updates, odd during one; times 8, plus the number of the target.
    static STAGE: AtomicU64 = AtomicU64::new(0);
    static UPDATING: Mutex<()> = Mutex::new(());
    let updates = if cfg!(miri) { 5 } else { 1000 };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !STOP.load(Ordering::Relaxed) {
                    let before = STAGE.load(Ordering::SeqCst);
                    let seen = [outline_shared(0), inline_shared(0)];
                    if before & 8 == 0 && STAGE.load(Ordering::SeqCst) == before {
                        assert_eq!(seen.map(u64::from), [before & 7; 2]);
                    }
                    std::thread::yield_now();
                }
            });
        }
        let updaters: Vec<_> = (0..2u64)
            .map(|n| {
                scope.spawn(move || {
                    for i in 0..updates {
                        let target = (i * 3 + n) % 5;
                        let _one = UPDATING.lock().unwrap();
                        let stage = (STAGE.load(Ordering::SeqCst) >> 3) + 1;
                        STAGE.store(stage << 3, Ordering::SeqCst);
                        outline_shared::update(TARGETS[target as usize]).unwrap();
                        inline_shared::update(TARGETS[target as usize]).unwrap();
                        STAGE.store((stage + 1) << 3 | target, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        updaters.into_iter().for_each(|u| u.join().unwrap());
        STOP.store(true, Ordering::Relaxed);
    });
}
