// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The sites of a desktop: above 20,000, with the three large drivers for displays, which load without their
//! devices.

use std::fs;
use std::time::Instant;

use super::loading;
use crate::load::Load;
use crate::machine::{insmod, rmmod};
use crate::module::{self, stat, wait_until};
use crate::report::Report;

const LARGE: [&str; 3] = ["i915", "amdgpu", "nouveau"];

/// They come, are used as little as without a device, and go.
pub fn run(report: &mut Report) {
    if !LARGE.iter().all(|name| fs::exists(format!("/modules/{name}.ko")).unwrap_or(false)) {
        report.note("this kernel has no drivers for displays");
        return;
    }
    for name in LARGE {
        let began = Instant::now();
        let loaded = insmod(name);
        report.check(loaded, format!("{name} loads, in {} ms, emulated", began.elapsed().as_millis()));
    }
    let sites = stat("sites_kernel") + stat("sites_modules");
    report.check(sites > 20_000 && stat("sites_without_number") == 0, format!("{sites} sites, each with a number"));
    report.table(format!("{sites} sites with i915, amdgpu and nouveau"));
    loading::of_modules(report, &module::sites());
    {
        let _load = Load::start();
        module::tell("relearn");
        let before = stat("promotions");
        let learned = wait_until(120, || stat("promotions") > before + 20);
        report.check(learned, format!("{} promotions among them", stat("promotions") - before));
    }
    let gone = LARGE.iter().rev().filter(|name| rmmod(name)).count();
    let left = stat("sites_kernel") + stat("sites_modules");
    report.check(gone == 3 && left + 10_000 < sites, format!("{gone} of 3 go again, and {left} sites are left"));
}
