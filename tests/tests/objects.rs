//! Objects are known by what they are, not by where they lie; and their sites are found however they are linked.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use relpoline_tests::living::text;
use relpoline_tests::{Living, Outcome, Program, Run, tool};

/// A library in the build that chooses the first function, or the second: to the last byte at the same place.
fn build(first: bool) -> PathBuf {
    let program = Program::plain("../../crates/cli/torture/exchanged.S").flags(&["-shared", "-Wl,--build-id=sha1"]);
    if first { program.flags(&["-DFIRST"]) } else { program }.build()
}

/// A program whose libraries are exchanged, and what it is told.
struct Exchange(Living);

impl Exchange {
    /// Without an engine, which attaching puts in.
    fn start() -> Self {
        Self(Living::start(&mut Command::new(Program::plain("exchange.c").build())))
    }

    fn preloaded(engine: Option<&Path>) -> Self {
        let mut command = Command::new(tool::relpoline());
        command.args(["run", "--quiet", "--"]).arg(Program::plain("exchange.c").build());
        if let Some(engine) = engine {
            command.env("RELPOLINE_ENGINE", engine);
        }
        Self(Living::start(&mut command))
    }

    fn tell(&mut self, what: &str, path: &Path) -> String {
        self.0.tell(&format!("{what} {}\n", path.display()))
    }

    /// Every library chooses `want`.
    fn asks(&mut self, want: u32, when: &str) {
        assert_eq!(self.0.tell(&format!("a {want}\n")), "0", "wrong calls {when}");
    }

    fn close(&mut self) {
        assert_eq!(self.0.tell("c\n"), "closed");
    }

    fn attach(&self) {
        self.0.must(&["attach"]);
    }

    /// Something is promoted, and the text leads to it; then nothing does any more.
    fn detach(&self) {
        assert!(!self.0.changed_text().is_empty(), "nothing leads to the engine");
        self.0.must(&["detach"]);
        assert_eq!(self.0.changed_text(), []);
    }

    fn ends(self) {
        assert!(self.0.ends_with("exchange done"), "it noticed something");
    }
}

/// One build is exchanged for the other while the engine sleeps, or while it is awake. Wrong calls, as the program counts them.
fn exchanged(engine: Option<&Path>, asleep: bool) -> String {
    let (first, second) = (build(true), build(false));
    let mut program = Exchange::preloaded(engine);
    let place = program.tell("o", &first);
    program.asks(1, "before");
    if asleep {
        program.0.must(&["detach"]);
    }
    program.close();
    assert_eq!(program.tell("o", &second), place, "it lies elsewhere");
    if asleep {
        program.attach();
    }
    let wrong = program.0.tell("a 2\n");
    let changed = program.0.changed_text();
    assert!(changed.iter().any(|(path, _)| Path::new(path) == second), "it is not promoted: {changed:?}");
    wrong
}

#[test]
fn another_build_at_the_same_place() {
    assert_eq!(exchanged(None, false), "0");
    assert_eq!(exchanged(None, true), "0");
    let engine = tool::broken_engine("believes-what-slept");
    assert_ne!(
        exchanged(Some(&engine), true),
        "0",
        "an engine that believes what it knew before it slept goes unnoticed"
    );
    let engine = tool::broken_engine("identity-without-thunks");
    for asleep in [false, true] {
        assert_ne!(exchanged(Some(&engine), asleep), "0", "an engine that knows sites by their place goes unnoticed");
    }
}

