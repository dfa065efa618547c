//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::inspect::InspectArgs;

/// Promote a program's retpolined indirect calls to direct calls while it runs.
#[derive(Debug, Parser)]
#[command(name = "relpoline", version, after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const AFTER_HELP: &str = "\
Examples:
  relpoline demo                          what it brings on this machine
  relpoline try -- ./tool input           what it brings for this program
  relpoline run -- redis-server           run a program with promotion
  relpoline run --report r.json -- ./tool and see what was promoted, and why not
  relpoline attach 4711                   promote in a process that runs already
  relpoline inspect /usr/sbin/nginx       is there anything to promote?

Environment:
  RELPOLINE=off      start programs without promotion
  RELPOLINE_ENGINE   path of the engine's file, instead of the built-in one";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start a program with its indirect calls promoted.
    #[command(after_help = RUN_AFTER_HELP)]
    Run(RunArgs),
    /// Measure what promotion brings for a program: with and without it, in turn.
    #[command(after_help = crate::trial::AFTER_HELP)]
    Try(crate::trial::TryArgs),
    /// Promote in a process that runs already, without restarting it.
    #[command(after_help = ATTACH_AFTER_HELP)]
    Attach(crate::attach::AttachArgs),
    /// Take promotion out of a process: its code is put back byte by byte.
    #[command(after_help = DETACH_AFTER_HELP)]
    Detach(crate::attach::DetachArgs),
    /// Switch promotion on again in a process, or at some of its sites.
    #[command(after_help = SWITCH_AFTER_HELP)]
    Enable(crate::attach::SwitchArgs),
    /// Switch promotion off in a process, or at some of its sites, while it runs.
    #[command(after_help = SWITCH_AFTER_HELP)]
    Disable(crate::attach::SwitchArgs),
    /// Let a process, or some of its sites, forget what was learned and learn anew.
    #[command(after_help = SWITCH_AFTER_HELP)]
    Relearn(crate::attach::SwitchArgs),
    /// List the processes that have an engine.
    #[command(after_help = crate::list::AFTER_HELP)]
    List(crate::list::ListArgs),
    /// Explain what became of a call site, and show the code that it runs through now.
    #[command(after_help = crate::explain::AFTER_HELP)]
    Explain(crate::explain::ExplainArgs),
    /// Watch the sites of a process: where they go, what they cost, why they are not promoted.
    #[command(after_help = crate::top::AFTER_HELP)]
    Top(crate::top::TopArgs),
    /// Show what was promoted in a process, what not, and why.
    #[command(after_help = crate::report::command::AFTER_HELP)]
    Report(crate::report::command::ReportArgs),
    /// Give the figures of all engines to Prometheus, as a file for its node exporter, or once.
    #[command(after_help = crate::metrics::AFTER_HELP)]
    Metrics(crate::metrics::MetricsArgs),
    /// Show, merge and export profiles, or save one of a process that runs.
    #[command(after_help = crate::profile::AFTER_HELP)]
    Profile(crate::profile::ProfileArgs),
    /// Name the code that was made for a process, for perf.
    #[command(after_help = crate::perf::AFTER_HELP)]
    Perf(crate::perf::PerfArgs),
    /// Check what this machine, kernel and user allow, and say how to get the rest.
    #[command(after_help = crate::doctor::AFTER_HELP)]
    Doctor(crate::doctor::DoctorArgs),
    /// Show the retpolines of a file: thunks, sites, and what is not protected.
    Inspect(InspectArgs),
    /// Compile a small program with and without retpolines and measure what promotion wins back.
    #[command(after_help = DEMO_AFTER_HELP)]
    Demo(DemoArgs),
    /// Measure what calls cost on this machine, and whether promotion keeps its budgets.
    #[command(after_help = BENCH_AFTER_HELP)]
    Bench(crate::bench::BenchArgs),
    /// Check millions of calls while everything is done to them that may go wrong.
    #[command(after_help = crate::torture::AFTER_HELP)]
    Torture(crate::torture::TortureArgs),
    /// Run eBPF programs in user space; change their program arrays while they run.
    Bpf(crate::bpf::BpfArgs),
    /// Promote the kernel's own indirect calls: load, watch and control the module relpoline.ko.
    Kernel(crate::kernel::KernelArgs),
    /// Write retpoline thunks for programs that are compiled with external ones, as assembly source.
    Thunks(crate::thunks::ThunksArgs),
    /// Write a completion script for a shell to stdout.
    Completions(CompletionsArgs),
    /// Write the manual page to stdout, or all of them into a directory.
    Man(ManArgs),
}

const RUN_AFTER_HELP: &str = "\
Examples:
  relpoline run -- nginx -g 'daemon off;'
  relpoline run --report - --report-format text --count -- lua script.lua
  relpoline run --only 'libpython*' -- python3 script.py
  relpoline run --dry-run -- ./server     what would be promoted, and why not

Exit status: the program's own; if it is ended by a signal, so is relpoline. Otherwise
  125  relpoline itself failed
  126  the program was found but cannot be executed
  127  the program was not found

