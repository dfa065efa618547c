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

/// Lets the kernel refuse its clocks to the command, as Debian's own does to whoever is not root.
pub fn without_clocks(command: &mut Command) -> &mut Command {
    // SAFETY: the child makes system calls only.
    unsafe { command.pre_exec(refuse_clocks) }
}

fn refuse_clocks() -> std::io::Result<()> {
    let statement = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let refused = libc::SECCOMP_RET_ERRNO | libc::EACCES as u32;
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_perf_event_open as u32, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, refused, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: the filter is live, and the kernel copies it.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
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
