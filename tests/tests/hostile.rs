//! What other users' processes and files do to who looks at them: nothing. Root runs the tools here, and another user plays
//! the rest: files in /dev/shm, names in programs, what a loader is said to have mapped.
//!
//! A tool has a second or so of processor time in each of these cases and some 30 MB; it gets 40 seconds and 1.5 GB, and is
//! killed then.

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use relpoline_stats::file::set_text;
use relpoline_stats::record::MAGIC;
use relpoline_stats::{
    EventRecord, Header, Layout, ObjectRecord, Plain, RefusalRecord, SiteRecord, State, TargetRecord,
};
use relpoline_tests::tool;
use relpoline_tests::{Living, Program};

/// The user who means harm.
const ATTACKER: u32 = 54322;
/// Orders for a terminal, a line feed, marks that turn the direction of writing, invisible ones, no text at all.
const EVIL: &[u8] =
    b"\x1b]0;OWNED\x07\x1b[31m\n\x9b2J\xe2\x80\xae\xe2\x81\xa6\xe2\x80\xa8\xef\xbb\xbf\x7f\xff\xc2\x9b<b>&\"'";

fn is_root() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if !root {
        println!("skipped: only root can play another user");
    }
    root
}

/// Attackers share a directory.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory that its user's programs can be reached in.
fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    directory
}

/// `relpoline` with what it may use.
fn limited(relpoline: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "240", "sh", "-c", "ulimit -v 1500000; ulimit -t 40; exec \"$@\"", "sh"]);
    command.arg(relpoline).args(arguments).env_remove("RELPOLINE_OPTS");
    command
}

/// What a tool says; it ends by itself, and what it says is fit to be shown.
fn ends(arguments: &[&str]) -> Output {
    let output = limited(tool::relpoline(), arguments).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{arguments:?}: {}: {}", output.status, text(&output.stderr));
    for said in [&output.stdout, &output.stderr] {
        assert_clean(said, &format!("{arguments:?}"));
    }
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Nothing gives orders to a terminal, nothing misleads a reader, and nothing begins a line that is not ours.
fn assert_clean(said: &[u8], by: &str) {
    let said = std::str::from_utf8(said).unwrap_or_else(|error| panic!("{by}: {error}"));
    let misleads = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if let Some(at) = said.find(misleads) {
        let near: String = said[..at].chars().rev().take(60).collect::<String>().chars().rev().collect();
        panic!("{by}: {:?} behind {near:?}", said[at..].chars().next());
    }
    assert!(!said.lines().any(|line| line.starts_with("[31m") || line.starts_with("2J")), "{by}: {said}");
}

/// A process of the attacker's with these statistics.
fn forged(content: &Path, names: usize) -> Living {
    let program = Program::retpolined("hostile.c").build();
    let names = names.to_string();
    let mut command = Command::new(program);
    command.arg("statistics").arg(content).arg(&names).uid(ATTACKER).gid(ATTACKER);
    let living = Living::start(&mut command);
    assert_eq!(living.said, "ready");
    living
}

fn forget() {
    let _ = fs::remove_dir_all(format!("/dev/shm/relpoline-{ATTACKER}"));
}

/// Statistics that say the worst of everything, with objects of these paths.
fn worst(objects: &[&[u8]], sites: u32) -> Vec<u8> {
    let layout = Layout { objects: 512, sites: Layout::MOST.sites, events: 2048, samples: 256, targets: 0 };
    let mut header = Header {
        magic: MAGIC,
        pid: 1,
        start_tsc: 1,
        last_tsc: u64::MAX,
        learn_cycles: u64::MAX,
        judgements: u64::MAX,
        patches: u64::MAX,
        arena_bytes: u64::MAX,
        flags: u32::MAX,
        object_count: u32::MAX,
        site_count: if sites == 0 { u32::MAX } else { sites },
        event_count: u64::MAX,
        sample_count: u32::MAX,
        target_count: u32::MAX,
        sites_promoted: u32::MAX,
        refused_children: u32::MAX,
        ..layout.header()
    };
    set_text(&mut header.program, &[b"/tmp/", EVIL].concat());
    header.engine_version.copy_from_slice(b"\x1b[5mEVIL\n\x9b\x7fx\0\0\0\0");
    for refusal in &mut header.refusals {
        *refusal = RefusalRecord { refusal: 1, ..RefusalRecord::ZERO };
        set_text(&mut refusal.program, EVIL);
    }
    let size = if sites == 0 { layout.file_size() } else { layout.site_offset() + sites as usize * SiteRecord::SIZE };
    let mut bytes = vec![0; size];
    header.store(&mut bytes).unwrap();
    for (index, path) in objects.iter().enumerate() {
        let mut record = ObjectRecord { sites: u32::MAX, thunks: u32::MAX, ..ObjectRecord::ZERO };
        set_text(&mut record.path, path);
        record.store(&mut bytes[layout.object_offset() + index * ObjectRecord::SIZE..]).unwrap();
    }
    for index in 0..layout.events {
        let event =
            EventRecord { site: index % 8, at: u64::MAX, target: 0x1000, retpoline_cost: 1, ..EventRecord::ZERO };
        event.store(&mut bytes[layout.event_offset() + index as usize * EventRecord::SIZE..]).unwrap();
    }
    for index in 0..(bytes.len() - layout.site_offset()) / SiteRecord::SIZE {
        let site = SiteRecord {
            address: 0x1000 + index as u64,
            sequence: 1,
            state: State::Linked as u8,
            kind: 1,
            hits: u64::MAX,
            misses: u64::MAX,
            calls_seen: u64::MAX,
            counters: 0x10,
            gate: u64::MAX,
            tree: u64::MAX - 1,
            tree_body: u64::MAX - 64,
            tree_body_bytes: u32::MAX,
            recording: u64::MAX,
            targets: [TargetRecord { address: 0x1000, share: u32::MAX, ..TargetRecord::ZERO }; 8],
            ..SiteRecord::ZERO
        };
        site.store(&mut bytes[layout.site_offset() + index * SiteRecord::SIZE..]).unwrap();
    }
    bytes
}

/// What reads all that a process says of itself.
fn report_on(pid: u32) {
    for arguments in
        [&["list"][..], &["report", &pid.to_string()], &["profile", "save", "-o", "/dev/null", &pid.to_string()]]
    {
        ends(arguments);
    }
}

/// All that looks at a process.
fn look_at(pid: u32, place: &Path) {
    let pid = &pid.to_string();
    let file = |name: &str| place.join(name).display().to_string();
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &["metrics"],
        &["top", "--once"],
        &["top", pid, "--once"],
        &["report", pid],
        &["report", pid, "--format", "html"],
        &["report", pid, "--format", "flamegraph"],
        &["explain", pid, "0x1000"],
        &["explain", pid, "0x1000", "--json"],
        &["perf", pid, "--dir", &file("")],
        &["profile", "save", "-o", &file("profile"), pid],
    ] {
        ends(arguments);
    }
    let json = ends(&["report", pid, "--format", "json", "-o", &file("report")]);
    assert!(json.status.success(), "{}", text(&json.stderr));
    for format in ["text", "json"] {
        ends(&["report", &file("report"), "--format", format]);
    }
}

