// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The machine's own set-up: file systems, options on the kernel's command line, the end.

use std::ffi::CString;
use std::fs;
use std::process::{Command, ExitCode};
use std::ptr::null;

/// Mounts what a Linux machine has mounted.
pub fn set_up() {
    for (kind, place) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
        ("securityfs", "/sys/kernel/security"),
        ("tmpfs", "/tmp"),
    ] {
        let _ = fs::create_dir_all(place);
        mount(kind, place, kind);
    }
    let _ = fs::create_dir_all("/bin");
    let _ = Command::new("/bin/busybox").args(["--install", "-s", "/bin"]).status();
    // The console shows warnings and worse: what the host looks for.
    let _ = fs::write("/proc/sys/kernel/printk", "5 4 1 5");
}

/// Mounts `source` of type `kind` at `place`; whether that went well.
pub fn mount(source: &str, place: &str, kind: &str) -> bool {
    let [source, place, kind] = [source, place, kind].map(|text| CString::new(text).expect("no zero in it"));
    // SAFETY: three strings that outlive the call.
    unsafe { libc::mount(source.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, null()) == 0 }
}

/// The value of `rlp.NAME=VALUE` on the kernel's command line; `_` stands for a blank.
pub fn option(name: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let key = format!("rlp.{name}=");
    line.split_whitespace().find_map(|word| word.strip_prefix(&key).map(|value| value.replace('_', " ")))
}

/// A number on the kernel's command line.
pub fn number(name: &str, otherwise: u64) -> u64 {
    option(name).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// Loads a module of the kernel that came with us, and what it needs; whether it is there then. What did not
/// come with us is built in.
pub fn insmod(name: &str) -> bool {
    let order = fs::read_to_string(format!("/modules/{name}.order")).unwrap_or_default();
    order.lines().all(|name| {
        let is_there = fs::exists(format!("/sys/module/{}", name.replace('-', "_"))).unwrap_or(false);
        let file = format!("/modules/{name}.ko");
        is_there || Command::new("/bin/insmod").arg(file).status().is_ok_and(|status| status.success())
    })
}

/// Loads a module of the test's own (`kernel/guest/modules`), and says what went wrong if anything did.
pub fn insmod_of_test(name: &str, parameters: &[String]) -> Result<(), String> {
    let file = format!("/test-modules/{name}.ko");
    let output = Command::new("/bin/insmod").arg(file).args(parameters).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// Whether the test has a module of that name for this kernel.
pub fn has_of_test(name: &str) -> bool {
    fs::exists(format!("/test-modules/{name}.ko")).unwrap_or(false)
}

/// The value of a parameter of a loaded module.
pub fn parameter(module: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/sys/module/{module}/parameters/{name}")).unwrap_or_default();
    text.trim().to_owned()
}

/// Takes a module out again.
pub fn rmmod(name: &str) -> bool {
    Command::new("/bin/rmmod").arg(name).status().is_ok_and(|status| status.success())
}

/// Switches the machine off.
pub fn power_off() -> ExitCode {
    // SAFETY: no memory is involved.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    ExitCode::SUCCESS
}
