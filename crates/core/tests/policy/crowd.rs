//! Where sites of a crowd belong.

use relpoline_core::policy::{Action, Config, Event, PARKING, Phase, Place, Policy, Reason, SHARING, SiteState};
use relpoline_core::trace::ONE;
use relpoline_core::tree::Target;

/// Between two looks at sites of a crowd that does little else than call.
const SOON: u64 = 1_000_000;
const MUCH_LATER: u64 = 1 << 50;

/// A policy and a site that has been called as often as a cold one is.
fn cold() -> (Policy, SiteState) {
    let (mut policy, mut site) = (Policy::new(), SiteState::new());
    policy.budget.start(1, &Config::DEFAULT);
    let action = policy.on(&mut site, Event::SeenOnce, 1, &|_| true);
    assert_eq!(action, Action::CountCold { calls: Config::DEFAULT.cold_calls });
    (policy, site)
}

#[test]
fn sites_share_and_are_parked_in_crowds_alone() {
    let (policy, site) = cold();
    let place = |warm, same, now| policy.place_in_crowd(&site, warm, same, ONE, now);
    assert_eq!(place(SHARING - 1, 9, SOON), Place::Apart);
    assert_eq!(place(SHARING, 2, SOON), Place::Shared);
    assert_eq!(place(SHARING, 1, SOON), Place::Apart);
    assert_eq!(place(PARKING, 9, SOON), Place::Shared);
    // It takes so large a part of this time that it is hot by itself.
    assert_eq!(place(PARKING, 1, SOON), Place::Apart);
    assert_eq!(place(PARKING, 1, 10 * SOON), Place::Parked);
    // It called different things.
    assert_eq!(place(PARKING, 0, 10 * SOON), Place::Apart);
    // So rare that it is none of the crowd.
    assert_eq!(place(PARKING, 1, MUCH_LATER), Place::Apart);
    assert_eq!(place(PARKING, 2, MUCH_LATER), Place::Apart);
    // Much later on the clock, but most of the time others were running.
    assert_eq!(policy.place_in_crowd(&site, PARKING, 1, ONE / 1024, 1024 * 10 * SOON), Place::Parked);
}

#[test]
fn what_was_learned_once_is_not_placed() {
    let (mut policy, mut site) = cold();
    let targets = [Target { address: 0x1000, share: ONE }];
    let action = policy.on(&mut site, Event::Known { targets: &targets, chain: 1 }, SOON, &|_| true);
    assert!(matches!(action, Action::Promote(_)));
    assert_eq!(policy.on(&mut site, Event::Joined, SOON, &|_| true), Action::Link);
    assert_eq!((site.phase(), policy.place_in_crowd(&site, PARKING, 2, ONE, SOON)), (Phase::Linked, Place::Apart));
    // Whoever is linked to what others run, and misses, learns like any other.
    let action = policy.on(&mut site, Event::MissWindow { misses: 256 }, 2 * SOON, &|_| true);
    assert!(matches!(action, Action::Learn { .. }), "{action:?}");
}

#[test]
fn a_parked_site_gets_another_chance_later_than_others() {
    let (mut policy, mut site) = cold();
    policy.park(&mut site, SOON);
    assert_eq!((site.phase(), site.reason()), (Phase::Retpolined, Reason::NoGain));
    let a_second = 1000 * u64::from(policy.costs.cycles_per_ms);
    assert!(!site.is_due(a_second) && site.is_due(60 * a_second));
    let action = policy.on(&mut site, Event::Due, 60 * a_second, &|_| true);
    assert!(matches!(action, Action::Learn { .. }), "{action:?}");
    assert_eq!(policy.on(&mut site, Event::Joined, 60 * a_second, &|_| true), Action::None);
}

/// Links of a crowd are paid for like all others, and those that are made together cost less.
#[test]
fn the_links_of_a_crowd_are_paid_for() {
    let (mut policy, _) = cold();
    let before = policy.budget.spent();
    assert!(policy.may_link_first(SOON));
    let one = policy.budget.spent() - before;
    assert!(policy.may_link_together(16, SOON));
    let sixteen = policy.budget.spent() - before - one;
    assert!(one == u64::from(policy.costs.link) && sixteen > one && sixteen < 8 * one, "{one}, {sixteen}");
    let mut links = 0;
    while policy.may_link_first(SOON) {
        links += 1;
    }
    assert!((1000..10_000).contains(&links) && !policy.may_link_together(1, SOON), "{links}");
}

/// The token bucket bounds what is done again and again. What each site does once would empty it in a large program.
#[test]
fn first_promotions_take_no_tokens_and_later_ones_do() {
    let mut policy = Policy::new();
    policy.config.allowance_ms = 1 << 20;
    policy.budget.start(1, &policy.config);
    let mut learn_and_link = |site: &mut SiteState| {
        let targets = [Target { address: 0x1000, share: ONE }];
        let known = Event::Known { targets: &targets, chain: 1 };
        assert!(matches!(policy.on(site, known, SOON, &|_| true), Action::Promote(_)));
        policy.on(site, Event::Settled, SOON + 1, &|_| true)
    };
    for n in 0..3 * Config::DEFAULT.patch_burst {
        assert_eq!(learn_and_link(&mut SiteState::new()), Action::Link, "{n}");
    }
    let mut site = SiteState::new();
    let _ = learn_and_link(&mut site);
    let again = (0..3 * Config::DEFAULT.patch_burst).filter(|_| {
        let action = policy.on(&mut site, Event::MissWindow { misses: 1 << 30 }, SOON + 2, &|_| true);
        let learned = matches!(action, Action::Learn { .. });
        if learned {
            let _ = policy.refused(&mut site, Reason::ArenaFull, SOON + 2);
        }
        learned
    });
    let again = again.count() as u32;
    assert!((1..=Config::DEFAULT.patch_burst).contains(&again), "{again}");
}
