//! Reports, from a program with retpolines to the file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use relpoline_cli::report::Report;
use relpoline_cli::report::schema::Site;

use crate::compiled::{CALLS, Compiled, RETPOLINE};
use crate::started::{RELPOLINE, output, relpoline, run_shell, stderr, stdout, without_clocks};

/// Runs [`CALLS`] with these options; the main report.
fn report_with(options: &[&str]) -> Report {
    let program = Compiled::new(CALLS, &RETPOLINE);
    let file = program.directory().join("report");
    let alone = stdout(&mut std::process::Command::new(&program.path));
    let said = stdout(relpoline(&["run", "--report"]).arg(&file).args(options).args(["--", program.text()]));
    assert_eq!(said, alone);
    read(&file)
}

fn read(file: &Path) -> Report {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// The site in `many`.
fn hot(report: &Report) -> &Site {
    let in_many = |site: &&Site| site.symbol.as_ref().is_some_and(|name| name.starts_with("many+"));
    report.sites.iter().find(in_many).unwrap_or_else(|| panic!("{report:#?}"))
}

#[test]
fn the_hot_site_is_promoted_and_named() {
    let report = report_with(&["--count"]);
    assert!(report.engine.enabled && report.sites_promoted >= 1);
    let site = hot(&report);
    assert_eq!(site.kind, "call");
    assert!(["promoted", "linked"].contains(&&*site.state), "{site:#?}");
    let first = &site.targets[0];
    assert_eq!(first.symbol.as_deref(), Some("add"));
    assert!((first.share - 0.9).abs() < 0.05, "{first:?}");
    assert!(report.coverage.unwrap() > 0.9, "{:?}", report.coverage);
    assert!(site.calls() >= 2_900_000, "{site:?}");
}

/// As many calls each of a site that is promoted, of one that no tree is worth having for, and of one in assembly of
/// which neither unwind tables nor symbols say that it is a function, and which is left as it is.
const THREE: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#define T(n) static unsigned t##n(unsigned x) { return x + n; }
#define T8(n) T(n##0) T(n##1) T(n##2) T(n##3) T(n##4) T(n##5) T(n##6) T(n##7)
#define T64(n) T8(n##0) T8(n##1) T8(n##2) T8(n##3) T8(n##4) T8(n##5) T8(n##6) T8(n##7)
#define U(n) t##n,
#define U8(n) U(n##0) U(n##1) U(n##2) U(n##3) U(n##4) U(n##5) U(n##6) U(n##7)
#define U64(n) U8(n##0) U8(n##1) U8(n##2) U8(n##3) U8(n##4) U8(n##5) U8(n##6) U8(n##7)
T64(1) T64(2) T64(3) T64(4)
static unsigned (*const volatile table[256])(unsigned) = { U64(1) U64(2) U64(3) U64(4) };
unsigned bare(unsigned (*f)(unsigned), unsigned x);
__asm__(".text\n.globl bare\nbare:\n push %rbx\n mov %rdi,%rax\n mov %esi,%edi\n"
        " call __x86_indirect_thunk_rax\n pop %rbx\n ret\n");
__attribute__((noinline)) static unsigned steady(unsigned x) { return table[3](x) + 1; }
__attribute__((noinline)) static unsigned chaos(unsigned x, unsigned r) { return table[r % 256](x) + 1; }
int main(int argc, char **argv) {
    unsigned calls = atoi(argv[1]), asked = argc > 2, x = 0;
    unsigned long random = 88172645463325252ul;
    for (unsigned i = 0; i < calls; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        x = chaos(steady(x), random >> 9);
        if (asked) x = bare(table[1], x);
    }
    printf("%u\n", x);
}"#;

/// A run that nobody watches.
fn report_of_three(options: &[&str], arguments: &[&str]) -> (Report, String) {
    three(options, arguments, without_clocks)
}

fn three(options: &[&str], arguments: &[&str], change: fn(&mut Command) -> &mut Command) -> (Report, String) {
    let program = Compiled::new(THREE, &RETPOLINE);
    let file = program.directory().join("report");
    let mut run = relpoline(&["run", "--report"]);
    stdout(change(run.arg(&file).args(options).args(["--", program.text()]).args(arguments)));
    let text = stdout(relpoline(&["report"]).arg(&file));
    (read(&file), text)
}

/// A report that leaves out what is left alone says that nearly all calls are direct, where it is half of them.
#[test]
fn coverage_is_of_all_calls() {
    const CALLS: u64 = 400_000;
    let (report, text) = report_of_three(&["--count"], &[&CALLS.to_string()]);
    let site = |name: &str| {
        let named = |site: &&Site| site.symbol.as_ref().is_some_and(|symbol| symbol.starts_with(name));
        report.sites.iter().find(named).unwrap_or_else(|| panic!("{report:#?}"))
    };
    let (steady, chaos) = (site("steady+"), site("chaos+"));
    assert_eq!((steady.is_promoted(), chaos.is_promoted()), (true, false), "{text}");
    for site in [steady, chaos] {
        assert!((CALLS - 2000..=CALLS).contains(&site.calls()), "{site:#?}");
        assert!(!site.calls_at_least);
    }
    let coverage = report.coverage.unwrap();
    assert!((0.45..0.56).contains(&coverage), "{coverage}");
    // Two sites of start-up code may be there too, which have unwind tables.
    assert!(
        report.coverage_is_bound && text.contains("at most"),
        "the refused site was never called, but who knows: {text}"
    );
}

/// Calls that nobody can count are a third here; what is said is at most, and which they are is said too.
#[test]
fn what_nobody_counts_is_named() {
    let (report, text) = report_of_three(&["--count"], &["200000", "asked"]);
    assert!(report.coverage_is_bound && report.sites_uncounted == 1, "{report:#?}");
    assert!(text.contains("at most ") && text.contains("not counted: 1 not an instruction"), "{text}");
    let refused = report.sites.iter().find(|site| site.state == "refused").unwrap();
    assert!(refused.reason == "not an instruction" && refused.calls_at_least, "{refused:#?}");
    assert_eq!(refused.kind, "call");
}

#[test]
fn without_counting_figures_are_at_least() {
    let (report, text) = report_of_three(&[], &["3000000"]);
    assert!(report.coverage.is_none() && report.calls_are_estimated, "{text}");
    assert!(text.contains("coverage  at most about ") && text.contains("(estimated; --count counts)"), "{text}");
    let promoted = report.sites.iter().find(|site| site.is_promoted()).unwrap();
    assert!(promoted.calls_at_least && promoted.calls_per_s.is_some_and(|rate| rate > 0.0), "{promoted:#?}");
    assert!(text.contains("~") && text.contains(" saved, at least "), "{text}");
    let left = report.sites.iter().find(|site| site.state == "retpolined").unwrap();
    assert!(left.calls_estimated > 0 && left.seconds_lost > 0.0 && promoted.seconds_saved > 0.0, "{report:#?}");
}

/// PHP at f4ea4a1 showed a coverage of 99.5 % where 21 % was true, since the calls of its loop were in no figure. Here four
/// fifths of the calls are of a site that is left as it was found.
#[test]
fn a_flattering_coverage_is_no_more_than_a_bound_everywhere() {
    let source =
        THREE.replace("if (asked) x = bare(table[1], x);", "for (int k = 0; k < 8; k++) x = bare(table[1], x);");
    let source = source.replace("x = chaos(steady(x), random >> 9);", "x = steady(steady(x));");
    let program = Compiled::new(&source, &RETPOLINE);
    let file = program.directory().join("report");
    let run = ["run", "--count", "--report"];
    stdout(without_clocks(relpoline(&run).arg(&file).args(["--", program.text(), "400000"])));
    let report = read(&file);
    let counted = report.coverage.unwrap();
    assert!(counted > 0.98, "this case flatters: {counted}");
    assert!(report.coverage_is_bound && report.sites_uncounted == 1, "{report:#?}");
    let text = stdout(relpoline(&["report"]).arg(&file));
    for part in ["at most ", "not counted: 1 not an instruction", "at least", "refused"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let svg = stdout(relpoline(&["report", "--format", "flamegraph"]).arg(&file));
    assert!(svg.contains("all calls but those of sites that were refused"), "{svg}");
    let page = stdout(relpoline(&["report", "--format", "html"]).arg(&file));
    assert!(page.contains("\"coverage_is_bound\":true"), "the page says what it is told");
}

/// Of a site that nobody counts it is seen how many threads are in its retpoline. Not so where the kernel refuses its clock.
#[test]
fn a_hot_site_that_was_refused_is_seen_and_comes_first() {
    const CALLS: u64 = 80_000_000;
    let run = |change| three(&["--count", "--max-targets", "2"], &[&CALLS.to_string(), "asked"], change);
    let (report, text) = run(without_clocks);
    assert!(report.coverage_is_bound && text.contains("nor sampled: not permitted"), "{text}");
    assert!(report.coverage.is_some_and(|share| share > 0.45), "a third is true: {text}");
    let is_refused = |site: &&Site| site.state == "refused" && site.kind == "call";
    let refused =
        |report: &Report| report.sites.iter().find(is_refused).unwrap_or_else(|| panic!("{report:#?}")).clone();
    // What a call costs was measured at the start, and where a thread is found is told by a clock of the kernel's: both beside
    // whatever else runs here.
    let right = CALLS / 8..CALLS * 4;
    let mut tries = std::iter::repeat_with(|| run(|command| command)).take(3);
    let first = tries.next().unwrap();
    let is_right = |(report, _): &(Report, String)| right.contains(&refused(report).calls_estimated);
    let (report, text) = if is_right(&first) { first } else { tries.find(is_right).unwrap_or(first) };
    let sampling = report.sampling.as_ref().unwrap();
    if sampling.missing.is_some() {
        println!("skipped: {sampling:?}");
        return;
    }
    assert!(!report.coverage_is_bound, "{text}");
    let refused = &refused(&report);
    println!("{} of {CALLS} calls; {sampling:?}; coverage {:?}", refused.calls_estimated, report.coverage);
    assert!(right.contains(&refused.calls_estimated), "{refused:#?}");
    assert!(report.coverage.is_some_and(|share| (0.1..0.48).contains(&share)), "{text}");
    assert!(text.contains("coverage  about ") && !text.contains("saved, at least"), "{text}");
    let place = report.sites.iter().position(|site| site == refused).unwrap();
    assert!(refused.seconds_lost > 0.0 && place < 3, "{text}");
}

/// An object that is excluded, and one without unwind tables: their calls are not in the figures.
#[test]
fn objects_that_are_left_alone_are_named() {
    let report = report_with(&["--count", "--exclude", "program"]);
    assert!(report.coverage_is_bound && report.sites_uncounted > 0, "{report:#?}");
}

#[test]
fn a_dry_run_patches_nothing() {
    let report = report_with(&["--dry-run"]);
    assert_eq!((report.sites_promoted, report.engine.patches), (0, 0));
    assert!(report.sites_total > 0);
    let program = Compiled::new(CALLS, &RETPOLINE);
    let said = stderr(&mut relpoline(&["run", "--dry-run", "--", program.text()]));
    assert!(said.contains(" 0 promoted"), "{said}");
}

#[test]
fn what_is_excluded_is_left_alone() {
    for options in [["--exclude", "program"], ["--only", "lib*"]] {
        assert_eq!(report_with(&options).sites_promoted, 0, "{options:?}");
    }
    assert!(report_with(&["--only", "prog*"]).sites_promoted > 0);
}

#[test]
fn a_child_has_a_report_of_its_own_and_all_are_private() {
    let program = Compiled::new(CALLS, &RETPOLINE);
    let directory = program.directory().join("reports");
    fs::create_dir(&directory).unwrap();
    stdout(relpoline(&["run", "--report"]).arg(directory.join("r")).args(["--", program.text(), "fork"]));
    let files: Vec<PathBuf> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let report = read(&file);
        let own_name = file.extension().is_some_and(|pid| pid.to_str() == Some(&report.pid.to_string()));
        assert!(own_name || report.forked_from.is_none(), "{file:?}");
    }
}

/// The statistics of all of them do not fit into memory at once.
#[test]
fn a_hundred_processes_have_a_hundred_reports() {
    let program = Compiled::new(CALLS, &RETPOLINE);
    let directory = program.directory().join("reports");
    fs::create_dir(&directory).unwrap();
    let script = "ulimit -v 1500000; exec $0 run --report $1 -- sh -c 'for i in $(seq 100); do $0; done' $2";
    let mut start = std::process::Command::new("sh");
    start.args(["-c", script, RELPOLINE]).arg(directory.join("r")).arg(program.text());
    assert_eq!(stdout(&mut start).lines().count(), 100);
    let reports = fs::read_dir(&directory).unwrap().map(|entry| read(&entry.unwrap().path()));
    assert_eq!(reports.filter(|report| report.sites_promoted > 0).count(), 100);
}

#[test]
fn a_report_for_people_fits_a_terminal() {
    let program = Compiled::new(CALLS, &RETPOLINE);
    let file = program.directory().join("report");
    let mut start = relpoline(&["run", "--report-format", "text", "--report"]);
    stdout(start.arg(&file).args(["--", program.text()]));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("many+") && text.contains("promoted"), "{text}");
    assert!(text.lines().skip(1).all(|line| line.chars().count() <= 80), "{text}");
}

