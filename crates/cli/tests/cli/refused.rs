//! Programs that cannot take the preload: one line, and a run as if we were not there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use relpoline_cli::report::Report;

use crate::compiled::{Compiled, HELLO};
use crate::started::{output, relpoline, stderr};

/// A 32-bit program needs no 32-bit libc when it makes its system calls itself.
const BARE_32: &str = r#"
__asm__(".globl _start\n_start:\n mov $4,%eax\n mov $1,%ebx\n mov $text,%ecx\n mov $3,%edx\n int $0x80\n"
        " mov $1,%eax\n mov $9,%ebx\n int $0x80\n .data\ntext: .ascii \"32\\n\"\n");
"#;

/// Runs it with and without us: the outcome is the same, but for the line that names `reason`.
fn is_left_alone(program: &Path, reason: &str) {
    let alone = output(&mut Command::new(program));
    let ours = output(relpoline(&["run", "--"]).arg(program));
    assert_eq!((alone.status, &alone.stdout), (ours.status, &ours.stdout));
    let line = format!("relpoline: {} runs without promotion: {reason}\n", program.display());
    assert_eq!(String::from_utf8_lossy(&ours.stderr), line + &String::from_utf8_lossy(&alone.stderr));
    assert_eq!(stderr(relpoline(&["run", "--quiet", "--"]).arg(program)), String::from_utf8_lossy(&alone.stderr));
}

fn set_mode(program: &Path, mode: u32) {
    fs::set_permissions(program, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn static_programs() {
    for flags in [&["-static"][..], &["-static-pie"]] {
        is_left_alone(&Compiled::new(HELLO, flags).path, "it is statically linked");
    }
}

#[test]
fn programs_of_another_class() {
    let program = Compiled::new(BARE_32, &["-m32", "-nostdlib", "-static", "-fno-pie", "-no-pie"]);
    is_left_alone(&program.path, "it is not a 64-bit program");
}

#[test]
fn programs_with_another_loader() {
    let directory = tempfile::tempdir().unwrap();
    // glibc's loader under the name of musl's: it would take the preload, so it would show if it got one.
    let loader = directory.path().join("ld-musl-x86_64.so.1");
    std::os::unix::fs::symlink("/lib64/ld-linux-x86-64.so.2", &loader).unwrap();
    let flag = format!("-Wl,--dynamic-linker={}", loader.display());
    is_left_alone(&Compiled::new(HELLO, &[&flag]).path, "its dynamic loader is not glibc's");
}

#[test]
fn programs_that_change_who_they_are() {
    let program = Compiled::new(HELLO, &[]);
    for mode in [0o4755, 0o2755] {
        set_mode(&program.path, mode);
        is_left_alone(&program.path, "it is set-user-id or set-group-id");
    }
}

#[test]
fn programs_with_capabilities() {
    let program = Compiled::new(HELLO, &[]);
    // VFS_CAP_REVISION_2, effective: CAP_NET_RAW permitted.
    let mut value = [0_u8; 20];
    value[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x20, 0, 0]);
    let set = rustix::fs::setxattr(&program.path, "security.capability", &value, rustix::fs::XattrFlags::empty());
    // Only root may give capabilities; anybody else has nothing to test.
    if set.is_ok() {
        is_left_alone(&program.path, "it carries file capabilities");
    }
}

#[test]
fn scripts_are_what_their_interpreter_is() {
    let interpreter = Compiled::new(HELLO, &["-static"]);
    let script = interpreter.directory().join("script");
    fs::write(&script, format!("#! {} -x\n", interpreter.text())).unwrap();
    set_mode(&script, 0o755);
    is_left_alone(&script, "it is statically linked");
    fs::write(&script, "#!/bin/sh\necho $LD_PRELOAD\n").unwrap();
    let said = output(relpoline(&["run", "--"]).arg(&script));
    assert!(String::from_utf8(said.stdout).unwrap().contains("librelpoline_engine.so"));
}

#[test]
fn the_preload_of_a_relpoline_around_us_is_taken_out() {
    let program = Compiled::new(HELLO, &["-static"]);
    let mut start = relpoline(&["run", "--", program.text()]);
    start.env("LD_PRELOAD", "/x/librelpoline_engine.so:/y/mine.so").env("RELPOLINE_OPTS", "count");
    let said = output(&mut start);
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "hello /y/mine.so -\n");
}

#[test]
fn a_report_says_why() {
    let program = Compiled::new(HELLO, &["-static"]);
    let file = program.directory().join("report");
    output(relpoline(&["run", "--report"]).arg(&file).args(["--", program.text()]));
    let report: Report = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(report.engine.why_disabled.as_deref(), Some("it is statically linked"));
    assert!(!report.engine.enabled);
}
