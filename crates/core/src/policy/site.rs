//! What is remembered of a site between decisions, what is asked, and what is answered.

use super::reason::Reason;
use super::trial::Trial;
use crate::trace::Trace;
use crate::tree::Target;

/// Where a site is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Phase {
    /// The gate counts calls down and leads to the retpoline.
    #[default]
    Cold = 0,
    /// The gate leads to the code that fills the trace.
    Learning = 1,
    /// The gate leads to a tree, perhaps through the counter of settling.
    Promoted = 2,
    /// The site jumps to its tree directly.
    Linked = 3,
    /// The gate is a copy of the thunk; nothing is counted.
    Retpolined = 4,
    /// Like retpolined, for good.
    Barred = 5,
}

/// What made a site learn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Cause {
    Calls,
    Misses,
    Exits,
    Due,
}

/// A site's memory. Small and plain, so that it can lie in an array of sites; all of it belongs to the
/// policy, and changes under the caller's lock alone.
#[derive(Clone, Copy, Debug)]
pub struct SiteState {
    /// Clock reading at which the current window or wait began.
    pub(super) since: u64,
    /// Clock reading from which the site wants another look; 0 for never.
    pub(super) due: u64,
    /// Clock reading at which the tree that is in place was put there.
    pub(super) promoted: u64,
    /// Calls of the current cold or settling window; during a trial, what the tree's turn took (cycles).
    pub(super) window: u32,
    pub(super) phase: Phase,
    pub(super) reason: Reason,
    pub(super) cause: Cause,
    /// Whether a tree was in place when learning began.
    pub(super) had_tree: bool,
    /// Doublings of the miss window, of the exit window, and of the wait for another chance.
    pub(super) miss_backoff: u8,
    pub(super) exit_backoff: u8,
    pub(super) retry_backoff: u8,
    /// Mergers in a row.
    pub(super) merges: u8,
    /// Promotions so far, saturating.
    pub(super) promotions: u8,
    /// Targets of the current tree.
    pub(super) targets: u8,
    /// Whether the current tree counts exits.
    pub(super) counts_exits: bool,
    /// Whether several threads called while it last learned.
    pub(super) has_threads: bool,
    /// Whether nobody counts what the current tree misses: see *Misses that stay* in [`super`].
    pub(super) uncounted: bool,
    /// The state of a trial.
    pub(super) trial: Trial,
}

impl SiteState {
    /// A site that was never called.
    #[must_use]
    pub const fn new() -> SiteState {
        SiteState {
            since: 0,
            due: 0,
            promoted: 0,
            window: 0,
            phase: Phase::Cold,
            reason: Reason::Cold,
            cause: Cause::Calls,
            had_tree: false,
            miss_backoff: 0,
            exit_backoff: 0,
            retry_backoff: 0,
            merges: 0,
            promotions: 0,
            targets: 0,
            counts_exits: false,
            has_threads: false,
            uncounted: false,
            trial: Trial::NONE,
        }
    }

    /// A site that stays retpolined for `reason` ([`Reason::Excluded`], [`Reason::TextLocked`], …).
    #[must_use]
    pub const fn barred(reason: Reason) -> SiteState {
        SiteState { phase: Phase::Barred, reason, ..SiteState::new() }
    }

    /// Where it is in its life.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// A cold site's counter went on by itself and was read late: `calls` were made, not only those that were
    /// awaited. To be said before [`Event::ColdExpired`].
    pub fn counted(&mut self, calls: u32) {
        if self.phase == Phase::Cold && !self.trial.is_running() && calls > self.window {
            self.window = calls;
        }
    }

    /// Why it is there.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// Targets of its tree; 0 without one.
    #[must_use]
    pub const fn targets(&self) -> u8 {
        self.targets
    }

    /// Whether nobody counts what its tree misses.
    #[must_use]
    pub const fn is_uncounted(&self) -> bool {
        self.uncounted
    }

    /// Trees it was given so far, up to 255.
    #[must_use]
    pub const fn promotions(&self) -> u8 {
        self.promotions
    }

    /// Whether the site wants an [`Event::Due`] now. Cheap: to be asked for some sites in every slow path.
    #[must_use]
    pub const fn is_due(&self, now: u64) -> bool {
        self.due != 0 && now >= self.due && matches!(self.phase, Phase::Retpolined | Phase::Promoted | Phase::Linked)
    }

    /// Whether a tree is in place.
    #[must_use]
    pub const fn has_tree(&self) -> bool {
        matches!(self.phase, Phase::Promoted | Phase::Linked)
    }
}

impl Default for SiteState {
    fn default() -> SiteState {
        SiteState::new()
    }
}

/// The tree that a learning site had, as it was planned.
#[derive(Clone, Copy, Debug)]
pub struct Current<'a> {
    /// Its targets with the shares they had then.
    pub targets: &'a [Target],
    /// Length of its chain.
    pub chain: usize,
}

/// What happened at a site.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The gate counted a cold site's calls down.
    ColdExpired,
    /// A cold site's targets are known from an earlier run.
    Known {
        /// They, in the order of comparing, with their shares.
        targets: &'a [Target],
        /// How many of them form the chain.
        chain: usize,
    },
    /// A cold site of a crowd has been looked at for the first time.
    SeenOnce,
    /// A site of a crowd got the tree that others run: it is linked at once.
    /// [`super::Policy::may_link_first`] has said that its link is paid for.
    Joined,
    /// The trace is full.
    WindowFull {
        /// The whole trace since learning began, oldest first.
        trace: Trace<'a>,
        /// The tree that was in place before, if there was one. Without it the site is judged as new.
        current: Option<Current<'a>>,
    },
    /// The tree's miss counter ran out.
    MissWindow {
        /// How many misses that took.
        misses: u32,
    },
    /// The tree's exit counter ran out.
    ExitWindow {
        /// How many exits that took.
        exits: u32,
    },
    /// The counter of settling ran out.
    Settled,
    /// [`SiteState::is_due`] said so.
    Due,
}

/// Counters to start with a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Calls through the gate until [`Event::Settled`]; 0: none, let the gate lead straight to the tree.
    pub settle: u32,
    /// Misses until [`Event::MissWindow`]; 0: do not count them.
    pub misses: u32,
    /// Exits until [`Event::ExitWindow`]; 0: do not count them.
    pub exits: u32,
}

/// What to do with a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Leave everything as it is.
    None,
    /// Count this many more calls before asking again; retpoline meanwhile. A tree that was in place is kept
    /// for an [`Action::Resume`]: the two take turns while they are timed.
    CountCold {
        /// Calls until [`Event::ColdExpired`].
        calls: u32,
    },
    /// Take a new trace.
    Learn {
        /// Its length in calls.
        window: u32,
    },
    /// Keep the trace and go on with it.
    ContinueLearning {
        /// Its new length in calls, from the beginning.
        window: u32,
    },
    /// Build [`super::Policy::plan`] and publish it.
    Promote(Counters),
    /// Publish the tree from before learning again: it is as good as a new one.
    Resume(Counters),
    /// Let the gate be a copy of the thunk.
    Retpoline(Reason),
    /// Count misses anew.
    CountMisses {
        /// Misses until [`Event::MissWindow`].
        window: u32,
    },
    /// Count exits anew.
    CountExits {
        /// Exits until [`Event::ExitWindow`].
        window: u32,
    },
    /// Count calls through the gate anew.
    CountSettle {
        /// Calls until [`Event::Settled`].
        calls: u32,
    },
    /// Settled, but a link is not worth its cost: let the gate lead straight to the tree, uncounted.
    StopCounting,
    /// Link the site to its tree.
    Link,
}
