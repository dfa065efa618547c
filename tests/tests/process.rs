//! What a process is to others, and what it may have of its own: its number, its core, its break, its thread pointer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use relpoline_tests::living::text;
use relpoline_tests::tool;
use relpoline_tests::{Living, Program, Run};

/// Whether it can be had here; else that is said.
fn is_allowed(what: &str, check: &mut Command) -> bool {
    let allowed = check.output().is_ok_and(|output| output.status.success());
    if !allowed {
        println!("skipped: {what}");
    }
    allowed
}

/// A program as number 1 of a pid namespace of its own, where `before` is run by a shell first.
fn number_one(engine: &Path, before: &str) -> Living {
    let script = format!("{before} exec env LD_PRELOAD=$1 $2");
    let mut command = Command::new("unshare");
    command.args(["-p", "-m", "-f", "--kill-child", "sh", "-c", &script, "sh"]).arg(engine);
    Living::start(command.arg(Program::retpolined("attached.c").build()))
}

/// The only child of a process.
fn child_of(pid: u32) -> String {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    children.trim().to_owned()
}

/// Starts pairs of processes that are number 1 of their namespaces, and share /dev/shm; whether each pair is listed.
fn pairs_are_listed(engine: &Path) -> Option<bool> {
    if !is_allowed("namespaces need root", Command::new("unshare").args(["-p", "-m", "-f", "true"])) {
        return None;
    }
    // /proc of the namespace; of the outer one; none at all.
    let surroundings = ["mount -t proc proc /proc;", "", "mount -t tmpfs tmpfs /proc;"];
    let mut listed = true;
    for before in surroundings {
        let pair = [number_one(engine, before), number_one(engine, before)];
        let list = Command::new(tool::relpoline()).arg("list").output().expect("relpoline can be started");
        let pids = pair.each_ref().map(|one| child_of(one.pid()));
        let numbers: Vec<String> =
            text(&list).lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect();
        listed &= pids.iter().all(|pid| numbers.contains(pid));
        for one in pair {
            drop(one);
        }
    }
    Some(listed)
}

/// One after the other: they share a directory, and the broken one removes what is in it.
#[test]
fn processes_of_one_number_in_two_namespaces() {
    assert_ne!(pairs_are_listed(&tool::engine()), Some(false), "one of two processes is not listed");
    let broken = tool::broken_engine("named-by-number");
    assert_ne!(pairs_are_listed(&broken), Some(true), "a process that is known by its number only goes unnoticed");
}

#[test]
fn thread_pointers_that_are_not_libcs() {
    let program = Program::retpolined("pointer.c").flags(&["-fno-stack-protector"]).build();
    for pointer in ["none", "own", "nowhere"] {
        for (by, thread) in [("call", "main"), ("instruction", "thread"), ("call", "thread")] {
            let outcome = Run::new(&program).args(&[pointer, by, thread]).option("--nervous").same();
            if outcome.text().contains("skipped") {
                println!("{}", outcome.text());
                continue;
            }
            outcome.report().assert_promoted(&["guest_site"]);
        }
    }
}

