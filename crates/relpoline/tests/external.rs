//! Crates outside the workspace, built as a user would build them: under eight threads and constant change; as
//! dylib and cdylib; with two versions of this crate in one program.
//!
//! `RELPOLINE_STRESS_SECONDS=30` runs it for longer than the default of 2 s.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(miri), not(feature = "no-patch")))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Builds the workspace at `manifest` as `name`; returns where the results are.
fn build_at(manifest: &Path, name: &str, flags: &str, arguments: &[&str]) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("external").join(name);
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--offline", "--quiet", "-j2", "--manifest-path"])
        .arg(manifest)
        .args(arguments)
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", flags)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target.join("release")
}

fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/external/Cargo.toml")
}

/// Builds the stress program and its plug-in, perhaps with a deliberate fault.
fn build(fault: Option<&str>) -> PathBuf {
    let flags = fault.map_or(String::new(), |f| format!("--cfg relpoline_broken=\"{f}\""));
    build_at(&manifest(), fault.unwrap_or("right"), &flags, &["-p", "stress", "-p", "plugin"])
}

fn succeeds(run: &Output) -> String {
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{} {text} {}", run.status, String::from_utf8_lossy(&run.stderr));
    text
}

fn stress(results: &Path, seconds: &str) -> Output {
    Command::new(results.join("stress")).arg(seconds).arg(results.join("libplugin.so")).output().expect("stress runs")
}

#[test]
fn no_call_goes_wrong_while_everything_changes() {
    let seconds = std::env::var("RELPOLINE_STRESS_SECONDS").unwrap_or_else(|_| String::from("2"));
    let run = stress(&build(None), &seconds);
    let text = succeeds(&run);
    assert!(text.contains("none wrong"), "{text}");
    println!("{text}");
}

