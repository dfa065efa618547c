//! The state machine under arbitrary events: no panic, no nonsense.

use proptest::prelude::*;
use relpoline_core::policy::{Action, Config, Costs, Current, Event, Phase, Policy, Reason, SiteState};
use relpoline_core::trace::{Trace, WINDOW_MAX, entry};
use relpoline_core::tree::{MAX_TARGETS, Target};

#[derive(Debug, Clone)]
enum Happening {
    Cold,
    Full { entries: Vec<u64>, knows_tree: bool },
    Misses(u32),
    Exits(u32),
    Settled,
    Due,
    Refused,
}

fn entries() -> impl Strategy<Value = Vec<u64>> {
    let few = (1u64..120).prop_flat_map(|n| {
        prop::collection::vec((0..n).prop_map(|t| entry(0x1000 + t * 32, 7)), 0..if cfg!(miri) { 40 } else { 600 })
    });
    let any = prop::collection::vec(any::<u64>(), 0..if cfg!(miri) { 40 } else { WINDOW_MAX + 9 });
    prop_oneof![4 => few, 1 => any, 1 => (1usize..if cfg!(miri) { 40 } else { WINDOW_MAX }).prop_map(|n| vec![0x5000; n])]
}

/// What the clock does between two events. It goes back when a thread comes to a processor whose counter is behind, or a
/// virtual machine to another host.
#[derive(Debug, Clone)]
enum Step {
    Forward(u64),
    Back(u64),
}

fn happenings() -> impl Strategy<Value = Vec<(Happening, Step)>> {
    let one = prop_oneof![
        3 => Just(Happening::Cold),
        4 => (entries(), any::<bool>()).prop_map(|(entries, knows_tree)| Happening::Full { entries, knows_tree }),
        2 => any::<u32>().prop_map(Happening::Misses),
        1 => any::<u32>().prop_map(Happening::Exits),
        2 => Just(Happening::Settled),
        1 => Just(Happening::Due),
        1 => Just(Happening::Refused),
    ];
    // Mostly forward, sometimes far, rarely to the end of time.
    let step = prop_oneof![5 => 0u64..1_000_000, 2 => 0u64..10_000_000_000, 1 => Just(u64::MAX / 3)];
    let step = prop_oneof![8 => step.clone().prop_map(Step::Forward), 1 => step.prop_map(Step::Back)];
    prop::collection::vec((one, step), 1..if cfg!(miri) { 12 } else { 60 })
}

/// What the engine must be able to rely on.
fn check(before: SiteState, after: SiteState, event: &Happening, action: Action, policy: &Policy, had: bool) {
    match action {
        Action::None => assert_eq!(before.phase(), after.phase()),
        Action::CountCold { calls } => assert!(calls > 0 && after.phase() == Phase::Cold),
        Action::Learn { window } => {
            assert!(window > 0 && window as usize <= WINDOW_MAX);
            assert_eq!((after.phase(), after.reason()), (Phase::Learning, Reason::Learning));
        }
        Action::ContinueLearning { window } => {
            let Happening::Full { entries, .. } = event else { panic!("only a full window is continued") };
            assert!(window as usize > entries.len() && window as usize <= WINDOW_MAX);
            assert_eq!(after.phase(), Phase::Learning);
        }
        Action::Promote(counters) => {
            let plan = policy.plan();
            assert!((1..=MAX_TARGETS).contains(&plan.targets().len()) && plan.chain() <= plan.targets().len());
            assert_eq!(usize::from(after.targets()), plan.targets().len());
            assert!(plan.targets().iter().all(|t| reachable(t.address)), "an unreachable target");
            assert!(counters.misses > 0 && counters.misses < 1 << 31 && counters.exits < 1 << 31);
            assert_eq!(counters.exits > 0, plan.count_exits());
            assert_eq!(after.phase(), Phase::Promoted);
        }
        Action::Resume(counters) => {
            assert!(had, "resumed without a tree");
            assert!(counters.misses > 0 && after.phase() == Phase::Promoted);
        }
        Action::Retpoline(reason) => {
            assert!(matches!(after.phase(), Phase::Retpolined | Phase::Barred) && after.reason() == reason);
            assert!(!matches!(reason, Reason::Cold | Reason::Learning | Reason::Promoted));
        }
        Action::CountMisses { window } | Action::CountExits { window } => assert!(window > 0 && window < 1 << 31),
        Action::CountSettle { calls } => assert!(calls > 0),
        Action::StopCounting => assert_eq!(after.phase(), Phase::Promoted),
        Action::Link => assert_eq!(after.phase(), Phase::Linked),
    }
}

