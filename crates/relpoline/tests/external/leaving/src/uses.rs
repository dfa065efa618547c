//! Keys and calls that are changed by destructors before and after the registrar's, as modules end in either order.

use relpoline::{dynamic_call, static_call, static_key, unlikely};

static_key!(static KEY: bool = false);
static_call! {
    fn hook() -> u32 = one;
    inline fn inlined() -> u32 = one;
}
dynamic_call!(fn apply(x: u64) -> u64);

fn one() -> u32 {
    1
}
fn two() -> u32 {
    2
}
fn twice(x: u64) -> u64 {
    2 * x
}

fn seen() -> (bool, u32, u32, u64) {
    (unlikely!(KEY), hook(), inlined(), (0..500).map(|x| apply(twice, x)).sum())
}

/// Changes everything to `on`; every change is seen, or was refused.
fn change(on: bool, when: &str) {
    let target = if on { two } else { one };
    let changed = (KEY.set(on), hook::update(target), inlined::update(target));
    let (key, first, second, sum) = seen();
    let pinned = apply::pin(&[twice]) && apply::stats().state != relpoline::State::Pinned;
    let right = |changed: Result<(), relpoline::UpdateError>, seen: bool| changed.is_err() || seen == on;
    let fine = right(changed.0, key) && right(changed.1, first == 2) && right(changed.2, second == 2);
    println!("{when}: {}", if fine && sum == 249_500 && !pinned { "right" } else { "WRONG" });
    if !fine {
        println!("{changed:?} {:?}", seen());
    }
}

// Destructors run from the last to the first; the registrar's has no number, and is among the last.
#[used]
#[unsafe(link_section = ".fini_array.00001")]
static LATE: extern "C" fn() = {
    extern "C" fn late() {
        change(true, "late destructor, on");
        change(false, "late destructor, off");
        change(true, "late destructor, on again");
    }
    late
};
#[used]
#[unsafe(link_section = ".fini_array")]
static EARLY: extern "C" fn() = {
    extern "C" fn early() {
        change(true, "destructor, on");
        change(false, "destructor, off");
    }
    early
};

/// Uses everything.
pub fn begin() {
    apply::state().always_promote(true);
    for _ in 0..20 {
        assert_eq!(seen().3, 249_500);
    }
    change(true, "begin");
    change(false, "begin");
}