/// A sparse file that says that it has a symbol table of four gigabytes, and names of as many.
fn sparse(path: &Path) {
    let file = File::create(path).unwrap();
    let program = fs::read(Program::retpolined("hostile.c").build()).unwrap();
    file.write_all_at(&program, 0).unwrap();
    // Section headers: the tables of symbols and of their names lie in the hole.
    let word = |at: usize| usize::try_from(u64::from_le_bytes(program[at..at + 8].try_into().unwrap())).unwrap();
    let (table, count) = (word(40), usize::from(u16::from_le_bytes([program[60], program[61]])));
    for header in (0..count).map(|n| table + n * 64) {
        let kind = u32::from_le_bytes(program[header + 4..header + 8].try_into().unwrap());
        if kind == 2 || kind == 3 {
            file.write_all_at(&(1_u64 << 30).to_le_bytes(), header as u64 + 24).unwrap();
            file.write_all_at(&(3_u64 << 30).to_le_bytes(), header as u64 + 32).unwrap();
        }
    }
    file.set_len(1 << 32).unwrap();
}

#[test]
fn statistics_that_another_user_forged() {
    if !is_root() {
        return;
    }
    let _one = alone();
    let place = open_directory();
    let at = |name: &str| place.path().join(name);
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    sparse(&at("sparse"));
    symlink("/proc/kmsg", at("link")).unwrap();
    let named = |name: &str| at(name).into_os_string();
    let (fifo, large, link) = (named("fifo"), named("sparse"), named("link"));
    let libraries: Vec<Vec<u8>> = (0..512).map(|n| format!("/usr/{}bin/gcc", "./".repeat(n % 60)).into()).collect();
    let many: Vec<&[u8]> = libraries.iter().map(Vec::as_slice).collect();
    let cases: [(&[&[u8]], u32); 4] = [
        (&[b"/proc/kmsg", b"/dev/zero", fifo.as_bytes(), link.as_bytes(), b"/proc/self/mem", EVIL], 8),
        (&[large.as_bytes()], 8),
        (&many, 8),
        (&[b"/nonexistent"], 0),
    ];
    let content = at("content");
    for (n, (objects, sites)) in cases.into_iter().enumerate() {
        fs::write(&content, worst(objects, sites)).unwrap();
        let living = forged(&content, 0);
        match n {
            0 => look_at(living.pid(), &at("")),
            _ => report_on(living.pid()),
        }
        ends(&["report", content.to_str().unwrap()]);
        drop(living);
        forget();
    }
    // A file that says that it is larger than any, and a hole.
    File::options().write(true).open(&content).unwrap().set_len(1 << 40).unwrap();
    let living = forged(&content, 0);
    report_on(living.pid());
    drop(living);
    forget();
    assert_eq!(fs::metadata(at("fifo")).unwrap().len(), 0);
}

