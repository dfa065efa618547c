//! `relpoline try`: what it says of programs, its exit status, and that nothing stays behind. How fast anything is does not
//! matter here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::compiled::{CALLS, Compiled, RETPOLINE};
use crate::started::{RELPOLINE, output, relpoline};

/// A call through a retpoline, and then what `doing` does.
fn calling(doing: &str) -> Compiled {
    let source = format!(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
         static int one(int x) {{ return x + 1; }}\nint (*volatile f)(int) = one;\n\
         int main(void) {{ int n = 0; for (int i = 0; i < 100000; i++) n = f(n);\n\
         int preloaded = getenv(\"LD_PRELOAD\") != 0; (void)preloaded; {doing} }}\n"
    );
    Compiled::new(&source, &RETPOLINE)
}

fn try_it(options: &[&str], command: &[&str]) -> (Output, Value) {
    let said = output(relpoline(&["try", "--json", "-n", "2"]).args(options).arg("--").args(command));
    let figures = serde_json::from_slice(&said.stdout).unwrap_or(Value::Null);
    (said, figures)
}

/// The exit status that belongs to an outcome.
fn status_of(figures: &Value) -> Option<i32> {
    let known = [("saves", 0), ("no_difference", 3), ("costs", 4), ("nothing", 5), ("differs", 6)];
    known.iter().find(|(name, _)| figures["outcome"] == *name).map(|(_, status)| *status)
}

#[test]
fn a_program_with_retpolines_is_measured_in_three_ways() {
    let program = Compiled::new(CALLS, &RETPOLINE);
    let (said, figures) = try_it(&[], &[program.text()]);
    assert!(said.stderr.is_empty(), "{said:?}");
    assert!(["saves", "no_difference", "costs"].contains(&figures["outcome"].as_str().unwrap()), "{figures:#}");
    assert_eq!(said.status.code(), status_of(&figures));
    assert_eq!((&figures["schema"], &figures["rounds"]), (&1.into(), &2.into()));
    for kind in ["without", "with", "unprotected"] {
        let taken = &figures[kind];
        assert_eq!(taken["runs_s"].as_array().unwrap().len(), 2, "{kind} {figures:#}");
        assert!(
            taken["processor_s"]["median"].as_f64().unwrap() > 0.0 && taken["wall_s"]["low"].as_f64().unwrap() > 0.0
        );
    }
    for compared in ["stdout", "stderr", "status"] {
        assert_eq!(figures["output"][compared], "same", "{figures:#}");
    }
    assert_eq!(figures["promotion"]["files"][0], program.text());
    assert!(figures["promotion"]["promoted"].as_u64() >= Some(1) && figures["twin"]["thunks"].as_u64() >= Some(1));
    assert_eq!(figures["twin"]["missing"], Value::Null, "{figures:#}");
    assert!(figures["retpolines_cost"]["median"].is_number());
}

#[test]
fn for_people_it_is_a_table_and_a_verdict() {
    let program = Compiled::new(CALLS, &RETPOLINE);
    let said = output(&mut relpoline(&["try", "-n", "5", "--", program.text()]));
    let text = String::from_utf8(said.stdout).unwrap();
    for words in ["without relpoline", "with relpoline", "unprotected thunks", "5 rounds;", "1 in 1 file", "Relpoline "]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let (figures, verdict) = text.split_once("\n\nRelpoline ").unwrap();
    assert!(figures.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(verdict.contains("processor time") || verdict.contains("no difference"), "{verdict}");
}

#[test]
fn without_retpolines_it_runs_once_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let runs = directory.path().join("runs");
    let script = format!("echo run >> {}", runs.display());
    let (said, figures) = try_it(&[], &["sh", "-c", &script]);
    assert_eq!((said.status.code(), figures["outcome"].as_str()), (Some(5), Some("nothing")));
    assert!(figures["verdict"][0].as_str().unwrap().starts_with("Nothing to promote"), "{figures:#}");
    assert_eq!(fs::read_to_string(&runs).unwrap().lines().count(), 1);
    let plain = Compiled::new(CALLS, &["-fcf-protection=none"]);
    let (_, figures) = try_it(&[], &[plain.text()]);
    assert!(figures["verdict"][0].as_str().unwrap().contains("(built with gcc "), "{figures:#}");
    let fixed = Compiled::new(CALLS, &["-static"]);
    let (said, figures) = try_it(&[], &[fixed.text()]);
    assert_eq!(said.status.code(), Some(5));
    assert!(figures["verdict"][0].as_str().unwrap().contains("runs without promotion"), "{figures:#}");
}

/// Each of these differs with the engine only, in another way.
#[test]
fn what_differs_with_us_only_is_told() {
    for (doing, what) in [
        ("puts(\"a\"); puts(preloaded ? \"b\" : \"c\"); return 0;", "stdout, from line 2 on"),
        ("if (preloaded) fputs(\"oh\", stderr); return 0;", "stderr, from line 1 on"),
        ("return preloaded ? 3 : 0;", "it ended with exit status: 3 instead of exit status: 0"),
        ("printf(\"%d\", getpid()); fflush(stdout); if (preloaded) abort(); return 0;", "it ended with signal: 6"),
    ] {
        let program = calling(doing);
        let (said, figures) = try_it(&[], &[program.text()]);
        assert_eq!(
            (said.status.code(), figures["outcome"].as_str()),
            (Some(6), Some("differs")),
            "{doing} {figures:#}"
        );
        assert!(figures["output"]["differences"][0].as_str().unwrap().contains(what), "{doing} {figures:#}");
        assert_eq!(figures["output"]["confirming_runs"], 2);
    }
}

#[test]
fn what_varies_by_itself_is_no_difference() {
    let program = calling("printf(\"%d\", getpid()); return 0;");
    let (said, figures) = try_it(&[], &[program.text()]);
    assert_eq!(figures["output"]["stdout"], "varies");
    assert_ne!(said.status.code(), Some(6), "{figures:#}");
    let program = calling("return 9;");
    let (_, figures) = try_it(&[], &[program.text()]);
    assert_eq!(figures["output"]["status"], "same");
    assert!(figures["verdict"].to_string().contains("exit status: 9 in every run"), "{figures:#}");
}

/// The retpolines are in a program that a shell starts, and in a library.
#[test]
fn children_and_libraries_count() {
    let program = Compiled::new(CALLS, &RETPOLINE);
    let (_, figures) = try_it(&[], &["sh", "-c", &format!("{}; true", program.text())]);
    assert_eq!(figures["promotion"]["files"][0], program.text(), "{figures:#}");
    assert!(figures["promotion"]["promoted"].as_u64() >= Some(1));
    let directory = tempfile::tempdir().unwrap();
    let build = "cd $0 && printf 'int f(int x){return x+1;} int (*volatile p)(int)=f; int many(int n){int s=0;
        for(int i=0;i<n;i++) s=p(s); return s;}' > l.c && printf '#include <stdio.h>\\nint many(int); int main(void){
        printf(\"%%d\", many(3000000)); return 0;}' > m.c &&
        cc -O2 -fPIC -shared $* l.c -o libl.so && cc -O2 m.c -o m -L. -ll -Wl,-rpath,$PWD";
    let mut compile = std::process::Command::new("sh");
    assert!(compile.args(["-c", build]).arg(directory.path()).args(RETPOLINE).status().unwrap().success());
    let library = directory.path().join("libl.so").display().to_string();
    let main = directory.path().join("m").display().to_string();
    let (_, figures) = try_it(&[], &[&main]);
    assert_eq!(figures["promotion"]["files"], serde_json::json!([library]));
    assert!(figures["twin"]["missing"].is_null() && figures["unprotected"].is_object(), "{figures:#}");
}

/// Where nothing may be mounted, copies of the executable and its libraries are started.
#[test]
fn the_twin_does_without_mounting() {
    let program = Compiled::new(CALLS, &RETPOLINE);
    let script = "echo 0 > /proc/sys/user/max_mnt_namespaces && exec \"$@\"";
    let mut start = std::process::Command::new("unshare");
    start.args(["-Ur", "sh", "-c", script, "sh", RELPOLINE, "try", "--json", "-n", "1", "--", program.text()]);
    let said = start.env_remove("LD_PRELOAD").output().unwrap();
    let Ok(figures) = serde_json::from_slice::<Value>(&said.stdout) else {
        eprintln!("skipped: no user namespaces here: {}", String::from_utf8_lossy(&said.stderr));
        return;
    };
    assert_eq!((&figures["twin"]["way"], &figures["twin"]["missing"]), (&"found".into(), &Value::Null), "{figures:#}");
    assert!(figures["unprotected"].is_object() && figures["output"]["stdout"] == "same");
}

/// What is left behind may go on writing: it is not read to an end that never comes.
#[test]
fn who_is_left_behind_may_write_without_end() {
    let mut start = std::process::Command::new("timeout");
    start.args(["-s", "KILL", "120", RELPOLINE, "try", "--json", "-n", "1", "--", "sh", "-c", "yes & true"]);
    let said = output(start.env_remove("LD_PRELOAD"));
    assert_eq!(said.status.code(), Some(5), "{said:?}");
}

#[test]
fn each_run_is_prepared_and_reads_its_input() {
    let program = calling("while (getchar() != EOF) n++; printf(\"%d\", n); return 0;");
    let (input, runs) = (program.directory().join("input"), program.directory().join("prepared"));
    fs::write(&input, "0123456789").unwrap();
    let prepare = format!("echo x >> {}", runs.display());
    let options = ["--prepare", &prepare, "--input", input.to_str().unwrap()];
    let (_, figures) = try_it(&options, &[program.text()]);
    assert_eq!(figures["output"]["stdout"], "same", "{figures:#}");
    assert_eq!(fs::read_to_string(&runs).unwrap().lines().count(), 2 * 3 + 1);
    let (said, _) = try_it(&["--prepare", "exit 4"], &[program.text()]);
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8(said.stderr).unwrap().contains("--prepare"));
}

#[test]
fn what_cannot_be_tried_is_an_error_of_its_own() {
    for (program, code) in [("/no/such/program", 1), ("/etc/passwd", 1)] {
        assert_eq!(try_it(&[], &[program]).0.status.code(), Some(code), "{program}");
    }
    assert_eq!(output(&mut relpoline(&["try"])).status.code(), Some(2));
    assert_eq!(output(&mut relpoline(&["try", "--counter", "x", "--", "true"])).status.code(), Some(2));
    let nested = output(&mut relpoline(&["run", "--", RELPOLINE, "try", "--", "true"]));
    assert_eq!(nested.status.code(), Some(1), "{nested:?}");
}

/// Ctrl-C, as a terminal sends it to all, and a signal sent to us alone.
#[test]
fn an_interrupted_try_leaves_nothing_behind() {
    let program = calling("sleep(30); return 0;");
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let scratch = program.directory().join(format!("tmp{signal}"));
        fs::create_dir(&scratch).unwrap();
        let mut start = relpoline(&["try", "--", program.text()]);
        let mut child = start.env("TMPDIR", &scratch).stdout(std::process::Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while fs::read_dir(&scratch).unwrap().count() == 0 && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        // SAFETY: the child has not been waited for.
        unsafe { libc::kill(child.id().cast_signed(), signal) };
        let status = child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(128 + signal), None));
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
        let begun = Instant::now();
        while is_running(&program.path) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!is_running(&program.path), "the program goes on");
    }
}