/// Whatever becomes of a library while the engine, which was put into the process, sleeps.
#[test]
fn what_happens_while_the_engine_sleeps() {
    let (first, second) = (build(true), build(false));
    let mut program = Exchange::start();
    let place = program.tell("o", &first);
    for round in 0..3 {
        program.attach();
        program.asks(1, "attached");
        program.detach();
        // Unloaded, another one loaded.
        program.close();
        assert_eq!(program.tell("o", &second), place);
        program.attach();
        program.asks(2, "after another one was loaded");
        program.detach();
        // Unloaded: nothing is there, then the first one again.
        program.close();
        program.0.must(&["attach"]);
        program.0.must(&["detach"]);
        assert_eq!(program.tell("o", &first), place);
        program.asks(1, "asleep");
        // Its text is another one's, and the loader does not know.
        assert_eq!(program.tell("x", &second), "over");
        program.attach();
        program.asks(2, "after it was mapped over");
        program.detach();
        assert_eq!(program.tell("x", &first), "over");
        // Somebody changes the thunk itself.
        assert_eq!(program.0.tell("t\n"), "changed");
        program.attach();
        program.asks(2, "after its thunk was changed");
        program.0.must(&["detach"]);
        assert_eq!(program.0.tell("t\n"), "changed");
        program.attach();
        program.asks(1, &format!("in the end of round {round}"));
        program.detach();
    }
    // Nobody may read what was its text.
    assert_eq!(program.0.tell("u\n"), "away");
    program.0.must(&["attach"]);
    program.0.must(&["detach"]);
    assert!(program.0.is_alive());
}

/// A library under the same path: another file, or the same one with other bytes.
#[test]
fn a_path_that_means_another_library() {
    let (first, second) = (build(true), build(false));
    for asleep in [false, true] {
        let place = tempfile::tempdir().expect("no temporary directory");
        let path = place.path().join("library.so");
        let mut program = Exchange::preloaded(None);
        let pause = |program: &Exchange, verb| _ = asleep.then(|| program.0.must(&[verb]));
        let mut at = String::new();
        // An engine that has not seen a site yet is not started, and cannot be detached.
        program.tell("o", &first);
        program.asks(1, "at first");
        pause(&program, "detach");
        program.close();
        for round in 0..4 {
            let (file, want) = if round % 2 == 0 { (&first, 1) } else { (&second, 2) };
            if round < 2 {
                // Another inode.
                fs::copy(file, place.path().join("new")).expect("it can be copied");
                fs::rename(place.path().join("new"), &path).expect("it can be renamed");
            } else {
                // The same one.
                let bytes = fs::read(file).expect("it can be read");
                let old = fs::OpenOptions::new().write(true).open(&path).expect("it can be opened");
                old.write_all_at(&bytes, 0).expect("it can be written");
            }
            let found = program.tell("o", &path);
            assert!(round == 0 || found == at, "it lies elsewhere");
            at = found;
            pause(&program, "attach");
            program.asks(want, &format!("in round {round}"));
            pause(&program, "detach");
            program.close();
        }
        pause(&program, "attach");
        program.ends();
    }
}

/// Each namespace has its own libraries, its own C library too.
#[test]
fn libraries_in_namespaces_of_their_own() {
    let (first, second) = (build(true), build(false));
    for is_attached in [true, false] {
        let mut program = if is_attached { Exchange::start() } else { Exchange::preloaded(None) };
        let mut places = vec![program.tell("o", &first)];
        for _ in 0..5 {
            places.push(program.tell("m", &first));
        }
        places.sort();
        places.dedup();
        assert_eq!(places.len(), 6, "namespaces share a library");
        for round in 0..3 {
            if is_attached || round > 0 {
                program.attach();
            }
            program.asks(1, "in namespaces");
            // One for each library at least.
            let changed = program.0.changed_text();
            let leading = changed.iter().filter(|(path, _)| Path::new(path) == first).count();
            assert_eq!(leading, 6, "some namespaces do not lead to the engine: {changed:?}");
            // One that comes and goes while the engine is awake.
            program.tell("m", &first);
            program.asks(1, "in one more");
            program.close();
            program.detach();
            // And while it sleeps.
            program.close();
            program.tell("m", if round == 1 { &second } else { &first });
            if round == 1 {
                program.close();
                program.tell("m", &first);
            }
        }
        program.ends();
    }
}

/// The program's own functions are not asked.
#[test]
fn a_program_with_its_own_list_of_objects() {
    let plugin = Program::retpolined("plugin.c").flags(&["-shared", "-fPIC", "-DVARIANT=3", "-DPADDING=64"]).build();
    let program = Program::plain("own_list.c").flags(&["-fno-builtin"]).build();
    let outcome = Run::new(program).arg(plugin).same();
    outcome.report().assert_promoted(&["plugin_calls"]);
}

