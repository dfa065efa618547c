//! Reading traces: counts, shares, and how predictable an order is.

use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use relpoline_core::policy::workload::{Pattern, Rng, Workload};
use relpoline_core::trace::{ONE, Predictability, Scratch, Trace, WINDOW_MAX, entry, tag_of, target_of};

/// Longest arbitrary trace: more than is looked at, but few in Miri, which is slow.
const LONGEST: usize = if cfg!(miri) { 60 } else { WINDOW_MAX + 100 };

fn scratch() -> Box<Scratch> {
    Box::new(Scratch::new())
}

fn read(entries: &[u64]) -> Predictability {
    scratch().read(&Trace::new(entries))
}

fn window(pattern: Pattern, calls: usize) -> Vec<u64> {
    let workload = Workload { name: "", pattern, work: 0, cycles_per_ms: 1 };
    workload.calls(7).take(calls).map(|c| entry(c.target, 0x100 + c.thread)).collect()
}

fn percent(share: u32) -> u32 {
    (share * 100 + ONE / 2) / ONE
}

#[test]
fn entries_keep_target_and_tag() {
    for target in [0, 0x5555_0000_1234, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX] {
        for tag in [0, 1, 0xffff] {
            assert_eq!(target_of(entry(target, tag)), target);
            assert_eq!(tag_of(entry(target, tag)), tag);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow in Miri")]
fn repeating_orders_are_foreseen() {
    for period in [2, 3, 4, 8, 16, 31, 64] {
        for calls in [256, 1024, 2048] {
            let found = read(&window(Pattern::Periodic(period), calls));
            assert!(percent(found.accuracy) >= 98, "period {period}, window {calls}: {found:?}");
            assert!(percent(found.randomness()) <= 2);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow in Miri")]
fn orders_with_repeats_are_foreseen() {
    // The same targets come several times per period, so that one target alone does not tell the next.
    for period in [4usize, 7, 16, 40, 64] {
        let mut rng = Rng::new(period as u64);
        let cycle: Vec<u64> = (0..period).map(|_| 0x1000 + u64::from(rng.below(3)) * 64).collect();
        let trace: Vec<u64> = cycle.iter().copied().cycle().take(512).collect();
        let found = read(&trace);
        assert!(percent(found.accuracy) >= 97, "period {period}: {found:?}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow in Miri")]
fn random_orders_are_not() {
    for (n, least, most) in [(2, 45, 60), (4, 20, 35), (16, 4, 13), (64, 0, 6)] {
        for calls in [256, 2048] {
            let found = read(&window(Pattern::Random(n), calls));
            let got = percent(found.accuracy);
            assert!((least..=most).contains(&got), "{n} targets, window {calls}: {found:?}");
            assert!(percent(found.randomness()) >= 80, "{n} targets: {found:?}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow in Miri")]
fn a_bias_is_foreseen_as_far_as_it_goes() {
    for calls in [256, 2048] {
        let found = read(&window(Pattern::Biased(90), calls));
        assert!((86..=95).contains(&percent(found.accuracy)), "{found:?}");
        assert!(percent(found.randomness()) >= 75, "{found:?}");
    }
}

#[test]
fn threads_are_told_apart() {
    let opposite = window(Pattern::Opposite, 256);
    assert_eq!(percent(read(&opposite).accuracy), 100);
    let merged: Vec<u64> = opposite.iter().map(|&e| entry(target_of(e), 0)).collect();
    assert!(percent(read(&merged).accuracy) < 65);
}

#[test]
#[cfg_attr(miri, ignore = "too slow in Miri")]
fn more_threads_than_are_told_apart_do_no_harm() {
    let trace: Vec<u64> = (0..2048u64).map(|i| entry(0x1000 + (i % 40) * 16, (i % 40) as u16)).collect();
    assert!(percent(read(&trace).accuracy) > 90);
}

#[test]
fn counts_are_exact() {
    let mut s = scratch();
    s.read(&Trace::new(&window(Pattern::Periodic(96), 960)));
    assert_eq!((s.histogram.distinct(), s.histogram.others(), s.histogram.singletons()), (96, 0, 0));
    assert!((0..96).all(|rank| s.histogram.ranked(rank).unwrap().1 == 10));
    assert_eq!(s.histogram.ranked(96), None);
    assert_eq!(s.histogram.count(12345), 0);
}

#[test]
#[cfg_attr(miri, ignore = "too slow in Miri")]
fn too_many_targets_are_lumped_together() {
    let mut s = scratch();
    let trace: Vec<u64> = (0..1000u64).map(|i| 0x1000 + i * 16).collect();
    s.read(&Trace::new(&trace));
    assert_eq!((s.histogram.distinct(), s.histogram.others()), (255, 745));
    assert_eq!(s.histogram.singletons(), 255);
}

#[test]
fn live_and_still_traces_read_alike() {
    let still = window(Pattern::Geometric, 700);
    let live: Vec<AtomicU64> = still.iter().map(|&e| AtomicU64::new(e)).collect();
    assert_eq!(read(&still), scratch().read(&Trace::live(&live)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 200 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_traces_are_read_soundly(
        entries in prop::collection::vec(prop_oneof![any::<u64>(), 0u64..300, Just(0x1000u64)], 0..LONGEST)
    ) {
        let mut s = scratch();
        let found = s.read(&Trace::new(&entries));
        prop_assert!(found.baseline <= found.accuracy && found.accuracy <= ONE && found.randomness() <= ONE);
        let h = &s.histogram;
        let counted: u32 = (0..h.distinct()).map(|r| h.ranked(r).unwrap().1).sum();
        prop_assert_eq!(counted + h.others(), entries.len().min(WINDOW_MAX) as u32);
        for rank in 1..h.distinct() {
            prop_assert!(h.ranked(rank - 1).unwrap().1 >= h.ranked(rank).unwrap().1);
        }
        for rank in 0..h.distinct() {
            let (target, count) = h.ranked(rank).unwrap();
            prop_assert_eq!(h.count(target), count);
        }
        // The same scratch gives the same answer again: nothing is left over.
        prop_assert_eq!(s.read(&Trace::new(&entries)), found);
    }
}
