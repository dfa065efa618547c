//! Finding engines by the statistics files they keep.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use relpoline_stats::file::text;
use relpoline_stats::live::{Name, PREFIX, RUN_PREFIX, is_private};
use relpoline_stats::{Header, Malformed, Plain, SiteRecord, Stats};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::place;
use super::process::Process;
use crate::symbols::Symbols;

/// More than a file of the engine's can have; a hostile program might write more into its own.
const MOST_BYTES: u64 = 1 << 28;
/// Times a record is read again that is just being written.
const PATIENCE: u32 = 4;

/// An engine that runs in a process.
#[derive(Debug)]
pub struct Engine {
    /// The process.
    pub process: Process,
    /// Its statistics, as they were when they were read.
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
        let still = Process::of(self.process.pid).is_some_and(|now| now.user == self.process.user);
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

/// The engines of all processes that we may look at. Removes files of this user's that were left behind by processes
/// that are gone.
pub fn all() -> Found {
    let processes = Process::all();
    let mut seen = BTreeSet::new();
    let mut found = Found::default();
    for root in roots(&processes) {
        for path in files(&root) {
            let Some((file, name)) = open(&path) else { continue };
            let Ok(meta) = file.metadata() else { continue };
            if !seen.insert((meta.dev(), meta.ino())) {
                continue;
            }
            match owner(&processes, &name, &file, &meta) {
                Some(process) => found.add(process.clone(), file),
                None if root.as_os_str().is_empty() => forget(&path, &meta),
                None => {}
            }
        }
    }
    found.engines.sort_by_key(|engine| engine.process.pid);
    found
}

impl Found {
    fn add(&mut self, process: Process, file: File) {
        let Some(bytes) = read(&file) else { return };
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
    if let Some(engine) = found.engines.into_iter().find(|engine| engine.process.pid == pid) {
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

/// The statistics of the processes of a run that are not in its directory, since they have changed their user: by
/// their files' names. They are removed: whoever asks collects them.
pub fn strays(run: u64) -> Vec<(Name, Vec<u8>)> {
    let mut found = Vec::new();
    for path in files(Path::new("")) {
        if path.parent().and_then(Path::parent) != Some(Path::new("/dev/shm")) {
            continue;
        }
        let Some((file, name)) = open(&path) else { continue };
        // Only the header of those of others: there may be many, and large ones.
        if header(&file).is_none_or(|header| header.run != run) {
            continue;
        }
        let Some(bytes) = read(&file).filter(|bytes| Stats::parse(bytes).is_ok()) else { continue };
        let _ = fs::remove_file(&path);
        found.push((name, bytes));
    }
    found
}

/// The root directories of all mount namespaces we may look into; our own, as an empty path, first.
fn roots(processes: &[Process]) -> Vec<PathBuf> {
    let mut seen: BTreeSet<u64> = Process::of(std::process::id()).and_then(|me| me.mounts()).into_iter().collect();
    let foreign = processes.iter().filter(|process| process.mounts().is_some_and(|mounts| seen.insert(mounts)));
    std::iter::once(PathBuf::new()).chain(foreign.map(Process::root)).collect()
}

/// The statistics files below a root directory.
fn files(root: &Path) -> Vec<PathBuf> {
    // Not Path::join: an absolute path would replace the root.
    let base = PathBuf::from(format!("{}{PREFIX}", root.display()));
    let (Some(parent), Some(prefix)) = (base.parent(), base.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let users = entries(parent).filter_map(|(path, name)| Some((path, name.strip_prefix(prefix)?.parse().ok()?)));
    users.filter(|(path, user)| belongs_to(path, *user)).flat_map(|(path, _)| files_in(&path)).collect()
}

/// The statistics files in a user's directory, those of runs included.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (path, name) in entries(directory) {
        if Name::parse(name.as_bytes()).is_some() {
            found.push(path);
        } else if name.starts_with(RUN_PREFIX) {
            found.extend(entries(&path).map(|(path, _)| path).filter(|path| name_of(path).is_some()));
        }
    }
    found
}

/// What is in a directory: paths and names.
fn entries(directory: &Path) -> impl Iterator<Item = (PathBuf, String)> + use<> {
    let all = fs::read_dir(directory).into_iter().flatten().flatten();
    all.filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)))
}

/// Whether a directory is that user's alone.
fn belongs_to(path: &Path, user: u32) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| is_private(found.uid(), found.mode(), user))
}

/// Which process a file's name names, as that sees itself.
pub fn name_of(path: &Path) -> Option<Name> {
    Name::parse(path.file_name()?.as_encoded_bytes())
}

/// Opens a statistics file. The program could have put anything there: a link, a fifo, something endless.
pub fn open_careful(path: &Path) -> Option<File> {
    let careful = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(careful).open(path).ok()?;
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    Some(file)
}

fn open(path: &Path) -> Option<(File, Name)> {
    Some((open_careful(path)?, name_of(path)?))
}

/// The process whose file it is: the one that has it mapped, or, when we may not know that, the one of that number,
/// start and user that bears the program's name.
fn owner<'a>(processes: &'a [Process], name: &Name, file: &File, meta: &fs::Metadata) -> Option<&'a Process> {
    let mut unknown = None;
    for process in processes.iter().filter(|process| process.may_be(name)) {
        match process.maps(meta.ino()) {
            Some(true) => return Some(process),
            Some(false) => {}
            None if name.started == 0 || name.started == process.started => unknown = Some(process),
            None => {}
        }
    }
    unknown.filter(|process| process.user == meta.uid() && is_named_like(process, file))
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

/// Removes what a process that is gone has left behind: its file, or the directory of its run when nobody waits for
/// that any more. Only when we would know if it were still there.
fn forget(path: &Path, meta: &fs::Metadata) {
    let sees_all = super::process::sees_all();
    let us = rustix::process::geteuid().as_raw();
    let user = meta.uid();
    let Some(directory) = path.parent().filter(|_| sees_all && (us == 0 || us == user)) else { return };
    if directory == place::of_user(user) {
        let _ = fs::remove_file(path);
        return;
    }
    let keeper = directory.file_name().and_then(|name| place::keeper(name.to_str()?));
    if directory.parent() == Some(&place::of_user(user)) && keeper.is_some_and(|pid| Process::of(pid).is_none()) {
        let _ = fs::remove_dir_all(directory);
    }
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

/// What a file begins with, unchecked.
fn header(file: &File) -> Option<Header> {
    let mut head = [0; Header::SIZE];
    file.read_exact_at(&mut head, 0).ok()?;
    Header::load(&head)
}

/// The first `length` bytes of a file. Most of them were never written: of those no memory is taken, here either.
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

/// Whether the record at `at` was whole when it was read: nobody was writing it, then or until it was read again. Else
/// the later copy takes its place.
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

    #[test]
    fn a_directory_that_others_may_enter_is_passed_over() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let user = rustix::process::geteuid().as_raw();
        let directory = PathBuf::from(format!("{}{PREFIX}{user}", root.path().display()));
        fs::create_dir_all(directory.join("run-1-x")).unwrap();
        for name in ["7-1-2.stats", "7.stats", "other", "run-1-x/8-1-2.stats", "run-1-x/9"] {
            fs::write(directory.join(name), b"").unwrap();
        }
        for (mode, found) in [(0o700, 2), (0o755, 0), (0o1777, 0)] {
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(files(root.path()).len(), found, "{mode:o}");
        }
    }
}
