//! What retpolines cost where nobody counts: seen from outside, now and then, for a moment.
//!
//! A site that was refused is left as it was found, so nothing of ours counts its calls. But whoever waits
//! for a run, or reports on a process, may have the kernel note a thousand times in each second of a thread's
//! time where that thread is ([`event`]). The share of the samples that are in a retpoline is the share of
//! the time that goes there, and the stack tells whose it is, if it was called ([`code`]).
//!
//! ```text
//! Window     some threads are watched for a tenth of a second
//! OfProcess  what all windows have seen of a process
//! Sampler    when a run's processes are watched: half of the time at first, later seldom
//! ```
//! A sample takes the thread some microseconds: a thread that is watched all the time loses 0.3 % or so.
//! Nobody is stopped, and a process that nobody watches pays nothing.

pub mod code;
pub mod event;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use relpoline_stats::live::Name;

use crate::live::process::Process;
use crate::live::shelf;
use code::{Code, Place};
use event::{Event, PERIOD};

/// So long threads are watched at a time.
const WINDOW: Duration = Duration::from_millis(100);
/// The first time is so long after the start.
const FIRST: Duration = Duration::from_millis(10);
/// Between two times there are at least and at most
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// and otherwise so many parts of what has passed since the start.
const PARTS: u32 = 10;
/// Threads that are watched at a time.
const THREADS: usize = 32;
/// Processes that are looked at.
const PROCESSES: usize = 64;
/// Places that are told apart in a process.
const PLACES: usize = 1 << 14;
/// Fewer samples say nothing.
pub const ENOUGH: u64 = 100;

/// What was seen of a process.
#[derive(Default, Debug)]
pub struct OfProcess {
    /// Nanoseconds that its threads ran while they were watched.
    pub watched: u64,
    /// Samples, wherever its threads were.
    pub samples: u64,
    /// Of them, those in retpolines.
    pub places: HashMap<Place, u64>,
    /// Processor seconds that it had run when it was last looked at.
    pub ran: Option<f64>,
    code: Code,
}

impl OfProcess {
    /// Whether there are enough samples to say something.
    #[must_use]
    pub fn says_something(&self) -> bool {
        self.samples >= ENOUGH
    }

    /// Samples in, or just behind, the retpolines of each call. Which instruction is a function's first one
    /// is asked.
    #[must_use]
    pub fn by_site(&self, is_first: impl Fn(u64) -> bool) -> HashMap<u64, u64> {
        let mut by_site = HashMap::new();
        for (place, samples) in &self.places {
            match *place {
                Place::Site(site) => *by_site.entry(site).or_default() += samples,
                Place::Behind { site, at } if is_first(at) => *by_site.entry(site).or_default() += samples,
                Place::Behind { .. } | Place::Thunk(_) => {}
            }
        }
        by_site
    }

    /// Which share of the process' time a sample stands for.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub fn share_of_one(&self) -> f64 {
        // A thread that ran for less than that may have a sample.
        PERIOD as f64 / self.watched.max(PERIOD * self.samples).max(1) as f64
    }

    fn add(&mut self, pid: u32, event: &Event) {
        self.watched = self.watched.saturating_add(event.ran().unwrap_or_default());
        let read = code::of_process(pid);
        for sample in event.samples() {
            self.samples += 1;
            let Some(place) = self.code.place(&sample, &read) else { continue };
            if self.places.len() < PLACES || self.places.contains_key(&place) {
                *self.places.entry(place).or_default() += 1;
            }
        }
    }
}

/// Threads that are being watched.
#[derive(Debug)]
struct Window {
    events: Vec<(Name, u32, Event)>,
    until: Instant,
}

