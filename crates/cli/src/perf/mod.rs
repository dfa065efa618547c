//! `relpoline perf`: names for gates and trees in perf(1).
//!
//! An arena is memory of no file, so perf has no names for what lies in it. Cells are append-only: what a
//! gate or a tree is, it is for ever. So this writes down what is known of a process now, as a jitdump file
//! (`jitdump`), and lets the process map a page of it, by which `perf inject --jit` finds the file. Asked
//! again, it writes the file anew.

mod jitdump;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use relpoline_stats::ObjectRecord;
use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::files::rights::Rights;
use crate::files::{Directory, open};
use crate::live::process::{FileId, file_id};
use crate::live::{self, Engine, Patience, clock, maps, memory};
use crate::report::{digest, now};
use crate::shown::Shown;
use crate::{attach, ending};
use jitdump::Code;

/// Bytes of a cell (`relpoline_text::cells`).
const CELL: u64 = 64;
/// Larger than any tree, and than all gates and trees of a process together.
const LARGEST: usize = 1 << 16;
const LARGEST_ALL: usize = 1 << 27;
/// Reading them takes no longer.
const LONGEST: Duration = Duration::from_secs(60);
/// What is mapped while the engine starts must be older than what is said of it: ticks are not that exact a
/// clock.
const MARGIN: f64 = 0.02;
const DRIFT: f64 = 1e-3;

/// Examples shown with `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline perf 4711
  perf record -k mono -g -p 4711 -- sleep 10
  relpoline perf 4711                     again, for what was promoted meanwhile
  perf inject --jit -i perf.data -o perf.jit
  perf report -i perf.jit

It writes jit-PID.dump, which the process maps a page of: no thread stands still for longer than that \
takes. Without it perf shows the samples as [memfd:relpoline], without names. Time must be that of the \
monotonic clock (-k mono).

Exit status: 0 done; 1 not done, and the process is unharmed.";

/// `relpoline perf`.
#[derive(Debug, Args)]
pub struct PerfArgs {
    /// The process.
    pub pid: u32,
    /// Where the file is made, the first time.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

/// Does what the command line asks.
///
/// # Errors
/// When there is no such engine, or it or its file cannot be reached.
pub fn run(arguments: &PerfArgs) -> anyhow::Result<ExitCode> {
    let pid = arguments.pid;
    let engine = live::one(pid)?;
    let codes = codes(&engine).map_err(|error| anyhow::anyhow!("process {pid}: {}", memory::why(&error)))?;
    ensure!(engine.process.is_there(), "process {pid} has just ended");
    let content = jitdump::file(pid, &codes);
    let path = match mapped(pid) {
        Some(place) => {
            rewrite(&place, &content, engine.process.user)
                .with_context(|| format!("{} cannot be written", place.path.display()))?;
            place.path
        }
        None => make(arguments, &engine, &content)?,
    };
    println!("process {pid}: {} pieces of code named in {}", codes.len(), Shown::of_bytes(path.as_os_str().as_bytes()));
    Ok(ExitCode::SUCCESS)
}

/// Makes the file, and lets the process map it.
fn make(arguments: &PerfArgs, engine: &Engine, content: &[u8]) -> anyhow::Result<PathBuf> {
    let pid = arguments.pid;
    let name = format!("jit-{pid}.dump");
    let path = std::path::absolute(&arguments.dir)?.join(&name);
    let cannot = || format!("{} cannot be made (--dir names another place)", path.display());
    // The process opens it by its path.
    let directory = Arc::new(Directory::for_process(&arguments.dir, engine.process.user).with_context(cannot)?);
    // Of no use before it is mapped.
    let (remove, _registered) = ending::register(|| {
        let made = create(&directory, &name, content, engine.process.user).with_context(cannot)?;
        let (directory, name) = (Arc::clone(&directory), name.clone());
        let remove = move || drop(directory.remove(&*name, &made));
        Ok((remove.clone(), Box::new(remove)))
    })?;
    attach::marker::map(&engine.process, &path).inspect_err(|_| remove())?;
    Ok(path)
}

/// A file that the process has mapped.
struct Mapped {
    path: PathBuf,
    file: FileId,
}

/// The file that an earlier call has made, if the process has it mapped.
fn mapped(pid: u32) -> Option<Mapped> {
    let name = format!("/jit-{pid}.dump");
    let mut found = None;
    let look = |line: maps::Line<'_>| {
        let is_it = line.path.starts_with(b"/") && line.path.ends_with(name.as_bytes());
        found = is_it.then(|| Mapped { path: OsStr::from_bytes(line.path).into(), file: (line.device, line.inode) });
        !is_it
    };
    maps::each(pid, look).ok()?;
    found
}

/// Writes it anew. The process says where it is, and may lie: only the very file that it has mapped, which it
/// owns and which has no other name, is written to.
fn rewrite(place: &Mapped, content: &[u8], user: u32) -> anyhow::Result<()> {
    let mut file = open::plain_for_change(&place.path)?;
    let meta = file.metadata()?;
    let is_it = file_id(&meta) == place.file && meta.uid() == user && meta.nlink() == 1;
    let mut start = [0; 4];
    file.read_exact(&mut start)?;
    ensure!(is_it && jitdump::is_start(start), "it is no jitdump file of that process");
    file.set_len(0)?;
    file.rewind()?;
    Ok(file.write_all(content)?)
}

