//! The report as a structure: what `--report` writes and what `demo --json` contains.
//!
//! Within schema 1 fields are only ever added. Readers should ignore what they do not know.

use serde::{Deserialize, Serialize};

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
    pub program: String,
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
    /// Share of the counted calls that took a direct jump; null without `--count`.
    pub coverage: Option<f64>,
    /// The sites that ran, or were left alone for a reason; hottest first.
    pub sites: Vec<Site>,
    /// Programs that this process started without the engine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_followed: Vec<NotFollowed>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            pid: 0,
            forked_from: None,
            program: String::new(),
            engine: Engine::default(),
            costs: Costs::default(),
            objects: Vec::new(),
            sites_total: 0,
            sites_run: 0,
            sites_promoted: 0,
            coverage: None,
            sites: Vec::new(),
            not_followed: Vec::new(),
        }
    }
}

/// The engine and what it cost.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Engine {
    /// Its version.
    pub version: String,
    /// Whether promotion is on.
    pub enabled: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_disabled: Option<String>,
    /// Whether the process ended in an orderly way; else the figures are as of the last judgement.
    #[serde(default)]
    pub ended: bool,
    /// Cycles for finding and re-pointing sites.
    #[serde(default)]
    pub startup_cycles: u64,
    /// Cycles for judging, building and linking.
    pub learn_cycles: u64,
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
    pub path: String,
    /// Its build-id in hexadecimal, if it has one.
    pub build_id: Option<String>,
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
    pub reason: Option<String>,
}

/// A call or jump site.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Site {
    /// Address in memory, `0x…`.
    pub address: String,
    /// `function+0xoffset`, when known.
    pub symbol: Option<String>,
    /// Path of its object, when known.
    pub object: Option<String>,
    /// `call`, `jump`, `goto` or `cond`.
    pub kind: String,
    /// `promoted`, `linked`, `retpolined`, …
    pub state: String,
    /// Why it is in this state.
    pub reason: String,
    /// Targets in its tree; `targets` has the hottest of them.
    #[serde(default)]
    pub target_count: u32,
    /// The hottest targets, hottest first.
    pub targets: Vec<Target>,
    /// Calls that took a direct jump (counted with `--count` only).
    pub hits: u64,
    /// Calls that missed and took the retpoline.
    pub misses: u64,
    /// Calls counted while learning.
    #[serde(default)]
    pub calls_seen: u64,
    /// Times it was learned anew.
    pub relearned: u32,
}

impl Site {
    /// Calls known of.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.hits.saturating_add(self.misses).saturating_add(self.calls_seen)
    }
}

/// A target of a site.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Target {
    /// Its name, when known.
    pub symbol: Option<String>,
    /// Address in memory, `0x…`.
    pub address: String,
    /// Its share of the site's calls when it was last judged, 0 to 1.
    pub share: f64,
}

/// A program that was started without the engine.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NotFollowed {
    /// Its path.
    pub program: String,
    /// Why.
    pub reason: String,
}
