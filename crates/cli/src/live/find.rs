//! Finding engines by the statistics files they keep.
//!
//! Who writes these files may write anything, also names, and may exchange directories while we look. So
//! directories are opened once, and all that is in them is opened and removed by them ([`super::shelf`]); and
//! what one user's directory costs has a bound, which hides nobody else's engines.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use relpoline_stats::file::text;
use relpoline_stats::live::Name;
use relpoline_stats::{Header, Layout, Malformed, Plain, SiteRecord, Stats};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use super::patience::Patience;
use super::process::{FileId, Process, file_id};
use super::shelf::{self, Shelf};
use crate::symbols::Symbols;

/// More than a file of the engine's can have; a hostile program might write more into its own.
const MOST_BYTES: u64 = Layout::MOST.file_size() as u64;
/// What lists and totals need: the header and the objects.
const HEAD_BYTES: usize = Layout::MOST.event_offset();
/// Looking at all processes takes no longer, whatever they do.
const LONGEST: Duration = Duration::from_secs(60);
/// The same of the lists of what one user's processes have mapped; he may make them long. Without its list a
/// process is known by its number, start, user and name. And of the files in the mount namespaces that are
/// his.
const LISTS: Duration = Duration::from_secs(2);
/// What reading the strays of a run may take, and all that is made of them meanwhile.
const STRAYS: Duration = Duration::from_secs(10);
/// Times a record is read again that is just being written.
const PATIENCE: u32 = 4;

/// An engine that runs in a process.
#[derive(Debug)]
pub struct Engine {
    /// The process.
    pub process: Process,
    /// Its statistics, as they were when they were read: of one in a list, only what lists need.
    bytes: Vec<u8>,
    file: File,
    /// It has another root directory than we.
    is_elsewhere: bool,
}

impl Engine {
    /// Names for its addresses, as far as its files can be read.
    pub fn symbols(&self) -> Symbols {
        Symbols::below(if self.is_elsewhere { self.process.root() } else { PathBuf::new() })
    }

    /// What it says.
    pub fn stats(&self) -> Stats<'_> {
        // Checked when it was read.
        Stats::parse(&self.bytes).unwrap_or_else(|_| unreachable!("statistics are parsed before they are kept"))
    }

    /// Reads what it says now. False, with nothing changed, when the process is gone.
    pub fn refresh(&mut self) -> bool {
        let still = Process::of(self.process.pid)
            .is_some_and(|now| (now.user, now.started) == (self.process.user, self.process.started));
        let fresh = read(&self.file).filter(|bytes| still && Stats::parse(bytes).is_ok());
        let found = fresh.is_some();
        self.bytes = fresh.unwrap_or_else(|| std::mem::take(&mut self.bytes));
        found
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Engines, by process number.
    pub engines: Vec<Engine>,
    /// Processes with statistics that cannot be understood, and why.
    pub unread: Vec<(Process, Malformed)>,
}

/// The engines of all processes that we may look at, with what lists need of their statistics. Removes files
/// that were left behind by processes that are gone.
pub fn all() -> Found {
    let _patience = Patience::of(LONGEST);
    // Each engine's file stays open.
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let processes = Processes::all();
    let mut seen = BTreeSet::new();
    let mut found = Found::default();
    let mut elsewhere: HashMap<u32, Duration> = HashMap::new();
    for (user, root) in roots(&processes.all) {
        // Root's may be containers, which are not each other's.
        let spent = elsewhere.entry(user).or_default();
        let left = if user == 0 { shelf::LONGEST } else { shelf::LONGEST.saturating_sub(*spent) };
        let begun = shelf::processor_time();
        shelf::each(&root, left, &mut |shelf, name| {
            let Ok(file) = shelf.open(name) else { return };
            let Ok(meta) = file.metadata() else { return };
            if !seen.insert((meta.dev(), meta.ino())) {
                return;
            }
            match processes.owner(name, &file, &meta) {
                Some(process) => found.add(process.clone(), file),
                None => shelf.forget(name, &file),
            }
        });
        *spent += shelf::processor_time().saturating_sub(begun);
    }
    found.engines.sort_by_key(|engine| engine.process.pid);
    found
}

/// All processes, to find those that own files among them.
struct Processes {
    all: Vec<Process>,
    /// Their places in the list, by the numbers that they have for themselves.
    by_own_pid: HashMap<u32, Vec<usize>>,
    /// The files that they have mapped, as far as that was asked and we may know it.
    mapped: RefCell<HashMap<u32, Option<BTreeSet<FileId>>>>,
    /// What that took, by user.
    spent: RefCell<HashMap<u32, Duration>>,
}

