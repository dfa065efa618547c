// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A second kernel, started by the first one while its sites are promoted. `machine_kexec` makes its last
//! call with no per-processor data left, so it is barred; and on the way there processors are stopped while
//! they run the load.

use std::ffi::CString;
use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use super::loading;
use crate::load::Load;
use crate::machine::rmmod;
use crate::module::{self, stat, wait_until};
use crate::report::Report;
use crate::{emulated, traffic};

const KERNEL: &str = "/kexec/vmlinuz";
const FILES: &str = "/tmp/files.cpio";

/// What a machine does: the first kernel starts the second one, which ends the test.
pub fn run(report: &mut Report, which: &str) {
    traffic::up("lo");
    if which == "second" { second(report) } else { first(report) }
}

fn first(report: &mut Report) {
    report.part("kexec");
    let loaded = module::load();
    report.check(loaded.is_ok(), format!("the module loads: {}", loaded.unwrap_or_else(|error| error).trim()));
    emulated();
    // Before there is load: the kernel hashes what it is given, which takes emulation long.
    report.check(pack(), "the files of this machine are packed for the second kernel");
    let prepared = prepare();
    let error = prepared.err().map(|error| error.to_string()).unwrap_or_default();
    report.check(error.is_empty(), format!("the second kernel is in place {error}"));
    // It ends with the kernel.
    std::mem::forget(Load::start());
    let promoted = wait_until(120, || stat("now_promoted") > 50);
    report.check(promoted, format!("{} sites are promoted in the first kernel", stat("now_promoted")));
    let barred = module::sites().iter().filter(|site| site.is_in("machine_kexec")).all(|site| site.phase == "barred");
    report.check(barred, "none of them in machine_kexec");
    // SAFETY: no memory is involved. When it goes well, nothing comes back.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    report.check(false, format!("the second kernel can be started: {}", Error::last_os_error()));
}

/// Packs what the second kernel needs of this machine's files.
fn pack() -> bool {
    let large = ["kexec", "mnt", "modules", "test-modules", "ext4.img", "bin/relpoline"];
    let without: String = large.iter().map(|path| format!(" ! -path './{path}' ! -path './{path}/*'")).collect();
    let archive = format!("cd / && find . -xdev{without} | cpio -o -H newc >{FILES}");
    let status = Command::new("/bin/sh").args(["-c", &archive]).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Hands the second kernel to the first one.
fn prepare() -> std::io::Result<()> {
    let (kernel, files) = (File::open(KERNEL)?, File::open(FILES)?);
    let line = std::fs::read_to_string("/proc/cmdline")?;
    let line = CString::new(line.trim().replace("rlp.kexec=first", "rlp.kexec=second")).expect("no zero in it");
    // SAFETY: two open files, and a string with its length.
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            files.as_raw_fd(),
            line.as_bytes_with_nul().len(),
            line.as_ptr(),
            0,
        )
    };
    if loaded == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Without the command, which is large: by its devices.
fn second(report: &mut Report) {
    report.check(!module::is_loaded(), "the second kernel runs, without the module");
    let before = loading::branches_of_the_kernel();
    let loaded = Command::new("/bin/insmod").arg(module::FILE).status().is_ok_and(|status| status.success());
    report.check(loaded, "it loads there, too");
    emulated();
    {
        let _load = Load::start();
        let promoted = wait_until(60, || stat("now_promoted") > 10);
        report.check(promoted, format!("{} sites are promoted in the second kernel", stat("now_promoted")));
    }
    report.check(module::tell("disable") && rmmod("relpoline"), "and unloads");
    let same = loading::branches_of_the_kernel() == before && !before.is_empty();
    report.check(same, format!("every one of {} branches is what it was", before.len()));
}
