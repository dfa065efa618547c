//! `relpoline bpf dis`: instructions on the left, the machine code they became on the right.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use relpoline_bpf::listing::{Line, Listing};
use relpoline_bpf::{Program, Why};

use super::{LoadArgs, choose, load};
use crate::shown::line;

/// Examples for `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline bpf dis pipeline.o
  relpoline bpf dis pipeline.o --prog parse_ip --trusted       without bounds checks
  relpoline bpf dis filter.o --checks                          which bounds checks are left

A tail call with a constant index has two patch sites: the bypass, jumped from while the slot is
empty, and the target, which jumps to the slot's program. One with a computed index ends in a
gate, which leads to the retpoline or to a tree of its usual targets.

Programs are shown as they are run without --context: those whose sections say so get the kernel's
contexts, of which more accesses can be proved. --trusted checks nothing, and proves nothing.";

/// Arguments.
#[derive(Debug, Args)]
pub struct DisArgs {
    /// Object file (clang -target bpf -c).
    file: PathBuf,
    /// One program, instead of all.
    #[arg(long, value_name = "NAME")]
    prog: Option<String>,
    /// Only the instructions that access memory: whether each is checked while it runs, or why it need not
    /// be.
    #[arg(long)]
    checks: bool,
    /// As for programs that are run with --context: nothing is known of what they are given.
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    load: LoadArgs,
}

/// Shows.
///
/// # Errors
/// When the file cannot be read or loaded.
pub fn run(arguments: &DisArgs) -> Result<ExitCode> {
    let runtime = arguments.load.runtime()?;
    let object = load(
        &runtime,
        &arguments.file,
        arguments.load.options(false, !arguments.raw, arguments.checks),
        &arguments.load.kernel()?,
    )?;
    let chosen = arguments.prog.as_deref().map(|name| choose(&object, Some(name))).transpose()?;
    for program in object.programs().iter().filter(|p| chosen.is_none_or(|c| c.name() == p.name())) {
        let listing = program.listing();
        if arguments.checks {
            checks(program, &listing);
            continue;
        }
        let head = format!("{} ({}), {} bytes of code:", program.name(), program.section(), listing.code.len());
        println!("{}", line(&head));
        for shown in &listing.lines {
            show(&listing, shown);
        }
        println!();
    }
    Ok(ExitCode::SUCCESS)
}

/// Each access of a program, and how many are checked.
fn checks(program: &Program, listing: &Listing) {
    let accesses = || listing.lines.iter().filter_map(|line| Some((line, line.access?)));
    let (all, proved) = (accesses().count(), accesses().filter(|(_, why)| why.is_some()).count());
    let left = all - proved;
    let head = format!(
        "{} ({}): {all} memory accesses, {proved} proved to be within bounds, {left} checked while it runs",
        program.name(),
        program.section()
    );
    println!("{}", line(&head));
    for (one, why) in accesses() {
        let why = match why {
            Some(Why::Frame) => "proved: the function's own frame",
            Some(Why::Context) => "proved: the context",
            Some(Why::Packet) => "proved: the packet, as far as it was compared with its end",
            Some(Why::Map) => "proved: a map's value",
            None => "checked",
        };
        println!("{}", line(&format!("{:4}: {:<44} {why}", one.slot, one.text)));
    }
    println!();
}

fn show(listing: &Listing, line: &Line) {
    // The last instruction's code is followed by the slow ways of all memory accesses.
    let last = listing.lines.last().is_some_and(|l| l.slot == line.slot);
    let machine = machine(listing, line, last);
    if line.begins_function && line.slot > 0 {
        println!();
    }
    let mut left = format!("{:4}: {}", line.slot, line.text);
    for (address, text, mark) in &machine {
        println!("{}", self::line(&format!("{left:<44} {address:5x}  {text:<46}{mark}")));
        left.clear();
    }
    if machine.is_empty() {
        println!("{}", self::line(&left));
    }
}

/// Offset, text and mark of each machine instruction.
fn machine(listing: &Listing, line: &Line, last: bool) -> Vec<(u64, String, String)> {
    let mut formatter = IntelFormatter::new();
    let base = listing.address + line.code.start as u64;
    let mut decoder = Decoder::with_ip(64, &listing.code[line.code.clone()], base, DecoderOptions::NONE);
    let mut out = Vec::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        let offset = instruction.ip() - listing.address;
        out.push((offset, text, mark(listing, offset as usize)));
        if last && instruction.mnemonic() == iced_x86::Mnemonic::Ret {
            break;
        }
    }
    out
}

fn mark(listing: &Listing, offset: usize) -> String {
    let at = |place: usize| place == offset;
    match listing.sites.iter().find(|s| at(s.bypass) || at(s.target)) {
        Some(site) if at(site.bypass) => format!("<- bypass of slot {}", site.index),
        Some(site) => format!("<- target of slot {}", site.index),
        None if listing.gates.iter().any(|(_, gate)| at(*gate)) => "<- gate".into(),
        None => String::new(),
    }
}