#[test]
#[ignore = "slow: .ci/run --long"]
fn the_broken_variant_is_noticed() {
    let run = stress(&build(Some("key-skips")), "20");
    assert!(!run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    println!("{} {}", run.status, String::from_utf8_lossy(&run.stderr));
}

/// Each call is a direct call of its target; without the islands in between, threads go where no target is.
#[test]
fn calls_are_direct_calls() {
    let results = build_at(&manifest(), "right", "", &["-p", "callers"]);
    let text = succeeds(&Command::new(results.join("callers")).output().expect("callers runs"));
    assert!(text.contains("all right"), "{text}");
    println!("{text}");
}

#[test]
#[ignore = "slow: .ci/run --long"]
fn going_straight_across_is_noticed() {
    let run = stress(&build(Some("straight-across")), "20");
    assert!(!run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    println!("{} {}", run.status, String::from_utf8_lossy(&run.stderr));
}

#[test]
fn a_dylib_shares_its_keys_and_calls_with_its_program() {
    let results = build_at(&manifest(), "dylib", "-C prefer-dynamic", &["-p", "user"]);
    let sysroot = Command::new("rustc").args(["--print", "target-libdir"]).output().expect("rustc runs");
    let libraries = format!(
        "{}:{}:{}",
        results.display(),
        results.join("deps").display(),
        String::from_utf8_lossy(&sysroot.stdout).trim()
    );
    let run = Command::new(results.join("user")).env("LD_LIBRARY_PATH", libraries).output().expect("user runs");
    assert!(succeeds(&run).contains("all right"));
}

/// Keys behind references, and functions behind pointers, have no address that a branch could be patched by.
#[test]
fn what_cannot_be_patched_does_not_compile() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("external/refused");
    let check = |feature: &str, no_patch: bool| {
        let run = Command::new(env!("CARGO"))
            .args(["build", "--offline", "--quiet", "-j2", "-p", "refused", "--features", feature, "--manifest-path"])
            .arg(manifest())
            .arg("--target-dir")
            .arg(&target)
            .env("RUSTFLAGS", "")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .args(no_patch.then_some(["--features", "relpoline/no-patch"]).into_iter().flatten())
            .output()
            .expect("cargo runs");
        (run.status.success(), String::from_utf8_lossy(&run.stderr).into_owned())
    };
    let macros = std::fs::read_to_string(manifest().with_file_name("refused/src/main.rs")).expect("the mistakes");
    for no_patch in [false, true] {
        let (compiles, text) = check("", no_patch);
        assert!(compiles, "{text}");
        let a_key = "is not a static key";
        let a_function = "the first target of a static call must be a function";
        // What is wrong, what the message says, and what of the user's it points at. One message a mistake.
        let mistakes = [
            ("alias", a_key, "relpoline::likely!(ALIAS)"),
            ("deref", a_key, "unlikely!(SWITCH)"),
            ("lazy", a_key, "unlikely!(LAZY)"),
            ("function", a_key, "unlikely!(function)"),
            ("constant", a_key, "unlikely!(CONSTANT)"),
            ("pointer", a_function, "static_call!(fn call() -> u32 = POINTER)"),
            ("constant_pointer", a_function, "static_call!(fn call() -> u32 = CONSTANT_POINTER)"),
            (
                "method_object",
                "the first parameter of a dynamic method is the trait object",
                "dynamic_method!(fn wrong(shape: &Square",
            ),
            ("method_result", "add a parameter `result: &mut String`", "String"),
            ("by_value", "pass it by reference", "String"),
            ("result", "add a parameter `result: &mut Result<u32, String>`", "Result<u32, String>"),
            (
                "too_many",
                "pass at most five words",
                "dynamic_call!(fn wrong(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64))",
            ),
            ("abi", "not `extern \"system\"`", "dynamic_call!(extern \"system\" fn wrong(a: u64))"),
            ("parameters", "cannot have type parameters", "static_call!(fn wrong<T>"),
            ("call_parameters", "cannot have parameters of its own", "dynamic_call!(fn wrong<T>"),
            ("closure", "not a closure", "static_call!(fn wrong(a: u64) -> u64 = |a| a + 1)"),
            ("no_target", "has no first target", "static_call!(fn wrong(a: u64) -> u64)"),
            (
                "other_type",
                "expected fn pointer `fn(u64) -> u64`",
                "static_call!(fn wrong(a: u64) -> u64 = u32::is_power_of_two)",
            ),
            ("key_type", "static keys are defined by", "static_key!(static WRONG: u32 = 1)"),
            ("key_expression", "not an expression", "relpoline::unlikely!(1 + 1)"),
        ];
        for (feature, why, at) in mistakes {
            let (compiles, text) = check(feature, no_patch);
            assert!(!compiles && text.contains(why), "{feature}, {no_patch}: {text}");
            let found = places(&text, &macros);
            // What a constant holds is refused once more, by the compiler: no branch can name it. Without patching no branch does, and
            // no register is asked for in a place of its own.
            let messages = if feature.starts_with("constant") { 2 } else { 1 };
            assert!(found.len() == messages || no_patch, "{feature}: {} messages: {text}", found.len());
            for place in found {
                assert!(place.starts_with(at), "{feature}, {no_patch}: points at `{place}`: {text}");
            }
        }
    }
}

/// What of `source` each error message points at, to the end of its line.
fn places<'a>(messages: &str, source: &'a str) -> Vec<&'a str> {
    let mut lines = messages.lines();
    let mut places = Vec::new();
    while let Some(line) = lines.next() {
        if !line.starts_with("error") || line.contains("could not compile") {
            continue;
        }
        let at = lines.next().and_then(|line| line.trim_start().strip_prefix("--> "));
        let place = at.and_then(|at| {
            let mut parts = at.rsplitn(3, ':');
            let (column, line) = (parts.next()?.parse::<usize>().ok()?, parts.next()?.parse::<usize>().ok()?);
            let file = parts.next()?;
            // The user's file, not this crate's.
            source.lines().nth(line - 1)?.get(column - 1..).filter(|_| file.ends_with("refused/src/main.rs"))
        });
        places.push(place.unwrap_or("no place of the user's"));
    }
    places
}

/// Whether the linker that `cc` calls by this option is there.
fn is_there(linker: &str) -> bool {
    let found = Command::new("cc").args([linker, "-Wl,--version"]).output();
    let there = found.is_ok_and(|o| o.status.success());
    if !there {
        println!("skipped: there is no linker for {linker}");
    }
    there
}

#[test]
fn linkers_fold_no_gates() {
    let folding =
        [("-fuse-ld=lld", "all"), ("-fuse-ld=lld", "safe"), ("-fuse-ld=gold", "all"), ("-fuse-ld=gold", "safe")];
    for (linker, how) in folding {
        if is_there(linker) {
            // Only the last step differs, so what is there of it goes on being used.
            let results = build_at(&manifest(), "right", "", &["-p", "gates"]);
            let linked = Command::new(env!("CARGO"))
                .args(["rustc", "--release", "--offline", "--quiet", "-p", "gates", "--manifest-path"])
                .arg(manifest())
                .arg("--target-dir")
                .arg(results.parent().expect("the target directory"))
                .args(["--", &format!("-Clink-arg={linker}"), &format!("-Clink-arg=-Wl,--icf={how}")])
                .arg("-Clink-arg=-Wl,--gc-sections")
                .env("RUSTFLAGS", "")
                .env_remove("CARGO_ENCODED_RUSTFLAGS")
                .output()
                .expect("cargo runs");
            assert!(linked.status.success(), "{}", String::from_utf8_lossy(&linked.stderr));
            let run = Command::new(results.join("gates")).output().expect("gates runs");
            assert!(succeeds(&run).contains("all right"), "{linker} {how}");
        }
    }
    for lto in ["fat", "thin"] {
        let config = format!("profile.release.lto=\"{lto}\"");
        let results = build_at(&manifest(), &format!("lto-{lto}"), "", &["-p", "gates", "--config", &config]);
        let run = Command::new(results.join("gates")).output().expect("gates runs");
        assert!(succeeds(&run).contains("all right"), "{lto}");
    }
}