/// Statistics of a process that says that each of its sites has the largest of trees, all of which can be read.
#[test]
fn trees_larger_than_memory() {
    if !is_root() {
        return;
    }
    const MAPPED: u64 = 1 << 40;
    let _one = alone();
    let place = open_directory();
    let content = place.path().join("content");
    let mut bytes = worst(&[b"/bin/true"], 0);
    let first =
        Layout { objects: 512, sites: Layout::MOST.sites, events: 2048, samples: 256, targets: 0 }.site_offset();
    for record in bytes[first..].chunks_exact_mut(SiteRecord::SIZE) {
        let site = SiteRecord::load(record).unwrap();
        let (gate, tree, tree_body, recording) = (MAPPED, MAPPED + 64, MAPPED + 4096, MAPPED + 128);
        let counters = MAPPED + 256;
        SiteRecord { gate, tree, tree_body, recording, counters, ..site }.store(record).unwrap();
    }
    fs::write(&content, bytes).unwrap();
    let living = forged(&content, 0);
    let pid = living.pid().to_string();
    let said = ends(&["perf", &pid, "--dir", &place.path().display().to_string()]);
    assert_eq!(said.status.code(), Some(1), "{}", text(&said.stdout));
    assert!(!place.path().join(format!("jit-{pid}.dump")).exists());
    ends(&["explain", &pid, "0x1000"]);
    drop(living);
    forget();
}

#[test]
fn ten_thousand_names() {
    if !is_root() {
        return;
    }
    let _one = alone();
    let place = open_directory();
    let content = place.path().join("content");
    fs::write(&content, worst(&[b"/bin/true"], 8)).unwrap();
    let mut living = forged(&content, 10_000);
    let list = ends(&["list", "--json"]);
    let pid = format!("\"pid\": {}", living.pid());
    assert_eq!(text(&list.stdout).matches(&pid).count(), 1, "{}", text(&list.stdout));
    assert!(living.is_alive());
    drop(living);
    // What is nobody's goes; what engines do not name so stays, for it is not ours.
    ends(&["list"]);
    let directory = format!("/dev/shm/relpoline-{ATTACKER}");
    let left: Vec<String> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| name.starts_with('0') || name.starts_with("run-")), "{:?}", left.first());
    forget();
}

/// Whoever may write to a user's directory there is that user; links in it lead nowhere.
#[test]
fn nothing_is_removed_by_a_link() {
    if !is_root() {
        return;
    }
    let _one = alone();
    let victim = tempfile::tempdir().unwrap();
    let name = "4194303-1-2.stats";
    fs::write(victim.path().join(name), "precious").unwrap();
    let directory = PathBuf::from(format!("/dev/shm/relpoline-{ATTACKER}"));
    let give = |path: &Path| lchown(path, Some(ATTACKER), Some(ATTACKER)).unwrap();
    for planted in ["directory", "run", "file", "hard link"] {
        forget();
        let _ = fs::remove_file(&directory);
        if planted == "directory" {
            symlink(victim.path(), &directory).unwrap();
            give(&directory);
        } else {
            fs::create_dir(&directory).unwrap();
            fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
            give(&directory);
            let (link, target) = match planted {
                "run" => (directory.join("run-4194303-x"), victim.path().to_owned()),
                _ => (directory.join(name), victim.path().join(name)),
            };
            if planted == "hard link" {
                // On another file system there are none.
                let _ = fs::hard_link(&target, &link);
            } else {
                symlink(target, &link).unwrap();
                give(&link);
            }
        }
        for verb in ["list", "metrics"] {
            ends(&[verb]);
        }
        let mut run = limited(tool::relpoline(), &["run", "-q", "--report", "/dev/null", "--", "true"]);
        assert!(run.status().unwrap().success());
        assert_eq!(fs::read_to_string(victim.path().join(name)).unwrap(), "precious", "{planted}");
    }
    forget();
    let _ = fs::remove_file(&directory);
}

/// The program with every occurrence of a name replaced by something of the same length.
fn renamed(from: &str, to: &[u8], into: &Path) {
    let mut bytes = fs::read(Program::retpolined("named.c").build()).unwrap();
    let places: Vec<usize> =
        bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        let end = (at + from.len()).min(at + to.len());
        bytes[at..end].copy_from_slice(&to[..end - at]);
    }
    tool::write_executable(into, &bytes);
}

