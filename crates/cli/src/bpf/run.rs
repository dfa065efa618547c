//! `relpoline bpf run`: a program over packets, in one or several threads, once or for a while.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use relpoline_bpf::{ContextKind, Engine, Expects, Invocation, Object, PacketBuffer, Program, Trap, TrapKind};

use super::control::{self, Control};
use super::{LoadArgs, choose, hex, load, packets, stats};

/// Examples for `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline bpf run filter.o --hex '00 11 22 33'            one packet; prints r0
  relpoline bpf run pipeline.o --pcap in.pcap --stats       all packets of a file; who ran how often
  relpoline bpf run pipeline.o --pcap in.pcap --context xdp --prog parse_ethernet
  relpoline bpf run pipeline.o --pcap in.pcap --seconds 60 --threads 4 --control /tmp/pipeline
                                                            over and over, changed by bpf swap

The program gets the kernel's xdp_md or __sk_buff in r1, by its section's name (xdp, tc,
classifier, socket, cgroup_skb, ...) or --context; or, where neither says so, the packet's
address in r1 and its length in r2. Program arrays begin with what the file says they hold.

Exit status: 0 when every run ended, 1 when one was trapped or nothing could be run.";

/// Arguments.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Object file (clang -target bpf -c).
    file: PathBuf,
    /// Packets from a pcap file.
    #[arg(long, value_name = "FILE", conflicts_with = "hex")]
    pcap: Option<PathBuf>,
    /// One packet as hex digits.
    #[arg(long, value_name = "HEX")]
    hex: Option<String>,
    /// The program to begin with, instead of the file's first.
    #[arg(long, value_name = "NAME")]
    prog: Option<String>,
    /// What r1 points to, instead of what the section's name says.
    #[arg(long, value_enum)]
    context: Option<Target>,
    /// Threads, each over all packets.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Go over the packets for so long, instead of once.
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Show how often each program was started, what became of tail calls with computed indexes and why, and the time
    /// per packet.
    #[arg(long)]
    stats: bool,
    /// Interpret instead of running compiled code.
    #[arg(long)]
    interpret: bool,
    /// Let bpf swap change program arrays through the socket PATH meanwhile.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
}

/// What a program's r1 points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Target {
    /// The packet.
    Raw,
    /// A struct xdp_md.
    Xdp,
    /// A struct __sk_buff.
    Skb,
}

/// What a thread saw.
#[derive(Debug, Default)]
struct Tally {
    packets: u64,
    results: BTreeMap<u64, u64>,
    traps: u64,
    first_trap: Option<Trap>,
    /// Time in its packets, taken together.
    busy: Duration,
}

impl Tally {
    fn count(&mut self, result: Result<u64, Trap>) {
        self.packets += 1;
        match result {
            Ok(r0) => *self.results.entry(r0).or_default() += 1,
            Err(trap) => {
                self.traps += 1;
                self.first_trap.get_or_insert(trap);
            }
        }
    }

    fn add(&mut self, other: Tally) {
        self.packets += other.packets;
        self.traps += other.traps;
        self.busy += other.busy;
        for (r0, count) in other.results {
            *self.results.entry(r0).or_default() += count;
        }
        self.first_trap = self.first_trap.take().or(other.first_trap);
    }
}