/// A way to build: its name, a target if it is not the usual one, flags for rustc, configuration for cargo, and what must be there.
type Way = (&'static str, &'static str, &'static str, &'static [&'static str], Needs);

enum Needs {
    Nothing,
    /// A linker that `cc` calls by this option.
    Linker(&'static str),
    /// Its standard library.
    Target,
}

const GNU: &str = "x86_64-unknown-linux-gnu";
const MUSL: &str = "x86_64-unknown-linux-musl";
/// What is tried each time.
const SHORT: [Way; 1] = [("musl", MUSL, "", &[], Needs::Target)];
/// What is tried besides.
const LONG: [Way; 11] = [
    ("musl-dynamic", MUSL, "-Ctarget-feature=-crt-static", &[], Needs::Target),
    ("crt-static", GNU, "-Ctarget-feature=+crt-static", &[], Needs::Nothing),
    ("crt-static-not-pie", GNU, "-Ctarget-feature=+crt-static -Crelocation-model=static", &[], Needs::Nothing),
    ("not-pie", GNU, "-Crelocation-model=static", &[], Needs::Nothing),
    ("panic-abort", GNU, "", &["profile.release.panic=\"abort\""], Needs::Nothing),
    ("lto-thin", GNU, "", &["profile.release.lto=\"thin\""], Needs::Nothing),
    (
        "lto-fat",
        GNU,
        "",
        &["profile.release.lto=\"fat\"", "profile.release.codegen-units=1", "profile.release.panic=\"abort\""],
        Needs::Nothing,
    ),
    ("bfd", GNU, "-Clink-arg=-fuse-ld=bfd", &[], Needs::Linker("-fuse-ld=bfd")),
    ("gold", GNU, "-Clink-arg=-fuse-ld=gold", &[], Needs::Linker("-fuse-ld=gold")),
    ("lld", GNU, "-Clink-arg=-fuse-ld=lld", &[], Needs::Linker("-fuse-ld=lld")),
    ("cpu", GNU, "-Ctarget-cpu=x86-64-v3", &["profile.release.opt-level=2"], Needs::Nothing),
];

/// Builds three programs in a way, and runs them.
fn works_as_built((name, target, flags, configured, needs): &Way) {
    let there = match needs {
        Needs::Nothing => true,
        Needs::Linker(linker) => is_there(linker),
        Needs::Target => {
            let asked = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
            let libraries = asked.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
            Path::new(&libraries).is_dir()
        }
    };
    if !there {
        println!("skipped: {name}: what it needs is not there");
        return;
    }
    let mut arguments = vec!["--target", target, "-p", "gates", "-p", "callers", "-p", "stress"];
    arguments.extend(configured.iter().flat_map(|one| ["--config", one]));
    let at = format!("matrix/{name}");
    let results = build_at(&manifest(), &at, flags, &arguments);
    let results = results.parent().expect("the target directory").join(target).join("release");
    for (program, arguments) in [("gates", &[][..]), ("callers", &[]), ("stress", &["1"])] {
        let run = Command::new(results.join(program)).args(arguments).output().expect("it runs");
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        let right = text.contains("all right") || text.contains("none wrong");
        assert!(
            run.status.success() && right,
            "{name}: {program}: {} {text} {}",
            run.status,
            String::from_utf8_lossy(&run.stderr)
        );
    }
    println!("{name}: all right");
    // Half a gigabyte each.
    let _ = std::fs::remove_dir_all(results.parent().and_then(Path::parent).expect("what was built"));
}

/// Static programs by another C library.
#[test]
fn programs_work_as_they_are_built() {
    SHORT.iter().for_each(works_as_built);
}

/// Other C libraries, static and not, at fixed addresses, without unwinding, optimised as a whole, by each linker.
#[test]
#[ignore = "slow: .ci/run --long"]
fn programs_work_however_they_are_built() {
    LONG.iter().for_each(works_as_built);
}

/// Destructors of a library that is unloaded, and of modules of a process that ends, before and after the
/// registrar's: what they change is seen, or refused.
#[test]
fn changes_at_the_end_are_seen() {
    let results = build_at(&manifest(), "right", "", &["-p", "leaving"]);
    for stays in [None, Some("stays")] {
        let mut run = Command::new(results.join("leaving"));
        let text = succeeds(&run.arg(results.join("libleaving.so")).args(stays).output().expect("leaving runs"));
        assert!(!text.contains("WRONG"), "{text}");
        // Each of the two modules changes something twice at first, and five times at the end.
        assert_eq!(text.matches(": right").count(), 14, "{text}");
    }
}

#[test]
#[ignore = "slow: .ci/run --long"]
fn forgetting_at_the_end_is_noticed() {
    let results =
        build_at(&manifest(), "forgets-at-exit", "--cfg relpoline_broken=\"forgets-at-exit\"", &["-p", "leaving"]);
    let run = Command::new(results.join("leaving")).arg(results.join("libleaving.so")).output().expect("leaving runs");
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(!run.status.success() || text.contains("WRONG"), "{text}");
}

/// What people want all this for: each program checks itself, then measures (here for a moment only).
#[test]
fn what_it_is_used_for_works() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("uses/Cargo.toml");
    // It needs crates that nothing else here needs.
    let fetched = Command::new(env!("CARGO")).args(["fetch", "--quiet", "--manifest-path"]).arg(&manifest).output();
    let fetched = fetched.expect("cargo runs");
    if !fetched.status.success() {
        println!("skipped: {}", String::from_utf8_lossy(&fetched.stderr));
        return;
    }
    let results = build_at(&manifest, "uses", "", &[]);
    for program in ["logging", "dispatch", "allocator", "plugins", "fence", "metrics"] {
        let run = Command::new(results.join(program)).arg("--quick").output().expect("it runs");
        let text = succeeds(&run);
        assert!(text.contains("| ns | middle 90 % | ratio |"), "{program}: {text}");
    }
}

/// Memory, mappings and descriptors after a thousand loads of a library with a copy of this crate of its own.
#[test]
fn a_library_that_is_loaded_again_and_again_leaves_nothing() {
    let results = build_at(&manifest(), "right", "", &["-p", "reload", "-p", "plugin"]);
    let run = Command::new(results.join("reload")).arg(results.join("libplugin.so")).arg("1000").output();
    println!("{}", succeeds(&run.expect("reload runs")));
}

/// A program with this version of the crate and the next one: neither sees the other's sites.
#[test]
fn two_versions_do_not_disturb_each_other() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("two-versions");
    let _ = std::fs::remove_dir_all(&place);
    copy(&here.join("src"), &place.join("next/src"));
    let write = |path: &str, text: String| {
        std::fs::create_dir_all(place.join(path).parent().expect("a directory")).expect("created");
        std::fs::write(place.join(path), text).expect("written");
    };
    let read = |path: &str| std::fs::read_to_string(here.join(path)).expect(path);
    write("next/README.md", String::from("The next version."));
    write("next/build.rs", read("build.rs"));
    write(
        "next/src/patched/asm.rs",
        read("src/patched/asm.rs").replace("relpoline_sites_0_1_0", "relpoline_sites_0_2_0"),
    );
    let crates = here.parent().expect("crates/").display().to_string();
    write(
        "next/Cargo.toml",
        format!(
            "[package]\nname = \"relpoline\"\nversion = \"0.2.0\"\nedition = \"2024\"\n\
             [features]\nno-patch = []\nretpoline = []\nc = []\n\
             [dependencies]\nrelpoline-core = {{ path = \"{crates}/core\" }}\n\
             relpoline-learn = {{ path = \"{crates}/learn\" }}\n\
             relpoline-patch = {{ path = \"{crates}/patch\" }}\n\
             relpoline-text = {{ path = \"{crates}/text\" }}\n\
             rustix = {{ version = \"1.1\", default-features = false, features = [\"fs\", \"mm\", \"process\"] }}\n"
        ),
    );
    write(
        "Cargo.toml",
        format!(
            "[workspace]\n[package]\nname = \"two\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
             [dependencies]\nrelpoline = {{ path = \"{crates}/relpoline\" }}\n\
             next = {{ package = \"relpoline\", path = \"next\" }}\n"
        ),
    );
    write("src/main.rs", read("tests/external/two_versions.rs"));
    std::fs::copy(here.join("tests/external/Cargo.lock"), place.join("Cargo.lock")).expect("copied");
    let results = build_at(&place.join("Cargo.toml"), "two", "", &[]);
    assert!(succeeds(&Command::new(results.join("two")).output().expect("two runs")).contains("all right"));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("created");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).expect("copied");
        }
    }
}
