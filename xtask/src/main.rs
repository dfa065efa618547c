//! The one entry point for work that is not plain cargo: benchmarks, the kernel module and its test,
//! fuzzing, packages.
//!
//! A benchmark of Relpoline needs programs built with retpolines, which no distribution ships. So the driver
//! takes Debian's source packages (`source`), builds each in variants that differ in nothing but how an
//! indirect call is made (`variant`, `build`, `programs`), runs them interleaved (`rounds`), and turns paired
//! ratios with intervals (`stats`) into JSON, a Markdown table (`report`) and a plot (`plot`).

mod bpf;
mod build;
mod children;
mod dist;
mod engine;
mod feedback;
mod fuzz;
mod kernel;
mod machine;
mod measure;
mod memory;
mod options;
mod place;
mod plot;
mod procfs;
mod programs;
mod report;
mod rounds;
mod scaling;
mod server;
mod source;
mod stats;
mod suites;
mod table;
mod variant;
mod workload;
mod wrk;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};

use crate::build::Builder;
use crate::place::Place;
use crate::programs::Program;
use crate::report::Report;
use crate::rounds::Protocol;
use crate::variant::Variant;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Work on Relpoline that is not plain cargo")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the programs where needed, measure all variants, write JSON, table and plot
    Bench(Bench),
    /// Build relpoline.ko, the module that promotes the kernel's own indirect calls
    KernelBuild(kernel::BuildOptions),
    /// Boot Debian's stock kernel in QEMU and test relpoline.ko in it
    KernelTest(kernel::TestOptions),
    /// Fetch the sources and build the variants, without measuring
    BuildPrograms(Build),
    /// Measure one hot site and start-up against growing threads, phases, children and code
    Scaling(scaling::Scaling),
    /// Run the programs' own test suites without the engine and under it, and compare
    Suites(suites::Suites),
    /// Measure eBPF tail calls here, in the kernel, in rbpf and in ubpf, in one run
    BpfBench(bpf::BpfBench),
    /// Run other people's eBPF objects here and in the kernel, and compare
    BpfCorpus(bpf::BpfCorpus),
    /// Run the fuzz targets from their seeds for a time, with a stable compiler
    Fuzz(fuzz::Fuzz),
    /// Make a tar.gz and a .deb of binary, engine, manual pages and completions
    Dist(dist::Dist),
}

#[derive(Args)]
struct Build {
    /// Programs by name; none means all, in order of importance
    programs: Vec<String>,
    /// Variants to build or measure
    #[arg(long, value_enum, value_delimiter = ',',
          default_values_t = [Variant::Retpoline, Variant::Plain, Variant::Jmpthunk, Variant::Relpoline, Variant::Pgo])]
    variants: Vec<Variant>,
    #[command(flatten)]
    kept: options::Programs,
    /// Go on with the next program, workload or variant after a failure
    #[arg(long)]
    keep_going: bool,
}

#[derive(Args)]
struct Bench {
    #[command(flatten)]
    build: Build,
    /// Measured rounds after one warm-up round [default: 7, with --quick 3]
    #[arg(long)]
    rounds: Option<usize>,
    /// Fewer rounds and shorter server runs: a smoke test, not a measurement
    #[arg(long)]
    quick: bool,
    /// Measure nothing: write table, plot and README anew from today's results
    #[arg(long, conflicts_with_all = ["programs", "rounds", "quick"])]
    redraw: bool,
    #[command(flatten)]
    tested: options::Tested,
}

fn main() -> ExitCode {
    children::stop_all_on_exit();
    let done = match Cli::parse().task {
        Task::BuildPrograms(options) => build_programs(&options).map(drop),
        Task::Bench(options) => bench(&options),
        Task::KernelBuild(options) => kernel::build(&options).map(|module| println!("{}", module.display())),
        Task::KernelTest(options) => kernel::test(&options),
        Task::Scaling(options) => scaling::run(&options),
        Task::Suites(options) => suites::run(&options),
        Task::BpfBench(options) => bpf::bench(&options),
        Task::BpfCorpus(options) => bpf::corpus(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Dist(options) => dist::run(&options, &repository()),
    };
    if let Err(error) = done {
        eprintln!("xtask: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The repository that this was built from.
fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Builds what was asked for and returns the programs all of whose variants can be run.
fn build_programs(options: &Build) -> Result<(Place, Vec<Box<dyn Program>>)> {
    let place = options.kept.place()?;
    let builder = Builder::new(&place)?;
    let mut ready = Vec::new();
    for program in chosen(&options.programs)? {
        let built = builder.all_variants(program.as_ref(), &options.variants);
        match built.with_context(|| format!("building {}", program.name())) {
            Ok(()) => ready.push(program),
            Err(error) if options.keep_going => eprintln!("xtask: {error:#}; going on"),
            Err(error) => return Err(error),
        }
    }
    Ok((place, ready))
}

fn chosen(names: &[String]) -> Result<Vec<Box<dyn Program>>> {
    let mut all = programs::all();
    let known: Vec<_> = all.iter().map(|p| p.name()).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no program named {name}; there are: {}", known.join(", "));
    }
    all.retain(|p| names.is_empty() || names.iter().any(|name| name == p.name()));
    Ok(all)
}

/// Puts the results into the README.
fn write_readme(place: &Place, report: &Report) -> Result<()> {
    let path = place.root.join("README.md");
    let text = std::fs::read_to_string(&path)?;
    if let Some(text) = table::replaced(&text, &table::short(report)) {
        std::fs::write(&path, text)?;
    }
    Ok(())
}

fn bench(options: &Bench) -> Result<()> {
    let (place, programs) =
        if options.redraw { (options.build.kept.place()?, Vec::new()) } else { build_programs(&options.build)? };
    let out = options.tested.out(&place);
    let mut protocol = Protocol {
        rounds: options.rounds.unwrap_or(if options.quick { 3 } else { 7 }),
        quick: options.quick,
        variants: options.build.variants.clone(),
        engine: None,
        keep_going: options.build.keep_going,
    };
    protocol.take_engine(options.tested.engine(&place));
    let mut report = Report::open(&out)?;
    let mut failures = 0;
    for program in &programs {
        failures += rounds::measure_program(&place, program.as_ref(), &protocol, &mut report)?;
        report.write(&out)?;
    }
    if options.redraw {
        ensure!(
            !report.rows.is_empty(),
            "nothing was measured on this machine today; measure, or restore its file of today"
        );
        report.write(&out)?;
    }
    if options.tested.is_published() {
        write_readme(&place, &report)?;
    }
    println!("{}", table::markdown(&report));
    if failures > 0 {
        bail!("{failures} failures, see above");
    }
    Ok(())
}
