//! `relpoline bpf run`: a program over packets, in one or several threads, once or for a while.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use relpoline_bpf::{
    ContextKind, Engine, Expects, Invocation, Object, PacketBuffer, Program, Redirect, Trap, TrapKind, Way,
};

use super::control::{self, Control, Server};
use super::packets::{self, Packets};
use super::{LoadArgs, choose, hex, load, maps, slots, stats};
use crate::files::written::{PUBLIC, Written};

/// Examples for `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline bpf run filter.o --hex '00 11 22 33'            one packet; prints r0
  relpoline bpf run pipeline.o --pcap in.pcap --stats       all packets of a file; who ran how often
  relpoline bpf run pipeline.o --pcap in.pcap --context xdp --prog parse_ethernet
  relpoline bpf run nat.o --pcap in.pcap --map rules=rules.json --dump counters --out out.pcap --verdict 3
                                                            maps filled and shown, packets written out
  relpoline bpf run pipeline.o --pcap in.pcap --slot parsers=2:parse_udp --slot parsers=3:
                                                            other programs in slots than the file says
  relpoline bpf run policy.o --pcap in.pcap --btf /sys/kernel/btf/vmlinux --kconfig /proc/config.gz
                                                            as on this machine's kernel
  relpoline bpf run pipeline.o --pcap in.pcap --seconds 60 --threads 4 --control /tmp/pipeline
                                                            over and over, changed by bpf swap

The program gets the kernel's xdp_md or __sk_buff in r1, by its section's name (xdp, tc,
classifier, socket, cgroup_skb, ...) or --context; or, where neither says so, the packet's
address in r1 and its length in r2. Program arrays begin with what the file says they hold.

