//! User CPU time of the variants, in interleaved rounds.
//!
//! A machine drifts: clock rates, neighbours, temperature. So the variants take turns, the order rotates from
//! round to round, and the first round is thrown away. User time comes from wait4(2), so that it is that of
//! the one process with its threads.

use std::io::{Read, Seek};
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, ensure};

use crate::workbench::progress::progress;
use crate::workbench::variant::{Programs, Variant};

/// Seconds of every measured run, and what the runs printed.
#[derive(Debug, Default)]
pub struct Rounds {
    /// By [`Variant::ALL`].
    pub seconds: [Vec<f64>; 4],
    outputs: [Vec<u8>; 4],
}

impl Rounds {
    /// A variant that printed something else than the plain one.
    pub fn different(&self) -> Option<Variant> {
        let [plain, others @ ..] = &self.outputs;
        let index = others.iter().position(|output| output != plain)?;
        Variant::ALL.get(index + 1).copied()
    }
}

/// Runs all variants `count` times, after one round that does not count.
pub fn rounds(programs: &Programs, count: u32) -> anyhow::Result<Rounds> {
    let mut rounds = Rounds::default();
    let runs = Variant::ALL.len();
    let bar = progress(u64::from(count + 1) * runs as u64);
    for round in 0..=count as usize {
        for turn in 0..runs {
            let index = (round + turn) % runs;
            let Some(variant) = Variant::ALL.get(index) else {
                continue;
            };
            bar.set_message(variant.name());
            let (seconds, output) =
                user_time(variant.command(programs, &[])?).with_context(|| format!("the {variant} variant failed"))?;
            if round > 0 {
                rounds.seconds[index].push(seconds);
            }
            // One run that differs is remembered over any number that do not.
            if round == 0 || rounds.outputs[0] != output && !rounds.outputs[0].is_empty() {
                rounds.outputs[index] = output;
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(rounds)
}

/// Runs a command: its user CPU seconds and its output.
fn user_time(mut command: Command) -> anyhow::Result<(f64, Vec<u8>)> {
    let mut file = tempfile::tempfile()?;
    let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).spawn()?;
    let (status, usage) = wait(child.id().cast_signed())?;
    ensure!(status.success(), "it ended with {status}");
    let mut output = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut output)?;
    Ok((seconds(usage.ru_utime), output))
}

/// Waits for a child, with its resource usage.
fn wait(pid: libc::pid_t) -> std::io::Result<(ExitStatus, libc::rusage)> {
    let (mut status, mut usage) = (0, MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both are live; zeros are a valid rusage.
    let (waited, usage) = unsafe { (libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()), usage.assume_init()) };
    if waited == -1 { Err(std::io::Error::last_os_error()) } else { Ok((ExitStatus::from_raw(status), usage)) }
}

#[expect(clippy::cast_precision_loss, reason = "a few seconds")]
fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}