/// Names of functions, files, processes and arguments, in all that is shown of a program.
#[test]
fn names_that_give_orders() {
    let directory = open_directory();
    // A file's name may hold anything but a slash and a NUL; symbols must be text to be looked at at all.
    let evil: Vec<u8> = EVIL.iter().copied().filter(|byte| *byte != b'/').collect();
    let name = [b"prog".as_slice(), &evil].concat();
    let program = directory.path().join(std::ffi::OsStr::from_bytes(&name));
    renamed(
        &"A".repeat(64),
        "\u{1b}]0;OWNED\u{7}\u{1b}[31m\n2J\u{9b}\u{202e}\u{2066}\u{2028} <b>&\"'".as_bytes(),
        &program,
    );
    let at = |name: &str| directory.path().join(name).display().to_string();
    let relpoline = tool::relpoline();
    let mut run = Command::new(relpoline);
    run.args(["run", "--count", "--report", &at("report.json"), "--profile", &at("profile"), "--"]).arg(&program);
    let output = run.env("HOSTILE_NAME", "\u{1b}[31mred\n").arg("\u{1b}[31m\n\u{202e}").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_clean(&output.stderr, "run");
    for format in ["text", "json", "html", "flamegraph"] {
        let shown = ends(&["report", &at("report.json"), "--format", format]);
        assert!(text(&shown.stdout).contains("OWNED"), "{format} shows nothing of it");
    }
    assert_clean(&fs::read(at("report.json")).unwrap(), "the report itself");
    ends(&["profile", "show", &at("profile")]);
    ends(&["profile", "show", "--json", &at("profile")]);
    for json in [&[][..], &["--json"]] {
        let output = limited(relpoline, &[&["inspect"], json].concat()).arg(&program).output().unwrap();
        assert_clean(&output.stdout, "inspect");
        assert!(text(&output.stdout).contains("OWNED"));
        let output = limited(relpoline, &["inspect"])
            .arg(directory.path().join(std::ffi::OsStr::from_bytes(&evil)))
            .output()
            .unwrap();
        assert_clean(&output.stderr, "inspect of nothing");
    }
    for format in ["bolt", "autofdo"] {
        let mut export = limited(relpoline, &["profile", "export", "--format", format, "--object"]);
        let output = export.arg(&program).arg(at("profile")).output().unwrap();
        assert_clean(&output.stdout, format);
        assert_clean(&output.stderr, format);
    }
    assert!(ends_raw(&["profile", "export", "--format", "pprof", "-o", &at("pprof"), &at("profile")]));
    let unpacked = Command::new("gzip").arg("-dc").arg(at("pprof")).output().unwrap().stdout;
    assert!(text(&unpacked).contains("OWNED") && !unpacked.windows(2).any(|pair| pair == b"\x1b]"));
}

/// What a compiler wrote of functions is not what a compiler wrote: names in debug information are words of the file that is
/// exported, or are not in it. Compressed, a section may say that it is larger than memory.
#[test]
fn debug_information_that_lies() {
    let directory = open_directory();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let source = directory.path().join("loop.c");
    let name = "A".repeat(24);
    let code = format!(
        "long one(long x) {{ return x + 1; }} long two(long x) {{ return x + 2; }}\n\
         long {name}(long (*f)(long), long x) {{ return f(x) + 1; }}\n\
         int main() {{ volatile long s = 0; for (long i = 0; i < 3000000; i++) s += {name}(i & 1 ? one : two, i); }}\n"
    );
    fs::write(&source, code).unwrap();
    for (kind, flags) in [("plain", &["-gz=none"][..]), ("packed", &["-gz=zlib"])] {
        let program = directory.path().join(kind);
        let mut compile = Command::new("cc");
        compile.args(["-O1", "-g", "-fno-inline", "-mindirect-branch=thunk", "-mindirect-branch-register"]).args(flags);
        assert!(compile.arg("-o").arg(&program).arg(&source).status().unwrap().success());
        let mut run = Command::new(tool::relpoline());
        run.args(["run", "-q", "--profile", &at("profile"), "--"]).arg(&program);
        assert!(run.status().unwrap().success());
        let mut bytes = fs::read(&program).unwrap();
        if kind == "plain" {
            // In .debug_str and .symtab, everywhere.
            let places: Vec<usize> =
                (0..bytes.len() - 24).filter(|&n| bytes[n..].starts_with(name.as_bytes())).collect();
            assert!(places.len() > 1);
            for at in places {
                bytes[at..at + 20].copy_from_slice(b"\x1b]0;OWNED\x07\n one:1:0\n");
            }
        } else {
            // ch_type ELFCOMPRESS_ZLIB, reserved, ch_size, ch_addralign: the sections begin like that.
            let heads: Vec<usize> = (0..bytes.len() - 24)
                .filter(|&n| {
                    bytes[n..n + 8] == [1, 0, 0, 0, 0, 0, 0, 0] && bytes[n + 16..n + 25] == *b"\x01\0\0\0\0\0\0\0\x78"
                })
                .collect();
            assert!(!heads.is_empty());
            for at in heads {
                bytes[at + 8..at + 16].copy_from_slice(&(1_u64 << 35).to_le_bytes());
            }
        }
        tool::write_executable(&program, &bytes);
        let mut export = limited(tool::relpoline(), &["profile", "export", "--format", "autofdo", "--object"]);
        let output = export.arg(&program).arg(at("profile")).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{kind}: {}", output.status);
        for said in [&output.stdout, &output.stderr] {
            assert_clean(said, kind);
            assert!(!text(said).lines().any(|line| line.trim_start() == "one:1:0"), "{kind}: {}", text(said));
        }
        // What is left out is said, or why all of it is.
        assert!(
            text(&output.stderr).contains(if kind == "plain" { "left out" } else { "larger than any" }),
            "{kind}: {}",
            text(&output.stderr)
        );
    }
}

