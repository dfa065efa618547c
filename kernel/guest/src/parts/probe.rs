// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A kprobe on a site: its instruction is somebody else's for a while.

use std::fs;

use crate::load::Load;
use crate::module::{self, relpoline, said, stat, wait_until};
use crate::report::Report;

const EVENTS: &str = "/sys/kernel/tracing/kprobe_events";
const SWITCH: &str = "/sys/kernel/tracing/events/kprobes/rlp/enable";

/// A site with a probe on it is left as it is until the probe goes, and then does what was wanted.
pub fn run(report: &mut Report) {
    let _load = Load::start();
    let Some(site) = busy_site() else {
        report.check(false, "a promoted site for the probe");
        return;
    };
    let place = site.place.split('/').next().unwrap_or_default().to_owned();
    let set = fs::write(EVENTS, format!("p:kprobes/rlp {place}")).is_ok() && fs::write(SWITCH, "1").is_ok();
    report.check(set, format!("a probe can be set on the promoted site {place}"));
    let before = stat("pokes_postponed");
    let refused = said(relpoline(&["disable"]));
    let says_why = refused.as_ref().err().is_some_and(|error| error.contains("probe"));
    report.check(says_why, "disable says that a probe is in the way");
    let waits = stat("now_pending") == 1 && stat("pokes_postponed") > before;
    report.check(waits, "the site with the probe waits, all others are put back");
    let _ = fs::write(SWITCH, "0");
    let _ = fs::write(EVENTS, "-:kprobes/rlp");
    let restored = wait_until(10, || stat("now_pending") == 0);
    report.check(restored, "when the probe has gone, it is put back too");
    module::tell("enable");
}

/// A promoted call in a function that kprobes may probe.
fn busy_site() -> Option<module::Site> {
    let mut found = None;
    wait_until(30, || {
        let names =
            ["vfs_read", "vfs_write", "path_openat", "do_dentry_open", "__fput", "lookup_open", "security_file_open"];
        let fits = |site: &module::Site| {
            site.phase == "promoted" && site.kind == "call" && names.iter().any(|name| site.is_in(name))
        };
        found = module::sites().into_iter().find(fits);
        found.is_some()
    });
    found
}