impl Window {
    /// Watches threads of these processes, from the one of this number on.
    ///
    /// # Errors
    /// When none can be watched, and why the first one cannot.
    fn open(processes: &[(Name, u32)], from: usize, long: Duration) -> io::Result<Self> {
        let threads: Vec<(Name, u32, libc::pid_t)> = processes
            .iter()
            .flat_map(|&(name, pid)| threads_of(pid).into_iter().map(move |thread| (name, pid, thread)))
            .collect();
        let samples = usize::try_from(long.as_nanos() as u64 / PERIOD + 1).unwrap_or_default();
        let (mut events, mut failure) = (Vec::new(), None);
        let turn = threads.iter().cycle().skip(from % threads.len().max(1));
        for &(name, pid, thread) in turn.take(threads.len().min(THREADS)) {
            match Event::of(thread, samples) {
                Ok(event) => events.push((name, pid, event)),
                // One that has just ended is no failure.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            Some(error) if events.is_empty() => Err(error),
            _ => Ok(Self { events, until: Instant::now() + long }),
        }
    }

    /// Ends it, and adds what was seen.
    fn close(self, into: &mut HashMap<Name, OfProcess>) {
        for (name, pid, event) in &self.events {
            let of = into.entry(*name).or_default();
            of.add(*pid, event);
            of.ran = Process::of(*pid).and_then(|process| process.processor_seconds()).or(of.ran);
        }
    }
}

fn threads_of(pid: u32) -> Vec<libc::pid_t> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

/// Watches the processes of a run.
#[derive(Debug)]
pub struct Sampler {
    /// Where their statistics are.
    directory: PathBuf,
    begun: Instant,
    next: Instant,
    window: Option<Window>,
    /// How many windows there were.
    windows: usize,
    seen: HashMap<Name, OfProcess>,
    /// Why nobody can be watched.
    failure: Option<io::Error>,
}

impl Sampler {
    /// Of a run that begins now, whose processes write their statistics to `directory`.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        let begun = Instant::now();
        let next = begun + FIRST;
        Self {
            directory: directory.to_owned(),
            begun,
            next,
            window: None,
            windows: 0,
            seen: HashMap::new(),
            failure: None,
        }
    }

    /// How long to wait until [`Self::look`]; `None` when there is nothing to wait for.
    #[must_use]
    pub fn pause(&self) -> Option<Duration> {
        self.failure.is_none().then(|| self.next.saturating_duration_since(Instant::now()))
    }

    /// Begins or ends to watch, if it is time to.
    pub fn look(&mut self) {
        if self.failure.is_some() || Instant::now() < self.next {
            return;
        }
        if let Some(window) = self.window.take() {
            window.close(&mut self.seen);
            self.next = Instant::now() + (self.begun.elapsed() / PARTS).clamp(SHORTEST, LONGEST);
            return;
        }
        match Window::open(&self.processes(), self.windows * THREADS, WINDOW) {
            Ok(window) => {
                self.next = window.until;
                self.window = Some(window);
                self.windows += 1;
            }
            Err(error) => self.failure = Some(error),
        }
    }

    fn processes(&self) -> Vec<(Name, u32)> {
        let Ok(shelf) = shelf::of_run(&self.directory) else { return Vec::new() };
        let is_it = |name: &Name| {
            let process = Process::of(name.pid).filter(|process| process.may_be(name))?;
            (name.started == 0 || name.started == process.started).then_some((*name, process.pid))
        };
        shelf.names().take(PROCESSES).filter_map(|name| is_it(&name)).collect()
    }

    /// What was seen of a process. When the run has ended, [`Self::end`] comes first.
    #[must_use]
    pub fn seen(&self, name: &Name) -> Option<&OfProcess> {
        self.seen.get(name)
    }

    /// Why nobody could be watched.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.as_ref().map(why)
    }

    /// Takes in what the last window has seen.
    pub fn end(&mut self) {
        if let Some(window) = self.window.take() {
            window.close(&mut self.seen);
        }
    }
}

/// Watches a process for so long.
///
/// # Errors
/// When that cannot be.
pub fn once(process: &Process, long: Duration) -> io::Result<OfProcess> {
    let name = Name { pid: process.own_pid, namespace: 0, started: process.started };
    let window = Window::open(&[(name, process.pid)], 0, long)?;
    std::thread::sleep(long);
    let mut seen = HashMap::new();
    window.close(&mut seen);
    Ok(seen.remove(&name).unwrap_or_default())
}

/// Why nobody can be watched, in words.
#[must_use]
pub fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            "not permitted: run as root, or lower kernel.perf_event_paranoid to 2".to_owned()
        }
        Some(libc::ENOSYS) => "this kernel has no perf_event_open".to_owned(),
        _ => error.to_string(),
    }
}
