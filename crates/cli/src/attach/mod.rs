//! `relpoline attach`, `detach`, `enable`, `disable`, `relearn`: an engine in a process that runs.
//!
//! | module | what it is for |
//! |---|---|
//! | `chosen` | which processes are meant |
//! | `enter` | the steps of an attach; changing the text in a stop |
//! | `session` | a process that is being worked on; letting one or all of its threads stand still |
//! | `hijack` | system calls made by a thread of the process, safe against our own death |
//! | `load`, `image` | the engine's place, bytes and relocations |
//! | `remote` | finding an engine, asking it, reading its answers |
//! | `loader`, `symbols`, `memory` | what the process has mapped, read from outside |
//! | `text`, `hooks` | what is written into the program's text |
//! | `survey` | whether there is anything to promote in it, before it is touched |
//! | `marker` | a page of a file in the process, for perf |
//! | `tracee` | threads under ptrace(2) |
//! | `refusal` | whom not to attach to, and what to do about it |
//!
//! Nothing here takes a lock of the process, calls a function of its libraries, or needs anything of it but
//! the right to trace it. docs/attach.md tells users what happens.

mod chosen;
mod enter;
mod hijack;
mod hooks;
mod image;
mod load;
mod loader;
pub mod marker;
mod memory;
mod refusal;
mod remote;
mod session;
mod sites;
mod survey;
mod symbols;
mod text;
mod tracee;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use relpoline_stats::codes::flag;
use relpoline_stats::control::{HOOK_BYTES, command};

use crate::arguments::EngineArgs;
use crate::live::patience::Patience;
use crate::{live, preload};
use chosen::Chosen;
use memory::{Memory, Space as _};
use remote::{Jump, Remote, field};
use session::Session;
use text::Way;

/// Nothing was promoted while `--wait` waited.
const NOT_YET: u8 = 3;
/// There is nothing to promote, and the process was not touched.
const NOTHING: u8 = 5;

/// `relpoline attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Which processes.
    #[command(flatten)]
    pub chosen: Chosen,
    /// Wait until something is promoted in each, for at most SECONDS.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "10")]
    pub wait: Option<u64>,
    /// Attach even where there is nothing to promote yet: libraries with retpolines may be loaded later.
    #[arg(long)]
    pub anyway: bool,
    /// What the engine is to do.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Say nothing when it went well, or when there was nothing to do.
    #[arg(long, short)]
    pub quiet: bool,
}

/// `relpoline detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Which processes.
    #[command(flatten)]
    pub chosen: Chosen,
    /// Say nothing when it went well.
    #[arg(long, short)]
    pub quiet: bool,
}

/// `relpoline enable`, `disable`, `relearn`.
#[derive(Debug, Args)]
pub struct SwitchArgs {
    /// The process.
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: i32,
    /// Only the site at this address or at `FUNCTION+0xOFFSET`, or those in this function (repeatable).
    #[arg(long, value_name = "ADDRESS|FUNCTION")]
    pub site: Vec<String>,
    /// Say nothing when it went well.
    #[arg(long, short)]
    pub quiet: bool,
}

/// What `relpoline enable`, `disable` and `relearn` do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// Promotion on.
    Enable,
    /// Promotion off.
    Disable,
    /// What was learned is forgotten.
    Relearn,
}

/// Does `one` to each of several processes; goes on after a failure, and fails in the end. Of processes that
/// were searched for, some may have nothing to promote: that is no failure as long as one has.
fn each(chosen: &Chosen, one: impl Fn(i32) -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    let pids = chosen.pids()?;
    let (mut worst, mut done, mut nothing) = (ExitCode::SUCCESS, false, false);
    for &pid in &pids {
        tracee::let_go_of_late_ones();
        match one(pid) {
            Ok(code) if code == ExitCode::SUCCESS => done = true,
            Ok(code) if code == ExitCode::from(NOTHING) => nothing = true,
            Ok(code) => worst = code,
            // It was there when it was searched for, and has ended since.
            Err(_) if chosen.is_search() && !runs_a_program(pid) => {}
            Err(error) if pids.len() == 1 => return Err(error),
            Err(error) => {
                crate::complain(format_args!("{error:#}"));
                worst = ExitCode::FAILURE;
            }
        }
    }
    let is_nothing = nothing && worst == ExitCode::SUCCESS && !(done && chosen.is_search());
    Ok(if is_nothing { ExitCode::from(NOTHING) } else { worst })
}