fn reachable(address: u64) -> bool {
    !address.is_multiple_of(5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 300 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_events_makes_sense(events in happenings(), allowance in 0u32..50, burst in 0u32..4, max in 0u8..=120) {
        let mut policy = Box::new(Policy::new());
        policy.config = Config { allowance_ms: allowance, patch_burst: burst, max_targets: max, ..Config::DEFAULT };
        let (mut site, mut now, mut latest) = (SiteState::new(), 1u64, 1u64);
        let (mut tree, mut chain): (Vec<Target>, usize) = (Vec::new(), 0);
        for (event, step) in events {
            now = match step {
                Step::Forward(cycles) => now.saturating_add(cycles),
                Step::Back(cycles) => now.saturating_sub(cycles),
            };
            latest = latest.max(now);
            let before = site;
            let reach: &dyn Fn(u64) -> bool = &reachable;
            let action = match &event {
                Happening::Cold => policy.on(&mut site, Event::ColdExpired, now, reach),
                Happening::Full { entries, knows_tree } => {
                    let current = (*knows_tree && !tree.is_empty()).then_some(Current { targets: &tree, chain });
                    policy.on(&mut site, Event::WindowFull { trace: Trace::new(entries), current }, now, reach)
                }
                Happening::Misses(misses) => policy.on(&mut site, Event::MissWindow { misses: *misses }, now, reach),
                Happening::Exits(exits) => policy.on(&mut site, Event::ExitWindow { exits: *exits }, now, reach),
                Happening::Settled => policy.on(&mut site, Event::Settled, now, reach),
                Happening::Due => policy.on(&mut site, Event::Due, now, reach),
                Happening::Refused => policy.refused(&mut site, Reason::ArenaFull, now),
            };
            check(before, site, &event, action, &policy, !tree.is_empty());
            if matches!(action, Action::Promote(_)) {
                (tree, chain) = (policy.plan().targets().to_vec(), policy.plan().chain());
            }
            let limit = policy.budget.limit(latest, &policy.config, &policy.costs);
            prop_assert!(policy.budget.spent() <= limit, "overspent");
        }
    }
}

#[test]
fn a_site_is_small() {
    assert!(size_of::<SiteState>() <= 48, "{}", size_of::<SiteState>());
    assert!(size_of::<Policy>() <= 64 << 10, "{}", size_of::<Policy>());
}

/// A counting tree that comes back must get its exit counter again, or every exit would enter the slow path.
#[test]
fn a_refused_promotion_leaves_the_old_tree_as_it_was() {
    let mut policy = Box::new(Policy::new());
    let mut site = SiteState::new();
    let mut now = 1000;
    // Hot in front, more rare ones than a chain holds behind: a chain and a search tree, exits counted.
    let first: Vec<u64> =
        (0..256u64).map(|i| if i % 4 == 0 { 0x2000 + i / 4 % 30 * 32 } else { 0x1000 + i % 3 }).collect();
    policy.on(&mut site, Event::ColdExpired, now, &|_| true);
    let full = Event::WindowFull { trace: Trace::new(&first), current: None };
    let Action::Promote(counters) = policy.on(&mut site, full, now, &|_| true) else { panic!("no tree") };
    assert!(counters.exits > 0, "{:?}", policy.plan().targets());
    let (targets, chain, size) = (policy.plan().targets().to_vec(), policy.plan().chain(), site.targets());
    now += 1000;
    assert!(matches!(policy.on(&mut site, Event::MissWindow { misses: 256 }, now, &|_| true), Action::Learn { .. }));
    let current = Some(Current { targets: &targets, chain });
    let full = Event::WindowFull { trace: Trace::new(&[0x9000; 256]), current };
    assert!(matches!(policy.on(&mut site, full, now, &|_| true), Action::Promote(_)));
    let Action::Resume(again) = policy.refused(&mut site, Reason::ArenaFull, now) else { panic!("the tree is lost") };
    assert!(again.exits > 0);
    assert_eq!(site.targets(), size);
}

#[test]
fn barred_sites_stay_retpolined() {
    let mut policy = Box::new(Policy::new());
    for reason in [Reason::TextLocked, Reason::Excluded, Reason::Disabled] {
        let mut site = SiteState::barred(reason);
        for event in [Event::ColdExpired, Event::Settled, Event::Due, Event::MissWindow { misses: 9 }] {
            assert_eq!(policy.on(&mut site, event, 5, &|_| true), Action::Retpoline(reason));
        }
        assert!(!site.is_due(u64::MAX));
    }
}

#[test]
fn reasons_keep_their_numbers() {
    // 6 and 14 were given by earlier versions, and are never given again.
    let numbers = (0..=19).filter(|n| ![6, 14].contains(n));
    for (n, reason) in numbers.zip(Reason::ALL) {
        assert_eq!(reason.number(), n);
        assert_eq!(Reason::from_number(n), Some(reason));
        assert!(!reason.to_string().is_empty());
    }
    assert_eq!([6, 14, 20].map(Reason::from_number), [None; 3]);
}

#[test]
fn nothing_is_promoted_when_nothing_may_be() {
    let mut policy = Box::new(Policy::new());
    policy.config.max_targets = 0;
    let mut site = SiteState::new();
    assert_eq!(policy.on(&mut site, Event::ColdExpired, 1000, &|_| true), Action::Retpoline(Reason::Disabled));
}

#[test]
fn without_budget_a_site_waits_retpolined() {
    let mut policy = Box::new(Policy::new());
    policy.config.allowance_ms = 0;
    policy.budget.start(1, &policy.config.clone());
    let mut site = SiteState::new();
    assert_eq!(policy.on(&mut site, Event::ColdExpired, 1000, &|_| true), Action::Retpoline(Reason::BudgetSpent));
    let later = 1000 + 20 * u64::from(Costs::TYPICAL.cycles_per_ms);
    assert!(site.is_due(later));
    assert!(matches!(policy.on(&mut site, Event::Due, later, &|_| true), Action::Learn { .. }));
}

/// One call a second is no share of the time worth speaking of, but in the end it costs more than learning does.
#[test]
fn a_rare_site_learns_when_its_retpolines_have_cost_some_times_what_learning_costs() {
    let calls_until_it_learns = |patience: u32| {
        let mut policy = Box::new(Policy::new());
        policy.config.cold_patience = patience;
        policy.budget.start(1, &policy.config.clone());
        let (mut site, mut calls) = (SiteState::new(), u64::from(policy.config.cold_calls));
        let second = 1000 * u64::from(Costs::TYPICAL.cycles_per_ms);
        for _ in 0..100 {
            match policy.on(&mut site, Event::ColdExpired, calls * second, &|_| true) {
                Action::CountCold { calls: more } => calls += u64::from(more),
                Action::Learn { .. } => return Some(calls),
                other => panic!("{other:?}"),
            }
        }
        None
    };
    let few = calls_until_it_learns(1).expect("it learns");
    let more = calls_until_it_learns(4).expect("it learns");
    assert!((200..4_000).contains(&few) && (2 * few..8 * few).contains(&more), "{few}, {more}");
    assert_eq!(calls_until_it_learns(u32::MAX), None);
}

/// A site that calls one target and a few of many others, seen by so many threads, learns anew because of the
/// others.
fn misses_that_stay(threads: u64) -> (Action, SiteState, u64) {
    let mut policy = Box::new(Policy::new());
    let (mut site, now) = (SiteState::new(), 1000);
    let window: Vec<u64> =
        (0..256u64).map(|i| entry(if i % 16 == 0 { 0x4000 + i * 32 } else { 0x1000 }, (i % threads) as u16)).collect();
    policy.on(&mut site, Event::ColdExpired, now, &|_| true);
    let mut promote = Event::WindowFull { trace: Trace::new(&window), current: None };
    // It may want to see more.
    let long: Vec<u64> = window.iter().cycle().take(WINDOW_MAX).copied().collect();
    while let Action::ContinueLearning { .. } = policy.on(&mut site, promote, now, &|_| true) {
        promote = Event::WindowFull { trace: Trace::new(&long), current: None };
    }
    let (targets, chain) = (policy.plan().targets().to_vec(), policy.plan().chain());
    assert!(site.has_tree(), "{site:?}");
    let mut again = |now: u64| {
        let missed = policy.on(&mut site, Event::MissWindow { misses: 256 }, now, &|_| true);
        assert!(matches!(missed, Action::Learn { .. }), "{missed:?}");
        let current = Some(Current { targets: &targets, chain });
        policy.on(&mut site, Event::WindowFull { trace: Trace::new(&long), current }, now + 1, &|_| true)
    };
    let first = again(now + 1);
    assert!(matches!(first, Action::Resume(counters) if counters.misses > 0), "{first:?}");
    (again(now + 3), site, now + 4)
}

#[test]
fn misses_that_stay_are_counted_where_one_thread_has_them() {
    let (action, site, _) = misses_that_stay(1);
    assert!(matches!(action, Action::Resume(counters) if counters.misses > 0), "{action:?}");
    assert!(!site.is_uncounted());
}

#[test]
fn misses_that_stay_are_not_counted_where_several_threads_have_them() {
    let (action, site, now) = misses_that_stay(2);
    assert!(matches!(action, Action::Resume(counters) if counters.misses == 0), "{action:?}");
    // It is looked at again all the same.
    assert!(site.is_uncounted() && !site.is_due(now) && site.is_due(now + (1 << 40)));
}
