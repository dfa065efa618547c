//! What learning and patching may cost a process.
//!
//! Two limits hold by construction, since everything is paid for before it starts:
//!
//! - *Learning share*: what was spent never exceeds the allowance plus 1/200 of the elapsed time.
//! - *Patch rate*: a token bucket. A burst may use up the bucket; after that patches come one per interval.

use super::costs::{Config, Costs};

/// The account of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Clock reading at which the account was opened.
    started: u64,
    /// Cycles spent on learning so far.
    spent: u64,
    /// Clock reading up to which tokens have been handed out.
    refilled: u64,
    tokens: u32,
    patches: u32,
    open: bool,
}

impl Budget {
    /// Not opened yet: the first use opens it.
    #[must_use]
    pub const fn new() -> Budget {
        Budget { started: 0, spent: 0, refilled: 0, tokens: 0, patches: 0, open: false }
    }

    /// Opens the account at `now`, with a full bucket. Again in a forked child.
    pub fn start(&mut self, now: u64, config: &Config) {
        *self = Budget { started: now, spent: 0, refilled: now, tokens: config.patch_burst, patches: 0, open: true };
    }

    /// Opens the account if nobody did.
    pub(super) fn ensure_started(&mut self, now: u64, config: &Config) {
        if !self.open {
            self.start(now, config);
        }
    }

    /// Cycles since the account was opened.
    #[must_use]
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.started)
    }

    /// Cycles spent on learning.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// Patches made: trees published, sites retpolined, links.
    #[must_use]
    pub fn patches(&self) -> u32 {
        self.patches
    }

    /// Adds what was spent: the policy does for what it orders; the engine may correct it with what it
    /// measures.
    pub fn charge(&mut self, cycles: u64) {
        self.spent = self.spent.saturating_add(cycles);
    }

    /// What may be spent up to `now`, in total.
    #[must_use]
    pub fn limit(&self, now: u64, config: &Config, costs: &Costs) -> u64 {
        let allowance = u64::from(config.allowance_ms) * u64::from(costs.cycles_per_ms);
        (self.age(now) / u64::from(config.learning_share.max(1))).saturating_add(allowance)
    }

    /// Spends `cycles` if the limit allows.
    #[must_use]
    pub(super) fn spend(&mut self, cycles: u64, now: u64, config: &Config, costs: &Costs) -> bool {
        let fits = self.spent.saturating_add(cycles) <= self.limit(now, config, costs);
        if fits {
            self.charge(cycles);
        }
        fits
    }

    fn refill(&mut self, now: u64, config: &Config, costs: &Costs) {
        let interval = (u64::from(config.patch_interval_us) * u64::from(costs.cycles_per_ms) / 1000).max(1);
        let due = now.saturating_sub(self.refilled) / interval;
        let room = u64::from(config.patch_burst.saturating_sub(self.tokens));
        if due >= room {
            // A full bucket stops the clock: idle time earns nothing beyond the burst.
            self.tokens = self.tokens.max(config.patch_burst);
            self.refilled = self.refilled.max(now);
        } else {
            self.tokens += due as u32;
            self.refilled += due * interval;
        }
    }

    /// Whether a patch may be made at `now`.
    #[must_use]
    pub(super) fn may_patch(&mut self, now: u64, config: &Config, costs: &Costs) -> bool {
        self.refill(now, config, costs);
        self.tokens > 0
    }

    /// Takes a token for a patch.
    pub(super) fn patch(&mut self) {
        self.tokens = self.tokens.saturating_sub(1);
        self.patches = self.patches.saturating_add(1);
    }
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new()
    }
}
