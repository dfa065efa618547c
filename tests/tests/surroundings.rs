//! Hostile surroundings: what is refused, full, forged or planted costs promotion, never the program. Others are in
//! `limits.rs` (address space, descriptors, stack, no /proc, no memfd) and `sandbox.rs` (filters that come later).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use relpoline_tests::broken;
use relpoline_tests::living::text;
use relpoline_tests::tool::{self, target_directory};
use relpoline_tests::{Living, Outcome, Program, Run};

/// A user that owns nothing.
const NOBODY: u32 = 65534;

fn program() -> PathBuf {
    Program::retpolined("surroundings.c").build()
}

fn run(args: &[&str]) -> Outcome {
    Run::new(program()).args(args).same()
}

fn promotes(args: &[&str]) {
    run(args).report().assert_promoted(&["settled_site", "changing_site"]);
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Runs a script as root in a mount namespace of its own; `None` where that is not allowed, which is said.
fn in_own_mounts(script: &str, args: &[&Path]) -> Option<Output> {
    let output = Command::new("unshare").args(["-m", "sh", "-c", script, "sh"]).args(args).output().ok()?;
    if !is_root() || output.status.code() == Some(99) {
        println!("skipped: mounting needs root");
        return None;
    }
    Some(output)
}

#[test]
fn threads_are_moved_between_processors() {
    promotes(&["processors"]);
}

#[test]
fn one_processor_for_all_threads() {
    promotes(&["one-processor"]);
}

#[test]
fn the_clock_jumps() {
    for by in ["2592000", "-1"] {
        let outcome = run(&["clock", by]);
        if outcome.text().contains("skipped") {
            println!("{}", outcome.text());
            return;
        }
        outcome.report().assert_promoted(&["settled_site", "changing_site"]);
        assert!(outcome.children.iter().any(|child| child.sites_promoted > 0), "the child learned nothing");
    }
}

#[test]
fn membarrier_is_refused() {
    promotes(&["without", "membarrier"]);
    promotes(&["without", "membarrier-kill"]);
}

#[test]
fn system_calls_for_the_clock_kill() {
    promotes(&["without", "clock-kill"]);
}

#[test]
fn text_can_be_changed_by_no_way() {
    let outcome = run(&["without", "mprotect"]);
    assert_eq!(outcome.report().sites_promoted, 0, "{}", outcome.report().summary());
    let object = outcome.report().objects.iter().find(|object| object.sites > 0).expect("it has sites");
    assert_eq!(object.reason.as_deref(), Some("text cannot be changed"));
}

/// The one limit that the README names: here the switch has to be used, and does what it says.
#[test]
fn a_filter_from_before_that_kills_memfd() {
    let outcome = Run::new(program()).args(&["without", "memfd-kill"]).env("RELPOLINE", "off").plain();
    outcome.assert_success();
    let mut off = Command::new(tool::relpoline());
    off.args(["run", "--"]).arg(program()).args(["without", "memfd-kill"]).env("RELPOLINE", "off");
    assert!(off.stdout(Stdio::null()).status().is_ok_and(|status| status.success()));
}

#[test]
fn more_sites_than_an_arena_has_gates_for() {
    let outcome = Run::new(Program::retpolined("crowded.c").build()).same();
    let object = outcome.report().objects.iter().find(|object| object.sites > 0).expect("it has sites");
    assert_eq!(object.reason.as_deref(), Some("arena full"), "{object:?}");
}

/// With an engine whose arenas have room for some hundred trees: it would take a minute to fill others.
#[test]
fn more_trees_than_an_arena_has_room_for() {
    let outcome = broken::run("little-room", &Program::retpolined("full.c"), &["10000"], "--nervous");
    outcome.assert_success();
    let sites = &outcome.report().sites;
    let full = sites.iter().filter(|site| site.reason == "arena full").count();
    let promoted = sites.iter().filter(|site| site.is_promoted()).count();
    assert!(full > 0 && promoted > 10, "{full} found no room, {promoted} did");
}

/// Sites whose targets change for ever, where there is room for some hundred trees: how many have no place in the end, and how
/// many bytes are in use.
fn flapping(variant: &str, rounds: &str) -> (usize, u64) {
    let outcome = broken::run(variant, &Program::retpolined("flapping.c"), &[rounds], "--nervous");
    outcome.assert_success();
    let report = outcome.report();
    let is_one = |symbol: &String| symbol.contains("flapping_site");
    let sites: Vec<_> = report.sites.iter().filter(|site| site.symbol.as_ref().is_some_and(is_one)).collect();
    assert_eq!(sites.len(), 16, "{}", report.summary());
    // With what they had before in place, they count as promoted.
    let refused = sites.iter().filter(|site| site.reason == "arena full");
    (refused.count(), report.engine.arena_bytes)
}

#[test]
fn targets_that_change_for_ever() {
    let (refused, first) = flapping("little-room", "150");
    assert_eq!(refused, 0);
    let (refused, second) = flapping("little-room", "600");
    // Each board and each leaf has its place by then.
    assert!(
        refused == 0 && second <= first + first / 4,
        "{refused} sites have no place in {second} bytes, after {first}"
    );
    assert!(flapping("little-room+no-boards", "600").0 > 8, "a full arena goes unnoticed");
}

#[test]
fn two_engines_in_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let second = directory.path().join("librelpoline_engine.so");
    fs::copy(tool::engine(), &second).unwrap();
    let run = Run::new(program()).arg("work");
    let plain = run.plain();
    for order in [[tool::engine(), second.clone()], [second, tool::engine()]] {
        let preload = order.map(|path| path.display().to_string()).join(":");
        let both = run.clone().env("LD_PRELOAD", &preload).plain();
        both.assert_success();
        both.assert_like(&plain);
        // And one that `relpoline run` puts in front of two.
        let three = run.clone().env("LD_PRELOAD", preload).promoted();
        three.assert_like(&plain);
    }
}