Maps are lists in JSON, bytes as hex digits: [{\"key\": \"01000000\", \"value\": \"0a000001\"}]; what --dump
prints --map takes, except for the values of per-CPU maps, which stand by slots.

Exit status: 0 when every run ended, 1 when one was trapped or nothing could be run.";

/// A larger capture is not read.
const LARGEST_CAPTURE: u64 = 1 << 29;
/// Results, and places for packets, that are told apart: a program may return another number each time.
const MOST_RESULTS: usize = 1 << 12;
/// Bytes of packets that are kept for `--out`, and what each takes besides: programs may make them longer.
const MOST_LEFT: usize = 1 << 28;
const EACH: usize = 64;

/// Arguments.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Object file (clang -target bpf -c).
    file: PathBuf,
    /// Packets from a pcap or pcapng file.
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
    /// Do not check accesses that are proved to be within bounds (`bpf dis --checks` lists them). The proofs
    /// are new.
    #[arg(long)]
    prove: bool,
    /// Go over the packets for so long, instead of once.
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Show how often each program was started, what became of tail calls with computed indexes and why, and
    /// the time per packet.
    #[arg(long)]
    stats: bool,
    /// Fill the map NAME from FILE first. May be given several times.
    #[arg(long, value_name = "NAME=FILE")]
    map: Vec<String>,
    /// Put PROG, a program of the file, into a slot of a program array first, or empty the slot. May be given
    /// several times.
    #[arg(long, value_name = "ARRAY=SLOT:[PROG]")]
    slot: Vec<String>,
    /// Show what is in the map NAME afterwards. May be given several times.
    #[arg(long, value_name = "NAME")]
    dump: Vec<String>,
    /// Print the records that programs leave in ring buffers and event arrays, as they come.
    #[arg(long)]
    records: bool,
    /// Write the packets to a pcap file, as programs have left them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["threads", "seconds"])]
    out: Option<PathBuf>,
    /// Write only those that ended with the verdict N.
    #[arg(long, value_name = "N", requires = "out", allow_negative_numbers = true)]
    verdict: Option<i32>,
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
    /// Packets with results that are not told apart.
    other_results: u64,
    traps: u64,
    first_trap: Option<Trap>,
    /// Where packets were redirected to.
    targets: BTreeMap<String, u64>,
    other_targets: u64,
    /// Packets to be written, and how many there is no room for.
    left: Vec<Vec<u8>>,
    bytes_left: usize,
    dropped: u64,
    /// Time in its packets, taken together.
    busy: Duration,
}

impl Tally {
    fn count(&mut self, result: Result<u64, Trap>) {
        self.packets += 1;
        match result {
            Ok(r0) => count(&mut self.results, &mut self.other_results, r0, 1),
            Err(trap) => {
                self.traps += 1;
                self.first_trap.get_or_insert(trap);
            }
        }
    }

    /// Keeps a packet.
    fn keep(&mut self, packet: &[u8]) {
        self.bytes_left += packet.len() + EACH;
        if self.bytes_left > MOST_LEFT {
            self.dropped += 1;
        } else {
            self.left.push(packet.to_vec());
        }
    }

    fn add(&mut self, other: Tally) {
        self.packets += other.packets;
        self.traps += other.traps;
        self.busy += other.busy;
        self.left.extend(other.left);
        self.dropped += other.dropped;
        self.other_targets += other.other_targets;
        self.other_results += other.other_results;
        for (target, number) in other.targets {
            count(&mut self.targets, &mut self.other_targets, target, number);
        }
        for (r0, number) in other.results {
            count(&mut self.results, &mut self.other_results, r0, number);
        }
        self.first_trap = self.first_trap.take().or(other.first_trap);
    }
}

/// Counts what is told apart, as long as that is not too much.
fn count<K: Ord>(known: &mut BTreeMap<K, u64>, others: &mut u64, key: K, number: u64) {
    if known.len() < MOST_RESULTS || known.contains_key(&key) {
        *known.entry(key).or_default() += number;
    } else {
        *others += number;
    }
}

/// Runs.
///
/// # Errors
/// When something cannot be read or loaded.
pub fn run(arguments: &RunArgs) -> Result<ExitCode> {
    let runtime = arguments.load.runtime()?;
    let options = arguments.load.options(arguments.stats, arguments.context.is_none(), arguments.prove);
    let kernel = arguments.load.kernel()?;
    let object = load(&runtime, &arguments.file, options, &kernel)?;
    let program = choose(&object, arguments.prog.as_deref())?;
    let target = target(arguments, program)?;
    let packets = read_packets(arguments, target)?;
    let out = match &arguments.out {
        Some(file) => {
            let place = Written::new(file);
            Some(place.with_context(|| format!("the packets cannot be written to {}", file.display()))?)
        }
        None => None,
    };
    arguments.map.iter().try_for_each(|preset| maps::fill(&object, preset))?;
    arguments.slot.iter().try_for_each(|change| slots::fill(&object, change))?;
    let dumped = arguments.dump.iter().map(|name| maps::find(&object, name)).collect::<Result<Vec<_>>>()?;
    let control = match &arguments.control {
        Some(path) => Some(control::listen(path, Server::new(runtime.clone(), object.clone(), options).of(kernel))?),
        None => None,
    };
    let tally = over_packets(arguments, &object, (program, target), &packets)?;
    print(arguments, &object, control.as_ref(), target, &tally);
    for map in dumped {
        let shown = serde_json::json!({ "map": map.spec().name, "entries": maps::shown(&object, map)? });
        crate::shown::write_json(std::io::stdout(), &shown)?;
    }
    if let (Some(place), Some(file)) = (out, &arguments.out) {
        ensure!(
            tally.dropped == 0,
            "the packets were not written: {} of them do not fit into {} MiB; split the capture",
            tally.dropped,
            MOST_LEFT >> 20
        );
        let link = packets.first().map_or(packets::ETHERNET, |(link, _)| *link);
        let written = place.write(&packets::write(link, &tally.left), PUBLIC);
        written.with_context(|| format!("the packets cannot be written to {}", file.display()))?;
    }
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

/// Packets, by Ethernet where the program's context is one of the kernel's; else as they are, by one link.
fn read_packets(arguments: &RunArgs, target: Target) -> Result<Packets> {
    let mut packets = match (&arguments.pcap, &arguments.hex) {
        (Some(path), _) => {
            let bytes = super::read(path, LARGEST_CAPTURE)?;
            packets::parse(&bytes).with_context(|| path.display().to_string())?
        }
        (None, Some(text)) => vec![(packets::ETHERNET, hex(text).context("--hex")?)],
        (None, None) => vec![(packets::ETHERNET, Vec::new())],
    };
    ensure!(!packets.is_empty(), "the file has no packets");
    if target != Target::Raw {
        for (at, (link, packet)) in packets.iter_mut().enumerate() {
            *packet = packets::by_ethernet(*link, packet).with_context(|| format!("packet {at}"))?;
            *link = packets::ETHERNET;
        }
    }
    let link = packets[0].0;
    ensure!(
        arguments.out.is_none() || packets.iter().all(|(l, _)| *l == link),
        "a pcap file has packets of one link only"
    );
    Ok(packets)
}

fn over_packets(
    arguments: &RunArgs,
    object: &Object,
    what: (&Program, Target),
    packets: &[(u32, Vec<u8>)],
) -> Result<Tally> {
    /// How often records are looked for.
    const LOOK: Duration = Duration::from_millis(10);
    let stop = AtomicBool::new(false);
    let longest = packets.iter().map(|(_, packet)| packet.len()).max().unwrap_or(0);
    let buffers = (0..arguments.threads).map(|_| PacketBuffer::new(longest)).collect::<Result<Vec<_>, _>>()?;
    let mut total = Tally::default();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = buffers
            .into_iter()
            .map(|buffer| {
                let stop = &stop;
                scope.spawn(move || one_thread(arguments, object, what, packets, buffer, stop))
            })
            .collect();
        let is_over = || match arguments.seconds {
            Some(seconds) => begin.elapsed() >= seconds,
            None => threads.iter().all(std::thread::ScopedJoinHandle::is_finished),
        };
        while arguments.records && !is_over() {
            std::thread::sleep(LOOK);
            maps::print_records(object);
        }
        if let Some(seconds) = arguments.seconds {
            std::thread::sleep(seconds.saturating_sub(begin.elapsed()));
            stop.store(true, Ordering::Relaxed);
        }
        for thread in threads {
            // A panic of a thread is one of ours and is passed on.
            total.add(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    if arguments.records {
        maps::print_records(object);
    }
    Ok(total)
}

fn one_thread(
    arguments: &RunArgs,
    object: &Object,
    (program, target): (&Program, Target),
    packets: &[(u32, Vec<u8>)],
    mut buffer: PacketBuffer,
    stop: &AtomicBool,
) -> Tally {
    let engine = if arguments.interpret { Engine::Interpreter } else { Engine::Compiled };
    let mut tally = Tally::default();
    let mut copy = Vec::new();
    let begin = Instant::now();
    loop {
        for (_, packet) in packets {
            let result = match target {
                Target::Raw => {
                    copy.clear();
                    copy.extend_from_slice(packet);
                    program.invoke(Invocation::new(&mut copy).engine(engine))
                }
                Target::Xdp | Target::Skb => {
                    let xdp = target == Target::Xdp;
                    buffer.put(packet, if xdp { ContextKind::Xdp } else { ContextKind::Skb });
                    program.invoke(buffer.invocation().engine(engine))
                }
            };
            if target != Target::Raw
                && let Some(redirect) = buffer.redirect()
            {
                count(&mut tally.targets, &mut tally.other_targets, name(object, &redirect), 1);
            }
            if arguments.out.is_some()
                && let Ok(r0) = result
                && arguments.verdict.is_none_or(|wanted| wanted == r0 as u32 as i32)
            {
                tally.keep(if target == Target::Raw { &copy } else { buffer.packet() });
            }
            tally.count(result);
        }
        if arguments.seconds.is_none() || stop.load(Ordering::Relaxed) {
            tally.busy = begin.elapsed();
            return tally;
        }
    }
}

/// Where a packet goes, for people.
fn name(object: &Object, redirect: &Redirect) -> String {
    match redirect {
        Redirect::Device { ifindex, way: Way::Ingress } => format!("in by device {ifindex}"),
        Redirect::Device { ifindex, way: Way::Peer } => format!("to the other end of device {ifindex}"),
        Redirect::Device { ifindex, way: Way::Egress | Way::Neighbour } => format!("to device {ifindex}"),
        Redirect::Map { map, key, .. } => {
            let is = |(name, _): &&(String, _)| object.map(name).is_some_and(|one| one.handle() == *map);
            let map = object.maps().iter().find(is).map_or("a map", |(name, _)| name.as_str());
            key.map_or_else(|| format!("to all of {map}"), |key| format!("to entry {key} of {map}"))
        }
    }
}

/// What a verdict is called (`uapi/linux/bpf.h`, `uapi/linux/pkt_cls.h`).
fn verdict(target: Target, r0: u64) -> &'static str {
    const XDP: [&str; 5] = ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"];
    const TC: [&str; 8] = ["OK", "RECLASSIFY", "SHOT", "PIPE", "STOLEN", "QUEUED", "REPEAT", "REDIRECT"];
    let names: &[&str] = match target {
        Target::Xdp => &XDP,
        Target::Skb => &TC,
        Target::Raw => &[],
    };
    names.get(r0 as u32 as usize).copied().unwrap_or("")
}

fn print(arguments: &RunArgs, object: &Object, control: Option<&Control>, target: Target, tally: &Tally) {
    if tally.packets == 1 {
        if let Some(r0) = tally.results.keys().next() {
            println!("{r0:#x}");
        }
    } else {
        println!("{:>12}  r0", "packets");
        for (r0, count) in &tally.results {
            println!("{}", format!("{count:>12}  {r0:<#6x} {}", verdict(target, *r0)).trim_end());
        }
    }
    if tally.other_results > 0 {
        println!("{:>12}  other results", tally.other_results);
    }
    for (target, count) in &tally.targets {
        println!("{}", crate::shown::line(&format!("{count:>12}  redirected {target}")));
    }
    if tally.other_targets > 0 {
        println!("{:>12}  redirected to elsewhere", tally.other_targets);
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
