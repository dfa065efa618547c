//! What is done to the torture program from outside while it runs: its sites are made to learn anew, and the
//! engine is taken out of it and put back, its text rewritten both times.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

/// Between two disturbances.
const INTERVAL: Duration = Duration::from_millis(300);
/// One in so many is a detach, and the next one an attach.
const DETACH: u64 = 6;

/// What was done.
#[derive(Debug, Default, Serialize)]
pub struct Outside {
    /// Times all sites were made to learn anew.
    pub relearned: u64,
    /// Times the engine was taken out.
    pub detached: u64,
    /// Times it was put back.
    pub attached: u64,
    /// Times this was refused, the program being unharmed.
    pub refused: u64,
    /// Why, the last time.
    pub refusal: Option<String>,
    #[serde(skip)]
    turn: u64,
    #[serde(skip)]
    is_out: bool,
    #[serde(skip)]
    last: Option<Instant>,
}

impl Outside {
    /// Does the next thing to the process, if its time has come.
    pub fn disturb(&mut self, pid: u64) {
        if self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return;
        }
        self.turn += 1;
        if let Err(error) = self.step(pid) {
            self.refused += 1;
            self.refusal = Some(format!("{error:#}"));
        }
        self.last = Some(Instant::now());
    }

    fn step(&mut self, pid: u64) -> anyhow::Result<()> {
        if self.is_out {
            relpoline("attach", pid)?;
            self.is_out = false;
            self.attached += 1;
        } else if self.turn.is_multiple_of(DETACH) {
            relpoline("detach", pid)?;
            self.is_out = true;
            self.detached += 1;
        } else {
            relpoline("relearn", pid)?;
            self.relearned += 1;
        }
        Ok(())
    }
}

/// Runs a command of this tool on the process, as a user would.
fn relpoline(command: &str, pid: u64) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("this command's own file is gone")?;
    let output = Command::new(own).args([command, "--quiet"]).arg(pid.to_string()).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{}", said.trim().strip_prefix("relpoline: ").unwrap_or(said.trim()))
}