fn ends_raw(arguments: &[&str]) -> bool {
    limited(tool::relpoline(), arguments).status().unwrap().success()
}

/// The same of a process that runs, with a thread's name and a command line of that kind, and names of 64 KiB.
#[test]
fn names_of_a_process_that_runs() {
    let directory = open_directory();
    let program = directory.path().join(std::ffi::OsStr::from_bytes(
        &[b"p".as_slice(), EVIL].concat().into_iter().filter(|b| *b != b'/').collect::<Vec<_>>(),
    ));
    tool::install(&Program::retpolined("hostile.c").build(), &program);
    let mut command = Command::new(tool::relpoline());
    command.args(["run", "-q", "--"]).arg(&program).arg("\u{1b}[31m\n\u{202e}").arg("x".repeat(1 << 16));
    let mut living = Living::start(command.env("HOSTILE_NAME", "\u{1b}[31mr\u{9b}\n"));
    assert_eq!(living.said, "ready");
    let pid = living.pid().to_string();
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &["metrics"],
        &["top", "--once"],
        &["top", "--once", "--json"],
        &["top", &pid, "--once"],
        &["top", &pid, "--once", "--json"],
        &["report", &pid],
        &["explain", &pid, "main"],
        &["explain", &pid, "no\u{1b}[31m_such\n"],
        &["attach", &pid],
        &["disable", "--site", "\u{1b}[31m\n", &pid],
        &["detach", &pid],
        &["attach", "--anyway", &pid],
    ] {
        ends(arguments);
    }
    let metrics = ends(&["metrics"]);
    let lines: Vec<String> = text(&metrics.stdout).lines().map(str::to_owned).collect();
    assert!(lines.iter().all(|line| line.starts_with("# ") || line.starts_with("relpoline_")), "{lines:?}");
    assert!(living.is_alive());
}

/// Attaching to a process whose loader's structures are anything.
#[test]
fn loaders_that_lie() {
    let program = Program::retpolined("hostile.c").build();
    for mode in [
        "empty-circle",
        "circle-of-lists",
        "circle",
        "end-of-memory",
        "link-at-the-end",
        "huge-dynamic",
        "large-dynamic",
        "zeroes",
        "endless-names",
        "escapes",
        "dynamics",
        "flips",
    ] {
        let mut living = Living::start(Command::new(&program).args(["links", mode]));
        assert_eq!(living.said, "ready", "{mode}");
        let pid = living.pid().to_string();
        let attached = ends(&["attach", "--anyway", &pid]);
        // A list that is right every other moment may be read at a right one.
        if mode != "flips" {
            assert_eq!(attached.status.code(), Some(1), "{mode}: {}", text(&attached.stdout));
            assert_eq!(text(&attached.stderr).lines().count(), 1, "{mode}: {}", text(&attached.stderr));
        }
        for verb in ["detach", "relearn"] {
            ends(&[verb, &pid]);
        }
        assert!(living.is_alive(), "{mode}");
    }
}

/// A process whose threads never come to rest is attached to or refused, and goes on.
#[test]
fn a_process_that_does_not_keep_still() {
    let program = Program::retpolined("hostile.c").build();
    let mut living = Living::start(Command::new(program).arg("storm"));
    assert_eq!(living.said, "ready");
    let pid = living.pid().to_string();
    for verb in [&["attach", "--anyway"][..], &["disable"], &["relearn"], &["detach"]] {
        ends(&[verb, &[&pid]].concat());
    }
    assert!(living.is_alive());
}

/// Names of files that a process has not, to look for functions in.
#[test]
fn names_that_lead_to_no_file() {
    let directory = open_directory();
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in
        [fifo.to_str().unwrap(), "/dev/zero", "/proc/kmsg", "/../../../dev/zero", "", "relative", "/proc/self/mem"]
    {
        let mut command = Command::new(tool::relpoline());
        command.args(["run", "-q", "--"]).arg(Program::retpolined("hostile.c").build()).args(["name", path]);
        let mut living = Living::start(&mut command);
        assert_eq!(living.said, "ready");
        let pid = living.pid().to_string();
        ends(&["relearn", "--site", "main", &pid]);
        ends(&["disable", "--site", "no_such_function", &pid]);
        ends(&["explain", &pid, "main"]);
        assert!(living.is_alive());
    }
}

