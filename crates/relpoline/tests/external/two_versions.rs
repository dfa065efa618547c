//! A program with two versions of relpoline; written out and built by tests/external.rs.

/// The same program part for one of the versions.
macro_rules! part {
    ($part:ident, $relpoline:ident) => {
        mod $part {
            use $relpoline::{State, dynamic_call, likely, static_call, static_key, unlikely};

            static_key!(static KEY: bool = false);
            static_call!(fn current(x: u64) -> u64 = one; inline fn current_inline(x: u64) -> u64 = one;);
            dynamic_call!(fn apply(x: u64) -> u64);

            fn one(x: u64) -> u64 {
                x + 1
            }
            fn two(x: u64) -> u64 {
                x + 2
            }

            pub fn check(on: bool) {
                assert_eq!((unlikely!(KEY), likely!(KEY)), (on, on));
                assert_eq!((current(5), current_inline(5)), if on { (7, 7) } else { (6, 6) });
                for x in 0..200 {
                    assert_eq!((apply(one, x), apply(two, x)), (x + 1, x + 2));
                }
            }
            pub fn change(on: bool) {
                KEY.set(on).unwrap();
                current::update(if on { two } else { one }).unwrap();
                current_inline::update(if on { two } else { one }).unwrap();
            }
            pub fn learns() {
                apply::state().always_promote(true);
                for _ in 0..100 {
                    check(KEY.is_enabled());
                }
                let stats = apply::stats();
                assert!(stats.state == State::Promoted && stats.targets.len() == 2, "{stats:?}");
                assert_eq!(KEY.sites().all, 2);
            }
        }
    };
}
part!(this, relpoline);
part!(that, next);

fn main() {
    for round in 0..16 {
        let (first, second) = (round & 1 != 0, round & 2 != 0);
        this::change(first);
        that::change(second);
        this::check(first);
        that::check(second);
    }
    this::learns();
    that::learns();
    println!("all right");
}