/// Whether there is a process of that number, and a program in it: one that has ended has none, even if
/// nobody has waited for it.
fn runs_a_program(pid: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// `relpoline attach`.
///
/// # Errors
/// Why a process could not be attached to. It is unharmed.
pub fn attach(arguments: &AttachArgs) -> anyhow::Result<ExitCode> {
    each(&arguments.chosen, |pid| attach_one(arguments, pid))
}

fn attach_one(arguments: &AttachArgs, pid: i32) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let file = preload::locate()?.path;
    let options = crate::run::options::encode(&arguments.engine, false, None);
    // Looking at it has an end as well as working on it.
    let patience = Patience::of(session::LONGEST);
    refusal::look(pid)?;
    if !arguments.anyway && Memory::open(pid).is_ok_and(|memory| survey::has_thunks(&memory) == Some(false)) {
        if !arguments.quiet {
            let program = std::path::PathBuf::from(format!("/proc/{pid}/exe"));
            crate::complain(format_args!("process {pid}: not touched. {}", crate::nothing::in_process(&program)));
        }
        return Ok(ExitCode::from(NOTHING));
    }
    // One that is seen to be at work already is not stopped for that.
    if let Some(engine) = at_work(pid) {
        return stay_unstopped(arguments, pid, engine);
    }
    let mut session = Session::open(pid)?;
    if let Some(engine) = attached(&session).with_context(|| format!("process {pid}"))? {
        return stay(arguments, pid, &engine, session);
    }
    let entered = enter::enter(&mut session, &file, &options).with_context(|| format!("process {pid}"))?;
    if !arguments.quiet {
        println!(
            "process {pid}: attached in {}; {} led to the engine{}",
            time(begun.elapsed()),
            count(entered.edited.done, "site"),
            stops(&session),
        );
        if entered.edited.done == 0 {
            println!("process {pid}: nothing to promote: neither it nor its libraries have retpolines that are used");
        }
        if entered.is_sealed {
            println!(
                "process {pid}: its C library is an unusual one: sites stay behind their gates, children do not learn"
            );
        }
    }
    let Some(seconds) = arguments.wait else { return Ok(ExitCode::SUCCESS) };
    let memory = Memory::open(pid)?;
    drop(session);
    drop(patience);
    wait(|| promoted_in(&entered.engine, &memory), Duration::from_secs(seconds), pid, arguments.quiet)
}

/// The engine that is awake in a process.
fn attached(session: &Session) -> anyhow::Result<Option<Remote>> {
    let objects = session.loader.objects(&session.memory)?;
    let engine = Remote::find(&session.memory, &objects)?;
    engine.map_or(Ok(None), |engine| Ok(engine.is_live(&session.memory)?.then_some(engine)))
}

/// The engine in a process, if its statistics say that sites are led to it.
fn at_work(pid: i32) -> Option<live::Engine> {
    let engine = live::one(pid.unsigned_abs()).ok()?;
    let header = *engine.stats().header();
    let is_awake = header.flags & (flag::ASLEEP | flag::DRY_RUN) == 0;
    let has_sites = engine.stats().objects().any(|object| object.sites > object.refused);
    (is_awake && header.enabled != 0 && has_sites).then_some(engine)
}

/// It has an engine that is at work: there is nothing to do, and its figures can be read from outside.
fn stay_unstopped(arguments: &AttachArgs, pid: i32, mut engine: live::Engine) -> anyhow::Result<ExitCode> {
    if !arguments.quiet {
        println!("process {pid}: it has an engine already; nothing was changed, its options stay as they are");
    }
    let Some(seconds) = arguments.wait else { return Ok(ExitCode::SUCCESS) };
    let promoted = || {
        let is_there = engine.refresh();
        anyhow::ensure!(is_there, "the process has ended");
        Ok(engine.stats().header().sites_promoted)
    };
    wait(promoted, Duration::from_secs(seconds), pid, arguments.quiet)
}

