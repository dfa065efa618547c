// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Learning and promotion under mixed load.

use std::thread::sleep;
use std::time::Duration;

use crate::load::Load;
use crate::module::{self, relpoline, said, stat, stats, wait_until};
use crate::report::Report;

const ENOUGH: u64 = 100;

/// Under load, many sites are promoted, and their trees cover nearly all calls.
pub fn run(report: &mut Report) {
    let _load = Load::start();
    // A busy host makes emulation slow, not wrong.
    wait_until(150, || stat("now_promoted") >= ENOUGH + 20);
    module::tell("count on");
    sleep(Duration::from_secs(8));
    let figures = stats();
    let status = said(relpoline(&["status"]));
    let top = said(relpoline(&["top", "--screens", "1", "--seconds", "1", "--lines", "5"]));
    module::tell("count off");
    let get = |name: &str| figures.get(name).copied().unwrap_or(0);
    let promoted = get("now_promoted");
    report.check(promoted >= ENOUGH, format!("{promoted} sites promoted under load, at least {ENOUGH} wanted"));
    report.table(format!("{promoted} promoted"));
    let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
    let (calls, misses) = (get("counted_promoted_calls"), get("counted_promoted_misses"));
    let hit = percent(calls.saturating_sub(misses), calls);
    report.check(hit >= 90.0, format!("{hit:.1} % of the {calls} calls of promoted sites hit, 90 wanted"));
    let (all, hits) = (get("counted_calls"), get("counted_tree_hits"));
    let covered = percent(hits, all);
    let sites = get("counted_sites");
    report.check(covered >= 85.0, format!("{covered:.1} % of all {all} calls at {sites} sites covered, 85 wanted"));
    report.note(format!(
        "{} records, {} lost, {} learnings given up",
        get("records"),
        get("records_lost"),
        get("evicted")
    ));
    let shows = status.as_ref().is_ok_and(|text| text.contains("promoted") && text.contains("covered"));
    report.check(shows, "relpoline kernel status shows it");
    report
        .check(top.as_ref().is_ok_and(|text| text.contains("calls/s")), "relpoline kernel top shows the busiest sites");
    let sites = module::sites();
    let several = sites.iter().filter(|site| site.targets.len() > 1).count();
    let most = sites.iter().map(|site| site.targets.len()).max().unwrap_or(0);
    report.check(several > 0 && most <= 4, format!("{several} trees have several targets, {most} at most"));
}
