// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Suspending: tasks are frozen, devices and processors stop, and all come back, while sites are promoted.
//!
//! By the kernel's own test of it (`/sys/power/pm_test`), which goes as deep as it is told, waits, and comes
//! back. Not in earnest: QEMU's clock does not wake a machine that is suspended to idle.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::load::Load;
use crate::module::{self, stat, wait_until};
use crate::report::Report;

const POWER: &str = "/sys/power";
/// As deep as each state can be tested.
const DEPTHS: [(&str, &[&str]); 2] =
    [("freeze", &["freezer", "devices"]), ("mem", &["freezer", "platform", "processors", "core"])];

/// Every depth that this kernel has.
pub fn run(report: &mut Report) {
    let states = fs::read_to_string(format!("{POWER}/state")).unwrap_or_default();
    let known = fs::read_to_string(format!("{POWER}/pm_test")).unwrap_or_default();
    if !states.contains("freeze") || known.is_empty() {
        report.note("this kernel cannot suspend, or has no test of it");
        return;
    }
    let _load = Load::start();
    wait_until(60, || stat("now_promoted") > 50);
    let _ = fs::write("/sys/module/suspend/parameters/pm_test_delay", "1");
    for (state, depths) in DEPTHS.into_iter().filter(|(state, _)| states.contains(state)) {
        for depth in depths.iter().filter(|depth| known.contains(**depth)) {
            let _ = fs::write(format!("{POWER}/pm_test"), depth);
            suspend(report, state, depth);
        }
    }
    let _ = fs::write(format!("{POWER}/pm_test"), "none");
}

/// Suspends once; the module goes on afterwards.
fn suspend(report: &mut Report, state: &str, how: &str) {
    module::tell("relearn");
    let before = stat("promotions");
    let done = fs::write(format!("{POWER}/state"), state);
    let error = done.as_ref().err().map(ToString::to_string).unwrap_or_default();
    module::tell("relearn");
    let goes_on = wait_until(40, || stat("promotions") > before && stat("now_promoted") > 10);
    report.check(done.is_ok() && goes_on, format!("suspended ({state}, {how}), and sites are promoted again {error}"));
    // Where tasks did not freeze, what kept them is worth more than the next attempt.
    sleep(Duration::from_millis(200));
}
