//! Programs that are started elsewhere than their starter runs: in a root with an older C library or without /proc, as another
//! user, in namespaces of their own, from a directory that is gone. All of it is as without the engine.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use relpoline_tests::{Outcome, Program, Run, broken, tool};

fn program() -> PathBuf {
    Program::retpolined("elsewhere.c").flags(&["-ldl"]).build()
}

fn is_root() -> bool {
    let is_root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if !is_root {
        println!("skipped: it takes root");
    }
    is_root
}

/// A directory that everybody may enter.
fn open_directory() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("no temporary directory");
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("cannot open it");
    place
}

/// The starter's `part` with and without the engine. What the run with it was like.
fn alike(part: &str, place: &Path, target: Option<&Path>) -> Outcome {
    let run = target.iter().fold(Run::new(program()).arg(part).arg(place), |run, target| run.arg(target));
    let promoted = run.same();
    promoted.report().assert_promoted(&["site"]);
    promoted
}

/// Where the engine lies that `relpoline run` preloads.
fn preloaded() -> PathBuf {
    let said = Run::new("sh").args(&["-c", "echo \"$LD_PRELOAD\""]).promoted().text();
    let path = said.trim().split(':').next().map(PathBuf::from).unwrap_or_default();
    assert!(path.is_file(), "{said}");
    path
}

/// Copies `file` into `root`, to `path`.
fn put(root: &Path, file: &Path, path: &Path) {
    let to = root.join(path.strip_prefix("/").unwrap_or(path));
    fs::create_dir_all(to.parent().expect("it lies in a directory")).expect("cannot make it");
    tool::install(file, &to);
}

/// Debian 11's C library, cat and shell, from its archive; `None`, with the reason said, where that cannot be had.
fn old_root() -> Option<PathBuf> {
    static ROOT: OnceLock<Option<PathBuf>> = OnceLock::new();
    ROOT.get_or_init(fetch_old_root).clone()
}

