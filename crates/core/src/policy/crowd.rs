//! A crowd: so many warm sites that what one of them costs depends on the others.
//!
//! Alone, a site is worth a tree as soon as the tree is cheaper than the retpoline. Among a thousand that are
//! equally warm, each tree takes a line of the caches and an entry of the predictors from its neighbours; two
//! thousand trees that nobody shares cost what the retpolines cost, and what leads to them meanwhile costs
//! twice that. What others run too is nearly free. So in a crowd a site is asked first whom it calls: if
//! others call the same, it is led to what those run, at once and unlearned, for a tree is right whatever it
//! knows, and its misses say when it was a mistake. If nobody does, and the site is not hot by itself, it is
//! parked: linked to a thunk that all parked sites share.

use super::Policy;
use super::costs::cycles;
use super::reason::Reason;
use super::site::{Action, Phase, SiteState};

/// Warm sites from which on they are a crowd, in which sites share unlearned what others have learned …
pub const SHARING: u32 = if cfg!(relpoline_model) { 2 } else { 256 };
/// … and in which sites are parked whose targets nobody shares, unless the processor is known to have room
/// for more ([`Costs::crowd`](super::Costs::crowd)).
pub const PARKING: u32 = if cfg!(relpoline_model) { 3 } else { 768 };
/// A parked site waits this many doublings of the usual time for another chance.
const PARKED_BACKOFF: u8 = 10;
/// What each link costs that is made with others: 1/this of a single one.
const TOGETHER_SHARE: u32 = 4;
/// A site that takes more than 1/this of the time is hot by itself, whatever the others do.
const HOT_SHARE: u64 = 1024;
/// Sites as warm as one of a crowd, as many as there are, take more than 1/this of the time.
const CROWD_SHARE: u64 = 16;

/// Where a cold site of a crowd belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// It is judged like any other.
    Apart,
    /// It runs what others run that call the same.
    Shared,
    /// It is left to a thunk that others use too.
    Parked,
}

impl Policy {
    /// Where a cold site belongs whose window is over, among `warm` ones, of which `same` call what this one
    /// called (itself included); 0 when it called different things. `busy` is the part of the time for which
    /// the process was running, 1/65536 of a processor.
    #[must_use]
    pub fn place_in_crowd(&self, site: &SiteState, warm: u32, same: u32, busy: u32, now: u64) -> Place {
        if site.phase != Phase::Cold || site.promotions != 0 || site.trial.is_running() || same == 0 {
            return Place::Apart;
        }
        let calls = if site.window == 0 { self.config.cold_calls } else { site.window };
        let lost = cycles(calls, self.costs.retpoline.saturating_sub(self.costs.direct));
        let elapsed = if site.since == 0 { self.budget.age(now) } else { now.saturating_sub(site.since) };
        let elapsed = ((u128::from(elapsed) * u128::from(busy)) >> 16) as u64;
        let takes = |share: u64, count: u64| lost.saturating_mul(share).saturating_mul(count) > elapsed;
        // A rare site among hot ones is none of the crowd.
        if !takes(CROWD_SHARE, u64::from(warm)) {
            return Place::Apart;
        }
        match (warm, same) {
            (SHARING.., 2..) => Place::Shared,
            (_, 1) if warm >= self.costs.crowd && !takes(HOT_SHARE, 1) => Place::Parked,
            _ => Place::Apart,
        }
    }

    /// A cold site is looked at once more, after as many calls as at first.
    pub(super) fn look_again(&self, site: &mut SiteState, now: u64) -> Action {
        (site.since, site.window) = (now, self.config.cold_calls);
        Action::CountCold { calls: site.window }
    }

    /// Whether a site's first link can be paid for. It takes no token: there is one for each site.
    pub fn may_link_first(&mut self, now: u64) -> bool {
        self.budget.spend(u64::from(self.costs.link), now, &self.config, &self.costs)
    }

    /// Whether the first links of `count` sites can be paid for that are made at a time: most of what one
    /// costs is paid once.
    pub fn may_link_together(&mut self, count: u32, now: u64) -> bool {
        let price = u64::from(self.costs.link) * u64::from(count + TOGETHER_SHARE - 1) / u64::from(TOGETHER_SHARE);
        self.budget.spend(price, now, &self.config, &self.costs)
    }

    /// A cold site is parked. [`Policy::may_link_together`] has said that its link is paid for.
    pub fn park(&mut self, site: &mut SiteState, now: u64) {
        site.retry_backoff = site.retry_backoff.max(PARKED_BACKOFF);
        self.retpoline(site, Reason::NoGain, now);
    }
}