/// What the program writes comes first, and as a whole: the report is written when it has ended.
#[test]
fn a_report_goes_to_stdout_behind_what_the_program_said() {
    let program = Compiled::new(CALLS, &RETPOLINE);
    let alone = stdout(&mut Command::new(&program.path));
    let said = stdout(relpoline(&["run", "--count", "--report", "-", "--"]).arg(program.text()));
    let report: Report = serde_json::from_str(said.strip_prefix(&alone).unwrap_or_else(|| panic!("{said}"))).unwrap();
    assert!(hot(&report).is_promoted(), "{report:#?}");
    let text = stdout(relpoline(&["run", "--report", "-", "--report-format", "text", "--"]).arg(program.text()));
    assert!(text.starts_with(&format!("{alone}relpoline ")) && text.contains("many+0x"), "{text}");
    // Nothing of that name was made, here or there.
    assert!(!Path::new("-").exists() && !program.directory().join("-").exists());
    // And so does `report`.
    let file = program.directory().join("r");
    stdout(relpoline(&["run", "--report"]).arg(&file).args(["--", program.text()]));
    let report = stdout(relpoline(&["report", "-o", "-", "--format", "json"]).arg(&file));
    assert!(hot(&serde_json::from_str(&report).unwrap()).is_promoted());
}