/// What the program wrote and how it ended must be as without us; ours is at most a line on stderr.
fn is_unharmed(output: &Output, code: i32) -> String {
    assert_eq!(String::from_utf8_lossy(&output.stdout), "surroundings done\n", "{}", text(output));
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.lines().count() <= 1 && (said.is_empty() || said.starts_with("relpoline: ")), "{said}");
    said
}

#[test]
fn reports_and_profiles_on_a_full_disk() {
    for (option, file) in [("--report", "report"), ("--profile", "profile")] {
        let script =
            "mkdir -p $1 && mount -t tmpfs -o size=4k,nr_inodes=8 tmpfs $1 || exit 99; head -c 4096 /dev/zero >$1/full;
                      \"$2\" run $3 $1/$4 -- \"$5\" work 1 7";
        let place = target_directory().join(format!("full-{file}"));
        let args = [&place, tool::relpoline(), Path::new(option), Path::new(file), &program()];
        let Some(output) = in_own_mounts(script, &args) else { return };
        let said = is_unharmed(&output, 7);
        assert!(said.contains(file) && said.contains("space"), "{said}");
    }
    // A device that is always full needs no rights.
    let mut command = Command::new(tool::relpoline());
    let output = command.args(["run", "--report", "/dev/full", "--"]).arg(program()).args(["work", "1", "7"]).output();
    assert!(is_unharmed(&output.unwrap(), 7).contains("/dev/full"));
}

/// Bytes are changed, cut off, or all noise: sites learn what the profile does not know.
#[test]
fn hostile_profiles() {
    let directory = tempfile::tempdir().unwrap();
    let profile = directory.path().join("profile");
    let mut saving = Command::new(tool::relpoline());
    saving.args(["run", "--profile"]).arg(&profile).arg("--").arg(program());
    assert!(saving.stdout(Stdio::null()).status().unwrap().success());
    let good = fs::read(&profile).expect("a profile was saved");
    let plain = Run::new(program()).arg("work").plain();
    let mut state = 88172645463325252;
    for round in 0..60u64 {
        let forged = forge(&good, round, &mut state);
        fs::write(&profile, forged).unwrap();
        // The engine itself, without the tool that would refuse it before.
        let options = format!("profile={}", profile.display());
        let run = Run::new(program()).arg("work").env("LD_PRELOAD", tool::engine()).env("RELPOLINE_OPTS", options);
        run.plain().assert_like(&plain);
    }
}

fn forge(good: &[u8], round: u64, state: &mut u64) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..1 + round % 40 {
        let at = random(state) as usize % bytes.len();
        // Extreme values are more telling than any.
        bytes[at] = [0, 0xff, 0x7f, 0x80, random(state) as u8][random(state) as usize % 5];
    }
    match round % 6 {
        0 => bytes.truncate(random(state) as usize % good.len()),
        1 => bytes.extend(good),
        // Behind the magic and the version, so that it is not refused for these.
        2 => bytes[16..].iter_mut().for_each(|byte| *byte = random(state) as u8),
        _ => bytes[..12].copy_from_slice(&good[..12]),
    }
    bytes
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 8
}

/// What the engine reads of a file but the program does not need: unwind tables, notes, symbols.
#[test]
fn hostile_elf_files() {
    let good = fs::read(program()).unwrap();
    let parts: Vec<_> = [".eh_frame", ".eh_frame_hdr", ".note.gnu.build-id", ".symtab", ".strtab", ".shstrtab"]
        .map(section)
        .into_iter()
        .flatten()
        .collect();
    assert!(parts.len() >= 4, "readelf found {parts:?}");
    let plain = Run::new(program()).arg("work").plain();
    let (directory, mut state) = (tempfile::tempdir().unwrap(), 2463534242);
    for round in 0..40 {
        let mut bytes = good.clone();
        let (at, size) = parts[round % parts.len()];
        for _ in 0..1 + round * 4 {
            bytes[at + random(&mut state) as usize % size] = random(&mut state) as u8;
        }
        let forged = directory.path().join(format!("forged-{round}"));
        tool::write_executable(&forged, &bytes);
        let run = Run::new(&forged).arg("work").env("LD_PRELOAD", tool::engine());
        run.plain().assert_like(&plain);
    }
}

