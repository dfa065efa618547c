//! `relpoline bpf`: eBPF programs in user space, with tail calls that are patched while they run.
//!
//! | verb | module |
//! |---|---|
//! | `run` | [`mod@run`]: object files over [`packets`], with [`maps`] filled and shown, and [`slots`] filled |
//! | `swap` | [`swap`]: change program arrays of a `run` that is going on, through its socket ([`control`]) |
//! | `dis` | [`dis`]: instructions and machine code side by side |
//! | `plugin` | [`plugin`]: for bpf_conformance |
//! | `bench` | [`mod@bench`]: what hops and updates cost here |

pub mod bench;
pub mod control;
pub mod dis;
pub mod maps;
pub mod packets;
pub mod plugin;
pub mod run;
pub mod slots;
mod stats;
pub mod swap;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::files::open;
use crate::shown;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use relpoline_bpf::{Around, Checks, IndirectBranches, Object, Options, Program, Runtime};

const AFTER_HELP: &str = "\
Examples:
  clang -O2 -g -target bpf -c filter.c -o filter.o
  relpoline bpf run filter.o --pcap in.pcap --stats
  relpoline bpf dis filter.o
  relpoline bpf run filter.o --pcap in.pcap --seconds 60 --control /tmp/filter &
  relpoline bpf swap /tmp/filter parsers 2=newer.o:parse_udp

Programs are checked when they are loaded, and every memory access while they run; there is no
verifier, so errors show at run time, as traps.";

/// `relpoline bpf`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct BpfArgs {
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a program of an object file over packets.
    #[command(after_help = run::AFTER_HELP)]
    Run(run::RunArgs),
    /// Change program arrays of a run that is going on; many slots change at once for every packet.
    #[command(after_help = swap::AFTER_HELP)]
    Swap(swap::SwapArgs),
    /// Show instructions and the machine code they became, with patch sites and gates marked.
    #[command(after_help = dis::AFTER_HELP)]
    Dis(dis::DisArgs),
    /// Execute instructions given as hex on stdin: the plugin protocol of bpf_conformance.
    #[command(after_help = plugin::AFTER_HELP)]
    Plugin(plugin::PluginArgs),
    /// Measure tail calls and updates of program arrays: here, in the kernel, in other runtimes.
    #[command(after_help = bench::AFTER_HELP)]
    Bench(bench::BenchArgs),
}

/// Does what the arguments say.
///
/// # Errors
/// What went wrong, with the file, program and instruction it concerns.
pub fn run(arguments: BpfArgs) -> Result<ExitCode> {
    match arguments.verb {
        Verb::Run(arguments) => run::run(&arguments),
        Verb::Swap(arguments) => swap::run(&arguments),
        Verb::Dis(arguments) => dis::run(&arguments),
        Verb::Plugin(arguments) => plugin::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
    }
}

/// How programs are loaded.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Instructions a run may spend on loops and calls before it is ended.
    #[arg(long, value_name = "N", default_value_t = 1 << 30)]
    budget: u64,
    /// Do not check memory accesses: the program is trusted like this command itself.
    #[arg(long)]
    trusted: bool,
    /// What tail calls with computed indexes, and calls of helpers, are in compiled code.
    #[arg(long, value_enum, default_value_t = Branches::Promoted)]
    branches: Branches,
    /// Resolve CO-RE relocations against the kernel's types in FILE: /sys/kernel/btf/vmlinux, or one with a
    /// .BTF section.
    #[arg(long, value_name = "FILE")]
    btf: Option<PathBuf>,
    /// Take the values of .kconfig externals from FILE, a kernel's configuration: lines CONFIG_NAME=value, or
    /// such by gzip.
    #[arg(long, value_name = "FILE")]
    kconfig: Option<PathBuf>,
    /// Make the map NAME for N entries, whatever the file says: 0 where its own loader decides. May be given
    /// several times.
    #[arg(long, value_name = "NAME=N", value_parser = entries)]
    entries: Vec<(String, u32)>,
}

/// A map's name, and a number of entries.
fn entries(text: &str) -> Result<(String, u32), String> {
    let (name, number) = text.split_once('=').ok_or("no '='")?;
    Ok((name.into(), number.parse().map_err(|_| "not a number of entries")?))
}

/// What the command line says of the kernel that programs were written for.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    types: Option<Vec<u8>>,
    config: Option<String>,
    entries: Vec<(String, u32)>,
}

impl Kernel {
    /// The same for the loader, with maps to be shared.
    fn around<'a>(&'a self, shared: &'a [(String, relpoline_bpf::MapHandle)]) -> Around<'a> {
        Around {
            shared,
            types: self.types.as_deref(),
            config: self.config.as_deref(),
            entries: &self.entries,
            ..Around::default()
        }
    }
}

/// [`IndirectBranches`], for the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Branches {
    /// Retpolines; hot tail calls become direct jumps.
    Promoted,
    /// Retpolines.
    Retpoline,
    /// Plain indirect branches.
    Plain,
}

