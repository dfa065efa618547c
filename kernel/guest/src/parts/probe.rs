// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A kprobe on a site: its instruction is somebody else's for a while.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use crate::load::Load;
use crate::module::{self, relpoline, said, stat, wait_until};
use crate::report::Report;

const EVENTS: &str = "/sys/kernel/tracing/kprobe_events";
const SWITCH: &str = "/sys/kernel/tracing/events/kprobes/rlp/enable";

/// Functions that the load calls all the time, and that kprobes may enter.
const BUSY: [&str; 7] =
    ["vfs_read", "vfs_write", "path_openat", "do_dentry_open", "__fput", "lookup_open", "security_file_open"];

/// A site with a probe on it is left as it is until the probe goes, and then does what was wanted.
pub fn run(report: &mut Report) {
    let _load = Load::start();
    let (probed, refusals) = probe_a_site();
    for (place, why) in &refusals {
        report.note(format!("the kernel takes no probe on {place}: {why}"));
    }
    let Some(place) = probed else {
        report.check(false, "a probe can be set on a promoted site");
        return;
    };
    report.check(true, format!("a probe can be set on the promoted site {place}"));
    let before = stat("pokes_postponed");
    let refused = said(relpoline(&["disable"]));
    let says_why = refused.as_ref().err().is_some_and(|error| error.contains("probe"));
    report.check(says_why, "disable says that a probe is in the way");
    let waits = stat("now_pending") == 1 && stat("pokes_postponed") > before;
    report.check(waits, "the site with the probe waits, all others are put back");
    remove_probe();
    let restored = wait_until(10, || stat("now_pending") == 0);
    report.check(restored, "when the probe has gone, it is put back too");
    let ours = refusals.keys().find(|place| probe(place).is_ok());
    remove_probe();
    report.check(ours.is_none(), "where the kernel took no probe, it takes none on the untouched site either");
    module::tell("enable");
}

/// Puts a probe on a promoted call in a busy function: where, and what was refused before with the kernel's
/// reasons.
///
/// The kernel takes no probe on some sites, promoted or not: it wants to decode the function from its start,
/// which alternatives and padding can prevent.
fn probe_a_site() -> (Option<String>, BTreeMap<String, io::Error>) {
    let mut refusals = BTreeMap::new();
    let mut probed = None;
    wait_until(30, || {
        let sites = module::sites().into_iter();
        let calls = sites.filter(|site| site.phase == "promoted" && site.kind == "call");
        let busy = calls.filter(|site| BUSY.iter().any(|name| site.is_in(name)));
        for place in busy.filter_map(|site| Some(site.place.split_once('/')?.0.to_owned())) {
            if refusals.contains_key(&place) {
                continue;
            }
            match probe(&place) {
                Ok(()) => {
                    probed = Some(place);
                    return true;
                }
                Err(why) => {
                    remove_probe();
                    refusals.insert(place, why);
                }
            }
        }
        false
    });
    (probed, refusals)
}

/// Sets the probe and lets it take effect.
fn probe(place: &str) -> io::Result<()> {
    fs::write(EVENTS, format!("p:kprobes/rlp {place}"))?;
    fs::write(SWITCH, "1")
}

/// Takes the probe away, as far as it was set.
fn remove_probe() {
    // What was not there need not go.
    let _ = fs::write(SWITCH, "0");
    let _ = fs::write(EVENTS, "-:kprobes/rlp");
}
