//! `relpoline bpf swap`: asks a run that is going on to change its program arrays.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{absolute, control, slots};

/// Examples for `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline bpf run pipeline.o --pcap in.pcap --seconds 60 --control /tmp/pipeline &
  relpoline bpf swap /tmp/pipeline parsers 2=newer.o:parse_udp     another program into slot 2
  relpoline bpf swap /tmp/pipeline parsers 1=a.o:ip 2=a.o:udp 3=   three slots at once, one of them emptied

Every packet sees all of the slots as they were, or all as they are now.";

/// Arguments.
#[derive(Debug, Args)]
pub struct SwapArgs {
    /// Where the run listens (bpf run --control).
    socket: PathBuf,
    /// The program array's name.
    array: String,
    /// Slot and program, or nothing to empty it.
    #[arg(required = true, value_name = "SLOT=[FILE:PROG]")]
    changes: Vec<String>,
}

/// Asks.
///
/// # Errors
/// When the run cannot be reached or refuses.
pub fn run(arguments: &SwapArgs) -> Result<ExitCode> {
    let mut text = format!("{}\n", arguments.array);
    for change in &arguments.changes {
        text += &line(change).with_context(|| format!("'{change}' is not SLOT=[FILE:PROG]"))?;
        text.push('\n');
    }
    println!("{}", crate::shown::line(&control::request(&arguments.socket, &text)?));
    Ok(ExitCode::SUCCESS)
}

fn line(change: &str) -> Result<String> {
    let slots::Change { slot, program } = slots::parse(change, '=')?;
    Ok(match program {
        None => slot.to_string(),
        Some((None, _)) => bail!("no ':'"),
        Some((Some(file), name)) => format!("{slot}\t{}\t{name}", absolute(file.as_ref())?.display()),
    })
}
