//! Where root reads and writes, another user has put something, or exchanges it meanwhile.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use relpoline_tests::{Living, Program, tool};

use crate::attacker::{ATTACKER, alone, forget, is_root, open_directory};
use crate::command::{ends, limited, text};

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

/// Directories of another user's, in which that one could exchange what a process of root's opens, or what root starts.
#[test]
fn directories_of_others_are_not_worked_in() {
    if !is_root() {
        return;
    }
    let _one = alone();
    let base = tempfile::tempdir().unwrap();
    fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
    let theirs = base.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    lchown(&theirs, Some(ATTACKER), Some(ATTACKER)).unwrap();
    let program = Program::retpolined("hostile.c").build();
    let mut run = Command::new(tool::relpoline());
    let mut living = Living::start(run.args(["run", "-q", "--"]).arg(&program));
    let pid = living.pid().to_string();
    let place = |path: &Path| path.display().to_string();
    let dumped = ends(&["perf", &pid, "--dir", &place(&theirs)]);
    assert!(text(&dumped.stderr).contains("belongs to somebody else"), "{}", text(&dumped.stderr));
    assert!(ends(&["perf", &pid, "--dir", &place(base.path())]).status.success());
    assert!(living.is_alive());
    for arguments in [&["try", "-n", "1", "--", "true"][..], &["man", "--out", &place(&base.path().join("man"))]] {
        let output = limited(tool::relpoline(), arguments).env("TMPDIR", &theirs).output().unwrap();
        let said = text(&output.stderr);
        assert!(
            said.contains("TMPDIR is not used") && said.contains("belongs to somebody else"),
            "{arguments:?}: {said}"
        );
        assert!(output.status.code() != Some(1), "{arguments:?}: {said}");
    }
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
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

/// The same where the file for perf is made, for a process of that user's.
#[test]
fn a_place_for_dumps_that_is_exchanged_meanwhile() {
    if !is_root() {
        return;
    }
    let _one = alone();
    let (place, programs) = (open_directory(), open_directory());
    let victim = tempfile::tempdir().unwrap();
    fs::write(victim.path().join("precious"), "precious").unwrap();
    let [program, relpoline] = ["hostile", "relpoline"].map(|name| programs.path().join(name));
    tool::install(&Program::retpolined("hostile.c").build(), &program);
    tool::install(tool::relpoline(), &relpoline);
    tool::install(&tool::engine(), &programs.path().join(tool::engine().file_name().unwrap()));
    let theirs = place.path().join("theirs");
    let at = |name: &str| theirs.join(name).display().to_string();
    fs::create_dir_all(theirs.join("d")).unwrap();
    fs::create_dir_all(theirs.join("other")).unwrap();
    symlink(victim.path(), at("to-d")).unwrap();
    for path in [&theirs, &theirs.join("d"), &theirs.join("other"), &theirs.join("to-d")] {
        lchown(path, Some(ATTACKER), Some(ATTACKER)).unwrap();
    }
    let mut exchange = Command::new(&program);
    exchange.arg("exchange").args(["d", "to-d", "d", "other", "other", "to-d"].map(at)).uid(ATTACKER).gid(ATTACKER);
    let exchanging = Living::start(&mut exchange);
    assert_eq!(exchanging.said, "ready");
    let mut made = 0;
    for _ in 0..6 {
        // Each makes a file of its own.
        let mut run = Command::new(&relpoline);
        run.args(["run", "-q", "--"]).arg(&program).uid(ATTACKER).gid(ATTACKER);
        let mut living = Living::start(&mut run);
        assert_eq!(living.said, "ready");
        let pid = living.pid().to_string();
        for _ in 0..4 {
            made += usize::from(ends(&["perf", &pid, "--dir", &at("d")]).status.success());
        }
        assert!(living.is_alive());
        assert_eq!(contents(victim.path()).len(), 1, "{:?}", contents(victim.path()));
    }
    println!("{made} of 24 times there was a directory that stayed for long enough");
    drop(exchanging);
    forget();
}

/// Another user mounts, without end, other things over /dev/shm, in a mount namespace of that user's own, which the tools look
/// into. What they find there is that user's; nothing is removed there, and nothing elsewhere.
#[test]
fn mounts_that_are_exchanged_meanwhile() {
    if !is_root() {
        return;
    }
    let _one = alone();
    let place = open_directory();
    let theirs = place.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, Permissions::from_mode(0o700)).unwrap();
    // As it would lie in the directory of that user's statistics, and of root's.
    for name in ["4194303-1-2.stats", "precious"] {
        fs::write(theirs.join(name), "precious").unwrap();
        lchown(theirs.join(name), Some(ATTACKER), Some(ATTACKER)).unwrap();
    }
    lchown(&theirs, Some(ATTACKER), Some(ATTACKER)).unwrap();
    let mut command = Command::new(Program::retpolined("hostile.c").build());
    let mut living = Living::start(command.arg("mounts").arg(&theirs).uid(ATTACKER).gid(ATTACKER));
    if living.said != "ready" {
        return println!("skipped: this user may not have namespaces");
    }
    let pid = living.pid().to_string();
    for _ in 0..12 {
        for arguments in [
            &["list"][..],
            &["list", "--json"],
            &["metrics"],
            &["top", "--once"],
            &["report", &pid],
            &["explain", &pid, "main"],
            &["attach", "--anyway", &pid],
            &["relearn", "--site", "main", &pid],
            &["perf", &pid, "--dir", &place.path().display().to_string()],
            &["detach", &pid],
        ] {
            ends(arguments);
        }
    }
    assert!(living.is_alive());
    assert_eq!(contents(&theirs).len(), 2, "{:?}", contents(&theirs));
    drop(living);
    forget();
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
