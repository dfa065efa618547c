//! Programs of the machine, built without retpolines: nothing is promoted in them, and nothing must change.

use std::path::Path;

use relpoline_tests::{Program, Run};

/// Runs it both ways in an empty directory and compares everything that can be seen. Programs that are not
/// installed are passed over.
fn unchanged(command: &[&str]) {
    let found =
        std::env::var("PATH").unwrap_or_default().split(':').any(|place| Path::new(place).join(command[0]).exists());
    if !found {
        println!("skipped: there is no {}", command[0]);
        return;
    }
    let place = tempfile::tempdir().expect("no temporary directory");
    let run = Run::new(command[0]).args(&command[1..]).directory(place.path());
    let (plain, promoted) = (run.plain(), run.promoted());
    promoted.assert_like(&plain);
}

#[test]
fn shells_and_their_pipelines() {
    unchanged(&[
        "bash",
        "-c",
        "for i in $(seq 50); do echo $((i * 7 % 13)); done | sort -n | uniq -c | tail -3; echo $PPID >/dev/null; exit 9",
    ]);
    unchanged(&["sh", "-c", "ls -la / | wc -l; (cd /; pwd); cat /nowhere; echo $?; kill -TERM $$"]);
    unchanged(&[
        "bash",
        "-c",
        "trap 'echo bye' EXIT; set -o pipefail; false | true; echo $?; env -i sh -c 'echo [$HOME]'",
    ]);
    unchanged(&[
        "bash",
        "-c",
        "exec 3<<<here; cat <&3; ulimit -n 16; ls /proc/self/fd | wc -l; x=$(printf %s a b c); echo $x",
    ]);
}

#[test]
fn interpreters() {
    unchanged(&[
        "perl",
        "-e",
        "my %h; $h{$_ % 7} += $_ for 1..20000; print join(',', map { \"$_=$h{$_}\" } sort keys %h), qq(\\n); system('echo', 'from perl'); exit 4",
    ]);
    unchanged(&[
        "python3",
        "-c",
        "import subprocess, sys, json; print(json.dumps(sorted(str(i) for i in range(50)))); subprocess.run(['echo', 'child'], check=True); sys.exit(6)",
    ]);
    unchanged(&[
        "python3",
        "-c",
        "import multiprocessing as m\nif __name__ == '__main__':\n  with m.get_context('fork').Pool(3) as p: print(sum(p.map(abs, range(-100, 100))))",
    ]);
    unchanged(&[
        "awk",
        "BEGIN { for (i = 0; i < 20000; i++) s[i % 5] += i; for (k = 0; k < 5; k++) print k, s[k]; exit 2 }",
    ]);
}

#[test]
fn tools() {
    unchanged(&["ls", "-la", "/etc"]);
    unchanged(&["ls", "/nowhere"]);
    unchanged(&["readlink", "/proc/self/exe"]);
    unchanged(&["find", "/usr/include", "-maxdepth", "1", "-name", "std*"]);
    unchanged(&["sed", "-n", "s/root/ROOT/p", "/etc/passwd"]);
    unchanged(&["tar", "-cf", "-", "/etc/hostname"]);
    unchanged(&["timeout", "0.2", "sleep", "5"]);
    unchanged(&["xargs", "--help"]);
    unchanged(&["false"]);
}

#[test]
fn a_compiler_makes_the_same_program() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/arguments.c");
    let source = source.display().to_string();
    unchanged(&["sh", "-c", &format!("gcc -O1 -c {source} -o a.o && md5sum a.o; gcc -c /nowhere.c")]);
}

#[test]
fn a_program_without_retpolines() {
    let outcome = Run::new(Program::plain("calls.c").build()).same();
    assert_eq!(outcome.report().sites_total, 0);
}
