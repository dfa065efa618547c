//! Uses a dylib's key and calls, and its own, while both are changed from either side.

use relpoline::{State, likely, static_key, unlikely};
use shared::{LOUD, apply, generic, greet, greet_inline, inlined, inside, loudly, quietly};

static_key!(static OWN: bool = true);

fn check(loud: bool) {
    let greeting = if loud { 105 } else { 6 };
    assert_eq!(inside(5), (loud, loud, greeting, greeting, 6));
    assert_eq!((unlikely!(LOUD), likely!(LOUD), inlined(), generic(0u8)), (loud, loud, loud, loud));
    assert_eq!((greet(5), greet_inline(5)), (greeting, greeting));
}

fn main() {
    check(false);
    let own = || likely!(OWN);
    for round in 0..10 {
        let loud = round % 2 == 0;
        LOUD.set(loud).expect("switched");
        let target = if loud { loudly } else { quietly };
        greet::update(target).expect("updated");
        greet_inline::update(target).expect("updated");
        check(loud);
        OWN.set(loud).expect("switched");
        assert_eq!(own(), loud);
    }
    apply::state().always_promote(true);
    for n in 0..20_000 {
        assert_eq!(apply(loudly, n), n + 100);
        assert_eq!(inside(n).4, n + 1);
    }
    let stats = apply::stats();
    assert_eq!(stats.state, State::Promoted, "{stats:?}");
    assert_eq!(stats.targets.len(), 2, "calls from both sides share one table");
    let sites = LOUD.sites();
    assert!(sites.all >= 6, "branches in both modules: {sites:?}");
    println!("all right: {sites:?}");
}
