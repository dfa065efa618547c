//! The report as a structure: what `--report` writes and what `demo --json` contains.
//!
//! Within schema 1 fields are only ever added. Readers should ignore what they do not know.

use serde::{Deserialize, Serialize};

use crate::shown::Shown;

/// Version of the schema.
pub const SCHEMA: u32 = 1;

/// A report on one process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The process.
    pub pid: u32,
    /// The process it was forked from, when that had the engine already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<u32>,
    /// Path of its executable.
    pub program: Shown,
    /// The engine and what it cost.
    pub engine: Engine,
    /// What branches cost on this CPU.
    pub costs: Costs,
    /// Executable and libraries.
    pub objects: Vec<Object>,
    /// Sites found in all objects.
    pub sites_total: u64,
    /// Sites that were seen running.
    pub sites_run: u64,
    /// Sites promoted now.
    pub sites_promoted: u64,
    /// Share of the counted calls that took a direct jump; null without `--count`. All calls are counted but
    /// for those of `sites_uncounted`.
    pub coverage: Option<f64>,
    /// Whether there are calls of which nothing is known: then the coverage is at most what is said.
    #[serde(default = "bound_unless_said")]
    pub coverage_is_bound: bool,
    /// Sites whose calls nobody counts, since they were left as they are: those of state `refused`.
    #[serde(default)]
    pub sites_uncounted: u64,
    /// Calls that took a direct jump, of all sites: counted ones, and what is reckoned to have come since.
    #[serde(default)]
    pub calls_direct: u64,
    /// Likewise, calls that took the retpoline.
    #[serde(default)]
    pub calls_retpolined: u64,
    /// Whether some of these calls are reckoned from how fast sites were called when they were counted last.
    #[serde(default)]
    pub calls_are_estimated: bool,
    /// Processor seconds that direct jumps have saved, by what calls cost on this CPU.
    #[serde(default)]
    pub seconds_saved: f64,
    /// Processor seconds that retpolines have cost more than direct calls would; at least, where
    /// `coverage_is_bound`.
    #[serde(default)]
    pub seconds_lost: f64,
    /// Processor seconds that the process has run, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor_seconds: Option<f64>,
    /// Cycles in a second, of the counter by which costs are measured.
    #[serde(default)]
    pub cycles_per_s: f64,
    /// What was seen of the process from outside, when it was watched for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// The sites that ran, or were left alone for a reason; those first at which the most time was saved or
    /// lost.
    pub sites: Vec<Site>,
    /// What all processes of the run have done together, when there were several. Everything else is about
    /// this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Programs that this process started without the engine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_followed: Vec<NotFollowed>,
    /// Seconds from the engine's start to its last figures.
    #[serde(default)]
    pub seconds: f64,
    /// How things went, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Moment>,
}

/// Reports from before this was said left out the sites that are left alone.
const fn bound_unless_said() -> bool {
    true
}

impl Default for Report {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            pid: 0,
            forked_from: None,
            program: Shown::default(),
            engine: Engine::default(),
            costs: Costs::default(),
            objects: Vec::new(),
            sites_total: 0,
            sites_run: 0,
            sites_promoted: 0,
            coverage: None,
            coverage_is_bound: false,
            sites_uncounted: 0,
            calls_direct: 0,
            calls_retpolined: 0,
            calls_are_estimated: false,
            seconds_saved: 0.0,
            seconds_lost: 0.0,
            processor_seconds: None,
            cycles_per_s: 0.0,
            sampling: None,
            sites: Vec::new(),
            family: None,
            not_followed: Vec::new(),
            seconds: 0.0,
            timeline: Vec::new(),
        }
    }
}

impl Report {
    /// Calls that took the retpoline and were counted; none of them is reckoned.
    #[must_use]
    pub fn calls_counted_retpolined(&self) -> u64 {
        let of_one = |site: &Site| site.calls_estimated - site.estimated_direct();
        let reckoned = self.sites.iter().map(of_one).fold(0, u64::saturating_add);
        self.calls_retpolined.saturating_sub(reckoned)
    }

    /// Share of the calls that were direct, those included that are reckoned; `None` when there were none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
    pub fn coverage_estimate(&self) -> Option<f64> {
        let calls = self.calls_direct.saturating_add(self.calls_retpolined);
        (calls > 0).then(|| self.calls_direct as f64 / calls as f64)
    }
}

/// Where the threads of a process were when they were watched, now and then, for a moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Sampling {
    /// Samples, wherever the threads were. Fewer than a hundred say nothing, and nothing is made of them.
    pub samples: u64,
    /// Processor seconds of the process that a sample stands for.
    pub seconds_each: f64,
    /// Why the process could not be watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Shown>,
}

impl Sampling {
    /// Whether there are enough samples to say something.
    #[must_use]
    pub const fn says_something(&self) -> bool {
        self.samples >= crate::sampled::ENOUGH
    }
}

