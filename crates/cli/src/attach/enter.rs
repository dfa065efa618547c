//! `relpoline attach`: the engine into a process that runs.
//!
//! ```text
//! room      a thread maps memory for the engine       a short stop of one thread
//! load      the engine's bytes, relocated             nobody stops
//! serve     a thread makes one that serves us         a short stop of one thread
//! notice    the loader's notice leads to the engine   a short stop of all threads
//! prepare   sites are found, gates built              nobody stops
//! commit    the text: sites lead to their gates       a short stop of all threads
//! ```
//! Killed at any point, we leave a program that runs as before, or in which some sites lead to their gates,
//! which is right too; the next attach goes on from there.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use relpoline_stats::control::{Displacement, ENTRIES, command, flag, hook, phase};

use super::load::{self, Library, Lists};
use super::loader::Loaded;
use super::memory::{Memory, Space as _};
use super::remote::{Jump, Remote, field};
use super::session::{PATIENCE, Session};
use super::text::{Edit, Edited, Way};
use super::tracee::Others;
use super::{hooks, is_broken};

/// On a machine with far too much to do, the engine may give up before we come to say go.
const TRIES: u32 = 5;

/// What came of it.
#[derive(Debug)]
pub struct Entered {
    /// The engine.
    pub engine: Remote,
    /// Sites that lead to their gates.
    pub edited: Edited,
    /// It hears of no sandbox, and makes no system call on the program's threads.
    pub is_sealed: bool,
}

/// Puts the engine into the process and lets the program's sites lead to it.
pub fn enter(session: &mut Session, file: &Path, options: &OsStr) -> anyhow::Result<Entered> {
    let objects = session.loader.objects(&session.memory)?;
    let library = Library::find(&session.memory, &objects)?;
    let engine = match Remote::find(&session.memory, &objects)? {
        Some(engine) if engine.is_live(&session.memory)? => bail!("it has an engine already"),
        Some(engine) => engine,
        None => load::load(session, &std::fs::read(file)?, &library)?,
    };
    let (mut jumps, iterate) = entries(&engine, &session.memory, &library)?;
    // Preloaded, it has seen to that itself.
    let is_sealed = !engine.is_preloaded && jumps.is_empty();
    let flags = if jumps.is_empty() { 0 } else { flag::FOLLOW } | if is_sealed { flag::SEALED } else { 0 };
    engine.set(&session.memory, field!(flags), u64::from(flags))?;
    let find_object = library.symbols.get("_dl_find_object").unwrap_or(0);
    engine.set(&session.memory, field!(find_object), find_object)?;
    engine.set(&session.memory, field!(iterate), iterate.map_or(0, |jump| jump.at))?;
    prepare(session, &engine, file, options)?;
    jumps.extend(iterate);
    let edited = commit(session, &engine, &jumps)?;
    Ok(Entered { engine, edited, is_sealed })
}

/// The C library's functions that are to be led to the engine; those that were before, by a predecessor or by
/// the engine, as they were noted. First those that are led all or none, then the one by which unwinders
/// walk.
fn entries(engine: &Remote, memory: &Memory, library: &Library) -> anyhow::Result<(Vec<Jump>, Option<Jump>)> {
    let (iterate, noted): (Vec<Jump>, Vec<Jump>) = engine.jumps(memory)?.into_iter().partition(hooks::is_of_unwinders);
    // A preloaded one would have done it, if it could be done.
    let is_new = !engine.is_preloaded;
    let (of_libc, own) = (&library.symbols, &engine.symbols);
    let planned = || if is_new { hooks::plan_iterate(memory, of_libc, own) } else { None };
    let iterate = iterate.first().copied().or_else(planned);
    if noted.len() > ENTRIES.len() {
        return Ok((noted[hook::PRCTL..].to_vec(), iterate));
    }
    Ok((if is_new { hooks::plan(memory, of_libc, own) } else { Vec::new() }, iterate))
}

/// Lets the engine find the sites and build their gates, while the program runs and the loader waits if it
/// has to.
fn prepare(session: &mut Session, engine: &Remote, file: &Path, options: &OsStr) -> anyhow::Result<()> {
    let notice = hooks::of_notice(&session.memory, &session.loader, engine)?;
    let Some(notice) = notice else { bail!("its dynamic loader is not one that is known; only glibc is supported") };
    engine.set(&session.memory, field!(loader), session.loader.debug)?;
    let mut tries = TRIES;
    loop {
        engine.set(&session.memory, field!(go), 0)?;
        engine.begin(session, command::PREPARE)?;
        engine.await_phase(session, &[phase::WAITING, phase::DONE])?;
        let told = tell(session, engine, notice, file, options);
        // In any case: it gives up by itself when it is not told to go.
        let finished = engine.finish(session);
        tries -= 1;
        if tries == 0 || told.is_err() || !engine.gave_up(&session.memory)? {
            return told.and(finished);
        }
    }
}

fn tell(session: &mut Session, engine: &Remote, notice: Jump, file: &Path, options: &OsStr) -> anyhow::Result<()> {
    note(engine, &session.memory, notice)?;
    let objects = lead_notice(session, notice)?;
    Lists::new(engine).write(engine, &session.memory, &objects, options, file)?;
    engine.set(&session.memory, field!(go), 1)
}