fn reloaded(how: &str, times: u32, rest: &[&str]) -> Outcome {
    let flags = ["-shared", "-fPIC", "-DVARIANT=5", "-DPADDING=64", "-Wl,--build-id=sha1"];
    let plugin = Program::retpolined("plugin.c").flags(&flags).build();
    let outcome = Run::new(Program::retpolined("reload.c").build()).arg(how).arg(plugin);
    let outcome = outcome.arg(times.to_string()).args(rest).option("--count").same();
    outcome.report().assert_promoted(&["plugin_calls"]);
    outcome
}

/// What comes back gets what it had: the five thousandth time too, and nothing grows.
#[test]
fn a_library_that_is_loaded_again_and_again() {
    let outcome = reloaded("again", 5000, &["1"]);
    let report = outcome.report();
    let sites = report.sites_in("plugin_calls").count();
    assert_eq!(sites, 1, "each load has its own record: {}", report.summary());
    assert!(report.objects.len() < 16, "each load is another object");
}

#[test]
fn a_library_that_is_loaded_again_and_again_by_threads() {
    reloaded("again", 1000, &["4"]);
}

/// At places where it never was before: it gets the gates that it had elsewhere. Without that five thousand take 320 KB.
#[test]
fn a_library_that_is_loaded_again_and_again_elsewhere() {
    let run = Run::new(Program::retpolined("reload.c").build()).arg("elsewhere").arg(build(true)).args(&["5000"]);
    let outcome = run.same();
    let report = outcome.report();
    report.assert_promoted(&["choose"]);
    assert!(report.engine.arena_bytes < 150_000, "{} bytes", report.engine.arena_bytes);
}

/// Each of them lies elsewhere, then all at the same place. They do not learn: that would spend what learning may cost.
#[test]
fn three_thousand_libraries() {
    let run = Run::new(Program::retpolined("reload.c").build()).arg("many").arg(build(true)).args(&["3000"]);
    let outcome = run.option("--count").same();
    let report = outcome.report();
    report.assert_promoted(&["choose"]);
    assert!(report.coverage.is_some_and(|share| (0.1..1.0).contains(&share)), "{:?}", report.coverage);
    let living = report.sites_in("choose").filter(|site| site.state != "gone").count();
    assert_eq!(living, 1, "{}", report.summary());
}

fn placed() -> Program {
    // Not relocatable: its unwind rules, too, are where the linker says.
    Program::retpolined("placed.c").flags(&["-no-pie", "-fno-pie"])
}

/// Both functions' sites are promoted, or the exported function's alone.
fn is_found(program: &Path, all: bool) {
    let outcome = Run::new(program).same();
    let report = outcome.report();
    let promoted = |site: &relpoline_tests::report::Site| site.was_promoted();
    let count = report.sites.iter().filter(|site| promoted(site)).count();
    assert_eq!(count, if all { 2 } else { 1 }, "{}: {}", program.display(), report.summary());
}

/// Attached, promoted, detached: the text is its own again.
fn is_put_back(program: &Path) {
    let outcome = Run::new(program).option("--dry-run").promoted();
    outcome.assert_success();
}

const NO_RULES: [&str; 2] = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];

#[test]
fn functions_without_unwind_rules() {
    is_found(&placed().build(), true);
    let named = placed().flags(&NO_RULES);
    is_found(&named.build(), true);
    is_found(&Program::retpolined("placed.c").flags(&NO_RULES).build(), true);
    // Of what was stripped only the exported functions have a name.
    for style in ["-Wl,--hash-style=gnu", "-Wl,--hash-style=sysv"] {
        is_found(&named.clone().flags(&["-s", "-rdynamic", style]).build(), false);
    }
    // And without any nobody knows where functions begin.
    let outcome = Run::new(named.flags(&["-s"]).build()).same();
    assert_eq!(outcome.report().sites_promoted, 0);
}

#[test]
fn unwind_rules_without_a_table() {
    is_found(&placed().flags(&["-Wl,--no-eh-frame-hdr"]).build(), true);
    is_found(&Program::retpolined("placed.c").flags(&["-Wl,--no-eh-frame-hdr"]).build(), true);
    // Neither rules nor symbols where the file cannot be found any more: what cannot be read is left alone.
    let stripped = placed().flags(&["-Wl,--no-eh-frame-hdr", "-s"]).build();
    is_found(&stripped, true);
}

