//! What a site's gate should point to, when, and why.
//!
//! A pure state machine: it is told what happened at a site ([`Event`]) and what the clock says, and answers
//! with what to do ([`Action`]). It reads no clock, patches nothing and allocates nothing, so whole traces
//! replay through it in tests and in `relpoline bench policy`.
//!
//! ```text
//!          cold_calls            window               settle_calls
//!  Cold ───────────────▶ Learning ───────▶ Promoted ──────────────▶ Linked
//!   ▲ rare: count on        │ ▲  ▲            │ misses or exits        │
//!   └──                     │ │  └────────────┴── cost > 1/1000 ───────┘
//!                no gain    ▼ │ due, at doubling intervals
//!                       Retpolined
//! ```
//!
//! - *Judging* (`judge`, `model`): the cheapest tree is priced against the retpoline, and when learning again
//!   against the tree that is in place. A change must win by a margin.
//! - *Longer windows*: while many targets are still new, or when only the lack of a foreseeable order speaks
//!   against a tree, the window is extended before deciding.
//! - *Trials* (`trial`): a long loop looks random in a short trace. Before a hot site is given up as
//!   unpredictable, its tree is tried against the clock.
//! - *Thinking again*: a tree counts its misses, and exits from its chain. When a window of them costs more
//!   than 1/1000 of the time it took, the site learns again. A learning that changed nothing doubles the
//!   window.
//! - *Flapping*: targets normally make way for new ones, as a tree that holds everything has a stale order.
//!   But when a tree has to go before it was worth its learning, because threads or phases call other targets
//!   in turn, the next one holds its targets too.
//! - *Misses that stay*: where several threads miss at once, each count takes the counter's line of the cache
//!   from the others, which costs several retpolines. So when learning again because of misses has found
//!   nothing better twice, and calls of several threads were seen, they are counted no more, and the site is
//!   looked at again like one without a tree, but more often. Exits are not counted there at all.
//! - *Another chance*: a retpolined site has no counter. It asks to be looked at after doubling intervals
//!   ([`SiteState::is_due`]), which the slow paths of other sites do.
//! - *Budget*: learning is paid for before it starts, out of 1/200 of the elapsed time and an allowance;
//!   patches take tokens from a bucket. See [`budget`].
//!
//! Every site has a [`Reason`] at all times.

pub mod budget;
mod costs;
mod crowd;
mod decide;
mod judge;
mod known;
mod model;
mod outcome;
mod plan;
mod reason;
mod site;
mod trial;
pub mod workload;

pub use budget::Budget;
pub use costs::{Config, Costs};
pub use crowd::{PARKING, Place, SHARING};
pub use judge::CHAIN_MAX;
pub use plan::Plan;
pub use reason::Reason;
pub use site::{Action, Counters, Current, Event, Phase, SiteState};

use crate::trace::Scratch;
use judge::Candidates;

/// The policy of a process: knobs, costs, budget, and the memory that judging needs. About 60 KiB, meant for
/// a static behind the caller's lock.
#[derive(Debug)]
pub struct Policy {
    /// The knobs.
    pub config: Config,
    /// The machine's costs.
    pub costs: Costs,
    /// What may still be spent.
    pub budget: Budget,
    /// Whether the next event's site needs a tree that keeps flags: for the caller to say, where there are
    /// both kinds.
    pub keeps_flags: bool,
    scratch: Scratch,
    candidates: Candidates,
    /// The tree in place, while it is compared with a new one.
    standing: Candidates,
    plan: Plan,
    /// Targets of the tree that the plan replaces, and whether that counts exits, until the next event.
    replaced: Option<(u8, bool)>,
}

impl Policy {
    /// With default knobs and typical costs. The budget opens at the first event, or by [`Budget::start`].
    #[must_use]
    pub const fn new() -> Policy {
        Policy {
            config: Config::DEFAULT,
            costs: Costs::TYPICAL,
            budget: Budget::new(),
            keeps_flags: false,
            scratch: Scratch::new(),
            candidates: Candidates::new(),
            standing: Candidates::new(),
            plan: Plan::new(),
            replaced: None,
        }
    }

    /// The tree to build after [`Action::Promote`]; valid until the next event.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy::new()
    }
}
