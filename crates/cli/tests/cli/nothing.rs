//! `relpoline run` of a program in which there is nothing to promote: one line, to who looks on.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::compiled::{CALLS, Compiled, HELLO, RETPOLINE};
use crate::job::terminal;
use crate::started::{relpoline, stderr};

/// What a command writes to stderr, when that is a terminal.
fn on_terminal(arguments: &[&str], change: impl Fn(&mut std::process::Command)) -> String {
    let (mut keyboard, screen) = terminal();
    let mut command = relpoline(arguments);
    change(command.stdout(Stdio::null()).stderr(screen));
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut said = Vec::new();
    // When nobody has it open any more, a terminal ends with an error.
    let _ = keyboard.read_to_end(&mut said);
    child.wait().unwrap();
    String::from_utf8_lossy(&said).replace("\r\n", "\n")
}

#[test]
fn one_line_on_a_terminal_alone() {
    let program = Compiled::new(HELLO, &["-fcf-protection=none"]);
    let said = on_terminal(&["run", "--", program.text()], |_| {});
    assert!(said.starts_with(&format!("relpoline: neither {} (built with gcc ", program.text())), "{said}");
    assert!(said.contains("nothing to promote") && said.lines().count() == 1, "{said}");
    assert_eq!(on_terminal(&["run", "--quiet", "--", program.text()], |_| {}), "");
    assert_eq!(stderr(&mut relpoline(&["run", "--", program.text()])), "");
    let script = program.directory().join("script");
    fs::write(&script, format!("#!{}\n", program.text())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(
        on_terminal(&["run", "--", script.to_str().unwrap()], |_| {}),
        said,
        "of a script it is its interpreter"
    );
}

/// Where there may be something, nothing is said: retpolines in the program, in a library of this run's, in another
/// preload, or in what a shell starts.
#[test]
fn not_where_there_may_be_something() {
    let program = Compiled::new(CALLS, &RETPOLINE);
    assert_eq!(on_terminal(&["run", "--", program.text()], |_| {}), "");
    assert_eq!(on_terminal(&["run", "--", "sh", "-c", "true"], |_| {}), "");
    let folders = ["with", "without"].map(|name| program.directory().join(name));
    for (folder, flags) in folders.iter().zip([&RETPOLINE[..], &["-fcf-protection=none"]]) {
        fs::create_dir(folder).unwrap();
        let source = folder.join("l.c");
        fs::write(&source, "int (*volatile p)(int); int f(int x) { return p ? p(x) : x; }").unwrap();
        let mut compile = std::process::Command::new("cc");
        compile.args(["-O2", "-shared", "-fPIC", "-fno-optimize-sibling-calls"]).args(flags);
        assert!(compile.arg(&source).arg("-o").arg(folder.join("libl.so")).status().unwrap().success());
    }
    let [with, without] = &folders;
    let flag = format!("-L{}", without.display());
    let linked = Compiled::new(
        "int f(int); int main(void) { return f(0); }",
        &["-fcf-protection=none", &flag, "-Wl,--no-as-needed", "-l:libl.so"],
    );
    let found_in = |folder: &std::path::Path| {
        on_terminal(&["run", "--", linked.text()], |command| {
            command.env("LD_LIBRARY_PATH", folder);
        })
    };
    assert_eq!(found_in(with), "");
    assert!(found_in(without).contains("nothing to promote"));
    let hello = Compiled::new(HELLO, &["-fcf-protection=none"]);
    let preloaded = |folder: &std::path::Path| {
        on_terminal(&["run", "--", hello.text()], |command| {
            command.env("LD_PRELOAD", folder.join("libl.so"));
        })
    };
    assert_eq!(preloaded(with), "");
    assert!(preloaded(without).contains("nothing to promote"));
}
