// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A kernel that is locked down after the module was loaded, as it is from the start for a signed module
//! under Secure Boot: debugfs is closed, and the module is controlled all the same.

use std::fs;

use crate::load::Load;
use crate::module::{relpoline, said, stat, wait_until};
use crate::report::Report;

const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Everything works under `lockdown=integrity`.
pub fn run(report: &mut Report) {
    let locked = fs::write(LOCKDOWN, "integrity").is_ok();
    let state = fs::read_to_string(LOCKDOWN).unwrap_or_default();
    report.check(locked && state.contains("[integrity]"), format!("the kernel is locked down: {}", state.trim()));
    let closed = fs::read_to_string("/sys/kernel/debug/sched/features").is_err()
        && fs::read_to_string("/sys/kernel/debug/sched_features").is_err();
    report.check(closed, "debugfs is closed");
    let _load = Load::start();
    let off = said(relpoline(&["disable"]));
    report.check(off.is_ok() && stat("now_promoted") == 0, "disable works");
    let on = said(relpoline(&["enable"]));
    report.check(on.is_ok() && wait_until(40, || stat("now_promoted") > 10), "enable works, and sites are promoted");
    let doctor = relpoline(&["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let says = doctor.status.success() && text.contains("through retpolines") && text.contains("locked down");
    report.check(says, "relpoline kernel doctor says that there is something to gain, and that modules must be signed");
}
