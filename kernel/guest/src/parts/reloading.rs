// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Unloading and loading while everything is running.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::module::{self, stat};
use crate::report::Report;
use crate::{emulated, machine};

/// The module goes and comes back under load.
pub fn run(report: &mut Report) {
    let wanted = machine::number("reloads", 20);
    let _load = Load::start();
    let (mut done, mut promoted) = (0, 0);
    let (mut unloading, mut loading) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..wanted {
        let began = Instant::now();
        let unloaded = module::unload();
        unloading += began.elapsed();
        let began = Instant::now();
        if let Err(error) = unloaded.and_then(|_| module::load()) {
            report.check(false, format!("unload and load under load: {}", error.trim()));
            break;
        }
        loading += began.elapsed();
        emulated();
        sleep(Duration::from_millis(400));
        promoted += stat("promotions");
        done += 1;
    }
    report.note(format!("{} s of unloading, {} s of loading, both emulated", unloading.as_secs(), loading.as_secs()));
    report.check(done == wanted, format!("{done} times unloaded and loaded under load, {wanted} wanted"));
    report.check(promoted > 0, format!("{promoted} promotions were made in between"));
}
