//! How much memory the processes of a program hold for themselves, sampled while it runs.
//!
//! What the engine costs is dirty memory: pages of text that it re-pointed, its tables, and the arena, which
//! is shared between its two mappings and with forked children. `Pss_Dirty` in `smaps_rollup` (Linux 6.0 or
//! later) counts just those, each page divided by the number of its mappings. The sum over all processes of a
//! program is taken every 50 ms, and its largest value kept. Sampling disturbs, so it is done in runs that
//! are not timed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

const PERIOD: Duration = Duration::from_millis(50);

/// The largest sums seen, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// Dirty memory of all processes.
    pub dirty: u64,
    /// Of it, pages of program text: those in which sites were re-pointed.
    pub text: u64,
}

/// What the engine added to a program's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The retpoline build by itself.
    pub without: Peak,
    /// The same under the engine.
    pub with: Peak,
}

impl Memory {
    /// Bytes that came with the engine.
    pub fn added(&self) -> u64 {
        self.with.dirty.saturating_sub(self.without.dirty)
    }
}

/// Runs `work` while the processes whose executable lies below `programs` are watched. No peak when there
/// were none.
pub fn watch<T>(programs: &Path, work: impl FnOnce() -> T) -> (T, Option<Peak>) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = Peak::default();
            while !over.load(Ordering::Acquire) {
                let now = sum(programs);
                peak = Peak { dirty: peak.dirty.max(now.dirty), text: peak.text.max(now.text) };
                thread::sleep(PERIOD);
            }
            peak
        });
        let result = work();
        over.store(true, Ordering::Release);
        (result, watch.join().ok().filter(|peak| peak.dirty > 0))
    })
}

/// What all such processes hold now.
fn sum(programs: &Path) -> Peak {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let is_ours = |process: &PathBuf| fs::read_link(process.join("exe")).is_ok_and(|exe| exe.starts_with(programs));
    let mut all = Peak::default();
    for process in entries.filter(is_ours) {
        // A process that has ended meanwhile holds nothing.
        let rollup = fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
        let maps = fs::read_to_string(process.join("smaps")).unwrap_or_default();
        all.dirty += field(&rollup, "Pss_Dirty:");
        all.text += dirty_text(&maps);
    }
    all
}

/// Dirty bytes of executable mappings of files.
fn dirty_text(smaps: &str) -> u64 {
    let mut is_text = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        if line.starts_with("Pss_Dirty:") {
            bytes += if is_text { field(line, "Pss_Dirty:") } else { 0 };
        } else if !line.split_whitespace().next().is_some_and(|word| word.ends_with(':')) {
            let path = line.split_whitespace().nth(5);
            is_text =
                line.contains(" r-xp ") && path.is_some_and(|path| path.starts_with('/') && !path.contains("memfd"));
        }
    }
    bytes
}

/// The sum of a field that is given in kB.
fn field(text: &str, name: &str) -> u64 {
    let values =
        text.lines().filter_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
    values.sum::<u64>() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_of_files_counts_as_text() {
        let smaps = "55d0-55d1 r--p 00000000 08:01 7 /bin/a\nPss_Dirty:            8 kB\n\
                     55d1-55d9 r-xp 00001000 08:01 7 /bin/a\nRss:  40 kB\nPss_Dirty:           12 kB\n\
                     7f00-7f10 r-xp 00000000 00:01 9 /memfd:relpoline (deleted)\nPss_Dirty:           64 kB\n";
        assert_eq!(dirty_text(smaps), 12 * 1024);
        assert_eq!(field(smaps, "Pss_Dirty:"), 84 * 1024);
    }

    #[test]
    fn a_running_program_is_seen() {
        let own = std::env::current_exe().expect("it is known");
        let (_, peak) = watch(&own, || thread::sleep(PERIOD * 3));
        assert!(peak.is_some_and(|peak| peak.dirty > 4096 && peak.text <= peak.dirty), "{peak:?}");
        assert_eq!(watch(Path::new("/no/such/place"), || ()).1, None);
    }
}