/// It has an engine, as was wanted.
fn stay(arguments: &AttachArgs, pid: i32, engine: &Remote, mut session: Session) -> anyhow::Result<ExitCode> {
    if !arguments.quiet {
        let how = match is_on(pid) {
            Some(false) => format!("promotion is off in it (relpoline enable {pid} switches it on)"),
            _ => "its options stay as they are".to_owned(),
        };
        println!("process {pid}: it has an engine already; nothing was changed, {how}");
    }
    let Some(seconds) = arguments.wait else { return Ok(ExitCode::SUCCESS) };
    if engine.get(&session.memory, field!(statistics))? == 0 {
        // One that was preloaded has not been asked yet where its statistics are.
        engine.ask(&mut session, command::LIST)?;
    }
    let memory = Memory::open(pid)?;
    drop(session);
    wait(|| promoted_in(engine, &memory), Duration::from_secs(seconds), pid, arguments.quiet)
}

/// Whether promotion is on, by what the engine in the process says of itself.
fn is_on(pid: i32) -> Option<bool> {
    let engine = crate::live::one(pid.unsigned_abs()).ok()?;
    Some(engine.stats().header().enabled != 0)
}

/// Sites that are promoted, by the engine's memory.
fn promoted_in(engine: &Remote, memory: &Memory) -> anyhow::Result<u32> {
    Ok(engine.header(memory).context("the process has ended")?.sites_promoted)
}