/// The engine and what it cost.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Engine {
    /// Its version.
    pub version: Shown,
    /// Whether promotion is on.
    pub enabled: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_disabled: Option<Shown>,
    /// Whether the process ended in an orderly way; else the figures are as of the last judgement.
    #[serde(default)]
    pub ended: bool,
    /// Cycles for finding and re-pointing sites.
    #[serde(default)]
    pub startup_cycles: u64,
    /// Cycles for judging, building and linking.
    pub learn_cycles: u64,
    /// The same as a share of the time so far, 0 to 1, of one processor.
    #[serde(default)]
    pub learn_share: f64,
    /// Whether trees count their hits, so that `hits` are exact.
    #[serde(default)]
    pub counts: bool,
    /// Judgements.
    #[serde(default)]
    pub judgements: u64,
    /// Times a site was sent somewhere else.
    pub patches: u64,
    /// The most of them in one second.
    pub patches_per_s_max: u32,
    /// One-byte links written.
    #[serde(default)]
    pub links: u64,
    /// One-byte links the system refused.
    #[serde(default)]
    pub links_refused: u64,
    /// Memory of the arena.
    pub arena_bytes: u64,
    /// Sites that were promoted at the start, from a profile.
    #[serde(default)]
    pub sites_warm: u32,
    /// Sites of the profile that are not there any more.
    #[serde(default)]
    pub profile_stale: u32,
    /// Sites that were judged when there was no record left for them.
    #[serde(default)]
    pub sites_lost: u64,
}

/// Cycles of branches on this CPU, as measured at start.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Costs {
    /// A direct call.
    pub direct: f64,
    /// A call through the retpoline.
    pub retpoline: f64,
    /// A mispredicted branch.
    pub mispredict: f64,
}

/// An executable or a library.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Object {
    /// Its file.
    pub path: Shown,
    /// Its build-id in hexadecimal, if it has one.
    pub build_id: Option<Shown>,
    /// Thunks found.
    pub thunks: u32,
    /// Sites found.
    pub sites: u32,
    /// Sites promoted.
    pub promoted: u32,
    /// Sites left alone.
    #[serde(default)]
    pub refused: u32,
    /// Why all of it was left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Shown>,
}

/// A call or jump site.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Site {
    /// Address in memory, `0x…`.
    pub address: Shown,
    /// `function+0xoffset`, when known.
    pub symbol: Option<Shown>,
    /// Path of its object, when known.
    pub object: Option<Shown>,
    /// `call`, `jump` or `cond`.
    pub kind: Shown,
    /// `promoted`, `linked`, `retpolined`, …
    pub state: Shown,
    /// Why it is in this state.
    pub reason: Shown,
    /// Targets in its tree; `targets` has the hottest of them.
    #[serde(default)]
    pub target_count: u32,
    /// The hottest targets, hottest first.
    pub targets: Vec<Target>,
    /// Calls that took a direct jump (counted with `--count` only).
    pub hits: u64,
    /// Calls that missed and took the retpoline, as far as they were counted: those of several threads that
    /// stay are not.
    pub misses: u64,
    /// Calls counted while learning.
    #[serde(default)]
    pub calls_seen: u64,
    /// Whether there were more calls than are known of: without `--count` those of promoted sites and of
    /// sites that are left alone are not counted, and of refused sites none.
    #[serde(default)]
    pub calls_at_least: bool,
    /// Calls in a second when they were counted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_per_s: Option<f64>,
    /// Calls that will have come while nobody counted them, by such rates.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub calls_estimated: u64,
    /// Of them, direct ones; not said in reports that only knew of the state that a site was in last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_estimated_direct: Option<u64>,
    /// Processor seconds that its direct jumps have saved, the estimated calls included.
    #[serde(default)]
    pub seconds_saved: f64,
    /// Processor seconds that its retpolined calls have cost more than direct ones would, the estimated calls
    /// included.
    #[serde(default)]
    pub seconds_lost: f64,
    /// Samples that found a thread in its retpoline, when the process was watched: then what nobody counts is
    /// reckoned by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// Times it was learned anew.
    pub relearned: u32,
    /// Register that holds the target, when known.
    #[serde(default)]
    pub register: Option<Shown>,
    /// Times its gate was re-pointed.
    #[serde(default)]
    pub patches: u32,
    /// Targets that are compared with first, one after the other.
    #[serde(default)]
    pub chain: u32,
    /// Address of its gate, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Shown>,
    /// Address of its tree, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<Shown>,
    /// Second, since the engine's start, in which it got into its state.
    #[serde(default)]
    pub since: f64,
    /// What became of it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Change>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Site {
    /// Calls that took a direct jump: those that were counted, and those that are reckoned.
    #[must_use]
    pub fn direct(&self) -> u64 {
        self.hits.saturating_add(self.estimated_direct())
    }

    /// Of the calls that are reckoned, those that took a direct jump.
    #[must_use]
    pub fn estimated_direct(&self) -> u64 {
        let of_state = if self.is_promoted() { self.calls_estimated } else { 0 };
        self.calls_estimated_direct.map_or(of_state, |direct| direct.min(self.calls_estimated))
    }

    /// Likewise, calls that took the retpoline.
    #[must_use]
    pub fn not_direct(&self) -> u64 {
        self.retpolined().saturating_add(self.calls_estimated - self.estimated_direct())
    }

    /// Calls known of.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.hits.saturating_add(self.retpolined())
    }

    /// Calls known of that took the retpoline.
    #[must_use]
    pub const fn retpolined(&self) -> u64 {
        self.misses.saturating_add(self.calls_seen)
    }

    /// Whether its calls take direct jumps.
    #[must_use]
    pub fn is_promoted(&self) -> bool {
        matches!(&*self.state, "promoted" | "linked")
    }

    /// Its name, or its address when it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.symbol.as_deref().unwrap_or(&self.address)
    }
}