impl Processes {
    fn all() -> Self {
        let all = Process::all();
        let mut by_own_pid: HashMap<u32, Vec<usize>> = HashMap::new();
        for (at, process) in all.iter().enumerate() {
            by_own_pid.entry(process.own_pid).or_default().push(at);
        }
        Self { all, by_own_pid, mapped: RefCell::default(), spent: RefCell::default() }
    }

    /// The process whose file it is: the one that has it mapped, if the file can be its own and not another
    /// user's who had it mapped there; or, when we may not know that, the one of that number, start and user
    /// that bears the program's name.
    fn owner(&self, name: &Name, file: &File, meta: &fs::Metadata) -> Option<&Process> {
        let mut unknown = None;
        let named = self.by_own_pid.get(&name.pid)?.iter().filter_map(|&at| self.all.get(at));
        let can_be = |process: &&Process| process.may_be(name) && process.may_own(meta.uid());
        for process in named.filter(can_be) {
            match self.maps(process, file_id(meta)) {
                Some(true) => return Some(process),
                Some(false) => {}
                None if name.started == 0 || name.started == process.started => unknown = Some(process),
                None => {}
            }
        }
        unknown.filter(|process| process.user == meta.uid() && is_named_like(process, file))
    }

    /// Whether a process has a file mapped; `None` when we may not know. Asked once of each: it may take long
    /// to tell.
    fn maps(&self, process: &Process, file: FileId) -> Option<bool> {
        let mut mapped = self.mapped.borrow_mut();
        let files = mapped.entry(process.pid).or_insert_with(|| self.mapped_files(process));
        files.as_ref().map(|files| files.contains(&file))
    }

    fn mapped_files(&self, process: &Process) -> Option<BTreeSet<FileId>> {
        let mut all = self.spent.borrow_mut();
        let spent = all.entry(process.user).or_default();
        if *spent > LISTS {
            return None;
        }
        let begun = Instant::now();
        let found = process.mapped_files();
        *spent += begun.elapsed();
        found
    }
}

impl Found {
    /// A process has one engine. What it has mapped besides is not looked at: each costs a descriptor, and
    /// memory.
    fn add(&mut self, process: Process, file: File) {
        if self.engines.iter().any(|engine| engine.process.pid == process.pid) {
            return;
        }
        let Some(bytes) = read_head(&file) else { return };
        match Stats::parse(&bytes) {
            Ok(_) => self.engines.push(engine(process, file, bytes)),
            // Just starting.
            Err(Malformed::Magic) => {}
            Err(why) => self.unread.push((process, why)),
        }
    }
}

/// The engine in process `pid`.
///
/// # Errors
/// A sentence that says why there is none to be seen, and what to do.
pub fn one(pid: u32) -> anyhow::Result<Engine> {
    let found = all();
    if let Some(mut engine) = found.engines.into_iter().find(|engine| engine.process.pid == pid) {
        // All of it, unless it ends just now.
        engine.refresh();
        return Ok(engine);
    }
    if let Some((process, why)) = found.unread.into_iter().find(|(process, _)| process.pid == pid) {
        bail!("the statistics of process {pid} ({}) cannot be read: {why}", process.name);
    }
    let Some(process) = Process::of(pid) else { bail!("there is no process {pid}") };
    let name = &process.name;
    let us = rustix::process::geteuid().as_raw();
    ensure!(
        us == 0 || process.user == us,
        "process {pid} ({name}) belongs to another user; run relpoline as that user or as root"
    );
    bail!(
        "process {pid} ({name}) runs without an engine, or keeps no statistics; start it with `relpoline run -- …`, or put one in with `relpoline attach {pid}`"
    )
}

/// The statistics of the processes of a run that are not in its directory, since they have changed their
/// user: by their files' names, each read when it is asked for. They are removed: whoever asks collects them.
/// Such a user may put there what he likes, so what is done with them all takes only so long.
pub fn strays(run: u64) -> impl Iterator<Item = (Name, Vec<u8>)> {
    let mut found = Vec::new();
    shelf::each(Path::new(""), shelf::LONGEST, &mut |shelf, name| {
        let is_stray = |file: &File| header(file).is_some_and(|header| header.run == run);
        if !shelf.is_of_run() && shelf.open(name).is_ok_and(|file| is_stray(&file)) {
            found.push((shelf.clone(), *name));
        }
    });
    let begun = shelf::processor_time();
    let has_time = move || shelf::processor_time().saturating_sub(begun) < STRAYS;
    found.into_iter().take_while(move |_| has_time()).filter_map(|(shelf, name)| Some((name, take(&shelf, &name)?)))
}

