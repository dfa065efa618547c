// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Machines on which the module must not load, and has to say why.

use std::fs;
use std::path::Path;

use crate::module;
use crate::report::Report;

/// The module does not load, and the reason that the user reads holds `reason`.
pub fn run(report: &mut Report, reason: &str) {
    report.part("refusal");
    let state = fs::read_to_string("/sys/devices/system/cpu/vulnerabilities/spectre_v2").unwrap_or_default();
    report.note(format!("spectre_v2: {}", state.trim()));
    if reason.contains("built for") {
        build_for_another_kernel();
    }
    let said = module::load().err().unwrap_or_default();
    report.check(said.contains(reason), format!("refused: {}", said.trim()));
    report.check(said.trim().lines().count() == 1, "the reason is one line");
    report.check(!Path::new("/sys/module/relpoline").exists(), "nothing of it stays in the kernel");
}

/// Lets the module's file claim another kernel release, wherever it names one. Kernels with symbol versions skip the
/// release in `vermagic`: there the module's own check is what refuses.
fn build_for_another_kernel() {
    let Ok(release) = fs::read_to_string("/proc/sys/kernel/osrelease") else { return };
    let Ok(mut bytes) = fs::read(module::FILE) else { return };
    let release = release.trim().as_bytes();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(release.len()).position(|window| window == release) {
        at += found + release.len();
        bytes[at - 1] ^= 1;
    }
    let _ = fs::write(module::FILE, bytes);
}
