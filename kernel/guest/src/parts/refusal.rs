// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Machines on which the module must not load, and has to say why; and modules that are broken on purpose.

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
    refused(report, module::load(), reason);
}

/// Each module in `/broken` is refused for the reason that is expected of it, and then the sound one loads.
pub fn broken(report: &mut Report) {
    report.part("broken");
    let expected = fs::read_to_string("/expected/broken").unwrap_or_default();
    for (name, reason) in expected.lines().filter_map(|line| line.split_once(' ')) {
        report.note(name);
        refused(report, module::load_file(&format!("/broken/{name}.ko")), reason);
    }
    let loaded = module::load();
    report.check(loaded.is_ok(), format!("the sound one loads: {}", loaded.unwrap_or_else(|error| error).trim()));
    let unloaded = module::unload();
    report.check(unloaded.is_ok(), format!("and unloads {}", unloaded.err().unwrap_or_default().trim()));
}

fn refused(report: &mut Report, loaded: Result<String, String>, reason: &str) {
    let said = loaded.err().unwrap_or_default();
    report.check(said.contains(reason), format!("refused: {}", said.trim()));
    report.check(said.trim().lines().count() == 1, "the reason is one line");
    report.check(!Path::new("/sys/module/relpoline").exists(), "nothing of it stays in the kernel");
}

/// Lets the module's file claim another kernel release, wherever it names one. Kernels with symbol versions
/// skip the release in `vermagic`: there the module's own check is what refuses.
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
