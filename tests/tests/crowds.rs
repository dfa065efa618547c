//! Sites beside each other: those that call the same share a head, those that are left alone share a thunk, and each of them goes on
//! learning for itself.

use std::collections::BTreeSet;

use relpoline_tests::broken::run;
use relpoline_tests::{Outcome, Program, Run, Site};

fn neighbours(what: &str, options: &[&str]) -> Outcome {
    let run = Run::new(Program::retpolined("neighbours.c").build()).args(&[what]);
    options.iter().fold(run, |run, option| run.option(option)).same()
}

/// What the sites from `first` to `last` run: their heads, and how often they learned anew.
fn of_sites(outcome: &Outcome, numbers: std::ops::Range<u32>) -> (BTreeSet<String>, u32) {
    let report = outcome.report();
    let (mut heads, mut relearned) = (BTreeSet::new(), 0);
    for number in numbers {
        let name = format!("site_{number:03o}");
        let site = report.sites_in(&name).next().unwrap_or_else(|| panic!("{name}: {}", report.summary()));
        assert_eq!(site.state, "linked", "{name}: {site:?}");
        heads.extend(site.tree.clone());
        relearned += site.relearned;
    }
    (heads, relearned)
}

#[test]
fn sites_that_call_the_same_share_their_heads() {
    let outcome = neighbours("sharing", &[]);
    let (all, relearned) = of_sites(&outcome, 0..46);
    assert!(all.len() <= 4, "{all:?}");
    assert!(relearned <= 2, "those that missed nothing have learned anew: {relearned}");
    let (others, relearned) = of_sites(&outcome, 46..48);
    assert!(others.is_disjoint(&all) && relearned >= 2, "{others:?} and {all:?}, {relearned}");
}

/// Where every call is counted, and where nothing is linked, each has a tree of its own.
#[test]
fn sites_whose_calls_are_counted_share_nothing() {
    let (all, _) = of_sites(&neighbours("sharing", &["--count"]), 0..46);
    assert_eq!(all.len(), 46);
}

#[test]
fn what_is_missed_is_paid_for_by_who_missed_it() {
    let outcome = run("charges-anybody", &Program::retpolined("neighbours.c"), &["sharing"], "--no-follow");
    let report = outcome.report();
    let of = |n: u32| report.sites_in(&format!("site_{n:03o}")).map(|site| site.relearned).sum::<u32>();
    let innocent: u32 = (0..46).map(of).sum();
    assert!(innocent > 2, "it goes unnoticed that anybody pays: {innocent}");
}

/// Where sites lie at the edge of their half, as one run in some ten has it, few displacements carry.
#[test]
fn sites_are_linked_in_the_half_that_does_not_carry() {
    let linked = || {
        let outcome = run("column-carries", &Program::retpolined("neighbours.c"), &["sharing"], "--count");
        outcome.report().sites.iter().filter(|site| site.state == "linked").count()
    };
    let tries: Vec<_> = (0..6).map(|_| linked()).take_while(|&linked| linked >= 40).collect();
    assert!(tries.len() < 6, "what carries was linked: {tries:?}");
}

/// The program looks where its sites lead.
#[test]
fn sites_that_are_left_alone_share_a_thunk() {
    neighbours("together", &[]);
}

/// Learning has no limit of time here.
#[test]
fn sites_that_are_left_alone_get_another_chance() {
    let outcome = neighbours("alone", &["--nervous"]);
    let report = outcome.report();
    let again = (0..47).filter(|n| report.sites_in(&format!("site_{n:03o}")).any(|site| site.is_promoted())).count();
    assert!(again > 4, "{again}: {}", report.summary());
}

/// Three thousand sites that call what others call: led to what those run, unlearned, before all of them
/// could have been learned.
#[test]
fn in_a_crowd_sites_share_what_others_have_learned() {
    let outcome = Run::new(Program::retpolined("throng.c").build()).args(&["shared"]).same();
    // Learning takes some 350 calls.
    let unlearned = |site: &&Site| site.state == "linked" && site.calls_seen < 300;
    let report = outcome.report();
    let count = report.sites.iter().filter(unlearned).count();
    assert!(count > 200, "{count}: {}", report.summary());
}

/// The program looks where its sites lead.
#[test]
fn in_a_crowd_sites_are_parked_whose_targets_nobody_shares() {
    let outcome = Run::new(Program::retpolined("throng.c").build()).args(&["apart"]).same();
    let report = outcome.report();
    let parked = report.sites.iter().filter(|site| site.state == "retpolined" && site.reason == "no gain").count();
    assert!(parked > 100, "{parked}: {}", report.summary());
}
