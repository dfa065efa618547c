//! What can be seen of processes that run: list, top, report, explain, metrics, profiles, against a real program.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use relpoline_cli::report::Report;
use serde_json::Value;

use crate::compiled::{Compiled, RETPOLINE};
use crate::started::{output, relpoline, stderr, stdout};

/// Calls through two sites until its stdin ends; says so after the first round.
pub const SERVER: &str = r#"
#include <poll.h>
#include <stdio.h>
static unsigned add(unsigned x) { return x + 3; }
static unsigned twist(unsigned x) { return x ^ 5; }
#define F(n) static unsigned f##n(unsigned x) { return x * n + 1; }
F(1)F(2)F(3)F(4)F(5)F(6)F(7)F(8)F(9)F(10)F(11)F(12)F(13)F(14)F(15)F(16)F(17)F(18)F(19)F(20)F(21)F(22)F(23)F(24)F(25)
F(26)F(27)F(28)F(29)F(30)F(31)F(32)
unsigned (*volatile table[2])(unsigned) = { add, twist };
unsigned (*volatile many[32])(unsigned) = {f1,f2,f3,f4,f5,f6,f7,f8,f9,f10,f11,f12,f13,f14,f15,f16,f17,f18,f19,f20,f21,
    f22,f23,f24,f25,f26,f27,f28,f29,f30,f31,f32};
__attribute__((noinline)) unsigned steady(unsigned calls) {
    unsigned sum = 0;
    for (unsigned i = 0; i < calls; i++) sum = table[i % 10 == 9](sum);
    return sum;
}
__attribute__((noinline)) unsigned chaos(unsigned calls) {
    unsigned sum = 1, x = 123456789;
    for (unsigned i = 0; i < calls; i++) { x ^= x << 13; x ^= x >> 17; x ^= x << 5; sum += many[x & 31](sum); }
    return sum;
}
int main(void) {
    struct pollfd end = { 0, POLLIN, 0 };
    unsigned sum = 0;
    for (unsigned round = 0; poll(&end, 1, 1) == 0; round++) {
        sum += steady(200000) + chaos(20000);
        if (round == 9) { printf("ready\n"); fflush(stdout); }
    }
    printf("%u\n", sum != 1);
    return 0;
}"#;