impl LoadArgs {
    /// `kernel_contexts` says that programs get what their sections say, `proofs` that what is proved is not
    /// checked.
    fn options(&self, count: bool, kernel_contexts: bool, proofs: bool) -> Options {
        let checks = self.checks();
        Options { budget: Some(self.budget), checks, count, kernel_contexts, proofs }
    }

    fn checks(&self) -> Checks {
        if self.trusted {
            // SAFETY: who started this command vouches for the program by `--trusted`, as for the command
            // itself.
            unsafe { Checks::off() }
        } else {
            Checks::default()
        }
    }

    fn kernel(&self) -> Result<Kernel> {
        let config = match &self.kconfig {
            Some(file) => Some(plain(file, read_of_kernel(file, LARGEST_CONFIGURATION)?)?),
            None => None,
        };
        let types = self.btf.as_deref().map(|file| read_of_kernel(file, LARGEST_KERNEL)).transpose()?;
        Ok(Kernel { types, config, entries: self.entries.clone() })
    }

    /// A runtime whose programs print to stderr.
    fn runtime(&self) -> Result<Runtime> {
        let branches = match self.branches {
            Branches::Promoted => IndirectBranches::Promoted,
            Branches::Retpoline => IndirectBranches::Retpoline,
            Branches::Plain => IndirectBranches::Plain,
        };
        Ok(Runtime::builder()
            .indirect_branches(branches)
            .printk(|line| eprintln!("{}", shown::line(line.trim_end())))
            .build()?)
    }
}

fn load(runtime: &Runtime, file: &Path, options: Options, kernel: &Kernel) -> Result<Object> {
    let bytes = read(file, LARGEST_OBJECT)?;
    let loaded = Object::load_within(runtime, &bytes, options, &kernel.around(&[]), |_| true);
    loaded.with_context(|| file.display().to_string())
}

/// The text in `bytes`; `/proc/config.gz` has it packed.
fn plain(file: &Path, bytes: Vec<u8>) -> Result<String> {
    use std::io::Read as _;
    let text = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut text = Vec::new();
        let unpacked = flate2::read::GzDecoder::new(&bytes[..]).take(LARGEST_CONFIGURATION).read_to_end(&mut text);
        unpacked.with_context(|| format!("cannot unpack {}", file.display()))?;
        text
    } else {
        bytes
    };
    String::from_utf8(text).with_context(|| format!("{} is no text", file.display()))
}

/// Configurations have some 300 kB.
const LARGEST_CONFIGURATION: u64 = 64 << 20;
/// Kernels with all that is known for debugging have less.
const LARGEST_KERNEL: u64 = 1 << 30;
/// Larger objects are refused by who reads them, too.
const LARGEST_OBJECT: u64 = relpoline_bpf::LARGEST_OBJECT as u64;

/// As [`read`], or what the running kernel says of itself: its types and its configuration. Of all that a
/// kernel makes up these have an end.
fn read_of_kernel(file: &Path, most: u64) -> Result<Vec<u8>> {
    let is_kernels = file == Path::new("/proc/config.gz") || file.parent() == Some(Path::new("/sys/kernel/btf"));
    if !is_kernels {
        return read(file, most);
    }
    let bytes = std::fs::File::open(file).and_then(|file| open::all_of(file, most));
    bytes.with_context(|| format!("cannot read {}", file.display()))
}

/// The content of a file, or of a pipe of this user's, of at most `most` bytes.
fn read(file: &Path, most: u64) -> Result<Vec<u8>> {
    let bytes = open::named(file).and_then(|file| open::all_of(file, most));
    bytes.with_context(|| format!("cannot read {}", file.display()))
}

/// The program called `name`, or the first.
fn choose<'a>(object: &'a Object, name: Option<&str>) -> Result<&'a Program> {
    if let Some((name, why)) = name.and_then(|name| object.refused().iter().find(|(n, _)| n == name)) {
        bail!("program {name} cannot be loaded: {why}");
    }
    let names = || object.programs().iter().map(Program::name).collect::<Vec<_>>().join(", ");
    match name {
        None => object.programs().first().context("the file has no programs"),
        Some(name) => object.program(name).with_context(|| format!("no program '{name}'; there are {}", names())),
    }
}

/// Bytes from hex digits; blanks are skipped.
fn hex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    anyhow::ensure!(digits.len().is_multiple_of(2), "an odd number of hex digits");
    let byte = |pair: &[char]| Some((pair[0].to_digit(16)? * 16 + pair[1].to_digit(16)?) as u8);
    digits.chunks(2).map(byte).collect::<Option<_>>().context("not hex digits")
}

/// A path that means the same in another process.
fn absolute(file: &Path) -> Result<PathBuf> {
    std::path::absolute(file).with_context(|| format!("no such path: {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_digits() {
        assert_eq!(hex("00 ff\n1 2").unwrap(), [0, 255, 0x12]);
        assert!(hex("0").is_err() && hex("zz").is_err());
    }
}
