// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Switching promotion off and on.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::module::{relpoline, said, sites, stat, wait_until};
use crate::report::Report;

/// `disable` lets every site lead to its thunk again, `enable` begins anew; bad commands are refused.
pub fn run(report: &mut Report) {
    let _load = Load::start();
    let (pokes, began) = (stat("pokes"), Instant::now());
    let disabled = said(relpoline(&["disable"]));
    let took = began.elapsed().as_micros() as u64;
    let pokes = stat("pokes") - pokes;
    let each = took / pokes.max(1);
    report
        .note(format!("{pokes} branches put back in {} ms: {each} µs each, in batches of 256, emulated", took / 1000));
    let off = stat("enabled") == 0 && stat("now_promoted") == 0 && stat("now_pending") == 0;
    report.check(disabled.is_ok() && off, "disable puts every site back");
    // The tick that disable asks for, and that of a module's going, are over by then.
    sleep(Duration::from_secs(1));
    let ticks = stat("ticks");
    sleep(Duration::from_secs(3));
    report.check(stat("ticks") == ticks, "and the module's thread does not wake any more");
    let leads_nowhere = sites().iter().all(|site| site.targets.is_empty());
    report.check(leads_nowhere, "no site has a tree while promotion is off");
    let enabled = said(relpoline(&["enable"]));
    let learns = wait_until(30, || stat("now_promoted") > 10);
    report.check(enabled.is_ok() && learns, "enable learns and promotes again");
    // A change by itself, as promotions come, in place of the many of disable.
    wait_until(30, || stat("now_promoted") > 50);
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let each = 1000 * stat("patch_cycles") / stat("cycles_per_ms").max(1);
    report.check(stat("patch_cycles") != 60_000, format!("a change was measured: {each} µs, emulated"));
    report.table(format!("{each} µs a change, {processors} processors"));
    let unknown = said(relpoline(&["set", "colour", "3"]));
    let names = unknown.as_ref().err().is_some_and(|error| error.contains("does not know"));
    report.check(names, "an unknown knob is refused with a reason");
    let absurd = said(relpoline(&["set", "max_targets", "5"]));
    report.check(absurd.as_ref().err().is_some_and(|error| error.contains("no sense")), "an absurd value is refused");
    let twice = said(relpoline(&["load", "--module", "/relpoline.ko"]));
    report.check(twice.as_ref().err().is_some_and(|error| error.contains("already")), "loading twice is refused");
}