fn fetch_old_root() -> Option<PathBuf> {
    let place = tool::target_directory().join("bullseye");
    let root = place.join("root");
    if root.join("bin/dash").exists() {
        return Some(root);
    }
    let script = r#"
        set -e
        mkdir -p "$1/lists/partial" "$1/cache/archives/partial" "$1/packages"
        : > "$1/status"
        echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bullseye main' \
            > "$1/sources"
        apt() {
            timeout 120 apt-get -q -o Dir::Etc::sourcelist="$1/sources" -o Dir::Etc::sourceparts=/dev/null \
                -o Dir::State::lists="$1/lists" -o Dir::State::status="$1/status" -o Dir::Cache="$1/cache" \
                -o APT::Sandbox::User=root -o Acquire::Languages=none \
                -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$2" $3
        }
        cd "$1/packages"
        apt "$1" update
        apt "$1" download 'libc6 dash coreutils'
        rm -rf "$1/fresh"
        for package in *.deb; do dpkg -x "$package" "$1/fresh"; done
        mv "$1/fresh" "$1/root"
    "#;
    fs::create_dir_all(&place).ok()?;
    let made = Command::new("sh").args(["-c", script, "sh"]).arg(&place).output();
    match made {
        Ok(output) if output.status.success() => Some(root),
        Ok(output) => {
            println!("skipped: Debian 11's packages cannot be had: {}", String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

#[test]
fn in_a_root_with_an_older_c_library() {
    let Some(old) = is_root().then(old_root).flatten() else { return };
    let place = open_directory();
    let root = place.path().join("root");
    let copied = Command::new("cp").arg("-a").arg(&old).arg(&root).status();
    assert!(copied.is_ok_and(|status| status.success()));
    fs::write(root.join("mark"), "in the root\n").expect("cannot write");
    tool::write_executable(&root.join("script"), b"#!/bin/dash\necho \"$0 $1 $LD_PRELOAD\"; exec /bin/cat /mark\n");
    let outcome = alike("root", &root, None);
    assert_eq!(outcome.text().matches("in the root").count(), 9, "{}", outcome.text());
    // The same with the engine's file in that root too, as where parts of it are mounted from outside.
    put(&root, &tool::engine(), &preloaded());
    // It names the preload then, as it would any other.
    fs::remove_file(root.join("script")).expect("it was written");
    tool::write_executable(&root.join("script"), b"#!/bin/dash\necho \"$0 $1\"; exec /bin/cat /mark\n");
    let _ = alike("root", &root, None);
}

/// A root with this C library and nothing else, first without the engine's file, then with it.
#[test]
fn in_a_root_without_proc() {
    if !is_root() {
        return;
    }
    let place = open_directory();
    let root = place.path();
    let inside = Path::new("/program");
    put(root, &program(), inside);
    for file in ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"] {
        put(root, Path::new(file), Path::new(file));
    }
    let outcome = alike("bare", root, Some(inside));
    assert_eq!(outcome.text().matches("user 0 as 0").count(), 3, "{}", outcome.text());
    put(root, &tool::engine(), &preloaded());
    let _ = alike("bare", root, Some(inside));
}

#[test]
fn as_another_user() {
    if !is_root() {
        return;
    }
    let place = open_directory();
    let target = place.path().join("target");
    tool::install(&program(), &target);
    // As it is; for everybody to start and nobody to read; set-user-id.
    for (mode, said) in [(0o755, "user 65534 as 65534"), (0o111, "user 65534 as 65534"), (0o4755, "user 65534 as 0")] {
        fs::set_permissions(&target, Permissions::from_mode(mode)).expect("cannot change its mode");
        let outcome = alike("nobody", place.path(), Some(&target));
        assert_eq!(outcome.text().matches(said).count(), 5, "{}", outcome.text());
    }
    // And by its owner, to whom the bit gives nothing.
    for mode in [0o111, 0o4755] {
        fs::set_permissions(&target, Permissions::from_mode(mode)).expect("cannot change its mode");
        let _ = alike("here", place.path(), Some(&target));
    }
}

#[test]
fn by_shells_and_descriptors() {
    let place = open_directory();
    let outcome = alike("here", place.path(), None);
    assert!(outcome.text().contains("popen: user"), "{}", outcome.text());
    // Shells in between have none.
    let promoted = outcome.children.iter().filter(|child| child.sites_in("site").any(|site| site.is_promoted()));
    assert_eq!(promoted.count(), 5);
}

#[test]
fn from_a_directory_that_is_gone() {
    let place = open_directory();
    let outcome = alike("nowhere", place.path(), None);
    assert_eq!(outcome.text().matches("| No such file or directory").count(), 5, "{}", outcome.text());
}

#[test]
fn in_namespaces_of_their_own() {
    let place = open_directory();
    let outcome = alike("apart", place.path(), None);
    if outcome.text().contains("unshare:") {
        println!("skipped in part: {}", outcome.text());
    }
    assert!(outcome.text().matches("process").count() >= 5, "{}", outcome.text());
}

/// What goes wrong elsewhere is seen: an engine that is handed to programs that cannot reach its file makes their loader
/// complain.
#[test]
fn an_engine_that_cannot_be_reached_is_noticed() {
    let Some(old) = is_root().then(old_root).flatten() else { return };
    let root = open_directory();
    let copied = Command::new("cp").arg("-a").arg(old.join(".")).arg(root.path()).status();
    assert!(copied.is_ok_and(|status| status.success()));
    fs::write(root.path().join("mark"), "in the root\n").expect("cannot write");
    tool::write_executable(&root.path().join("script"), b"#!/bin/dash\nexec /bin/cat /mark\n");
    let place = root.path().to_str().expect("a plain path");
    let outcome = broken::run("reaches-everywhere", &Program::retpolined("elsewhere.c"), &["root", place], "--count");
    let complaint = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert!(complaint.contains("cannot be preloaded"), "{complaint}");
}