/// Directory in which a process that crashes leaves its core, and how to start one there; `None` where the system keeps cores
/// elsewhere.
fn with_core(program: &Path, args: &[&str], engine: Option<&Path>) -> Option<(tempfile::TempDir, Command)> {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if !pattern.starts_with("core") {
        println!("skipped: cores go to {pattern}");
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new("sh");
    // 3 MB, in 512-byte blocks: more than there is without an engine, and less than what it reserves.
    command.args(["-c", "ulimit -S -c 6000 || exit 99; exec env ${1:+LD_PRELOAD=$1} \"$2\" $3 $4", "sh"]);
    command.arg(engine.unwrap_or(Path::new(""))).arg(program).args(args).current_dir(directory.path());
    Some((directory, command))
}

fn core_in(directory: &Path) -> PathBuf {
    let is_core = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"core"));
    let begun = Instant::now();
    loop {
        let found = fs::read_dir(directory).expect("it is there").flatten().map(|entry| entry.path()).find(is_core);
        match found {
            Some(core) => return core,
            None => assert!(begun.elapsed() < Duration::from_secs(10), "there is no core"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes of the core, and what gdb says of the threads' stacks in it.
fn core_of(program: &Path, args: &[&str], engine: Option<&Path>) -> Option<(u64, String)> {
    let (directory, mut command) = with_core(program, args, engine)?;
    let status = command.stdout(std::process::Stdio::null()).status().expect("it can be started");
    assert!(!status.success(), "{args:?}: it did not crash");
    Some(dumped(program, directory.path()))
}

fn dumped(program: &Path, directory: &Path) -> (u64, String) {
    let core = core_in(directory);
    let size = fs::metadata(&core).expect("it is there").len();
    let mut gdb = Command::new("gdb");
    let output = gdb.args(["-q", "-batch", "-ex", "thread apply all bt"]).arg(program).arg(&core).output();
    (size, output.map_or(String::new(), |output| text(&output)))
}

/// Functions in the order in which gdb shows them, for each thread.
fn shown(stacks: &str, functions: &[&str]) -> usize {
    let count = |function: &str| stacks.lines().filter(|line| line.contains(&format!(" {function} ("))).count();
    functions.iter().map(|function| count(function)).sum()
}

/// More than this the engine may not add. Most of it is libc's text, of which three instructions were changed: the kernel
/// dumps a mapping as a whole.
const CORE_MARGIN: u64 = 2_000_000;

fn cores_are_small(engine: &Path) -> Option<bool> {
    let program = Program::retpolined("core.c").build();
    let mut small = true;
    for args in [["one", "abort"], ["one", "fault"], ["threads", "abort"], ["forked", "abort"]] {
        let plain = core_of(&program, &args, None)?;
        let promoted = core_of(&program, &args, Some(engine))?;
        small &= promoted.0 < plain.0 + CORE_MARGIN;
        if small && relpoline_tests::living::is_installed("gdb") {
            let functions = ["core_site", "stage", "main"];
            let stacks = [&plain.1, &promoted.1].map(|stacks| shown(stacks, &functions));
            assert_eq!(stacks[0], stacks[1], "{args:?}:\n{}\n{}", plain.1, promoted.1);
            assert!(stacks[0] >= 3, "{}", plain.1);
        }
    }
    Some(small)
}

#[test]
fn cores_are_as_large_as_without() {
    assert_ne!(cores_are_small(&tool::engine()), Some(false), "cores are larger");
    assert_ne!(cores_are_small(&tool::broken_engine("dumped")), Some(true), "large cores go unnoticed");
}

#[test]
fn the_core_of_an_attached_process() {
    let program = Program::retpolined("attached.c").build();
    let sizes = [false, true].map(|attach| {
        let (directory, mut command) = with_core(&program, &[], None)?;
        let mut process = Living::start(&mut command);
        if attach {
            process.must(&["attach"]);
        }
        std::thread::sleep(Duration::from_millis(300));
        let killed = Command::new("kill").args(["-ABRT", &process.pid().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()));
        // The core is whole when the process has ended.
        while process.is_alive() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(dumped(&program, directory.path()).0)
    });
    if let [Some(plain), Some(attached)] = sizes {
        // Its engine's own text is no file's there.
        assert!(attached < plain + 2 * CORE_MARGIN, "{attached} bytes instead of {plain}");
    }
}

/// Sites are re-pointed, so such a program sees that; what it checks can be left alone.
#[test]
fn a_program_that_compares_its_text_with_its_file() {
    let program = Program::retpolined("integrity.c").build();
    let seen = Run::new(&program).promoted();
    assert!(seen.failed() && seen.text().contains("changed"), "{}", seen.text());
    let name = program.file_name().and_then(|name| name.to_str()).expect("a name of text");
    let outcome = Run::new(&program).option(&format!("--exclude=*/{name}")).same();
    assert_eq!(outcome.report().sites_promoted, 0);
}

/// Statistics have nowhere to go, or hardly any room; memory is little.
#[test]
fn little_memory_for_others() {
    let script = |shm: &str, limit: &str| format!("{shm} || exit 99; {limit}; exec env LD_PRELOAD=$1 $2 work 1 7");
    let nowhere =
        ["mount -t tmpfs -o size=16k tmpfs /dev/shm", "mount -t tmpfs -o mode=000,size=4k tmpfs /dev", "true"];
    let limits = ["true", "ulimit -d 65536", "ulimit -v 2000000", "ulimit -l 0", "ulimit -f 100"];
    let program = Program::retpolined("surroundings.c").build();
    for shm in nowhere {
        for limit in limits {
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-c", &script(shm, limit), "sh"]).arg(tool::engine()).arg(&program);
            let output = command.output().expect("unshare can be started");
            if output.status.code() == Some(99) || !output.status.success() && output.stdout.is_empty() && shm != "true"
            {
                println!("skipped: mounting needs root");
                continue;
            }
            assert_eq!(output.status.code(), Some(7), "{shm}, {limit}: {}", text(&output));
            assert_eq!(String::from_utf8_lossy(&output.stdout), "surroundings done\n", "{shm}, {limit}");
        }
    }
}

/// A memory cgroup of its own; removed when dropped.
struct Group(PathBuf);

impl Group {
    /// One whose processes may have `limit` bytes; `None` where that cannot be made.
    fn new(limit: u64) -> Option<Self> {
        let name = format!("relpoline-test-{}", std::process::id());
        let (base, file) = match Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() {
            true => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            false => ("/sys/fs/cgroup", "memory.max"),
        };
        let group = Self(Path::new(base).join(name));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(file), limit.to_string()).ok()?;
        Some(group)
    }

    fn run(&self, engine: &Path, program: &Path) -> std::process::Output {
        let script = "echo $$ >$1/cgroup.procs && exec env ${2:+LD_PRELOAD=$2} $3 work 1 7";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&self.0).arg(engine).arg(program);
        command.output().expect("sh can be started")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that was just killed may still be in it.
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// At its limit a process is killed by the kernel, for running out of memory. The engine is not to be another way to die,
/// and where there is a little more than the program needs it runs.
#[test]
fn a_memory_cgroup_at_its_limit() {
    const MIB: u64 = 1 << 20;
    const KILLED: i32 = 9;
    use std::os::unix::process::ExitStatusExt;
    let program = Program::retpolined("surroundings.c").build();
    let mut enough = None;
    for mebibytes in 1..40 {
        let Some(group) = Group::new(mebibytes * MIB) else {
            println!("skipped: memory cgroups need root, and to be writable");
            return;
        };
        let is_enough = |engine: &Path| {
            let output = group.run(engine, &program);
            let killed = output.status.signal() == Some(KILLED) || output.status.code() == Some(128 + KILLED);
            assert!(killed || output.status.code() == Some(7), "{mebibytes} MiB: {} {}", output.status, text(&output));
            !killed
        };
        if enough.is_none() && is_enough(Path::new("")) {
            enough = Some(mebibytes);
        }
        let promoted = is_enough(&tool::engine());
        if enough.is_some_and(|enough| mebibytes >= enough + 6) {
            assert!(promoted, "{mebibytes} MiB are not enough, where {enough:?} are without");
            return;
        }
    }
}
