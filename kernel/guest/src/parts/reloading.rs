// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Unloading and loading while everything is running.

use std::thread::sleep;
use std::time::Duration;

use crate::load::Load;
use crate::module::{self, stat};
use crate::report::Report;
use crate::{emulated, machine};

/// The module goes and comes back under load.
pub fn run(report: &mut Report) {
    let wanted = machine::number("reloads", 20);
    let _load = Load::start();
    let (mut done, mut promoted) = (0, 0);
    for _ in 0..wanted {
        if let Err(error) = module::unload().and_then(|_| module::load()) {
            report.check(false, format!("unload and load under load: {}", error.trim()));
            break;
        }
        emulated();
        sleep(Duration::from_millis(400));
        promoted += stat("promotions");
        done += 1;
    }
    report.check(done == wanted, format!("{done} times unloaded and loaded under load, {wanted} wanted"));
    report.check(promoted > 0, format!("{promoted} promotions were made in between"));
}
