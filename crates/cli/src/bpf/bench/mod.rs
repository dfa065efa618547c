//! `relpoline bpf bench`: what tail calls and updates of program arrays cost, here and elsewhere, in one run.
//!
//! *Hops*: a chain of 33 programs that do nothing but call the next, less the same without a hop. Contenders
//! take turns, round by round, so that all see the same machine; the median of rounds is shown with the
//! lowest and the highest. What is counted is the time that the thread had a CPU for (the kernel counts its
//! own by the clock).
//!
//! *Look-ups*: a program that looks up 32 keys of a map, less the same without the calls.
//!
//! *Updates*: while threads run the chain, one slot is replaced, removed and inserted, and the whole array
//! swapped, each many times.
//!
//! | part | module |
//! |---|---|
//! | who is measured | `contender` |
//! | chains of ours | `chain` |
//! | updates of ours | `updates` |
//! | look-ups, here and in the kernel | `lookups` |
//! | the running kernel, through bpf(2) | `kernel` |
//! | other runtimes, as programs that are asked for rounds | `peer` |
//! | the outcome for people | `table` |

mod chain;
mod contender;
mod kernel;
mod lookups;
mod peer;
mod table;
mod updates;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::files::Written;
use crate::files::written::PUBLIC;
use crate::workbench::machine::{self, Machine};
use crate::workbench::sample::Sample;
use contender::{Contender, Ours, Round};
use updates::Updates;

/// Programs in the chain: as many tail calls as a run may make.
pub const CHAIN: u32 = 33;

/// Examples for `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline bpf bench                                  here, and in the kernel where bpf(2) is allowed
  relpoline bpf bench --json --rounds 21 > bench.json
  cargo xtask bpf-bench --ubpf SOURCES                 builds rbpf and ubpf too, and measures all in one run

A peer is a program that answers each line on stdin by one on stdout: nanoseconds of a run with 33 hops, of a run
without, and of one that adds up 64 bytes. Where a runtime has no tail calls, its host starts the programs one by one.";

/// Arguments.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Rounds, of which the median is taken.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Threads that run the chain while it is updated; leave a CPU for the updates.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// Measure another runtime beside: its name and the command that does it, split at blanks.
    #[arg(long = "peer", value_name = "NAME=COMMAND")]
    peers: Vec<String>,
    /// Leave the kernel alone.
    #[arg(long)]
    no_kernel: bool,
    /// Also write the figures as JSON to this file.
    #[arg(long, value_name = "FILE")]
    save: Option<std::path::PathBuf>,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Figures {
    machine: Machine,
    /// Rounds that samples are of.
    rounds: u32,
    hops: Vec<Line>,
    lookups: Vec<lookups::Lookup>,
    updates: Vec<Updates>,
    /// What could not be measured, and why.
    missing: Vec<String>,
}

/// One contender's outcome.
#[derive(Debug, Serialize)]
pub struct Line {
    name: String,
    /// Nanoseconds of 33 hops.
    hops_33_ns: Sample,
    /// Nanoseconds of a run without hops.
    run_ns: Sample,
    /// Nanoseconds of a run that adds up 64 bytes of its input, loop and bounds checks included.
    sum_ns: Option<Sample>,
}

/// Measures.
///
/// # Errors
/// When the runtime cannot be made, or a peer does not answer.
pub fn run(arguments: &BenchArgs) -> Result<ExitCode> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = arguments.threads.map_or(cpus.saturating_sub(1).max(1), |n| n as usize);
    let peers = arguments.peers.iter().map(|peer| peer::Peer::start(peer)).collect::<Result<Vec<_>>>()?;
    let mut missing = Vec::new();
    let mut contenders: Vec<Box<dyn Contender>> = Ours::all()?;
    if !arguments.no_kernel {
        for constant in [true, false] {
            match kernel::Chain::new(constant) {
                Ok(chain) => contenders.push(Box::new(chain)),
                Err(error) => missing.push(format!("{}: {error:#}", kernel::name(constant))),
            }
        }
    }
    contenders.extend(peers.into_iter().map(|peer| Box::new(peer) as Box<dyn Contender>));
    let hops = measure(&mut contenders, arguments.rounds)?;
    let lookups = lookups::measure(arguments.rounds, !arguments.no_kernel, &mut missing)?;
    let mut updates = vec![updates::ours(threads, arguments.rounds)?];
    if !arguments.no_kernel {
        match kernel::updates(threads, arguments.rounds) {
            Ok(of_kernel) => updates.push(of_kernel),
            Err(error) => missing.push(format!("updates in the kernel: {error:#}")),
        }
    }
    let machine = machine::without_compiler();
    let figures = Figures { machine, rounds: arguments.rounds, hops, lookups, updates, missing };
    let json = serde_json::to_string_pretty(&figures)?;
    if let Some(file) = &arguments.save {
        let place = Written::new(file);
        let written = place.and_then(|place| place.write(json.as_bytes(), PUBLIC));
        written.with_context(|| format!("cannot write {}", file.display()))?;
    }
    if arguments.json {
        println!("{json}");
    } else {
        print!("{}", table::render(&figures));
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(contenders: &mut [Box<dyn Contender>], rounds: u32) -> Result<Vec<Line>> {
    let mut all: Vec<Vec<Round>> = contenders.iter().map(|_| Vec::new()).collect();
    // The first round warms up.
    for round in 0..=rounds {
        for (contender, all) in contenders.iter_mut().zip(&mut all) {
            let name = contender.name();
            let measured = contender.round().with_context(|| name.clone())?;
            if round > 0 {
                all.push(measured);
            }
        }
    }
    let lines = contenders.iter().zip(&all).map(|(contender, rounds)| {
        let sample = |of: fn(&Round) -> f64| Sample::of(&rounds.iter().map(of).collect::<Vec<_>>());
        let sums: Option<Vec<f64>> = rounds.iter().map(|round| round.sum).collect();
        Line {
            name: contender.name(),
            hops_33_ns: sample(|round| round.with_hops - round.without),
            run_ns: sample(|round| round.without),
            sum_ns: sums.map(|sums| Sample::of(&sums)),
        }
    });
    Ok(lines.collect())
}
