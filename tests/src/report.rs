//! The engine's report, as far as the tests read it (the schema is documented in `docs/report.md`).

use serde::Deserialize;

/// A report on one process.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// The process.
    pub pid: u32,
    /// The process it was forked from.
    pub forked_from: Option<u32>,
    /// Its executable.
    pub program: String,
    /// What the engine did.
    pub engine: Engine,
    /// Sites found.
    pub sites_total: u64,
    /// Sites promoted at the end.
    pub sites_promoted: u64,
    /// Share of the calls that took a direct jump.
    pub coverage: Option<f64>,
    /// Executable and libraries.
    pub objects: Vec<Object>,
    /// Sites that ran.
    pub sites: Vec<Site>,
    /// Programs started without the engine.
    #[serde(default)]
    pub not_followed: Vec<NotFollowed>,
}

/// What the engine did.
#[derive(Clone, Debug, Deserialize)]
pub struct Engine {
    /// Whether promotion was on at the end.
    pub enabled: bool,
    /// Why not.
    pub why_disabled: Option<String>,
    /// Gates re-pointed.
    pub patches: u64,
    /// Bytes of the arenas' pages in use.
    pub arena_bytes: u64,
    /// Slow paths that judged something.
    pub judgements: u64,
    /// Sites linked by one byte.
    pub links: u64,
}

/// An executable or a library.
#[derive(Clone, Debug, Deserialize)]
pub struct Object {
    /// Sites found.
    pub sites: u32,
    /// Why all of it was left alone.
    pub reason: Option<String>,
}

/// A site that ran.
#[derive(Clone, Debug, Deserialize)]
pub struct Site {
    /// `function+0xoffset`.
    pub symbol: Option<String>,
    /// `call` or `jump`.
    pub kind: String,
    /// `promoted`, `linked`, …
    pub state: String,
    /// Why.
    pub reason: String,
    /// Targets of its tree.
    pub target_count: u32,
    /// Calls that were counted while it had no tree.
    pub calls_seen: u64,
    /// Misses that were counted while it had one.
    pub misses: u64,
    /// Times it was learned anew.
    pub relearned: u32,
    /// Where the head of its tree lies.
    pub tree: Option<String>,
}

/// A program started without the engine.
#[derive(Clone, Debug, Deserialize)]
pub struct NotFollowed {
    /// Its path.
    pub program: String,
    /// Why.
    pub reason: String,
}

impl Site {
    /// Whether its calls go through a tree.
    #[must_use]
    pub fn is_promoted(&self) -> bool {
        matches!(self.state.as_str(), "promoted" | "linked")
    }

    /// Whether it is promoted or has been: a promoted site that is not called any more may have been told to
    /// learn anew.
    #[must_use]
    pub fn was_promoted(&self) -> bool {
        self.is_promoted() || self.relearned > 0
    }

    /// Whether it lies in `function`, or in a part of it that the compiler split off.
    #[must_use]
    pub fn lies_in(&self, function: &str) -> bool {
        let symbol = self.symbol.as_deref().unwrap_or_default();
        symbol.split(['+', '.']).next() == Some(function)
    }
}

impl Report {
    /// The sites of a function.
    pub fn sites_in<'a>(&'a self, function: &'a str) -> impl Iterator<Item = &'a Site> {
        self.sites.iter().filter(move |site| site.lies_in(function))
    }

    /// Fails the test unless each of these functions has a promoted site.
    pub fn assert_promoted(&self, functions: &[&str]) {
        for function in functions {
            let sites: Vec<&Site> = self.sites_in(function).collect();
            assert!(
                sites.iter().any(|site| site.was_promoted()),
                "nothing is promoted in {function}: {sites:#?}\n{}",
                self.summary()
            );
        }
    }

    /// One line per site, for messages.
    #[must_use]
    pub fn summary(&self) -> String {
        let line = |site: &Site| {
            let symbol = site.symbol.as_deref().unwrap_or("?");
            format!(
                "  {symbol}: {} {}, {} targets, relearned {}, {}\n",
                site.kind, site.state, site.target_count, site.relearned, site.reason
            )
        };
        let sites: String = self.sites.iter().map(line).collect();
        format!("{} pid {}: {:?}\n{sites}", self.program, self.pid, self.engine)
    }
}