fn is_running(program: &Path) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|entry| fs::read_link(entry.path().join("exe")).ok()).any(|exe| exe == program)
}

/// What it writes while it works is nobody else's to read: there are copies without protection among it.
#[test]
fn its_files_are_private() {
    let program = calling("sleep(1); return 0;");
    let scratch = program.directory().join("tmp");
    fs::create_dir(&scratch).unwrap();
    let mut start = relpoline(&["try", "-n", "1", "--", program.text()]);
    let mut child = start.env("TMPDIR", &scratch).stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut seen = 0;
    while child.try_wait().unwrap().is_none() {
        for entry in fs::read_dir(&scratch).unwrap().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            assert_eq!(meta.permissions().mode() & 0o777, 0o700);
            seen += 1;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(seen > 0);
}

/// A server that counts what it does, in a file.
const SERVER: &str = "#include <stdio.h>\n#include <unistd.h>\n\
    static unsigned add(unsigned x) { return x + 3; }\nunsigned (*volatile f)(unsigned) = add;\n\
    int main(int argc, char **argv) { (void)argc; unsigned sum = 0;\n\
    for (unsigned n = 1; n < 2000000; n++) { for (int i = 0; i < 20000; i++) sum = f(sum);\n\
    FILE *file = fopen(argv[1], \"w\"); fprintf(file, \"%-12u\", n); fclose(file); usleep(200); }\n\
    return sum == 1; }\n";

#[test]
fn a_server_is_switched_off_and_on_and_stays_on() {
    let program = Compiled::new(SERVER, &RETPOLINE);
    let count = program.directory().join("count");
    let mut server = relpoline(&["run", "--", program.text()]).arg(&count).spawn().unwrap();
    let pid = server.id().to_string();
    let begun = Instant::now();
    while !count.exists() && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    // It may read between the server's opening and writing.
    let counter = format!("while ! grep . {}; do :; done", count.display());
    let options = ["try", "--json", "--attach", &pid, "--seconds", "2", "-n", "2", "--counter", &counter];
    let said = output(&mut relpoline(&options));
    let enabled = output(&mut relpoline(&["report", "--format", "json", &pid]));
    let other =
        output(&mut relpoline(&["try", "--attach", &std::process::id().to_string(), "--seconds", "1", "-n", "1"]));
    server.kill().unwrap();
    server.wait().unwrap();
    let figures: Value = serde_json::from_slice(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    assert_eq!(said.status.code(), status_of(&figures), "{figures:#}");
    for phase in ["off", "on"] {
        assert!(figures[phase]["processor_per_s"]["median"].as_f64().unwrap() > 0.0, "{figures:#}");
        assert!(figures[phase]["processor_per_count"]["median"].as_f64().unwrap() > 0.0, "{figures:#}");
    }
    let report: Value = serde_json::from_slice(&enabled.stdout).unwrap();
    assert_eq!(report["engine"]["enabled"], true);
    assert_eq!(other.status.code(), Some(1), "a process without an engine");
}
