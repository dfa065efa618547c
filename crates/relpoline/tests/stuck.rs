//! Text that could be changed once, and cannot any more: calls that were linked go on learning behind their
//! tree.
//!
//! Alone in its process: nothing can be opened there for a while, as after a change of user, or without
//! /proc.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(miri), not(feature = "no-patch")))]

use relpoline::{State, dynamic_call};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn one(x: u64) -> u64 {
    x + 1
}
fn two(x: u64) -> u64 {
    x + 2
}
fn three(x: u64) -> u64 {
    x + 3
}

dynamic_call!(fn call(x: u64) -> u64);

fn learned(target: fn(u64) -> u64) -> bool {
    let stats = call::stats();
    stats.state == State::Promoted && stats.targets.iter().any(|t| t.address == target as usize)
}

/// Calls `target`, until it is among the targets of the tree that was built last.
fn learn(target: fn(u64) -> u64) {
    for round in 0..2_000_000u64 {
        assert_eq!(call(target, round), target(round));
        if round % 1024 == 0 && learned(target) {
            return;
        }
    }
    panic!("never learned: {:?}", call::stats());
}

fn open_files(most: u64) -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..before }).expect("a lower limit");
    before
}

#[test]
fn a_refused_unlink_leaves_a_call_that_learns() {
    call::state().always_promote(true);
    learn(one);
    // Long enough to be linked.
    (0..100_000).for_each(|round| assert_eq!(call(one, round), round + 1));
    let before = open_files(0);
    learn(two);
    learn(three);
    let patches = call::stats().patches;
    call::pause();
    assert_eq!(call::stats().state, State::Paused);
    (0..100_000).for_each(|round| assert_eq!((call(one, round), call(three, round)), (round + 1, round + 3)));
    assert!(call::stats().patches < patches + 4, "it was paused: {:?}", call::stats());
    setrlimit(Resource::Nofile, before).expect("the limit as it was");
    call::resume();
    learn(two);
}