/// Offset and size of a section of the program's file.
fn section(name: &str) -> Option<(usize, usize)> {
    let output = Command::new("readelf").args(["-SW"]).arg(program()).output().expect("binutils are needed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let fields: Vec<String> = text
        .lines()
        .filter_map(|line| line.split_once(']'))
        .map(|(_, rest)| rest.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .find(|fields| fields.first().is_some_and(|first| first == name))?;
    let number = |field: &str| usize::from_str_radix(field, 16).ok();
    Some((number(&fields[3])?, number(&fields[4])?))
}

/// A command that another user starts; `None` where we cannot become that user, which is said.
fn as_user(user: u32, command: &mut Command) -> Option<Output> {
    if !is_root() {
        println!("skipped: only root can become another user");
        return None;
    }
    Some(command.uid(user).gid(user).output().expect("it can be started"))
}

/// Somebody else has put something where a user's statistics go, who starts a program then.
/// Whether statistics are written there; `None` where nobody can play the other user.
fn writes_to_what_was_planted(engine: &Path) -> Option<bool> {
    const VICTIM: u32 = 54321;
    let place = PathBuf::from(format!("/dev/shm/relpoline-{VICTIM}"));
    let target = tempfile::tempdir().unwrap();
    fs::set_permissions(target.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Programs of that user have to be reachable for it.
    let (engine, program) = (shared(engine), shared(&program()));
    let waiting = shared(&Program::retpolined("attached.c").build());
    let mut writes = false;
    for kind in ["symlink", "open directory", "file", "foreign directory"] {
        let _ = fs::remove_file(&place).or_else(|_| fs::remove_dir_all(&place));
        match kind {
            "symlink" => symlink(target.path(), &place).unwrap(),
            "file" => fs::write(&place, "planted").unwrap(),
            _ => fs::create_dir(&place).unwrap(),
        }
        let mode = if kind == "open directory" { 0o777 } else { 0o755 };
        if kind.ends_with("directory") {
            fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        }
        if is_root() && kind != "open directory" {
            std::os::unix::fs::lchown(&place, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut command = Command::new(&program.1);
        command.args(["work", "1", "7"]).env("LD_PRELOAD", &engine.1).env_remove("RELPOLINE_OPTS");
        let output = as_user(VICTIM, &mut command);
        // While it lives: at its end an engine takes its file away.
        let mut command = Command::new(&waiting.1);
        command.env("LD_PRELOAD", &engine.1).env_remove("RELPOLINE_OPTS");
        let living = is_root().then(|| Living::start(command.uid(VICTIM).gid(VICTIM)));
        let written = fs::read_dir(target.path()).unwrap().count();
        let inside = fs::read_dir(&place).map_or(0, |entries| entries.flatten().count());
        let _ = fs::remove_file(&place).or_else(|_| fs::remove_dir_all(&place));
        drop(living);
        let output = output?;
        assert_eq!(is_unharmed(&output, 7), "", "{kind}");
        writes |= (written, inside) != (0, 0);
    }
    Some(writes)
}

#[test]
fn a_directory_that_another_user_planted() {
    assert_ne!(writes_to_what_was_planted(&tool::engine()), Some(true), "statistics were written there");
    let broken = tool::broken_engine("trusts-directories");
    assert_ne!(writes_to_what_was_planted(&broken), Some(false), "an engine that trusts any directory goes unnoticed");
}

/// A copy that everybody may read and execute, and the directory that keeps it.
fn shared(file: &Path) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join(file.file_name().unwrap());
    tool::install(file, &copy);
    (directory, copy)
}

/// Statistics and reports of one user's programs are nothing for another one; root sees both.
#[test]
fn two_users() {
    let (_engines, engine) = shared(&tool::engine());
    let (_tools, relpoline) = shared(tool::relpoline());
    let mut command = Command::new(Program::retpolined("attached.c").build());
    let ours = Living::start(command.env("LD_PRELOAD", &engine));
    let report = |relpoline: &Path, pid: u32| {
        let mut command = Command::new(relpoline);
        command.args(["report", &pid.to_string()]).env("HOME", "/nonexistent");
        command
    };
    let Some(output) = as_user(NOBODY, &mut report(&relpoline, ours.pid())) else { return };
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(output.stdout.is_empty() && text(&output).lines().count() == 1, "{}", text(&output));

    let (_programs, program) = shared(&Program::retpolined("attached.c").build());
    let theirs = Living::start(Command::new(program).env("LD_PRELOAD", &engine).uid(NOBODY).gid(NOBODY));
    let output = report(&relpoline, theirs.pid()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let list = Command::new(&relpoline).arg("list").output().unwrap();
    for pid in [ours.pid(), theirs.pid()] {
        assert!(text(&list).contains(&pid.to_string()), "{pid} is not in\n{}", text(&list));
    }
    let list = as_user(NOBODY, Command::new(&relpoline).arg("list")).unwrap();
    assert!(text(&list).contains(&theirs.pid().to_string()) && !text(&list).contains(&ours.pid().to_string()));
}