Environment:
  RELPOLINE=off      start the program without promotion
  RELPOLINE_ENGINE   path of the engine's file, instead of the built-in one
  RELPOLINE_OPTS     set by relpoline for the engine; see docs/environment.md
  LD_PRELOAD         kept, the engine is put in front of it";

const ATTACH_AFTER_HELP: &str = "\
Examples:
  relpoline attach --name nginx           master and workers: an engine in each
  relpoline attach --tree 4711            a process and all that it has started
  relpoline attach --unit nginx.service   all processes of a systemd unit
  relpoline attach --wait 4711            and wait until something is promoted
  relpoline attach --only 'libpython*' 4711

All threads stand still for a moment, twice; how long is printed. Who may trace a process may attach \
to it: its user, or root. Children that it forks later have the engine too. It needs a program that \
is linked dynamically against glibc. See docs/attach.md.

Exit status: 0 attached, or it had an engine already; 1 not attached, and the process is unharmed; \
3 attached, but nothing was promoted while --wait waited; 5 nothing to promote, and the process was \
not touched (of several that were searched for: in none of them).";

const DETACH_AFTER_HELP: &str = "\
Examples:
  relpoline detach 4711
  relpoline detach --unit nginx.service   all processes of a systemd unit

Every byte of the program's code is what it was; the engine stays in memory, asleep, since a thread \
may be on its way through it. Attaching again wakes it. Programs started by relpoline run can be \
detached too.

Exit status: 0 detached, or there was nothing to put back; 1 not detached, and the process is unharmed.";

const SWITCH_AFTER_HELP: &str = "\
Examples:
  relpoline disable 4711                  every site goes back to its retpoline
  relpoline enable 4711
  relpoline relearn --site ngx_http_handler 4711
  relpoline disable --site main+0x4d 4711  one site, as reports name it

It takes effect at once, while the program runs; no signal is sent to it.

Exit status: 0 done; 1 not done, and the process is unharmed.";

const DEMO_AFTER_HELP: &str = "\
Examples:
  relpoline demo
  relpoline demo --cc clang --rounds 9
  relpoline demo --json > demo.json

Exit status: 0 when all variants gave the same output, 1 otherwise or without a C compiler.

Environment:
  CC                 the C compiler, instead of cc, gcc or clang
  NO_COLOR           no colours in the progress bar";

const BENCH_AFTER_HELP: &str = "\
Examples:
  relpoline bench                               under two minutes
  relpoline bench --quick --json > bench.json

Exit status: 0 when it was measured, whatever the verdict; 1 without a C compiler.";

/// What the engine is to do, however it gets into a program.
#[derive(Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct EngineArgs {
    /// Promote only in executables and libraries whose path or file name matches GLOB (repeatable).
    #[arg(long, value_name = "GLOB")]
    pub only: Vec<OsString>,
    /// Leave executables and libraries alone whose path or file name matches GLOB (repeatable).
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<OsString>,
    /// Promote at most N targets per site.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=96))]
    pub max_targets: Option<u32>,
    /// Count all calls, also of sites that are left alone, for exact figures in the report (costs a little).
    #[arg(long)]
    pub count: bool,
    /// Do not promote in programs that the program starts by exec.
    #[arg(long)]
    pub no_follow: bool,
    /// Never jump straight from a site to its targets: always go through its gate.
    #[arg(long)]
    pub no_link: bool,
    /// Switch promotion off when the program enters a sandbox or asks for speculation to be restricted.
    #[arg(long)]
    pub off_in_sandbox: bool,
    /// Learn and relearn at every chance, as tests like it.
    #[arg(long, hide = true)]
    pub nervous: bool,
}

/// `relpoline run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Write a report to FILE when the program ends (`-`: to stdout), and one to FILE.PID for each of its
    /// children.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Start warm from the profile FILE, if it is there, and save there what was learned.
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// How reports are written.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Json, requires = "report")]
    pub report_format: ReportFormat,
    /// What the engine is to do.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Find the sites but patch nothing; say at the end what was found.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not say why the program runs without promotion.
    #[arg(long, short)]
    pub quiet: bool,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROG")]
    pub command: Vec<OsString>,
}

/// How reports are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ReportFormat {
    /// Everything, for programs: docs/report.md.
    Json,
    /// The twenty hottest sites and the totals, for people.
    Text,
    /// One file for a browser, with plots, that needs no network.
    Html,
    /// Calls by object, function, site and target, as SVG.
    Flamegraph,
}

/// `relpoline demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Print the figures as JSON.
    #[arg(long)]
    pub json: bool,
    /// Measured rounds, after one that is not [default: 5, or as many as fit into a minute, and two at
    /// least].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Keep the sources and programs in DIR.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// C compiler (gcc or clang).
    #[arg(long, value_name = "CC")]
    pub cc: Option<OsString>,
}

/// `relpoline completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `relpoline man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory for one page per subcommand.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}
