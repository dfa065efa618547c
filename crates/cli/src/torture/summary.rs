//! What came of it, for people or as JSON.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;

use serde::Serialize;

use super::Ending;
use super::board::Reading;
use super::outside::Outside;
use crate::report::Report;
use crate::report::schema::Site;
use crate::report::text::grouped;
use crate::workbench::machine::Machine;

/// Everything that is known at the end.
#[derive(Debug)]
pub(super) struct Summary {
    pub threads: u32,
    /// That it took, with starting and ending.
    pub seconds: f64,
    pub board: Reading,
    /// What the engine says it did.
    pub engine: Option<Report>,
    pub outside: Outside,
    /// What could not be compiled here.
    pub left_out: Vec<&'static str>,
    pub ending: Ending,
    pub machine: Machine,
}

/// `torture --json`.
#[derive(Debug, Serialize)]
struct Figures<'a> {
    schema: u32,
    threads: u32,
    seconds: f64,
    calls: u64,
    calls_per_s: f64,
    wrong: u64,
    faults: Vec<String>,
    checked: BTreeMap<&'a str, u64>,
    events: BTreeMap<&'a str, u64>,
    engine: Option<Engine>,
    outside: &'a Outside,
    left_out: &'a [&'static str],
    machine: &'a Machine,
}

/// What the engine did.
#[derive(Clone, Copy, Debug, Serialize)]
struct Engine {
    sites: u64,
    judgements: u64,
    patches: u64,
    relearnings: u64,
    links: u64,
    arena_bytes: u64,
}

impl Engine {
    fn of(report: &Report) -> Self {
        Self {
            sites: report.sites_run,
            judgements: report.engine.judgements,
            patches: report.engine.patches,
            relearnings: report.sites.iter().map(|site| u64::from(site.relearned)).sum(),
            links: report.engine.links,
            arena_bytes: report.engine.arena_bytes,
        }
    }
}

impl Summary {
    /// Everything that makes it a failure, a sentence each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.board.notes.clone();
        let more = self.board.wrong().saturating_sub(faults.len() as u64);
        if more > 0 {
            faults.push(format!("and {} more", grouped(more)));
        }
        match &self.ending {
            Ending::Hung => faults.push("the program hung and had to be killed".to_owned()),
            Ending::Ended(status) if faults.is_empty() && (!status.success() || !self.board.ended) => {
                let silent = if status.signal().is_some() || status.code().is_some_and(|code| code > 128) {
                    ", and no thread of it could say where: one without a stack for that, or with all signals blocked, as \
                     those that relpoline attach and detach make"
                } else {
                    ""
                };
                faults.push(format!("the program did not come to its end: {status}{silent}"));
            }
            Ending::Ended(_) => {}
        }
        faults.extend(self.engine.iter().flat_map(|report| &report.sites).filter_map(crooked));
        if self.engine.as_ref().is_none_or(|report| report.engine.patches == 0) && faults.is_empty() {
            faults.push(self.idle());
        }
        faults
    }

    /// Why the engine did nothing: such a run proves nothing.
    fn idle(&self) -> String {
        let reason = self.engine.as_ref().and_then(|report| report.engine.why_disabled.as_deref());
        format!("nothing was promoted ({}), so nothing was shown", reason.unwrap_or("the engine left no report"))
    }

    pub fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            println!("{}", serde_json::to_string_pretty(&self.figures())?);
        } else {
            print!("{}", self.text());
        }
        Ok(())
    }

    fn figures(&self) -> Figures<'_> {
        Figures {
            schema: 1,
            threads: self.threads,
            seconds: self.seconds,
            calls: self.board.calls(),
            calls_per_s: self.rate(),
            wrong: self.board.wrong(),
            faults: self.faults(),
            checked: self.board.checked().collect(),
            events: self.board.events().collect(),
            engine: self.engine.as_ref().map(Engine::of),
            outside: &self.outside,
            left_out: &self.left_out,
            machine: &self.machine,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn rate(&self) -> f64 {
        self.board.calls() as f64 / self.seconds.max(0.001)
    }

    fn text(&self) -> String {
        let mut lines = vec![format!(
            "{}, {} processors, Linux {}, {}",
            self.machine.cpu, self.machine.cpus, self.machine.kernel, self.machine.compiler
        )];
        lines.push(format!("{:.1} s, {} calling threads, 13 that disturb them\n", self.seconds, self.threads));
        lines.push(row(self.board.calls(), &format!("calls checked ({:.1} million per second)", self.rate() / 1e6)));
        lines.extend(self.board.checked().map(|(name, value)| row(value, &format!("  {name}"))));
        lines.push(row(self.board.wrong(), "wrong\n"));
        if let Some(engine) = self.engine.as_ref().map(Engine::of) {
            lines.push(row(engine.judgements, "judgements"));
            lines.push(row(engine.patches, "promotions and other changes of gates"));
            lines.push(row(engine.relearnings, "relearnings"));
            lines.push(row(engine.links, "links"));
        }
        lines.extend(self.board.events().map(|(name, value)| row(value, name)));
        let Outside { relearned, detached, attached, refused, refusal, .. } = &self.outside;
        lines.push(row(*relearned, "times everything learned anew, from outside"));
        lines.push(row(*detached, "times detached"));
        lines.push(row(*attached, "times attached"));
        if let Some(refusal) = refusal {
            lines.push(row(*refused, &format!("times that was refused, the last time: {refusal}")));
        }
        if !self.left_out.is_empty() {
            lines.push(format!("\nnot compiled here: {}", self.left_out.join(", ")));
        }
        lines.push(self.verdict());
        lines.join("\n") + "\n"
    }

    fn verdict(&self) -> String {
        let faults = self.faults();
        if faults.is_empty() {
            return "\nEvery call was right.".to_owned();
        }
        let seen: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
        format!("\nFAILED; this is a bug, please report it with this summary:{seen}")
    }
}

/// A gate is changed by one store, which is whole because it is aligned: what a run may not have hit by
/// chance.
fn crooked(site: &Site) -> Option<String> {
    let gate = site.gate.as_deref()?;
    let address = u64::from_str_radix(gate.trim_start_matches("0x"), 16).ok()?;
    (address % 8 != 0).then(|| format!("the gate at {gate}, of the site at {}, is not aligned", site.address))
}

fn row(value: u64, what: &str) -> String {
    format!("{:>18}  {what}", grouped(value))
}