/// Reads a file and removes it.
fn take(shelf: &Shelf, name: &Name) -> Option<Vec<u8>> {
    let file = shelf.open(name).ok()?;
    let bytes = read(&file).filter(|bytes| Stats::parse(bytes).is_ok())?;
    shelf.remove(name, &file);
    Some(bytes)
}

/// The root directories of all mount namespaces we may look into, with the users that have processes there;
/// our own, as an empty path, first.
fn roots(processes: &[Process]) -> Vec<(u32, PathBuf)> {
    let mut seen: BTreeSet<u64> = Process::of(std::process::id()).and_then(|me| me.mounts()).into_iter().collect();
    let foreign = processes.iter().filter(|process| process.mounts().is_some_and(|mounts| seen.insert(mounts)));
    let mut roots: Vec<_> = foreign.map(|process| (process.user, process.root())).collect();
    roots.sort_by_key(|(user, _)| *user);
    roots.insert(0, (0, PathBuf::new()));
    roots
}

/// Whether a process is called like the program in its statistics. The system keeps 15 bytes of a name.
fn is_named_like(process: &Process, file: &File) -> bool {
    let program = header(file).map(|header| header.program);
    let name = program.as_ref().map(|path| text(path).rsplit(|&byte| byte == b'/').next().unwrap_or_default());
    name.is_some_and(|name| name.get(..name.len().min(15)) == Some(process.name.as_bytes()))
}

fn engine(process: Process, file: File, bytes: Vec<u8>) -> Engine {
    let ours = Process::of(std::process::id()).and_then(|me| me.mounts());
    let is_elsewhere = process.mounts().is_some_and(|mounts| ours != Some(mounts)) || is_chrooted(&process);
    Engine { process, bytes, file, is_elsewhere }
}

/// Whether it has changed its root directory.
fn is_chrooted(process: &Process) -> bool {
    fs::read_link(process.root()).is_ok_and(|root| root != Path::new("/"))
}

/// The bytes of a statistics file that are in use, with every site's record whole.
pub fn read(file: &File) -> Option<Vec<u8>> {
    let header = header(file)?;
    let sites = u64::from(header.site_count) * SiteRecord::SIZE as u64;
    let used = (u64::from(header.site_offset) + sites).min(MOST_BYTES).min(file.metadata().ok()?.len());
    let used = usize::try_from(used).ok()?;
    let mut bytes = read_start(file, used)?;
    let mut unsettled: Vec<usize> = (header.site_offset as usize..used).step_by(SiteRecord::SIZE).collect();
    for _ in 0..PATIENCE {
        let again = read_start(file, used)?;
        unsettled.retain(|&at| !settle(&mut bytes, &again, at));
        if unsettled.is_empty() {
            break;
        }
    }
    Some(bytes)
}

/// What lists need of a statistics file.
fn read_head(file: &File) -> Option<Vec<u8>> {
    let length = usize::try_from(file.metadata().ok()?.len()).ok()?;
    read_start(file, length.min(HEAD_BYTES))
}

/// What a file begins with, unchecked.
fn header(file: &File) -> Option<Header> {
    let mut head = [0; Header::SIZE];
    file.read_exact_at(&mut head, 0).ok()?;
    Header::load(&head)
}

/// The first `length` bytes of a file. Most of them were never written: of those no memory is taken, here
/// either.
fn read_start(file: &File, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        let (from, to) = match next_data(file, at as u64) {
            Ok(Some(range)) => range,
            Ok(None) => break,
            // A file system that keeps no account of holes.
            Err(_) => (at as u64, length as u64),
        };
        let range = usize::try_from(from).ok()?..usize::try_from(to).ok()?.min(length);
        let Some(part) = bytes.get_mut(range.clone()) else { break };
        file.read_exact_at(part, from).ok()?;
        at = range.end;
    }
    Some(bytes)
}