/// A state that whoever looks at processes rarely meets: the command says something in time, and the process goes on.
#[test]
fn processes_in_odd_states() {
    let program = Program::retpolined("hostile.c").build();
    for what in ["private", "elsewhere", "lends", "execs", "maps", "ends", "no-text"] {
        let mut living = Living::start(Command::new(&program).args(["state", what]));
        assert_eq!(living.said, "ready", "{what}");
        let pid = living.pid().to_string();
        for arguments in [
            &["list"][..],
            &["attach", "--anyway", &pid],
            &["report", &pid],
            &["disable", &pid],
            &["detach", &pid],
            &["attach", &pid],
        ] {
            let said = ends(arguments);
            if what == "no-text" && arguments == ["attach", "--anyway", &pid] {
                assert!(said.status.success(), "{}", text(&said.stderr));
            }
        }
        // One that ends, or is replaced, while it is worked on does so by itself, not by a signal.
        if what != "ends" {
            assert!(living.is_alive(), "{what}");
            assert!(living.ends_with(""), "{what}");
        }
    }
}

/// A process whose control group is frozen does not answer: it is refused in time, and goes on when it may.
#[test]
fn a_frozen_process() {
    if !is_root() {
        return;
    }
    let program = Program::retpolined("hostile.c").build();
    let mut living = Living::start(Command::new(&program).args(["state", "plain"]));
    let Some(group) = Frozen::of(living.pid()) else {
        return println!("skipped: control groups cannot be made here");
    };
    let pid = living.pid().to_string();
    for verb in ["list", "report", "attach", "detach"] {
        let arguments = if verb == "list" { vec![verb] } else { vec![verb, &pid] };
        let said = ends(&arguments);
        assert_eq!(said.status.success(), verb == "list" || verb == "detach", "{verb}: {}", text(&said.stderr));
    }
    drop(group);
    assert!(ends(&["attach", "--anyway", &pid]).status.success());
    assert!(living.is_alive() && living.ends_with(""));
}

/// A control group in which nothing runs. What is in it goes on when it is dropped.
struct Frozen {
    group: PathBuf,
    thaw: (&'static str, &'static str),
    back: PathBuf,
    pid: u32,
}

impl Frozen {
    fn of(pid: u32) -> Option<Self> {
        let name = format!("relpoline-hostile-{pid}");
        for (root, file, freeze, thaw) in [
            ("/sys/fs/cgroup/freezer", "freezer.state", "FROZEN", "THAWED"),
            ("/sys/fs/cgroup", "cgroup.freeze", "1", "0"),
        ] {
            let group = Path::new(root).join(&name);
            if fs::create_dir(&group).is_ok() {
                let frozen = Self { group, thaw: (file, thaw), back: root.into(), pid };
                let is_in = fs::write(frozen.group.join("cgroup.procs"), pid.to_string()).is_ok();
                if is_in && fs::write(frozen.group.join(file), freeze).is_ok() {
                    return Some(frozen);
                }
            }
        }
        None
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = fs::write(self.group.join(self.thaw.0), self.thaw.1);
        let _ = fs::write(self.back.join("cgroup.procs"), self.pid.to_string());
        let _ = fs::remove_dir(&self.group);
    }
}