/// Makes the file, for its owner's eyes: addresses are in it. The process must be able to open it.
fn create(directory: &Directory, name: &str, content: &[u8], user: u32) -> anyhow::Result<Stat> {
    // A process that had this number before has left it.
    let left = directory.look(name).ok().filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    if let Some(left) = left.filter(|stat| stat.st_uid == user || stat.st_uid == rustix::process::geteuid().as_raw()) {
        directory.remove(name, &left)?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file: File = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?.into();
    file.write_all(content)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(&file, Some(user), None)?;
    }
    Ok(rustix::fs::fstat(&file)?)
}

/// What is known of a process' gates and trees.
fn codes(engine: &Engine) -> io::Result<Vec<Code>> {
    let mut symbols = engine.symbols();
    let objects: Vec<ObjectRecord> = digest::objects(&engine.stats());
    let mapped: Vec<_> = {
        // The names are written down for that user, who may have named files that only root can read.
        let _rights = Rights::of(engine.process.user, engine.process.group)?;
        objects.iter().map(|record| symbols.map(record)).collect()
    };
    let pid = engine.process.pid;
    let _patience = Patience::of(LONGEST);
    // Statistics are what the process says, and what it may read itself its user need not: only what is code
    // of an engine's.
    let arenas = arenas(pid)?;
    let is_code = |address: u64, size: u64| {
        arenas.iter().any(|&(start, end)| start <= address && size <= end.saturating_sub(address))
    };
    let (mut codes, mut left) = (Vec::new(), LARGEST_ALL);
    for (_, record) in now::sites(engine) {
        let site = symbols.name(&mapped, record.address).unwrap_or_else(|| format!("{:#x}", record.address).into());
        let parts = [
            ("gate", record.gate, CELL),
            ("tree", record.tree, CELL),
            ("tree", record.tree_body, u64::from(record.tree_body_bytes)),
            ("recording stub", record.recording, CELL),
        ];
        for (what, address, size) in parts.into_iter().filter(|(_, at, size)| *size != 0 && is_code(*at, *size)) {
            let size = usize::try_from(size).unwrap_or(LARGEST).min(LARGEST);
            left = left.checked_sub(size).ok_or(io::ErrorKind::FileTooLarge)?;
            let mut bytes = vec![0; size];
            memory::read(pid, address, &mut bytes)?;
            codes.push(Code { name: format!("{what} of {site}"), address, bytes, since: since(engine) });
        }
    }
    Ok(codes)
}

/// Where the engine's code lies.
fn arenas(pid: u32) -> io::Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    maps::each(pid, |line| {
        if line.access.starts_with(b"r-x") && line.path.starts_with(b"/memfd:relpoline") {
            found.push((line.start, line.end));
        }
        true
    })?;
    Ok(found)
}

/// When the engine had started, by the monotonic clock.
fn since(engine: &Engine) -> Duration {
    let stats = engine.stats();
    let header = stats.header();
    let age = clock::seconds(header.start_tsc.saturating_add(header.startup_cycles), clock::now());
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default());
    now.saturating_sub(Duration::from_secs_f64((age * (1.0 - DRIFT) - MARGIN).max(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_a_jitdump_file_that_is_the_process_own_is_written_anew() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        let directory = Directory::named(base.path()).unwrap();
        let user = rustix::process::geteuid().as_raw();
        let content = jitdump::file(1, &[]);
        create(&directory, "a", &content, user).unwrap();
        let mapped = |name: &str| Mapped {
            path: at(name),
            file: fs::metadata(at(name)).map_or(((0, 0), 0), |meta| file_id(&meta)),
        };
        rewrite(&mapped("a"), &content, user).unwrap();
        assert_eq!(fs::read(at("a")).unwrap(), content);
        assert!(rewrite(&mapped("a"), &content, user + 1).is_err(), "another user's");
        assert!(
            rewrite(&Mapped { file: (mapped("a").file.0, 1), ..mapped("a") }, &content, user).is_err(),
            "another file of that name"
        );
        fs::write(at("other"), "precious").unwrap();
        assert!(rewrite(&mapped("other"), &content, user).is_err());
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        assert!(rewrite(&mapped("link"), &content, user).is_err());
        assert!(create(&directory, "link", &content, user).is_err());
        fs::hard_link(at("a"), at("second")).unwrap();
        assert!(rewrite(&mapped("second"), &content, user).is_err(), "it has another name");
        assert_eq!(fs::read_to_string(at("other")).unwrap(), "precious");
    }

    /// The directory is the one that was looked at, whatever lies at its path since.
    #[test]
    fn a_directory_that_is_exchanged_meanwhile_does_not_matter() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        fs::create_dir(at("place")).unwrap();
        fs::create_dir(at("victim")).unwrap();
        let directory = Directory::named(&at("place")).unwrap();
        fs::rename(at("place"), at("moved")).unwrap();
        std::os::unix::fs::symlink(at("victim"), at("place")).unwrap();
        let user = rustix::process::geteuid().as_raw();
        let made = create(&directory, "a", b"content", user).unwrap();
        assert_eq!(fs::read(at("moved/a")).unwrap(), b"content");
        directory.remove("a", &made).unwrap();
        assert!([at("moved"), at("victim")].iter().all(|place| fs::read_dir(place).unwrap().count() == 0));
    }
}