/// The next bytes of a file, from `at` on, that were written.
fn next_data(file: &File, at: u64) -> rustix::io::Result<Option<(u64, u64)>> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(from) => Ok(Some((from, rustix::fs::seek(file, SeekFrom::Hole(from))?))),
        // Nothing but a hole until the end.
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the record at `at` was whole when it was read: nobody was writing it, then or until it was read
/// again. Else the later copy takes its place.
fn settle(bytes: &mut [u8], again: &[u8], at: usize) -> bool {
    let range = at..at.saturating_add(SiteRecord::SIZE);
    let (Some(first), Some(second)) = (bytes.get_mut(range.clone()), again.get(range)) else { return true };
    let sequence = |record: &[u8]| SiteRecord::load(record).map_or(0, |site| site.sequence);
    let whole = sequence(first) == sequence(second) && sequence(first) & 1 == 0;
    if !whole {
        first.copy_from_slice(second);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_being_written_is_read_again() {
        let record = |sequence, hits| {
            let mut bytes = [0; SiteRecord::SIZE];
            SiteRecord { sequence, hits, ..SiteRecord::ZERO }.store(&mut bytes).unwrap();
            bytes
        };
        let mut bytes = record(2, 1);
        assert!(settle(&mut bytes, &record(2, 9), 0));
        assert_eq!(bytes, record(2, 1));
        for (first, then) in [(2, 4), (3, 3), (3, 4)] {
            let mut bytes = record(first, 1);
            assert!(!settle(&mut bytes, &record(then, 9), 0));
            assert_eq!(bytes, record(then, 9));
        }
    }

    /// Whose processes' lists took too long is known by less from then on, and nobody else is.
    #[test]
    fn the_lists_of_one_users_processes_take_only_so_long() {
        let me = Process::of(std::process::id()).unwrap();
        let (user, other) = (me.user, me.user + 1);
        let processes = |spent: &[(u32, Duration)]| Processes {
            all: vec![me.clone()],
            by_own_pid: HashMap::from([(me.own_pid, vec![0])]),
            mapped: RefCell::default(),
            spent: RefCell::new(spent.iter().copied().collect()),
        };
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let meta = file.metadata().unwrap();
        let id = file_id(&meta);
        // SAFETY: a new mapping of a file, which nobody uses.
        let mapped = unsafe {
            file.set_len(4096).unwrap();
            let flags = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
            rustix::mm::mmap(std::ptr::null_mut(), 4096, flags.0, flags.1, &file, 0).unwrap()
        };
        let name = Name { pid: me.own_pid, namespace: 0, started: me.started };
        assert_eq!(processes(&[]).maps(&me, id), Some(true));
        assert_eq!(processes(&[(other, LISTS * 2)]).maps(&me, id), Some(true));
        // Another device's file of the same number, and a user who is not the process', are somebody else's.
        assert_eq!(processes(&[]).maps(&me, ((id.0.0, id.0.1 + 1), id.1)), Some(false));
        assert!(me.may_own(me.user) && me.may_own(0) && !me.may_own(12345));
        assert!(processes(&[]).owner(&name, &file, &meta).is_some());
        let late = processes(&[(user, LISTS * 2)]);
        assert_eq!(late.maps(&me, id), None);
        // Nothing is in its statistics yet by which it would be known.
        assert_eq!(late.owner(&name, &file, &meta), None);
        let mut header = Header::ZERO;
        relpoline_stats::file::set_text(&mut header.program, me.name.as_bytes());
        let mut bytes = [0; Header::SIZE];
        header.store(&mut bytes).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        assert_eq!(late.owner(&name, &file, &file.metadata().unwrap()), Some(&me));
        // Another user's file, which happens to be mapped, is no engine's.
        if me.user == 0 {
            std::os::unix::fs::fchown(&file, Some(12345), None).unwrap();
            let meta = file.metadata().unwrap();
            assert_eq!(processes(&[]).owner(&name, &file, &meta), None);
            assert_eq!(late.owner(&name, &file, &meta), None);
        }
        // SAFETY: it was mapped above.
        unsafe { rustix::mm::munmap(mapped, 4096).unwrap() };
    }

    #[test]
    fn holes_are_read_as_zeros() {
        const MIB: u64 = 1 << 20;
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(9 * MIB).unwrap();
        for at in [0, 3 * MIB + 5, 8 * MIB] {
            file.write_all_at(b"written", at).unwrap();
        }
        let mut whole = vec![1; 9 << 20];
        file.read_exact_at(&mut whole, 0).unwrap();
        for length in [0, 3, 7, (3 << 20) + 7, 5 << 20, 9 << 20] {
            assert!(read_start(&file, length).unwrap() == whole[..length], "{length}");
        }
        assert!(read_start(&file, (9 << 20) + 1).is_some_and(|bytes| bytes[..9 << 20] == whole));
    }
}
