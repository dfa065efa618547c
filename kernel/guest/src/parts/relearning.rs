// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Promotion again and again while the sites are running.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::module::{self, stat};
use crate::report::Report;
use crate::{emulated, machine};

/// What is learned is forgotten and learned anew, some ten thousand promotions long, under load.
pub fn run(report: &mut Report) {
    let wanted = machine::number("promotions", 10_000);
    for knob in ["cold_calls 8", "window_first 16"] {
        module::tell(knob);
    }
    let _load = Load::start();
    let (before, graces) = (stat("promotions"), stat("grace_periods"));
    let end = Instant::now() + Duration::from_secs(60 + wanted / 10);
    let mut rounds = 0;
    while stat("promotions") - before < wanted && Instant::now() < end {
        sleep(Duration::from_millis(150));
        module::tell("relearn");
        rounds += 1;
    }
    let made = stat("promotions") - before;
    report.check(made >= wanted, format!("{made} promotions under load in {rounds} rounds, {wanted} wanted"));
    let graces = stat("grace_periods") - graces;
    report.check(graces > 0, format!("tree slots were used again after {graces} grace periods"));
    for knob in ["cold_calls 128", "window_first 256"] {
        module::tell(knob);
    }
    emulated();
}
