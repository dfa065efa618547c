//! Profilers that are libraries see the callers that they see without the engine; and a Rust program's handler may panic.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use relpoline_tests::{Outcome, Program, Run};

/// Whether the library that `-l` names is there to link with; else why the test is skipped is said.
fn is_there(library: &str, package: &str) -> bool {
    let named = format!("lib{library}.so");
    let found = Command::new("gcc").arg(format!("-print-file-name={named}")).output().expect("the tests need gcc");
    let is_there = String::from_utf8_lossy(&found.stdout).trim() != named;
    if !is_there {
        println!("skipped: there is no {named} (Debian: {package})");
    }
    is_there
}

/// The program with a profiler in it, at one place in each run.
fn profiled(library: &str) -> PathBuf {
    let link = format!("-l{library}");
    Program::retpolined("profiled.c").flags(&["-no-pie", "-fno-pie", "-Wl,--no-as-needed", &link]).build()
}

/// What it says of where it lies: its nested callers, of which there are so many.
struct Nested {
    at: Range<u64>,
    levels: usize,
}

impl Nested {
    fn of(outcome: &Outcome) -> Self {
        let text = outcome.text();
        let words: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
        let ["text", _, _, "nested", start, end, "levels", levels] = words[..] else { panic!("{text}") };
        let address = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).expect("an address");
        Self { at: address(start)..address(end), levels: levels.parse().expect("a number") }
    }

    /// Those of them in a stack.
    fn seen(&self, stack: &[u64]) -> usize {
        stack.iter().filter(|address| self.at.contains(address)).count()
    }
}

/// A profile of gperftools' (its documentation, "CPU profile file format"): how often each stack was seen, the interrupted
/// instruction first; and what was mapped.
fn stacks(profile: &[u8]) -> (Vec<(u64, Vec<u64>)>, String) {
    let words: Vec<u64> = profile.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let mut at = 2 + words[1] as usize;
    let mut stacks = Vec::new();
    loop {
        let (count, depth) = (words[at], words[at + 1] as usize);
        let stack = words[at + 2..at + 2 + depth].to_vec();
        at += 2 + depth;
        if count == 0 {
            break;
        }
        stacks.push((count, stack));
    }
    (stacks, String::from_utf8_lossy(&profile[at * 8..]).into_owned())
}

/// Whether `address` lies in an arena.
fn is_ours(mapped: &str, address: u64) -> bool {
    mapped.lines().filter(|line| line.contains("/memfd:relpoline")).any(|line| {
        let range = line.split_whitespace().next().and_then(|range| range.split_once('-'));
        let bound = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
        range.is_some_and(|(start, end)| (bound(start)..bound(end)).contains(&address))
    })
}

#[test]
fn gperftools_cpu_profiler() {
    if !is_there("profiler", "libgoogle-perftools-dev") {
        return;
    }
    let place = tempfile::tempdir().expect("no temporary directory");
    let file = place.path().join("profile");
    let run = Run::new(profiled("profiler")).args(&["cpu"]).env("CPUPROFILE", &file);
    let run = run.env("CPUPROFILE_FREQUENCY", "1000");
    // Samples in calls, of those in an arena; and of each those that lack a caller.
    let seen = |outcome: &Outcome| {
        outcome.assert_success();
        let nested = Nested::of(outcome);
        let (stacks, mapped) = stacks(&fs::read(&file).expect("there is a profile"));
        let [mut calls, mut short, mut ours, mut short_ours] = [0; 4];
        for (count, stack) in stacks {
            let is_ours = is_ours(&mapped, stack[0]);
            // Not what the program does between the calls.
            if !is_ours && stack[0] > nested.at.end {
                continue;
            }
            let is_short = nested.seen(&stack) < nested.levels;
            calls += count;
            short += if is_short { count } else { 0 };
            ours += if is_ours { count } else { 0 };
            short_ours += if is_ours && is_short { count } else { 0 };
        }
        [calls, short, ours, short_ours]
    };
    let plain = seen(&run.plain());
    let promoted = run.promoted();
    promoted.report().assert_promoted(&["spin", "jump"]);
    let with = seen(&promoted);
    println!(
        "samples, without all callers, in an arena, those without all callers: {plain:?}, with the engine {with:?}"
    );
    assert!(plain[0] > 100 && with[0] > 100 && with[2] > 20, "too few samples: {plain:?} {with:?}");
    assert_eq!(with[3], 0, "callers of our code are missing");
    // A sample in `main`, which lies in none of the calls, may be among them.
    assert!(with[1] * 100 <= with[0] + plain[1] * 100, "callers are missing: {with:?}, without the engine {plain:?}");
}

