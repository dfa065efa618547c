//! What things cost, and the knobs.

use super::crowd::PARKING;

/// Costs of one machine. Those of a call are in 1/16 cycle, so that fractions survive without floating
/// point; those of the slow path in whole cycles of the clock that the policy is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Costs {
    /// A direct call, loop included (1/16 cycle).
    pub direct: u32,
    /// One foreseen compare of the chain (1/16 cycle).
    pub compare: u32,
    /// One foreseen node of the search tree: a compare and up to two branches (1/16 cycle).
    pub node: u32,
    /// Likewise in a tree that keeps flags: its compare.
    pub kept_compare: u32,
    /// Its node.
    pub kept_node: u32,
    /// A mispredicted conditional branch (1/16 cycle).
    pub mispredict: u32,
    /// A call through the retpoline, loop included (1/16 cycle).
    pub retpoline: u32,
    /// A call that is written to the trace (1/16 cycle).
    pub counted_call: u32,
    /// The gate's jump in front of a tree, gone once the site is linked (1/16 cycle).
    pub gate: u32,
    /// Counting an exit from the chain (1/16 cycle).
    pub exit: u32,
    /// Judging, apart from what grows with the window (cycles).
    pub judge: u32,
    /// Judging, per call in the window (1/16 cycle).
    pub judge_call: u32,
    /// Building and publishing a tree (cycles).
    pub patch: u32,
    /// Linking a site to its tree, or undoing it (cycles).
    pub link: u32,
    /// Warm sites from which on one more tree that no other site runs costs what it saves.
    pub crowd: u32,
    /// The clock's rate.
    pub cycles_per_ms: u32,
}

impl Costs {
    /// Typical of a server core of the 2020s at 2.8 GHz. Measured on an Ice Lake: direct 2.5 cycles,
    /// retpoline 31.6.
    pub const TYPICAL: Costs = Costs {
        direct: 40,
        compare: 8,
        node: 28,
        kept_compare: 10,
        kept_node: 40,
        mispredict: 400,
        retpoline: 506,
        counted_call: 600,
        gate: 46,
        exit: 16,
        judge: 3_000,
        judge_call: 960,
        patch: 3_000,
        link: 20_000,
        crowd: PARKING,
        cycles_per_ms: 2_800_000,
    };
}

impl Costs {
    /// A compare of a chain, in a tree that keeps flags or not (1/16 cycle).
    #[must_use]
    pub const fn of_compare(&self, keeps_flags: bool) -> u32 {
        if keeps_flags { self.kept_compare } else { self.compare }
    }

    /// A node of a search tree, likewise.
    #[must_use]
    pub const fn of_node(&self, keeps_flags: bool) -> u32 {
        if keeps_flags { self.kept_node } else { self.node }
    }
}

impl Default for Costs {
    fn default() -> Costs {
        Costs::TYPICAL
    }
}

/// The knobs of the policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Most targets in a tree, 1 to 96; 0 promotes nothing.
    pub max_targets: u8,
    /// Calls that a site is left alone for, at first.
    pub cold_calls: u32,
    /// A cold site is worth learning at once when its retpolines cost more than 1/this of the elapsed time …
    pub cold_share: u32,
    /// … and in the end when they have cost this many times what learning costs. Many rare sites add up: a
    /// server's request may run a hundred of them once each.
    pub cold_patience: u32,
    /// Calls in the first window of a learning.
    pub window_first: u32,
    /// Calls in the longest window, [`crate::trace::WINDOW_MAX`] at most.
    pub window_max: u32,
    /// Calls through the gate before a site is considered settled.
    pub settle_calls: u32,
    /// Misses in a window.
    pub miss_window: u32,
    /// Misses in a window of a young site.
    pub miss_window_young: u32,
    /// Promotions until a site is no longer young.
    pub young: u8,
    /// Exits from the chain in a window.
    pub exit_window: u32,
    /// Exits are counted if at most this share of calls is expected to leave the chain (1/65536).
    pub exit_share: u32,
    /// Misses or exits that cost more than 1/this of the elapsed time make the site learn again.
    pub relearn_share: u32,
    /// A tree that has to go while learning it still makes more than 1/this of the time it was in place
    /// leaves its targets to the next one; 0: none does.
    pub merge_share: u32,
    /// A change must improve the modelled cost by this much (percent).
    pub margin: u32,
    /// Most doublings of a site's windows.
    pub max_backoff: u8,
    /// First wait before a retpolined site gets another chance (ms).
    pub retry_ms: u32,
    /// Whether a tree is tried against the clock when the trace cannot tell the order of targets. Needs
    /// settling and cold windows that end to the call, so not for engines that look at counters from time to
    /// time.
    pub trials: bool,
    /// Most doublings of that wait.
    pub max_retry_backoff: u8,
    /// Learning may take 1/this of the elapsed time …
    pub learning_share: u32,
    /// … and this much on top, once (ms).
    pub allowance_ms: u32,
    /// Patches that may follow each other at once.
    pub patch_burst: u32,
    /// Time in which one more patch becomes allowed (µs).
    pub patch_interval_us: u32,
}

impl Config {
    /// What the engine runs with unless told otherwise.
    pub const DEFAULT: Config = Config {
        max_targets: 96,
        cold_calls: 96,
        cold_share: 8192,
        cold_patience: 4,
        window_first: 256,
        window_max: 2048,
        settle_calls: 2000,
        miss_window: 1000,
        miss_window_young: 256,
        young: 4,
        exit_window: 4096,
        exit_share: 1 << 14,
        relearn_share: 1000,
        merge_share: 600,
        margin: 5,
        max_backoff: 10,
        retry_ms: 10,
        trials: true,
        max_retry_backoff: 12,
        learning_share: 200,
        allowance_ms: 40,
        patch_burst: 2000,
        patch_interval_us: 2000,
    };

    /// Learns and changes its mind at every chance, however little there is to gain: for tests that are to
    /// see as much patching as the budget for patches allows.
    pub const NERVOUS: Config = Config {
        cold_calls: 1,
        cold_share: u32::MAX,
        window_first: 16,
        settle_calls: 64,
        miss_window: 16,
        miss_window_young: 16,
        exit_window: 64,
        exit_share: 0,
        relearn_share: u32::MAX,
        merge_share: 0,
        margin: 0,
        max_backoff: 0,
        retry_ms: 1,
        max_retry_backoff: 0,
        learning_share: 2,
        allowance_ms: 1000,
        ..Config::DEFAULT
    };
}

impl Default for Config {
    fn default() -> Config {
        Config::DEFAULT
    }
}

/// Whole cycles of `calls` calls that cost `sixteenths` each.
pub(crate) fn cycles(calls: u32, sixteenths: u32) -> u64 {
    u64::from(calls) * u64::from(sixteenths) / 16
}
