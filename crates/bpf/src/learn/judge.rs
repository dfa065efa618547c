//! What generated code calls when a countdown or a recording window of a site ends.

use super::site::{Hand, Site};
use super::{Shared, now, rings, try_lock};
use relpoline_learn::countdown::{LATER, never, postpone};
use std::sync::Arc;
use std::time::Instant;

/// What leading a gate straight to its tree costs [cycles]: one store.
const LINK: u32 = 200;
/// What the settling stub costs [1/16 cycle].
const SETTLING: u32 = 24;

/// The learner's door in generated code.
pub extern "C" fn slow(site: *const Site) {
    // SAFETY: stubs name the site that they belong to, which lives as long as the code that led here, which
    // lives as long as the run.
    let site = unsafe { &*site };
    if site.shared().space.is_inherited() {
        // A run that was going on at the fork: the code it runs is its parent's.
        return postpone(site.counters(), never());
    }
    let begun = now();
    let Some(mut shared) = try_lock() else {
        return postpone(site.counters(), LATER);
    };
    shared.tell_time(begun);
    shared.learner.attend(&mut Hand::on(site), begun);
    let others = shared.look_around(begun);
    drop(shared);
    // One may be the last of its runtime, whose end is nobody's business under the lock.
    drop(others);
}

impl Shared {
    /// Tells the learner the rate of the clock, and at first what it learns with: rings, and costs that
    /// differ from a whole program's.
    fn tell_time(&mut self, now: u64) {
        let learner = &mut self.learner;
        let (ticks, instant) = *self.begun.get_or_insert_with(|| {
            (learner.policy.costs.link, learner.policy.costs.gate) = (LINK, SETTLING);
            // SAFETY: asked for once, since this is the one learner, and it begins once. (That of a forked
            // child begins again, with the child's own copy of the memory, where its parent's sites record
            // nothing any more that anybody reads.)
            learner.rings = unsafe { rings::all() }.unwrap_or(rings::Rings::none());
            (now, Instant::now())
        });
        learner.tell_time(now.saturating_sub(ticks), instant.elapsed().as_millis() as u64);
    }

    /// Gives a site that was left alone another chance when its time has come. Who was looked at is returned,
    /// to be dropped without the lock.
    fn look_around(&mut self, now: u64) -> Vec<Arc<Site>> {
        let Shared { learner, sites, round, .. } = self;
        let mut seen = Vec::new();
        let _ = round.find(sites.len() as u32, |at| {
            let Some(site) = sites.get(at as usize).and_then(std::sync::Weak::upgrade) else { return false };
            let done = learner.look_at(&mut Hand::on(&site), now);
            seen.push(site);
            done
        });
        seen
    }
}
