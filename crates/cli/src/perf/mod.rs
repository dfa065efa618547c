//! `relpoline perf`: names for gates and trees in perf(1).
//!
//! An arena is memory of no file, so perf has no names for what lies in it. Cells are append-only: what a gate or a tree
//! is, it is for ever. So this writes down what is known of a process now, as a jitdump file (`jitdump`), and lets the
//! process map a page of it, by which `perf inject --jit` finds the file. Asked again, it writes the file anew.

mod jitdump;

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use relpoline_stats::ObjectRecord;

use crate::attach;
use crate::live::{self, Engine, clock, memory};
use crate::report::{digest, now};
use jitdump::Code;

/// Bytes of a cell (`relpoline_text::cells`).
const CELL: u64 = 64;
/// What is mapped while the engine starts must be older than what is said of it: ticks are not that exact a clock.
const MARGIN: f64 = 0.02;
const DRIFT: f64 = 1e-3;

/// Examples shown with `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline perf 4711
  perf record -k mono -g -p 4711 -- sleep 10
  relpoline perf 4711                     again, for what was promoted meanwhile
  perf inject --jit -i perf.data -o perf.jit
  perf report -i perf.jit

It writes jit-PID.dump, which the process maps a page of: no thread stands still for longer than that \
takes. Without it perf shows the samples as [memfd:relpoline], without names. Time must be that of the \
monotonic clock (-k mono).

Exit status: 0 done; 1 not done, and the process is unharmed.";

/// `relpoline perf`.
#[derive(Debug, Args)]
pub struct PerfArgs {
    /// The process.
    pub pid: u32,
    /// Where the file is made, the first time.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

/// Does what the command line asks.
///
/// # Errors
/// When there is no such engine, or it or its file cannot be reached.
pub fn run(arguments: &PerfArgs) -> anyhow::Result<ExitCode> {
    let pid = arguments.pid;
    let engine = live::one(pid)?;
    let codes = codes(&engine).map_err(|error| anyhow::anyhow!("process {pid}: {}", memory::why(&error)))?;
    let content = jitdump::file(pid, &codes);
    let path = match mapped(pid) {
        Some(path) => {
            rewrite(&path, &content).with_context(|| format!("{} cannot be written", path.display()))?;
            path
        }
        None => {
            let path = std::path::absolute(&arguments.dir)?.join(format!("jit-{pid}.dump"));
            create(&path, &content, engine.process.user)
                .with_context(|| format!("{} cannot be made", path.display()))?;
            if let Err(error) = attach::marker::map(pid.cast_signed(), &path) {
                // Of no use without.
                let _ = fs::remove_file(&path);
                return Err(error);
            }
            path
        }
    };
    println!("process {pid}: {} pieces of code named in {}", codes.len(), path.display());
    Ok(ExitCode::SUCCESS)
}

/// The file that an earlier call has made, if the process has it mapped.
fn mapped(pid: u32) -> Option<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let name = format!("/jit-{pid}.dump");
    let line = maps.lines().find(|line| line.ends_with(&name))?;
    Some(PathBuf::from(line.get(line.find('/')?..)?))
}

/// Writes it anew. The process says where it is, and may lie: only such a file is written to, and no link followed.
fn rewrite(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    let mut start = [0; 4];
    file.read_exact(&mut start)?;
    ensure!(file.metadata()?.is_file() && jitdump::is_start(start), "it is no jitdump file");
    file.set_len(0)?;
    file.rewind()?;
    Ok(file.write_all(content)?)
}

/// Makes the file, for its owner's eyes: addresses are in it. The process must be able to open it.
fn create(path: &Path, content: &[u8], user: u32) -> anyhow::Result<()> {
    // A process that had this number before has left it.
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()) {
        fs::remove_file(path)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(&file, Some(user), None)?;
    }
    Ok(())
}

/// What is known of a process' gates and trees.
fn codes(engine: &Engine) -> std::io::Result<Vec<Code>> {
    let mut symbols = engine.symbols();
    let objects: Vec<ObjectRecord> = digest::objects(&engine.stats());
    let mapped: Vec<_> = objects.iter().map(|record| symbols.map(record)).collect();
    let pid = engine.process.pid;
    let mut codes = Vec::new();
    for (_, record) in now::sites(engine) {
        let site = symbols.name(&mapped, record.address).unwrap_or_else(|| format!("{:#x}", record.address));
        let parts = [
            ("gate", record.gate, CELL),
            ("tree", record.tree, CELL),
            ("tree", record.tree_body, u64::from(record.tree_body_bytes)),
            ("recording stub", record.recording, CELL),
        ];
        for (what, address, size) in parts.into_iter().filter(|(_, address, size)| *address != 0 && *size != 0) {
            let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
            memory::read(pid, address, &mut bytes)?;
            codes.push(Code { name: format!("{what} of {site}"), address, bytes, since: since(engine) });
        }
    }
    Ok(codes)
}

/// When the engine had started, by the monotonic clock.
fn since(engine: &Engine) -> Duration {
    let stats = engine.stats();
    let header = stats.header();
    let age = clock::seconds(header.start_tsc.saturating_add(header.startup_cycles), clock::now());
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default());
    now.saturating_sub(Duration::from_secs_f64((age * (1.0 - DRIFT) - MARGIN).max(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_jitdump_file_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let content = jitdump::file(1, &[]);
        create(&at("a"), &content, rustix::process::geteuid().as_raw()).unwrap();
        rewrite(&at("a"), &content).unwrap();
        assert_eq!(fs::read(at("a")).unwrap(), content);
        fs::write(at("other"), "precious").unwrap();
        assert!(rewrite(&at("other"), &content).is_err());
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        assert!(rewrite(&at("link"), &content).is_err() && create(&at("link"), &content, 0).is_err());
        assert_eq!(fs::read_to_string(at("other")).unwrap(), "precious");
    }
}