/// Runs.
///
/// # Errors
/// When something cannot be read or loaded.
pub fn run(arguments: &RunArgs) -> Result<ExitCode> {
    let runtime = arguments.load.runtime()?;
    let options = arguments.load.options(arguments.stats);
    let object = load(&runtime, &arguments.file, options)?;
    let program = choose(&object, arguments.prog.as_deref())?;
    let packets = read_packets(arguments)?;
    let control = match &arguments.control {
        Some(path) => Some(control::listen(path, runtime.clone(), object.clone(), options)?),
        None => None,
    };
    let target = target(arguments, program)?;
    let tally = over_packets(arguments, program, target, &packets)?;
    print(arguments, &object, control.as_ref(), &tally);
    Ok(if tally.traps == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What r1 is to point to.
fn target(arguments: &RunArgs, program: &Program) -> Result<Target> {
    match (arguments.context, program.expects()) {
        (Some(target), _) => Ok(target),
        (None, Expects::Context(ContextKind::Xdp)) => Ok(Target::Xdp),
        (None, Expects::Context(ContextKind::Skb)) => Ok(Target::Skb),
        (None, Expects::Anything) => Ok(Target::Raw),
        (None, Expects::Elsewhere(what)) => bail!(
            "program {} is for {what} (section {}), not for packets; --context makes it run all the same",
            program.name(),
            program.section()
        ),
    }
}

/// A time from the command line.
fn seconds(text: &str) -> Result<Duration, String> {
    const YEAR: f64 = 365.25 * 86400.0;
    let number: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    let sane = (0.0..=YEAR).contains(&number).then(|| Duration::try_from_secs_f64(number).ok());
    sane.flatten().ok_or_else(|| "it must be between 0 and a year".into())
}

fn read_packets(arguments: &RunArgs) -> Result<Vec<Vec<u8>>> {
    let packets = match (&arguments.pcap, &arguments.hex) {
        (Some(path), _) => {
            let bytes = super::read(path)?;
            packets::parse(&bytes).with_context(|| path.display().to_string())?
        }
        (None, Some(text)) => vec![hex(text).context("--hex")?],
        (None, None) => vec![Vec::new()],
    };
    ensure!(!packets.is_empty(), "the file has no packets");
    Ok(packets)
}

fn over_packets(arguments: &RunArgs, program: &Program, target: Target, packets: &[Vec<u8>]) -> Result<Tally> {
    let stop = AtomicBool::new(false);
    let longest = packets.iter().map(Vec::len).max().unwrap_or(0);
    let buffers = (0..arguments.threads).map(|_| PacketBuffer::new(longest)).collect::<Result<Vec<_>, _>>()?;
    let mut total = Tally::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = buffers
            .into_iter()
            .map(|buffer| {
                let stop = &stop;
                scope.spawn(move || one_thread(arguments, (program, target), packets, buffer, stop))
            })
            .collect();
        if let Some(seconds) = arguments.seconds {
            std::thread::sleep(seconds);
            stop.store(true, Ordering::Relaxed);
        }
        for thread in threads {
            // A panic of a thread is one of ours and is passed on.
            total.add(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    Ok(total)
}

fn one_thread(
    arguments: &RunArgs,
    (program, target): (&Program, Target),
    packets: &[Vec<u8>],
    mut buffer: PacketBuffer,
    stop: &AtomicBool,
) -> Tally {
    let engine = if arguments.interpret { Engine::Interpreter } else { Engine::Compiled };
    let mut tally = Tally::default();
    let mut copy = Vec::new();
    let begin = Instant::now();
    loop {
        for packet in packets {
            let invocation = match target {
                Target::Raw => {
                    copy.clear();
                    copy.extend_from_slice(packet);
                    Invocation::new(&mut copy)
                }
                Target::Xdp | Target::Skb => {
                    let xdp = target == Target::Xdp;
                    buffer.put(packet, if xdp { ContextKind::Xdp } else { ContextKind::Skb });
                    buffer.invocation()
                }
            };
            tally.count(program.invoke(invocation.engine(engine)));
        }
        if arguments.seconds.is_none() || stop.load(Ordering::Relaxed) {
            tally.busy = begin.elapsed();
            return tally;
        }
    }
}

fn print(arguments: &RunArgs, object: &Object, control: Option<&Control>, tally: &Tally) {
    if tally.packets == 1 {
        if let Some(r0) = tally.results.keys().next() {
            println!("{r0:#x}");
        }
    } else {
        println!("{:>12}  r0", "packets");
        for (r0, count) in &tally.results {
            println!("{count:>12}  {r0:#x}");
        }
    }
    if let Some(trap) = &tally.first_trap {
        let hint = if trap.kind == TrapKind::Budget { "; does it loop for ever? see --budget" } else { "" };
        let trap = trap.to_string();
        let trap = crate::shown::line(&trap);
        eprintln!("relpoline: {} of {} runs trapped; the first: {trap}{hint}", tally.traps, tally.packets);
    }
    for (name, why) in object.refused() {
        eprintln!("relpoline: {}", crate::shown::line(&format!("{name} was left out: {why}")));
    }
    if arguments.stats {
        stats::print(object, &control.map(Control::starts).unwrap_or_default());
        let per_packet = tally.busy.as_nanos() as f64 / tally.packets as f64;
        println!("\n{} packets, {per_packet:.0} ns per packet, copying included", tally.packets);
    }
}