/// A program that runs with the engine until it is dropped.
pub struct Running {
    pub program: Compiled,
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Running {
    /// Starts it, with these options of `run`, and waits until its sites have been judged.
    pub fn new(options: &[&str]) -> Self {
        Self::of(SERVER, &[&["--count"], options].concat())
    }

    /// The same of another program that says `ready` and goes on until its stdin ends.
    fn of(source: &str, options: &[&str]) -> Self {
        let program = Compiled::new(source, &[&RETPOLINE[..], &["-Wl,--build-id", "-g1"]].concat());
        let mut start = relpoline(&["run"]);
        start.args(options).args(["--", program.text()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = start.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { program, stdin: child.stdin.take(), child }
    }

    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn end(mut self) -> PathBuf {
        let file = statistics(self.child.id());
        self.stdin = None;
        assert!(self.child.wait().unwrap().success());
        file
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a process of this user keeps its statistics.
fn statistics(pid: u32) -> PathBuf {
    let user = fs::metadata("/proc/self").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta)).unwrap();
    let of = |pid: &str| -> Option<String> {
        use std::os::unix::fs::MetadataExt;
        let namespace = fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?.ino();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let started = stat.rsplit(')').next()?.split_whitespace().nth(19)?;
        Some(format!("{pid}-{namespace}-{started}.stats"))
    };
    let name = of(&pid.to_string()).expect("a process that is there");
    PathBuf::from(format!("/dev/shm/relpoline-{user}/{name}"))
}

fn json(command: &mut Command) -> Value {
    serde_json::from_str(&stdout(command)).unwrap()
}

/// The processes in the list.
fn listed() -> Vec<u64> {
    let list = json(&mut relpoline(&["list", "--json"]));
    list["engines"].as_array().unwrap().iter().map(|engine| engine["pid"].as_u64().unwrap()).collect()
}

#[test]
fn a_process_is_listed_while_it_runs() {
    let running = Running::new(&[]);
    let pid = u64::from(running.child.id());
    assert!(listed().contains(&pid));
    assert!(stdout(&mut relpoline(&["list"])).contains(&pid.to_string()));
    let engine = json(&mut relpoline(&["list", "--json"]))["engines"]
        .as_array()
        .unwrap()
        .iter()
        .find(|engine| engine["pid"] == pid)
        .unwrap()
        .clone();
    assert!(engine["promoted"].as_u64().unwrap() >= 1 && engine["enabled"] == true, "{engine}");
    let file = running.end();
    assert!(!file.exists() && !listed().contains(&pid), "an orderly end leaves nothing behind");
}

#[test]
fn what_a_killed_process_left_behind_is_swept() {
    let mut running = Running::new(&[]);
    let file = statistics(running.child.id());
    assert!(file.exists());
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    // It can still be read, by its name.
    let copy = running.program.directory().join("dead.stats");
    let text = fs::copy(&file, &copy).map(|_| stdout(relpoline(&["report"]).arg(&copy)));
    assert!(!listed().contains(&u64::from(running.child.id())));
    assert!(!file.exists());
    assert!(text.unwrap().contains("steady+"));
}

#[test]
fn the_statistics_are_the_owners_alone() {
    use std::os::unix::fs::MetadataExt;
    let running = Running::new(&[]);
    let file = statistics(running.child.id());
    let modes = [file.as_path(), file.parent().unwrap()].map(|path| fs::symlink_metadata(path).unwrap().mode() & 0o777);
    assert_eq!(modes, [0o600, 0o700]);
}

#[test]
fn a_report_on_a_living_process_counts_on() {
    let running = Running::new(&[]);
    let report = || -> Report {
        let text = stdout(&mut relpoline(&["report", &running.pid(), "--format", "json"]));
        serde_json::from_str(&text).unwrap()
    };
    let hits = |report: &Report| report.sites.iter().find(|site| site.name().starts_with("steady+")).unwrap().hits;
    let first = report();
    assert!(first.sites.iter().any(|site| site.reason == "unpredictable" || !site.is_promoted()));
    assert!(!first.timeline.is_empty() && first.sites.iter().any(|site| !site.history.is_empty()));
    // Counters are read in the process: no judgement is needed. Tracing may be forbidden here.
    if std::fs::read(format!("/proc/{}/auxv", running.pid())).is_ok() {
        let later = (0..200).map(|_| report()).find(|later| hits(later) > hits(&first));
        assert!(later.is_some(), "{first:#?}");
    }
}

#[test]
fn top_once_shows_where_sites_go_and_why_not() {
    let running = Running::new(&[]);
    let text = stdout(&mut relpoline(&["top", &running.pid(), "--once"]));
    assert!(text.contains("% add") && text.contains("chaos+"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let filtered = stdout(&mut relpoline(&["top", &running.pid(), "--once", "--filter", "steady"]));
    assert!(filtered.contains("steady+") && !filtered.contains("chaos+"), "{filtered}");
    let report = json(&mut relpoline(&["top", &running.pid(), "--once", "--json"]));
    assert_eq!(report["pid"].to_string(), running.pid());
    assert!(stdout(&mut relpoline(&["top", "--once"])).contains(&running.pid()));
}

#[test]
fn explain_shows_decisions_and_the_code_as_it_is() {
    let running = Running::new(&[]);
    let text = stdout(&mut relpoline(&["explain", &running.pid(), "steady"]));
    for part in ["promoted", "history", "= add", "  >", "miss gate", "our copy of the thunk"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    // The site is found by its own address, and by that of its gate.
    let all = json(&mut relpoline(&["explain", &running.pid(), "steady", "--json"]));
    let site = &all["sites"][0]["site"];
    for place in [&site["address"], &site["gate"]] {
        let found = json(&mut relpoline(&["explain", &running.pid(), place.as_str().unwrap(), "--json"]));
        assert_eq!(found["sites"][0]["site"]["address"], site["address"]);
    }
    let refused = stderr(&mut relpoline(&["explain", &running.pid(), "no_such_function"]));
    assert!(refused.contains("has no function no_such_function"), "{refused}");
}

#[test]
fn who_has_no_engine_is_told_so() {
    let own = std::process::id().to_string();
    for verb in [vec!["report", &own], vec!["top", &own, "--once"], vec!["explain", &own, "main"]] {
        let said = output(&mut relpoline(&verb));
        let text = String::from_utf8(said.stderr).unwrap();
        assert!(text.contains("runs without an engine") && text.lines().count() == 1, "{text}");
        assert_eq!(said.status.code(), Some(1));
    }
    assert!(stderr(&mut relpoline(&["report", "4294967295"])).contains("there is no process"));
    assert!(stderr(&mut relpoline(&["report", "/etc/passwd"])).contains("neither a report in JSON nor"));
    assert!(stderr(&mut relpoline(&["report", "/dev/null"])).contains("it is not a regular file"));
    assert!(stderr(&mut relpoline(&["top"])).contains("needs a terminal"));
}

#[test]
fn metrics_by_every_way() {
    let running = Running::new(&[]);
    let line = format!("pid=\"{}\"", running.pid());
    let text = stdout(&mut relpoline(&["metrics"]));
    assert!(text.lines().any(|l| l.starts_with("relpoline_sites_promoted{") && l.contains(&line)), "{text}");
    let file = running.program.directory().join("r.prom");
    stdout(relpoline(&["metrics", "--textfile"]).arg(&file));
    assert!(fs::read_to_string(&file).unwrap().contains(&line));
    if let Ok(mut checker) = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn() {
        checker.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(checker.wait().unwrap().success(), "promtool objects");
    } else {
        eprintln!("skipped: promtool is not installed");
    }
}

/// The value of a metric of this process.
fn metric(text: &str, name: &str, pid: &str) -> Option<f64> {
    let (start, label) = (format!("{name}{{"), format!("pid=\"{pid}\""));
    let line = text.lines().find(|line| line.starts_with(&start) && line.contains(&label))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The server, which makes its ten rounds of 220,000 calls and then none any more, so that what is said of them is said once
/// and for all. In each round `more`.
fn ten_rounds(more: &str) -> String {
    let waits = SERVER.replace("poll(&end, 1, 1) == 0", "poll(&end, 1, round > 9 ? -1 : 1) == 0");
    waits.replace("if (round == 9)", &format!("{more} if (round == 9)"))
}

#[test]
fn metrics_tell_how_many_calls_there_were() {
    const CALLS: f64 = 2_200_000.0;
    let running = Running::of(&ten_rounds(""), &["--count"]);
    if std::fs::read(format!("/proc/{}/auxv", running.pid())).is_err() {
        return println!("skipped: the memory of other processes cannot be read here");
    }
    let text = stdout(&mut relpoline(&["metrics"]));
    let value = |name: &str| metric(&text, name, &running.pid()).unwrap_or_else(|| panic!("{name} in\n{text}"));
    let (direct, retpolined) = (value("relpoline_calls_direct_total"), value("relpoline_calls_retpolined_total"));
    // A few calls of a site that is being learned are in no figure.
    assert!((CALLS - 4000.0..=CALLS).contains(&(direct + retpolined)), "{direct} + {retpolined}");
    // The chaotic site is left alone, after a trial: its calls are retpolines, and nearly all others are none.
    assert!((50_000.0..300_000.0).contains(&retpolined), "{direct} + {retpolined}");
    assert!((value("relpoline_coverage_ratio") - direct / (direct + retpolined)).abs() < 1e-6, "{text}");
    assert!(value("relpoline_calls_counted") > 0.5, "{text}");
}

/// The case of PHP (`a_flattering_coverage_is_no_more_than_a_bound_everywhere`), as it is seen while it runs.
#[test]
fn a_flattering_coverage_is_no_more_than_a_bound_while_it_runs() {
    let bare = r#"unsigned bare(unsigned (*f)(unsigned), unsigned x);
__asm__(".text\n.globl bare\nbare:\n push %rbx\n mov %rdi,%rax\n mov %esi,%edi\n"
        " call __x86_indirect_thunk_rax\n pop %rbx\n ret\n");
int main(void)"#;
    let source = ten_rounds("for (int k = 0; k < 900000; k++) sum = bare(table[0], sum);");
    let source = source.replace("int main(void)", bare).replace(" + chaos(20000)", "");
    let running = Running::of(&source, &["--count"]);
    let pid = running.pid();
    let top = stdout(&mut relpoline(&["top", &pid, "--once"]));
    // The calls that nobody counts are four fifths.
    assert!(top.contains("coverage: at most 9") && top.contains("lost: at least ~"), "{top}");
    assert!(top.contains(", 1 refused"), "{top}");
    let refused = top.lines().find(|line| line.contains(" refused ")).unwrap_or_else(|| panic!("{top}"));
    assert_eq!(
        refused.split_whitespace().take(3).collect::<Vec<_>>(),
        ["-", "-", "-"],
        "nothing is known of it: {top}"
    );
    let report: Report = serde_json::from_str(&stdout(&mut relpoline(&["top", &pid, "--once", "--json"]))).unwrap();
    assert!(report.coverage_is_bound && report.coverage.unwrap() > 0.98, "this case flatters: {report:#?}");
    let text = stdout(&mut relpoline(&["metrics"]));
    assert!(metric(&text, "relpoline_sites_refused", &pid).is_some_and(|sites| sites > 0.5), "{text}");
    assert!(metric(&text, "relpoline_coverage_ratio", &pid).is_some_and(|share| share > 0.98), "{text}");
    for (name, said) in [
        ("relpoline_coverage_ratio", "an upper bound where sites are refused"),
        ("relpoline_lost_seconds_estimate", "at least, where sites are refused"),
        ("relpoline_calls_retpolined_total", "all but refused sites"),
    ] {
        let help = text.lines().find(|line| line.starts_with(&format!("# HELP {name} "))).unwrap();
        assert!(help.contains(said), "{help}");
    }
}

/// Eight calls of one site for each of the other, none of which anybody counts.
const EIGHT_TO_ONE: &str = r#"
#include <poll.h>
#include <stdio.h>
static unsigned work(unsigned x) { for (int i = 0; i < 500; i++) x = x * 1664525u + 1013904223u; return x; }
__attribute__((noinline)) static unsigned add(unsigned x) { return work(x) + 3; }
__attribute__((noinline)) static unsigned twist(unsigned x) { return work(x) ^ 5; }
unsigned (*volatile table[2])(unsigned) = { add, twist };
__attribute__((noinline)) unsigned often(unsigned x) { return table[0](x) + 1; }
__attribute__((noinline)) unsigned seldom(unsigned x) { return table[1](x) + 1; }
int main(void) {
    struct pollfd end = { 0, POLLIN, 0 };
    unsigned x = 0;
    printf("ready\n");
    fflush(stdout);
    while (poll(&end, 1, 0) == 0)
        for (int round = 0; round < 100; round++) {
            for (int i = 0; i < 8; i++) x = often(x);
            x = seldom(x);
        }
    return x == 1;
}"#;

/// How many times as often the first site was called as the second, by the profile that was saved of a process that runs.
fn ratio_by_profile() -> f64 {
    let running = Running::of(EIGHT_TO_ONE, &[]);
    let is_settled = || {
        let report: Report =
            serde_json::from_str(&stdout(&mut relpoline(&["report", &running.pid(), "--format", "json"]))).unwrap();
        assert!(report.coverage.is_none(), "nobody counts here");
        let linked = |name: &str| report.sites.iter().any(|site| site.name().starts_with(name) && site.is_promoted());
        report.seconds > 1.0 && linked("often+") && linked("seldom+")
    };
    assert!((0..600).any(|_| is_settled() || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        false
    }));
    let profile = running.program.directory().join("p.relprof");
    stdout(relpoline(&["profile", "save", "-o"]).arg(&profile).arg(running.pid()));
    let shown = json(relpoline(&["profile", "show", "--json"]).arg(&profile));
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let calls = |name: &str| {
        let sites = shown["sites"].as_array().unwrap();
        let named = |site: &&Value| site["symbol"].as_str().is_some_and(|symbol| symbol.starts_with(name));
        sites.iter().find(named).unwrap_or_else(|| panic!("{shown:#}"))["calls"].as_u64().unwrap() as f64
    };
    calls("often+") / calls("seldom+")
}

/// The rates by which calls are reckoned are those of moments, and of a machine that does other things beside: the ratio is good
/// to a factor of two when nothing came in between, which one of a few tries must show.
#[test]
fn a_profile_of_a_process_that_runs_weighs_sites_by_their_calls() {
    let mut ratios = Vec::new();
    let is_right = (0..5).any(|_| {
        ratios.push(ratio_by_profile());
        ratios.last().is_some_and(|ratio| (4.0..16.0).contains(ratio))
    });
    assert!(is_right, "eight to one, and not {ratios:?}");
}

#[test]
fn a_flame_graph_has_a_frame_per_target() {
    let running = Running::new(&[]);
    let svg = stdout(&mut relpoline(&["report", &running.pid(), "--format", "flamegraph"]));
    assert!(svg.contains("<title>add: ") && svg.contains("(linked)") | svg.contains("(promoted)"), "{svg}");
}

#[test]
fn doctor_finds_nothing_broken_where_the_other_tests_run() {
    let findings = json(&mut relpoline(&["doctor", "--json"]));
    let broken = findings["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == "broken");
    assert_eq!(broken.count(), 0, "{findings:#}");
    assert!(
        stdout(&mut relpoline(&["doctor"])).contains("Promotion works here")
            | stdout(&mut relpoline(&["doctor"])).contains("Everything works")
    );
    let off = output(relpoline(&["doctor"]).env("RELPOLINE", "off"));
    assert_eq!(off.status.code(), Some(1));
}

/// Runs the server with a profile until its sites are judged; what is said at the end, and the report.
fn profiled(program: &Running, profile: &Path) -> (String, Report) {
    let report = program.program.directory().join("report.json");
    let mut start = relpoline(&["run", "--count", "--profile"]);
    start.arg(profile).arg("--report").arg(&report).args(["--", program.program.text()]);
    // Its stdin is at its end at once, so there is one round.
    let said = stderr(&mut start);
    (said, serde_json::from_slice(&fs::read(&report).unwrap()).unwrap())
}

#[test]
fn a_profile_makes_the_next_start_warm() {
    let running = Running::new(&[]);
    let profile = running.program.directory().join("p.relprof");
    stdout(relpoline(&["profile", "save", "-o"]).arg(&profile).arg(running.pid()));
    let shown = stdout(relpoline(&["profile", "show"]).arg(&profile));
    assert!(shown.contains("steady+0x") && shown.contains("% add"), "{shown}");

    let (said, report) = profiled(&running, &profile);
    assert!(said.contains("1 site started warm, 0 stale dropped"), "{said}");
    assert_eq!((report.engine.sites_warm, report.engine.profile_stale), (1, 0));

    // Another build of the same file: nothing of the profile fits, and the old build goes.
    let source = running.program.directory().join("program.c");
    let text = fs::read_to_string(&source).unwrap().replace("x + 3", "x + 4");
    fs::write(&source, text).unwrap();
    let mut cc = Command::new("cc");
    cc.arg("-O2").args(RETPOLINE).args(["-Wl,--build-id", "-g1", "-o"]).arg(running.program.directory().join("new"));
    assert!(cc.arg(&source).status().unwrap().success());
    drop(fs::remove_file(&running.program.path));
    fs::rename(running.program.directory().join("new"), &running.program.path).unwrap();
    let (said, report) = profiled(&running, &profile);
    assert!(said.contains("0 sites started warm"), "{said}");
    assert_eq!(report.engine.sites_warm, 0);
}

#[test]
fn profiles_are_understood_by_other_tools() {
    let running = Running::new(&[]);
    let directory = running.program.directory();
    let (profile, merged) = (directory.join("p.relprof"), directory.join("m.relprof"));
    stdout(relpoline(&["profile", "save", "-o"]).arg(&profile).arg(running.pid()));
    stdout(relpoline(&["profile", "merge", "-o"]).arg(&merged).args([&profile, &profile]));
    let calls = |file: &Path| {
        let shown = json(relpoline(&["profile", "show", "--json"]).arg(file));
        shown["sites"][0]["calls"].as_u64().unwrap()
    };
    assert_eq!(calls(&merged), 2 * calls(&profile));

    let export = |format: &str, to: &Path| {
        let mut export = relpoline(&["profile", "export", "--format", format, "-o"]);
        stdout(export.arg(to).arg("--object").arg(&running.program.path).arg(&profile));
    };
    let (pprof, autofdo, bolt) = (directory.join("p.pb.gz"), directory.join("p.afdo"), directory.join("p.fdata"));
    export("pprof", &pprof);
    export("autofdo", &autofdo);
    export("bolt", &bolt);
    let text = fs::read_to_string(&autofdo).unwrap();
    assert!(text.starts_with("steady:") && text.contains(" add:"), "{text}");
    let text = fs::read_to_string(&bolt).unwrap();
    assert!(text.lines().any(|line| line.starts_with("1 steady ") && line.contains(" 1 add 0 0 ")), "{text}");
    check_with("go", &["tool", "pprof", "-top", pprof.to_str().unwrap()], "add");
    let binary = directory.join("p.prof").display().to_string();
    for tool in ["llvm-profdata", "llvm-profdata-14"] {
        check_with(tool, &["merge", "--sample", autofdo.to_str().unwrap(), "-o", &binary], "");
    }
}

#[test]
fn perf_names_trees() {
    let running = Running::new(&[]);
    let directory = running.program.directory();
    let name = || {
        let said = stdout(relpoline(&["perf", &running.pid(), "--dir"]).arg(directory));
        assert!(said.contains("pieces of code named"), "{said}");
    };
    name();
    let dump = fs::read(directory.join(format!("jit-{}.dump", running.pid()))).unwrap();
    assert!(dump.windows(14).any(|part| part == b"tree of steady"), "no tree is named");
    let at = |name: &str| directory.join(name).display().to_string();
    let record =
        ["record", "-q", "-k", "mono", "-e", "cpu-clock", "-o", &at("a"), "-p", &running.pid(), "--", "sleep", "1"];
    let recorded = Command::new("perf").args(record).output();
    if !recorded.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: perf is not installed, or may not record here");
        return;
    }
    // What is known already is written anew.
    name();
    check_with("perf", &["inject", "--jit", "-i", &at("a"), "-o", &at("b")], "");
    check_with("perf", &["report", "--stdio", "-i", &at("b")], "tree of steady");
}

/// A loop whose call stands in a line of its own: clang's profiles tell lines apart.
const LOOP: &str = r"
static unsigned add(unsigned x) { return x + 3; }
static unsigned twist(unsigned x) { return x ^ 5; }
unsigned (*volatile table[2])(unsigned) = { add, twist };
int main(void) {
    unsigned sum = 0;
    for (unsigned i = 0; i < 3000000; i++)
        sum = table[i % 10 == 9](sum);
    return sum == 1;
}";

#[test]
fn clang_promotes_at_compile_time_what_was_learned_at_run_time() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::write(at("loop.c"), LOOP).unwrap();
    let compile = |more: &[&str]| {
        let flags = ["-O2", "-g1", "-fdebug-info-for-profiling", "-mretpoline", "-Wl,--build-id"];
        Command::new("clang").args(flags).args(more).args([&at("loop.c"), "-o", &at("loop")]).output()
    };
    let Ok(first) = compile(&[]) else {
        eprintln!("skipped: clang is not installed");
        return;
    };
    assert!(first.status.success(), "{first:?}");
    stdout(&mut relpoline(&["run", "-q", "--count", "--profile", &at("p.relprof"), "--", &at("loop")]));
    let export = ["profile", "export", "--format", "autofdo", "--object", &at("loop"), "-o", &at("p.afdo")];
    stdout(relpoline(&export).arg(at("p.relprof")));
    let second = compile(&[&format!("-fprofile-sample-use={}", at("p.afdo")), "-Rpass=pgo-icall-prom"]).unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("Promote indirect call to add"), "{said}");
}

/// Lets another tool read a file, if it is installed; it must succeed and say `part`.
fn check_with(tool: &str, arguments: &[&str], part: &str) {
    let Ok(said) = Command::new(tool).args(arguments).output() else {
        eprintln!("skipped: {tool} is not installed");
        return;
    };
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success() && text.contains(part), "{tool} {arguments:?}: {said:?}");
}

#[test]
fn a_program_with_address_sanitizer_is_left_alone_however_it_is_started() {
    let program = Compiled::new("int main(void) { return 7; }", &["-fsanitize=address"]);
    let direct = output(relpoline(&["run", "--"]).arg(&program.path));
    let text = String::from_utf8(direct.stderr).unwrap();
    assert_eq!(direct.status.code(), Some(7), "{text}");
    assert!(text.contains("linked with AddressSanitizer"), "{text}");
    let script = format!("{}; exit $?", program.text());
    let by_exec = output(relpoline(&["run", "--"]).args(["sh", "-c", &script]));
    assert_eq!(by_exec.status.code(), Some(7), "{by_exec:?}");
}

#[test]
fn other_tools_find_their_program_unharmed() {
    let program = Compiled::new("#include <stdio.h>\nint main(void) { puts(\"hello\"); return 7; }", &RETPOLINE);
    for tool in [&["strace", "-f", "-o", "/dev/null"][..], &["ltrace", "-o", "/dev/null"], &["valgrind", "-q"]] {
        if Command::new(tool[0]).arg("--version").output().is_err() {
            eprintln!("skipped: {} is not installed", tool[0]);
            continue;
        }
        let alone = output(Command::new(tool[0]).args(&tool[1..]).arg(&program.path));
        let said = output(relpoline(&["run", "--quiet", "--"]).args(tool).arg(&program.path));
        assert_eq!((said.status.code(), &said.stdout), (alone.status.code(), &alone.stdout), "{tool:?}: {said:?}");
    }
}

#[test]
fn what_is_no_profile_is_refused_before_the_program_starts() {
    let program = Compiled::new("int main(void) { return 7; }", &[]);
    let file = program.directory().join("file");
    fs::write(&file, "nonsense").unwrap();
    let said = output(relpoline(&["run", "--profile"]).arg(&file).args(["--", program.text()]));
    assert_eq!(said.status.code(), Some(125));
    assert!(String::from_utf8(said.stderr).unwrap().contains("it is not a profile of relpoline's"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "nonsense");
}