/// A site got into another state, or stayed in it for another reason.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Change {
    /// Seconds since the engine's start.
    pub at: f64,
    /// The state from then on.
    pub state: Shown,
    /// Why.
    pub reason: Shown,
    /// Targets in the tree.
    pub target_count: u32,
    /// How many of them are compared with first, one after the other.
    pub chain: u32,
    /// The hottest target: its name or its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Shown>,
    /// Calls that had taken the retpoline by then, as far as they were counted.
    pub retpolined: u64,
    /// What spoke for the tree, when one was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
}

impl Change {
    /// Why, in words: a site that changes its state while it is still learning is on trial.
    #[must_use]
    pub fn reason_in_words(&self) -> &str {
        let is_trial = self.reason == "learning" && self.state != "learning";
        if is_trial { "on trial: both ways are timed" } else { &self.reason }
    }
}

/// What spoke for a tree.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Share of the calls whose target is in it, 0 to 1.
    pub covered: f64,
    /// Share of the calls whose target a branch predictor would foresee, 0 to 1.
    pub foreseen: f64,
    /// Cycles of a call through it, by the model.
    pub tree: f64,
    /// Cycles of a call through the retpoline, by the model.
    pub retpoline: f64,
}

/// How things stood at a time.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds since the engine's start.
    pub at: f64,
    /// Calls that took direct jumps (counted with `--count` only).
    pub hits: u64,
    /// Calls that took the retpoline, as far as they were counted.
    pub retpolined: u64,
    /// Sites promoted.
    pub promoted: u32,
    /// Sites learning.
    pub learning: u32,
    /// Sites judged and left to their retpoline.
    pub left: u32,
    /// Patches so far.
    pub patches: u32,
    /// Cycles spent judging, building and linking so far.
    pub learn_cycles: u64,
}

/// A target of a site.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Target {
    /// Its name, when known.
    pub symbol: Option<Shown>,
    /// Address in memory, `0x…`.
    pub address: Shown,
    /// Its share of the site's calls when it was last judged, 0 to 1.
    pub share: f64,
}

/// The processes of one run together.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Family {
    /// How many they are.
    pub processes: u64,
    /// A line for each of the first thousand; those first in which the most time was saved or lost.
    pub members: Vec<Member>,
    /// As in a report, of all of them.
    pub calls_direct: u64,
    /// See `calls_direct`.
    pub calls_retpolined: u64,
    /// Whether some of these calls are reckoned.
    pub calls_are_estimated: bool,
    /// Share of the calls that were direct; null where not all processes counted.
    pub coverage: Option<f64>,
    /// Whether there are calls of which nothing is known.
    pub coverage_is_bound: bool,
    /// As in a report.
    pub seconds_saved: f64,
    /// As in a report.
    pub seconds_lost: f64,
    /// Cycles for judging, building and linking.
    pub learn_cycles: u64,
    /// Cycles for finding and re-pointing sites.
    pub startup_cycles: u64,
    /// The sites of all of them: calls and times add up; state, targets and address are those of the process
    /// that called a site most. They have no history.
    pub sites: Vec<Site>,
}

/// What one process did.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Member {
    /// Its number.
    pub pid: u32,
    /// The process it was forked from, when that had the engine already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<u32>,
    /// Path of its executable.
    pub program: Shown,
    /// Seconds from its engine's start to its last figures.
    pub seconds: f64,
    /// Whether it ended in an orderly way.
    pub ended: bool,
    /// Why promotion is not on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_disabled: Option<Shown>,
    /// Sites that were seen running.
    pub sites_run: u64,
    /// Sites promoted when the report was made.
    pub sites_promoted: u64,
    /// Calls that took a direct jump, counted or reckoned.
    pub calls_direct: u64,
    /// Calls that took the retpoline, counted or reckoned.
    pub calls_retpolined: u64,
    /// As in a report.
    pub seconds_saved: f64,
    /// As in a report.
    pub seconds_lost: f64,
}

impl Member {
    /// Seconds that were saved or lost in it.
    #[must_use]
    pub const fn at_stake(&self) -> f64 {
        self.seconds_saved + self.seconds_lost
    }
}

/// A program that was started without the engine.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NotFollowed {
    /// Its path.
    pub program: Shown,
    /// Why.
    pub reason: Shown,
}