/// Of a heap profile in text, as both libraries write it: of each stack through the nested callers, its part in the program and
/// what is said of it.
fn kept(profile: &str, nested: &Nested) -> BTreeMap<Vec<u64>, Vec<String>> {
    let mut lines = profile.lines().peekable();
    let mut kept = BTreeMap::new();
    while let Some(line) = lines.next() {
        let Some((before, stack)) = line.split_once('@') else { continue };
        let words = stack.split_whitespace().map_while(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
        // The libraries lie somewhere else each time.
        let stack: Vec<u64> = words.filter(|address| *address < nested.at.end + (1 << 20)).collect();
        if nested.seen(&stack) < nested.levels {
            continue;
        }
        let mut said = vec![before.split_whitespace().collect()];
        while let Some(line) = lines.next_if(|line| line.starts_with("  t")) {
            said.push(line.trim().to_owned());
        }
        kept.insert(stack, said);
    }
    kept
}

/// The newest heap profile in a directory.
fn newest(place: &Path) -> String {
    let files = fs::read_dir(place).expect("a directory").filter_map(|entry| Some(entry.ok()?.path()));
    let heaps = files.filter(|path| path.extension().is_some_and(|extension| extension == "heap"));
    let newest = heaps.max_by_key(|path| (fs::metadata(path).and_then(|data| data.modified()).ok(), path.clone()));
    fs::read_to_string(newest.expect("there is a heap profile")).expect("it is text")
}

/// Runs a heap profiler with and without the engine; `with` is what it is told of where to write.
fn heap_profiler_sees_the_same(library: &str, with: impl Fn(Run, &Path) -> Run) {
    let profile = |run: &dyn Fn(&Run) -> Outcome| {
        let place = tempfile::tempdir().expect("no temporary directory");
        let outcome = run(&with(Run::new(profiled(library)).args(&["heap"]), &place.path().join("heap")));
        outcome.assert_success();
        let kept = kept(&newest(place.path()), &Nested::of(&outcome));
        (outcome, kept)
    };
    let (_, plain) = profile(&Run::plain);
    let (outcome, promoted) = profile(&Run::promoted);
    outcome.report().assert_promoted(&["take", "jump_to_keeper"]);
    assert!(plain.len() >= 3, "too little was seen: {plain:x?}");
    assert_eq!(promoted, plain);
}

#[test]
fn tcmallocs_heap_profiler() {
    if is_there("tcmalloc", "libgoogle-perftools-dev") {
        heap_profiler_sees_the_same("tcmalloc", |run, prefix| run.env("HEAPPROFILE", prefix));
    }
}

#[test]
fn jemallocs_heap_profiler() {
    if is_there("jemalloc", "libjemalloc-dev") {
        heap_profiler_sees_the_same("jemalloc", |run, prefix| {
            let prefix = prefix.display();
            run.env("MALLOC_CONF", format!("prof:true,prof_final:true,lg_prof_sample:0,prof_prefix:{prefix}"))
        });
    }
}

/// What rustc knows of retpolines: it makes the thunks itself.
const FEATURES: &str = "-Ctarget-feature=+retpoline-indirect-calls,+retpoline-indirect-branches";

/// A panic unwinds through our code from any of its instructions, as an exception does. Without the engine it does not: a thunk of
/// LLVM's does not say how it unwinds where it returns to the target, and one panic in some thousands aborts the program there.
#[test]
fn handlers_that_panic() {
    let place = tempfile::tempdir().expect("no temporary directory");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/panics.rs");
    let program = place.path().join("panics");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition=2024", "-Copt-level=2", "-Cdebuginfo=1", "-Cforce-unwind-tables=yes", FEATURES]);
    let output = rustc.arg(&source).arg("-o").arg(&program).output().expect("the tests are compiled by rustc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let outcome = Run::new(&program).promoted();
    outcome.assert_success();
    assert!(outcome.text().contains("2000 panics, 10000 destructors"), "{}", outcome.text());
    assert!(outcome.report().sites_promoted > 0, "{}", outcome.report().summary());
}
