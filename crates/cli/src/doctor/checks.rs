//! The list of checks.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Finding;
use super::Level::{Broken, Info, Limited};
use super::probes;
use crate::live::place;
use crate::preload;
use crate::report::Report;
use crate::run::kernel;
use crate::workbench::scratch::Scratch;

/// Bit of CAP_SYS_PTRACE in a set of capabilities.
const SYS_PTRACE: u32 = 19;
/// The oldest C library that is supported: major and minor number.
const OLDEST_LIBC: (u32, u32) = (2, 34);

/// All findings.
pub fn all() -> Vec<Finding> {
    vec![
        system(),
        libc(),
        mitigations(),
        executable_memory(),
        fork(),
        links(),
        text(),
        shadow_stack(),
        seccomp(),
        selinux(),
        statistics(),
        tracing(),
        membarrier(),
        perf(),
        engine_file(),
        switch(),
        trial(),
    ]
}

fn system() -> Finding {
    let kernel = probes::setting("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    Finding::ok("kernel", format!("Linux {kernel} on {}", std::env::consts::ARCH))
}

fn libc() -> Finding {
    let version = probes::libc_version();
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let known = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if known >= OLDEST_LIBC {
        return Finding::ok("C library", format!("glibc {version}"));
    }
    Finding::new("C library", Broken, format!("glibc {version}"))
        .with(format!("glibc {}.{} or later is needed", OLDEST_LIBC.0, OLDEST_LIBC.1))
}

fn mitigations() -> Finding {
    let what = "spectre_v2";
    match probes::setting("/sys/devices/system/cpu/vulnerabilities/spectre_v2") {
        None => Finding::new(what, Info, "the kernel does not say"),
        Some(state) => Finding::new(what, Info, state),
    }
}

fn executable_memory() -> Finding {
    let what = "code memory";
    match kernel::try_arena() {
        Ok(()) => Finding::ok(what, "a memory file can be sealed and mapped executable"),
        Err(error) => {
            let noexec = probes::setting("/proc/sys/vm/memfd_noexec").filter(|level| level == "2");
            let remedy = match (error, noexec) {
                (_, Some(_)) => "sysctl vm.memfd_noexec=1, or lower",
                (rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL, _) => "Linux 5.1 or later is needed",
                _ => {
                    "a security module or a sandbox forbids it: allow memfd_create and executable mappings (SELinux: execmem)"
                }
            };
            Finding::new(what, Broken, format!("no sealed executable memory file: {error}")).with(remedy)
        }
    }
}

fn fork() -> Finding {
    match probes::wipe_on_fork() {
        Ok(()) => Finding::ok("fork", "children can be told from their parents"),
        Err(error) => {
            Finding::new("fork", Broken, format!("MADV_WIPEONFORK: {error}")).with("Linux 4.14 or later is needed")
        }
    }
}

fn links() -> Finding {
    match probes::poke_through_proc() {
        Ok(()) => Finding::ok("links", "single bytes of code can be changed through /proc/self/mem"),
        Err(_) if !has_proc() => Finding::new("links", Limited, "there is no /proc").with("mount -t proc proc /proc"),
        Err(error) => Finding::new("links", Limited, format!("code cannot be changed through /proc/self/mem: {error}"))
            .with("boot without proc_mem.force_override=never; until then each promoted call takes one jump more"),
    }
}

fn text() -> Finding {
    match (probes::unlock_text(), probes::poke_through_proc()) {
        (Ok(()), _) => Finding::ok("text", "code can be re-pointed at start"),
        (Err(_), Ok(())) => Finding::ok("text", "code can be re-pointed at start through /proc/self/mem only"),
        (Err(error), Err(_)) => Finding::new("text", Broken, format!("code cannot be changed at all: {error}"))
            .with("a security module forbids it (SELinux: allow execmod and execmem for the program)"),
    }
}

fn shadow_stack() -> Finding {
    let tunables = std::env::var("GLIBC_TUNABLES").unwrap_or_default();
    if probes::has_shadow_stack() {
        return Finding::new("shadow stack", Broken, "it is on for this shell's programs")
            .with("unset glibc.cpu.x86_shstk in GLIBC_TUNABLES: a retpoline cannot work with a shadow stack");
    }
    if relpoline_stats::program::tunables_enable_shadow_stack(tunables.as_bytes()) {
        return Finding::new("shadow stack", Limited, "GLIBC_TUNABLES asks for it")
            .with("programs that are marked for it are left alone; retpolines cannot work with it anyway");
    }
    Finding::ok("shadow stack", "off")
}

fn seccomp() -> Finding {
    match probes::status("Seccomp").as_deref() {
        Some("0") | None => Finding::ok("seccomp", "no filter here"),
        Some(_) => Finding::new("seccomp", Limited, "a filter is in place already (a container?)")
            .with("if programs die or are not promoted, allow memfd_create, madvise and openat in it"),
    }
}

fn selinux() -> Finding {
    match probes::setting("/sys/fs/selinux/enforce").as_deref() {
        Some("1") => Finding::new("SELinux", Info, "enforcing; what it refuses shows in the lines above and below"),
        Some(_) => Finding::ok("SELinux", "permissive"),
        None => Finding::ok("SELinux", "not there"),
    }
}

fn statistics() -> Finding {
    let what = "statistics";
    let directory = place::of_user(rustix::process::geteuid().as_raw());
    match place::run_directory() {
        Ok(made) if made.path().starts_with(&directory) => Finding::ok(what, format!("in {}", directory.display())),
        _ => Finding::new(what, Limited, format!("{} cannot be used", directory.display())).with(
            "mount a tmpfs at /dev/shm that everybody may write to (mode 1777), and remove the directory if it is not \
             yours; until then list, top and report see nothing",
        ),
    }
}

fn tracing() -> Finding {
    let scope = probes::setting("/proc/sys/kernel/yama/ptrace_scope");
    let capabilities = probes::status("CapEff").and_then(|hex| u64::from_str_radix(&hex, 16).ok()).unwrap_or(0);
    trace_finding(scope.as_deref(), capabilities >> SYS_PTRACE & 1 != 0)
}

/// What may be traced: needed for attach, for the code in `explain`, for counts between judgements.
fn trace_finding(scope: Option<&str>, is_privileged: bool) -> Finding {
    let what = "ptrace";
    match (scope.unwrap_or("0"), is_privileged) {
        ("3", _) => Finding::new(what, Limited, "forbidden for everybody (kernel.yama.ptrace_scope 3)")
            .with("it can be lowered by a reboot only; attach and explain's code are not available"),
        (_, true) => Finding::ok(what, "you may trace every process"),
        ("0", false) => Finding::ok(what, "you may trace your own processes"),
        (scope, false) => {
            Finding::new(what, Limited, format!("only children may be traced (kernel.yama.ptrace_scope {scope})")).with(
                "for attach and for the code in explain: run relpoline as root, or sysctl kernel.yama.ptrace_scope=0",
            )
        }
    }
}

fn membarrier() -> Finding {
    if probes::has_membarrier() {
        return Finding::ok("membarrier", "threads can be made to see changed code at once");
    }
    Finding::new("membarrier", Limited, "MEMBARRIER_SYNC_CORE is not available")
        .with("Linux 4.16 or later; only the Rust library's updates need it, the engine does not")
}

fn perf() -> Finding {
    match probes::setting("/proc/sys/kernel/perf_event_paranoid").and_then(|level| level.parse::<i32>().ok()) {
        Some(level) if level > 2 => {
            Finding::new("perf", Info, format!("kernel.perf_event_paranoid is {level}: only root may use perf"))
                .with("sysctl kernel.perf_event_paranoid=2")
        }
        Some(level) => Finding::ok("perf", format!("kernel.perf_event_paranoid is {level}")),
        None if !has_proc() => Finding::new("perf", Info, "cannot be told without /proc"),
        None => Finding::new("perf", Info, "this kernel has no perf events"),
    }
}

fn engine_file() -> Finding {
    match preload::locate() {
        Ok(engine) => Finding::ok("engine", engine.path.display().to_string()),
        Err(error) if std::env::var_os("RELPOLINE_ENGINE").is_some() => {
            Finding::new("engine", Broken, format!("{error:#}"))
                .with("unset RELPOLINE_ENGINE, or let it name the engine")
        }
        Err(error) => Finding::new("engine", Broken, format!("{error:#}"))
            .with("make ~/.cache writable and its file system executable, or set RELPOLINE_ENGINE"),
    }
}

fn switch() -> Finding {
    if std::env::var_os("RELPOLINE").is_some_and(|value| value == "off") {
        return Finding::new("RELPOLINE", Broken, "is set to off in this environment").with("unset RELPOLINE");
    }
    Finding::ok("RELPOLINE", "does not switch promotion off")
}

fn has_proc() -> bool {
    Path::new("/proc/self").exists()
}

/// What to do about a trial that failed.
const OTHERS_FIRST: &str = "see to the rows above first; relpoline run -- /bin/true says more";

/// Starts a program with the engine, and looks whether the engine says it runs.
fn trial() -> Finding {
    let what = "trial";
    match try_program(Path::new("/bin/true")) {
        Ok(report) if report.engine.enabled => Finding::ok(what, "/bin/true was started with the engine in it"),
        Ok(report) => {
            let why = report.engine.why_disabled.unwrap_or_else(|| "it does not say why".into());
            Finding::new(what, Broken, format!("the engine stays idle in /bin/true: {why}")).with(OTHERS_FIRST)
        }
        Err(_) if !has_proc() => Finding::new(what, Broken, "there is no /proc, by which the command finds itself")
            .with("mount -t proc proc /proc"),
        Err(error) => Finding::new(what, Broken, format!("/bin/true cannot be started with the engine: {error:#}"))
            .with(OTHERS_FIRST),
    }
}

fn try_program(program: &Path) -> anyhow::Result<Report> {
    let directory = Scratch::new("doctor")?;
    let file = directory.path().join("report");
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--quiet", "--report"]).arg(&file).arg("--").arg(program);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "it ends with {status}");
    Ok(serde_json::from_slice(&std::fs::read(&file)?)?)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn who_may_trace_whom() {
        let level = |scope, privileged| trace_finding(scope, privileged).level;
        assert_eq!(level(None, false), Level::Ok);
        assert_eq!(level(Some("1"), false), Level::Limited);
        assert_eq!(level(Some("1"), true), Level::Ok);
        assert_eq!(level(Some("3"), true), Level::Limited);
        assert!(trace_finding(Some("2"), false).remedy.is_some());
    }
}
