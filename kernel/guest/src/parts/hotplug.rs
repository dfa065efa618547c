// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Processors that go and come while branches are changed.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::load::Load;
use crate::module::{self, stat};
use crate::report::Report;

const SWITCH: &str = "/sys/devices/system/cpu/cpu1/online";
const ROUNDS: u32 = 5;

/// The second processor goes and comes, and sites are promoted all the while.
pub fn run(report: &mut Report) {
    let _load = Load::start();
    let before = stat("promotions");
    let mut done = 0;
    for _ in 0..ROUNDS {
        module::tell("relearn");
        let gone = fs::write(SWITCH, "0");
        sleep(Duration::from_millis(500));
        module::tell("relearn");
        let back = fs::write(SWITCH, "1");
        sleep(Duration::from_millis(500));
        done += u32::from(gone.is_ok() && back.is_ok());
    }
    report.check(done == ROUNDS, format!("{done} of {ROUNDS} times the second processor went and came"));
    let promoted = module::wait_until(20, || stat("promotions") > before);
    report.check(promoted, format!("{} promotions meanwhile", stat("promotions") - before));
}
