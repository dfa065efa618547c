//! Starting the command.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

/// The binary under test.
pub const RELPOLINE: &str = env!("CARGO_BIN_EXE_relpoline");

/// `relpoline ARGUMENTS…`, in an environment that says nothing about us.
pub fn relpoline<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(RELPOLINE);
    command.args(arguments).stdin(Stdio::null());
    for name in ["RELPOLINE", "RELPOLINE_ENGINE", "RELPOLINE_OPTS", "LD_PRELOAD"] {
        command.env_remove(name);
    }
    // Whoever runs the tests may ignore signals: nohup does, and a script's background jobs do.
    // SAFETY: the child makes system calls only.
    unsafe { command.pre_exec(heed_signals) };
    command
}

fn heed_signals() -> std::io::Result<()> {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: the handler is none.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(())
}

/// `relpoline run OPTIONS -- sh -c SCRIPT`.
pub fn run_shell(options: &[&str], script: &str) -> Command {
    let mut command = relpoline(&["run"]);
    command.args(options).args(["--", "sh", "-c", script]);
    command
}

/// What a command did.
pub fn output(command: &mut Command) -> Output {
    command.output().expect("cannot be started")
}

/// What a command wrote to stdout, given that it succeeded.
pub fn stdout(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a command wrote to stderr.
pub fn stderr(command: &mut Command) -> String {
    String::from_utf8(output(command).stderr).unwrap()
}
