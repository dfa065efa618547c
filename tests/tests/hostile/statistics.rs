//! Statistics that no engine writes, and names of files that are not what they say.

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use relpoline_stats::file::set_text;
use relpoline_stats::record::MAGIC;
use relpoline_stats::{
    EventRecord, Header, Layout, ObjectRecord, Plain, RefusalRecord, SiteRecord, State, TargetRecord,
};
use relpoline_tests::{Program, tool};

use crate::attacker::{ATTACKER, EVIL, alone, forged, forget, is_root, open_directory};
use crate::command::{ends, limited, text};

/// Statistics that say the worst of everything, with objects of these paths.
pub fn worst(objects: &[&[u8]], sites: u32) -> Vec<u8> {
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
pub fn report_on(pid: u32) {
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