/// Where root lets a run of eBPF programs listen, and where perf's file is made, another user has put something.
#[test]
fn sockets_and_dumps_that_were_planted() {
    if !is_root() {
        return;
    }
    let _one = alone();
    let directory = open_directory();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
    let victim = tempfile::tempdir().unwrap();
    let precious = victim.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    let programs = open_directory();
    let [program, relpoline] = ["hostile", "relpoline"].map(|name| programs.path().join(name));
    tool::install(&Program::retpolined("hostile.c").build(), &program);
    tool::install(tool::relpoline(), &relpoline);
    tool::install(&tool::engine(), &programs.path().join(tool::engine().file_name().unwrap()));
    let mut run = Command::new(relpoline);
    run.args(["run", "-q", "--"]).arg(program).uid(ATTACKER).gid(ATTACKER);
    let mut living = Living::start(&mut run);
    assert_eq!(living.said, "ready");
    let pid = living.pid().to_string();
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/bpf/tests/programs/counts.o");
    let (object, place) = (object.display().to_string(), directory.path().display().to_string());
    let name = directory.path().join(format!("jit-{pid}.dump"));
    let path = name.display().to_string();
    for planted in ["link", "dangling", "fifo", "socket", "hard link"] {
        match planted {
            "link" => symlink(&precious, &name).unwrap(),
            "dangling" => symlink(victim.path().join("new"), &name).unwrap(),
            "fifo" => assert!(Command::new("mkfifo").args(["-m", "666"]).arg(&name).status().unwrap().success()),
            "socket" => drop(std::os::unix::net::UnixListener::bind(&name).unwrap()),
            _ => fs::hard_link(&precious, &name).unwrap(),
        }
        if planted != "hard link" {
            lchown(&name, Some(ATTACKER), Some(ATTACKER)).unwrap();
        }
        let seen = fs::symlink_metadata(&name).unwrap().ino();
        let listened = ends(&["bpf", "run", &object, "--hex", "00", "--control", &path]);
        assert_eq!(listened.status.code(), Some(1), "{planted}: {}", text(&listened.stdout));
        assert!(text(&listened.stderr).contains("cannot listen"), "{planted}: {}", text(&listened.stderr));
        assert_eq!(fs::symlink_metadata(&name).unwrap().ino(), seen, "{planted}");
        let asked = ends(&["bpf", "swap", &path, "array", "0="]);
        assert_eq!(asked.status.code(), Some(1), "{planted}: {}", text(&asked.stdout));
        let dumped = ends(&["perf", &pid, "--dir", &place]);
        // A name that is root's own makes way, and only the name.
        assert_eq!(dumped.status.success(), planted == "hard link", "{planted}: {}", text(&dumped.stderr));
        if planted != "hard link" {
            fs::remove_file(&name).unwrap();
        }
    }
    // What the process has mapped makes way for another file, and that stays.
    fs::rename(&name, directory.path().join("moved")).unwrap();
    fs::hard_link(&precious, &name).unwrap();
    let dumped = ends(&["perf", &pid, "--dir", &place]);
    println!("{}", text(&dumped.stdout) + &text(&dumped.stderr));
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert_eq!(fs::read_dir(victim.path()).unwrap().count(), 1);
    assert!(living.is_alive());
    drop(living);
    forget();
}

/// Another user exchanges, without end, directories for links to root's, and files for links, FIFOs and hard links, where root
/// writes and reads. In a directory of that user's own, and where everybody may write.
#[test]
fn places_that_are_exchanged_meanwhile() {
    if !is_root() {
        return;
    }
    let _one = alone();
    let place = open_directory();
    let victim = tempfile::tempdir().unwrap();
    fs::write(victim.path().join("precious"), "precious").unwrap();
    fs::write(victim.path().join("report"), "precious").unwrap();
    let own = |path: &Path| lchown(path, Some(ATTACKER), Some(ATTACKER)).unwrap();
    let program = Program::retpolined("named.c").build();
    let report = victim.path().join("good").display().to_string();
    let profile = victim.path().join("profile").display().to_string();
    let mut run = Command::new(tool::relpoline());
    run.args(["run", "-q", "--report", &report, "--profile", &profile, "--"]).arg(&program);
    assert!(run.status().unwrap().success());
    let before: Vec<_> = contents(victim.path());
    for bits in [0o755, 0o1777] {
        let theirs = place.path().join(format!("{bits:o}"));
        let at = |name: &str| theirs.join(name).display().to_string();
        fs::create_dir_all(theirs.join("d")).unwrap();
        fs::set_permissions(&theirs, Permissions::from_mode(bits)).unwrap();
        symlink(victim.path(), at("to-d")).unwrap();
        symlink(victim.path().join("precious"), at("d/link")).unwrap();
        assert!(Command::new("mkfifo").args(["-m", "666"]).arg(at("d/fifo")).status().unwrap().success());
        fs::copy(&report, at("d/report")).unwrap();
        fs::copy(&profile, at("d/profile")).unwrap();
        fs::copy(&program, at("d/program")).unwrap();
        if bits == 0o755 {
            own(&theirs);
        }
        for name in ["d", "to-d", "d/link", "d/fifo", "d/report", "d/profile", "d/program"] {
            own(&theirs.join(name));
        }
        let pairs =
            ["d", "to-d", "d/report", "d/link", "d/profile", "d/fifo", "d/program", "d/link", "d/fifo", "d/report"];
        let attacker = Program::retpolined("hostile.c").build();
        let mut exchange = Command::new(attacker);
        exchange.arg("exchange").args(pairs.map(at)).uid(ATTACKER).gid(ATTACKER);
        let exchanging = Living::start(&mut exchange);
        assert_eq!(exchanging.said, "ready");
        for _ in 0..12 {
            for arguments in [
                &["metrics", "--textfile", &at("d/report")][..],
                &["report", &report, "--format", "json", "-o", &at("d/report")],
                &["report", &at("d/report")],
                &["profile", "merge", "-o", &at("d/profile"), &profile],
                &["profile", "merge", "-o", "/dev/null", &at("d/profile")],
                &["profile", "show", &at("d/profile")],
                &["profile", "export", "--format", "pprof", "-o", &at("d/report"), &profile],
                &["inspect", &at("d/program")],
                &["man", "--out", &at("d")],
            ] {
                ends(arguments);
            }
        }
        assert_eq!(contents(victim.path()), before, "{bits:o}");
    }
}