/// The linker's own script, changed.
fn script(change: impl Fn(String) -> String) -> PathBuf {
    let said = Command::new("ld").arg("--verbose").output().expect("the tests need ld");
    let said = text(&said);
    let own = said.split("==================================================\n").nth(1).expect("it says its script");
    let script = change(own.to_owned());
    assert_ne!(script, own, "the linker's script has changed");
    let place = tool::target_directory().join("test-programs");
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(&script, &mut hasher);
    let path = place.join(format!("script-{:016x}", std::hash::Hasher::finish(&hasher)));
    fs::create_dir_all(&place).expect("cannot make a directory");
    fs::write(&path, script).expect("the script can be written");
    path
}

fn linked_by(script: &Path) -> Program {
    placed().flags(&[&format!("-Wl,-T,{}", script.display())])
}

#[test]
fn unwind_rules_in_another_segment_than_their_table() {
    // Behind data that can be written to: between text and data alone the linker would make one segment of both.
    let writable = script(|own| {
        let lines = own.lines().filter(|line| !line.contains(".eh_frame "));
        lines.collect::<Vec<_>>().join("\n").replace("  .data1 ", "  .eh_frame : { KEEP (*(.eh_frame)) }\n  .data1 ")
    });
    let program = linked_by(&writable).build();
    is_found(&program, true);
    // Who asks before it runs is told the same as of one that the linker has laid out by itself, by these rules alone.
    assert_eq!(told(&linked_by(&writable).flags(&["-s"]).build()), told(&placed().flags(&["-s"]).build()));
}

/// How many sites `inspect` counts, some, and whether any lies in no function.
fn told(program: &Path) -> (String, bool) {
    let output = Command::new(tool::relpoline()).arg("inspect").arg(program).output().expect("it runs");
    let all = text(&output);
    let line = all.lines().find_map(|line| line.strip_prefix("  sites ")).unwrap_or_else(|| panic!("{all}"));
    assert_ne!(line, "0", "{all}");
    (line.to_owned(), all.contains("which function it belongs to"))
}

/// Everything in one segment that may be read, written and executed, as a kernel that runs as a program has it; with unwind
/// rules and without.
#[test]
fn a_program_in_one_piece() {
    let one = script(|own| {
        let headers = "PHDRS { headers PT_PHDR PHDRS; interp PT_INTERP; all PT_LOAD FILEHDR PHDRS FLAGS(7); \
                       dynamic PT_DYNAMIC; rules PT_GNU_EH_FRAME; stack PT_GNU_STACK FLAGS(6); }\nSECTIONS";
        own.replacen("SECTIONS", headers, 1)
            .replace("{ *(.interp) }", "{ *(.interp) } :all :interp")
            .replace("{ *(.note.gnu.build-id) }", "{ *(.note.gnu.build-id) } :all")
            .replace("{ *(.eh_frame_hdr) *(.eh_frame_entry .eh_frame_entry.*) }", "{ *(.eh_frame_hdr) } :all :rules")
            .replace("ONLY_IF_RO { KEEP (*(.eh_frame)) *(.eh_frame.*) }", "ONLY_IF_RO { KEEP (*(.eh_frame)) } :all")
            .replace("{ *(.dynamic) }", "{ *(.dynamic) } :all :dynamic")
    });
    let program = linked_by(&one).flags(&["-Wl,-z,norelro", "-Wl,--no-warn-rwx-segments"]);
    is_found(&program.build(), true);
    is_found(&program.flags(&NO_RULES).build(), true);
}

/// Code apart from the other code.
#[test]
fn a_program_with_two_texts() {
    let program = placed().flags(&["-DAPART", "-Wl,--section-start=.apart=0x600000"]).build();
    is_found(&program, true);
    is_put_back(&program);
    let bytes = fs::read(&program).expect("it can be read");
    let header = |n: usize| &bytes[64 + n * 56..64 + (n + 1) * 56];
    let texts = (0..usize::from(bytes[56])).filter(|&n| header(n)[0] == 1 && header(n)[4] & 1 == 1).count();
    assert_eq!(texts, 2, "it has no two texts");
}