/// Notes the loader's notice as the first of the jumps.
fn note(engine: &Remote, memory: &Memory, notice: Jump) -> anyhow::Result<()> {
    let mut noted = engine.jumps(memory)?;
    match noted.first_mut() {
        Some(first) => *first = notice,
        None => noted.push(notice),
    }
    engine.note_jumps(memory, &noted)
}

/// Leads the loader's notice to the engine, at a moment when the list of objects is complete; that list.
///
/// It is read after that. From then on, and until the engine has looked at it, nothing is unmapped: whoever
/// wants to waits in the notice. A list that was read before would name objects that are gone, and the
/// engine's thread, which has all signals blocked, would die of them, and the process with it.
fn lead_notice(session: &mut Session, notice: Jump) -> anyhow::Result<Vec<Loaded>> {
    let deadline = Instant::now() + PATIENCE;
    // The broken variant that the tests must catch.
    let too_early = is_broken("listed-too-early").then(|| session.loader.objects(&session.memory));
    if too_early.is_some() {
        std::thread::sleep(Duration::from_millis(20));
    }
    loop {
        let others = session.stop_all()?;
        let at_rest = session.loader.is_at_rest(&session.memory)?;
        let written = if at_rest { hooks::write(&session.memory, &[notice], true) } else { Ok(()) };
        end_stop(session, others, "leading the loader's notice")?;
        written?;
        if at_rest {
            return too_early.unwrap_or_else(|| listed(session, deadline));
        }
        ensure!(Instant::now() < deadline, "it loads and unloads libraries all the time; try again");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What is listed, while nothing is unmapped. Something may still be mapped: it may be listed after the
/// mappings were read and before the list is, and is looked at again then.
fn listed(session: &Session, deadline: Instant) -> anyhow::Result<Vec<Loaded>> {
    loop {
        let objects = session.loader.objects_now(&session.memory);
        if objects.is_ok() || Instant::now() >= deadline {
            return objects;
        }
        std::thread::sleep(Duration::from_micros(300));
    }
}

fn end_stop(session: &mut Session, others: Others, what: &'static str) -> anyhow::Result<()> {
    let begun = others.begun;
    session.go_on()?;
    drop(others);
    session.stops.push((what, begun.elapsed()));
    Ok(())
}

/// Leads the sites to their gates.
fn commit(session: &mut Session, engine: &Remote, jumps: &[Jump]) -> anyhow::Result<Edited> {
    let notice = engine
        .jumps(&session.memory)?
        .first()
        .copied()
        .context("the engine in it has forgotten the loader's notice")?;
    let all = [&[notice], jumps].concat();
    engine.note_jumps(&session.memory, &all)?;
    change(session, engine, &all, Way::ToGates)
}

/// Changes the text one way or the other.
pub fn change(session: &mut Session, engine: &Remote, jumps: &[Jump], way: Way) -> anyhow::Result<Edited> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let displacements = engine.displacements(&session.memory)?;
        let before = session.loader.links(&session.memory)?;
        if let Some(edited) = try_change(session, engine, jumps, way, &displacements, &before)? {
            return Ok(edited);
        }
        ensure!(Instant::now() < deadline, "it loads and unloads libraries all the time; try again");
        std::thread::sleep(Duration::from_millis(1));
        // Libraries may have gone.
        let again = if way == Way::Back { command::SLEEP } else { command::LIST };
        engine.ask(session, again)?;
    }
}

type Links = Vec<(u64, u64, u64, u64)>;

/// In one stop. `None` when it is not the moment: libraries are being loaded, or a thread is where it must
/// not be.
fn try_change(
    session: &mut Session,
    engine: &Remote,
    jumps: &[Jump],
    way: Way,
    displacements: &[Displacement],
    before: &Links,
) -> anyhow::Result<Option<Edited>> {
    let edit = Edit::new(way, displacements, &session.memory.mappings()?);
    edit.copy_pages(&session.memory);
    let generation = engine.get(&session.memory, field!(listed))?;
    let others = session.stop_all()?;
    let edited = (|| {
        let memory = &session.memory;
        let is_moment = session.loader.is_at_rest(memory)?
            && session.loader.links(memory).is_ok_and(|now| now == *before)
            && engine.get(memory, field!(generation))? == generation
            && engine.is_unlocked(memory)?
            && !anybody_inside(session, &others, jumps)?;
        if !is_moment {
            return Ok(None);
        }
        make(engine, memory, &edit, jumps, way).map(Some)
    })();
    let what = if way == Way::Back { "putting the text back" } else { "leading the sites to their gates" };
    end_stop(session, others, what)?;
    edited
}

fn anybody_inside(session: &Session, others: &Others, jumps: &[Jump]) -> anyhow::Result<bool> {
    others.iter().chain([session.thread()]).try_fold(false, |any, thread| Ok(any || hooks::is_inside(thread, jumps)?))
}

/// The engine hears of sandboxes before sites lead to it, and as long as they do.
fn make(engine: &Remote, memory: &Memory, edit: &Edit, jumps: &[Jump], way: Way) -> anyhow::Result<Edited> {
    if way == Way::ToGates {
        hooks::write(memory, jumps, true)?;
        engine.set(memory, field!(live), 1)?;
        return edit.make(memory);
    }
    let edited = edit.make(memory)?;
    engine.set(memory, field!(live), 0)?;
    hooks::write(memory, jumps, false)?;
    Ok(edited)
}