#[test]
fn statistics_that_are_garbage_harm_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r").display().to_string();
    let script = "d=${RELPOLINE_OPTS#*stats=}; d=${d%%,*}
        head -c 9000 /dev/urandom > $d/77-1-1.stats; printf RLPSTATS > $d/78-1-1.stats; : > $d/79-1-1.stats
        ln -s /dev/zero $d/80-1-1.stats; mkfifo $d/81-1-1.stats; echo > $d/other; exit 5";
    let said = output(&mut run_shell(&["--report", &file], script));
    assert_eq!((said.status.code(), String::from_utf8(said.stderr).unwrap()), (Some(5), String::new()));
    for pid in 77..=81 {
        assert!(!Path::new(&format!("{file}.{pid}")).exists(), "{pid}");
    }
}

#[test]
fn nothing_is_left_behind() {
    let script = "d=${RELPOLINE_OPTS#*stats=}; echo ${d%%,*}; ls -ld ${d%%,*}";
    let said = stdout(&mut run_shell(&["--report", "/dev/null"], script));
    let directory = Path::new(said.lines().next().unwrap());
    assert!(said.contains("drwx------") && directory.is_absolute(), "{said}");
    assert!(!directory.exists());
}

/// A parent that calls, and children that end in other ways than by returning from `main`.
pub const FAMILY: &str = r#"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static unsigned add(unsigned x) { return x + 3; }
static unsigned twist(unsigned x) { return x ^ 5; }
unsigned (*volatile table[2])(unsigned) = { add, twist };
__attribute__((noinline)) static unsigned many(unsigned calls) {
    unsigned sum = 0;
    for (unsigned i = 0; i < calls; i++) sum = table[i % 10 == 9](sum);
    return sum;
}
int main(int argc, char **argv) {
    unsigned sum = many(3000000);
    for (int i = 1; i < argc; i++) {
        pid_t child = fork();
        if (child == 0) {
            sum += many(1000000);
            usleep(1500000);
            if (strcmp(argv[i], "_exit") == 0) _exit(sum == 1);
            if (strcmp(argv[i], "quick_exit") == 0) quick_exit(sum == 1);
            if (strcmp(argv[i], "signal") == 0) raise(SIGKILL);
            return sum == 1;
        }
        waitpid(child, 0, 0);
    }
    printf("%u\n", sum);
    return 0;
}"#;