/// Waits until a site is promoted. No thread is stopped for it: what is asked is read from outside.
fn wait(
    mut promoted: impl FnMut() -> anyhow::Result<u32>,
    longest: Duration,
    pid: i32,
    quiet: bool,
) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    loop {
        let _patience = Patience::of(Duration::from_secs(60));
        let promoted = promoted()?;
        if promoted > 0 {
            if !quiet {
                println!(
                    "process {pid}: {} promoted after {}",
                    count(promoted as usize, "site"),
                    time(begun.elapsed())
                );
            }
            return Ok(ExitCode::SUCCESS);
        }
        if begun.elapsed() >= longest {
            crate::complain(format_args!(
                "process {pid}: nothing promoted within {} s: no site was called often enough",
                longest.as_secs()
            ));
            return Ok(ExitCode::from(NOT_YET));
        }
        tracee::let_go_of_late_ones();
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `relpoline detach`.
///
/// # Errors
/// Why a process could not be detached from. It is unharmed.
pub fn detach(arguments: &DetachArgs) -> anyhow::Result<ExitCode> {
    each(&arguments.chosen, |pid| {
        let begun = Instant::now();
        let mut session = Session::open(pid)?;
        let in_process = || format!("process {pid}");
        let objects = session.loader.objects(&session.memory)?;
        let Some(engine) = Remote::find(&session.memory, &objects).with_context(in_process)? else {
            if !arguments.quiet {
                println!("process {pid}: there is no engine in it, and nothing to put back");
            }
            return Ok(ExitCode::SUCCESS);
        };
        let is_led = |jump: &Jump| session.memory.bytes(jump.at, HOOK_BYTES).is_ok_and(|there| there == jump.jump);
        // One that has had nothing to promote yet is led to all the same.
        let was_asleep = !engine.is_live(&session.memory).with_context(in_process)?
            && !engine.jumps(&session.memory).with_context(in_process)?.iter().any(is_led);
        let edited = leave(&mut session, &engine).with_context(in_process)?;
        if edited.foreign != 0 {
            crate::complain(format_args!(
                "process {pid}: {} left as found: somebody else has changed them",
                count(edited.foreign, "site")
            ));
        }
        if !arguments.quiet {
            let sites = count(edited.done, "site");
            if was_asleep {
                println!("process {pid}: it was detached already; {sites} found as they were before an attach");
            } else {
                println!("process {pid}: detached in {}; {sites} put back{}", time(begun.elapsed()), stops(&session));
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Puts the text back.
fn leave(session: &mut Session, engine: &Remote) -> anyhow::Result<text::Edited> {
    engine.ask(session, command::SLEEP)?;
    let jumps = engine.jumps(&session.memory)?;
    enter::change(session, engine, &jumps, Way::Back)
}

/// Reads what an attach reads of a process' loader and objects, of bytes that are taken for its memory from
/// the address `at` on; `headers` are address and number of its program headers. How many symbols there are.
/// For fuzzing.
///
/// # Errors
/// What is refused.
pub fn read_objects(at: u64, bytes: &[u8], headers: (u64, u64)) -> anyhow::Result<usize> {
    let memory = memory::Piece { at, bytes };
    let objects = loader::Loader::from_headers(headers, &memory)?.objects_now(&memory)?;
    let symbols = objects.iter().filter_map(|object| symbols::Symbols::read(&memory, object).ok());
    Ok(symbols.map(|symbols| symbols.count()).sum())
}

/// The same of what an engine there would answer: how many sites it has displaced, and jumps it has noted.
/// For fuzzing.
///
/// # Errors
/// What is refused.
pub fn read_engine(at: u64, bytes: &[u8], area: u64) -> anyhow::Result<usize> {
    let memory = memory::Piece { at, bytes };
    let found = Remote::find(&memory, &[])?;
    let count = |engine: &Remote| -> anyhow::Result<usize> {
        let _ = (engine.is_live(&memory)?, engine.is_unlocked(&memory)?, engine.gave_up(&memory)?);
        let _ = engine.header(&memory).map(|header| header.sites_promoted);
        Ok(engine.displacements(&memory)?.len() + engine.jumps(&memory)?.len())
    };
    let sum = found.as_ref().map_or(Ok(0), count)?;
    // Where one lies is told by symbols, which fuzzing hardly finds.
    Ok(sum + count(&Remote::of_area(area))?)
}

/// The engine in a process.
fn engine_in(session: &Session) -> anyhow::Result<Remote> {
    let objects = session.loader.objects(&session.memory)?;
    Remote::find(&session.memory, &objects)?.context("there is no engine in it; put one in with relpoline attach")
}

/// `relpoline enable`, `disable` and `relearn`.
///
/// # Errors
/// Why nothing was changed.
pub fn switch(arguments: &SwitchArgs, switch: Switch) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let pid = arguments.pid;
    // Before it is asked: afterwards it is as it was asked to be.
    let was_on = if arguments.quiet { None } else { is_on(pid) };
    let mut session = Session::open(pid)?;
    let sites = switch_all(&mut session, arguments, switch).with_context(|| format!("process {pid}"))?;
    if !arguments.quiet {
        let done = match switch {
            Switch::Enable => "may be promoted",
            Switch::Disable if sites == 1 => "left to its retpoline",
            Switch::Disable => "left to their retpolines",
            Switch::Relearn => "to be learned anew",
        };
        let again = match (switch, was_on) {
            (Switch::Enable, Some(true)) if arguments.site.is_empty() => "promotion was on already; ",
            (Switch::Disable, Some(false)) => "promotion was off already; ",
            _ => "",
        };
        println!("process {pid}: {again}{} {done}, in {}", count(sites as usize, "site"), time(begun.elapsed()));
    }
    Ok(ExitCode::SUCCESS)
}

fn switch_all(session: &mut Session, arguments: &SwitchArgs, switch: Switch) -> anyhow::Result<u64> {
    let engine = engine_in(session)?;
    if !engine.is_live(&session.memory)? {
        bail!("the engine in it is asleep; wake it with relpoline attach");
    }
    let wanted = match switch {
        Switch::Enable => command::ENABLE,
        Switch::Disable => command::DISABLE,
        Switch::Relearn => command::RELEARN,
    };
    let mut changed = 0;
    for range in sites::ranges(session, &arguments.site)? {
        engine.set(&session.memory, field!(from), range.start)?;
        engine.set(&session.memory, field!(to), range.end)?;
        engine.ask(session, wanted)?;
        changed += engine.get(&session.memory, field!(sites))?;
    }
    if changed == 0 {
        bail!("no site is there: see the addresses in relpoline report");
    }
    Ok(changed)
}

/// Whether this is to be the broken variant `what`. Debug builds only.
pub(crate) fn is_broken(what: &str) -> bool {
    cfg!(debug_assertions) && std::env::var_os("RELPOLINE_BROKEN").is_some_and(|wanted| wanted == what)
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn time(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// How long threads stood still.
fn stops(session: &Session) -> String {
    let parts: Vec<String> = session.stops.iter().map(|(what, long)| format!("{} {what}", time(*long))).collect();
    format!("; threads stood still for {} ({})", time(session.stopped()), parts.join(", "))
}
