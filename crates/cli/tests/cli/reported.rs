//! Reports, from a program with retpolines to the file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use relpoline_cli::report::Report;
use relpoline_cli::report::schema::Site;

use crate::compiled::{CALLS, Compiled, RETPOLINE};
use crate::started::{RELPOLINE, output, relpoline, run_shell, stderr, stdout};

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