/// Names and contents of the files in a directory.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    all.sort();
    all
}

/// The command alone, with a cache that another user may change: root's programs do not get an engine from there.
#[test]
fn an_engine_from_another_users_home() {
    if !is_root() {
        return;
    }
    let place = open_directory();
    let relpoline = place.path().join("relpoline");
    tool::install(tool::relpoline(), &relpoline);
    let preloaded = |name: &str, value: &Path| {
        let mut command = limited(&relpoline, &["run", "-q", "--", "env"]);
        command.env_remove("XDG_CACHE_HOME").env_remove("XDG_RUNTIME_DIR").env("HOME", "/nonexistent");
        command.env_remove("LD_PRELOAD").env(name, value);
        let output = command.output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        let line = said.lines().find_map(|line| line.strip_prefix("LD_PRELOAD=")).map(PathBuf::from);
        line.unwrap_or_else(|| panic!("{said}"))
    };
    // A place of root's own serves.
    let own = place.path().join("own");
    fs::create_dir(&own).unwrap();
    let good = preloaded("XDG_CACHE_HOME", &own);
    assert!(good.starts_with(&own), "{}", good.display());
    let engine = fs::read(&good).unwrap();
    for (kind, name) in
        [("home", "HOME"), ("cache", "XDG_CACHE_HOME"), ("open", "XDG_CACHE_HOME"), ("link", "XDG_CACHE_HOME")]
    {
        let theirs = place.path().join(kind);
        let cache = if name == "HOME" { theirs.join(".cache/relpoline") } else { theirs.join("relpoline") };
        fs::create_dir_all(&cache).unwrap();
        // With what an attacker would have put there: the very file, to be exchanged later, or another one.
        fs::write(cache.join(good.file_name().unwrap()), if kind == "cache" { b"evil" } else { &*engine }).unwrap();
        match kind {
            "open" => fs::set_permissions(&theirs, Permissions::from_mode(0o777)).unwrap(),
            "link" => {
                fs::rename(&theirs, place.path().join("moved")).unwrap();
                symlink("moved", &theirs).unwrap();
                lchown(&theirs, Some(ATTACKER), None).unwrap();
            }
            _ => lchown(&theirs, Some(ATTACKER), None).unwrap(),
        }
        let used = preloaded(name, &theirs);
        assert!(!used.starts_with(place.path()), "{kind}: {}", used.display());
        assert_eq!(fs::read(&used).unwrap(), engine, "{kind}");
        for directory in used.ancestors().skip(1) {
            let meta = fs::metadata(directory).unwrap();
            assert!(
                meta.uid() == 0 && (meta.mode() & 0o022 == 0 || meta.mode() & 0o1000 != 0),
                "{}",
                directory.display()
            );
        }
    }
}

/// In a directory like /tmp, a report takes the place of what others put there, or is refused: it is not written into it.
#[test]
fn reports_where_everybody_may_write() {
    if !is_root() {
        return;
    }
    let directory = open_directory();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
    let victim = tempfile::tempdir().unwrap();
    fs::write(victim.path().join("precious"), "precious").unwrap();
    let at = |name: &str| directory.path().join(name);
    assert!(Command::new("mkfifo").args(["-m", "666"]).arg(at("fifo")).status().unwrap().success());
    symlink(victim.path().join("precious"), at("link")).unwrap();
    symlink(victim.path(), at("directory")).unwrap();
    fs::write(at("file"), "theirs").unwrap();
    let program = Program::retpolined("named.c").build();
    for name in ["fifo", "link", "directory", "file"] {
        lchown(at(name), Some(ATTACKER), Some(ATTACKER)).unwrap();
    }
    for name in ["fifo", "link", "directory/new", "file"] {
        let place = at(name).display().to_string();
        for option in ["--report", "--profile"] {
            let mut run = limited(tool::relpoline(), &["run", "-q", option, &place, "--"]);
            let output = run.arg(&program).output().unwrap();
            assert!(output.status.code().is_some(), "{option} {name}: {}", output.status);
        }
        ends(&["metrics", "--textfile", &place]);
    }
    assert_eq!(fs::read_to_string(victim.path().join("precious")).unwrap(), "precious");
    assert_eq!(fs::read_dir(victim.path()).unwrap().count(), 1);
    assert_eq!(fs::metadata(at("file")).unwrap().uid(), 0, "it is root's own now");
    assert!(at("fifo").symlink_metadata().is_ok_and(|meta| meta.uid() == ATTACKER));
}
