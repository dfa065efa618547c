// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The parts of the test, in the order in which they run.

mod captured;
mod hotplug;
pub mod kexec;
mod learning;
mod livepatched;
mod loading;
mod locked;
mod modules;
pub mod prefixed;
mod probe;
pub mod refusal;
mod registered;
mod relearning;
mod reloading;
mod sized;
mod starving;
mod suspended;
mod switching;
mod taken;
mod traced;
mod unwinding;

use crate::report::Report;
use crate::{emulated, load, machine, module, traffic};

/// A part: its name, and what it does.
type Part = (&'static str, fn(&mut Report));

const PARTS: [Part; 18] = [
    ("sites", loading::sites),
    ("learning", learning::run),
    ("unwinding", unwinding::run),
    ("named", captured::run),
    ("relearning", relearning::run),
    ("modules", modules::run),
    ("probe", probe::run),
    ("registered", registered::run),
    ("sized", sized::run),
    ("hotplug", hotplug::run),
    ("traced", traced::run),
    ("livepatched", livepatched::run),
    ("suspended", suspended::run),
    ("taken", taken::run),
    ("starving", starving::run),
    ("switching", switching::run),
    ("reloading", reloading::run),
    // Last: a lockdown stays.
    ("locked", locked::run),
];

/// Runs all parts, or those named by `rlp.only=`.
pub fn all(report: &mut Report) {
    report.part("begin");
    traffic::up("lo");
    let mounted = load::mount_ext4();
    report.check(mounted, "an ext4 file system on a loop device is there for the load");
    let before = loading::branches_of_the_kernel();
    let loaded = module::load();
    report.check(loaded.is_ok(), format!("the module loads: {}", loaded.clone().unwrap_or_else(|error| error).trim()));
    if loaded.is_err() {
        return;
    }
    emulated();
    let only = machine::option("only").unwrap_or_default();
    for (name, run) in PARTS {
        if only.is_empty() || only.split(',').any(|wanted| wanted == name) {
            report.part(name);
            run(report);
        }
    }
    report.part("end");
    loading::unload(report, &before);
}