/// One run, one report: calls of all processes are in it, each once, however the process ended.
#[test]
fn a_family_is_one_report_however_its_processes_end() {
    let program = Compiled::new(FAMILY, &RETPOLINE);
    let directory = program.directory().join("reports");
    fs::create_dir(&directory).unwrap();
    let file = directory.join("r");
    let ways = ["return", "_exit", "quick_exit", "signal"];
    stdout(relpoline(&["run", "--count", "--report"]).arg(&file).args(["--", program.text()]).args(ways));
    let report = read(&file);
    let family = report.family.as_ref().unwrap();
    assert_eq!((family.processes, family.members.len()), (5, 5), "{family:#?}");
    for member in family.members.iter().filter(|member| member.forked_from.is_some()) {
        // A child has a few thousand calls behind it when it gets memory of its own.
        assert!((950_000..=1_000_000).contains(&member.calls_direct), "not its parent's calls: {member:#?}");
    }
    let unorderly = family.members.iter().filter(|member| !member.ended).count();
    assert_eq!(unorderly, 3, "{family:#?}");
    let all = family.sites.iter().find(|site| site.name().starts_with("many+")).unwrap();
    assert!((6_800_000..=7_000_000).contains(&all.calls()), "{all:#?}");
    assert!(family.coverage.unwrap() > 0.97, "{family:#?}");
    let own = hot(&report);
    assert!((2_900_000..=3_000_000).contains(&own.calls()), "the first process' sites are its own: {own:#?}");
    let text = stdout(relpoline(&["report"]).arg(&file));
    assert!(text.contains("All 5 processes") && text.contains("(no orderly end)"), "{text}");
    // Each has a report of its own, too.
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 5);
}
