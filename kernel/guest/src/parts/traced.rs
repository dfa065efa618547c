// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The kernel's function tracers, which change the text of many functions at once, on and off while sites are
//! promoted and promoted anew.
//!
//! They patch the beginnings of functions, which are what trees jump to; and the graph tracer replaces return
//! addresses.

use std::collections::HashSet;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::load::Load;
use crate::module::{self, stat, wait_until};
use crate::report::Report;

const TRACING: &str = "/sys/kernel/tracing";
/// Which functions are traced, one after the other. Not all: to change them takes emulation so long, in one
/// piece, that the kernel's watchdog complains, with the module or without.
const TRACED: [&str; 3] = ["vfs_* sock_*", "tcp_* ext4_*", "*poll* *_read *_write *_open"];

/// Both tracers, for several hundred functions.
pub fn run(report: &mut Report) {
    let known = fs::read_to_string(format!("{TRACING}/available_tracers")).unwrap_or_default();
    if !known.split_whitespace().any(|name| name == "function") {
        report.note("this kernel has no function tracer");
        return;
    }
    let _load = Load::start();
    wait_until(60, || stat("now_promoted") > 50);
    // Enough for some hundred entries, soon read.
    set("buffer_size_kb", "32");
    for tracer in ["function", "function_graph"] {
        let (before, mut entries, mut by_tree, mut switched) = (stat("promotions"), 0, 0, 0);
        for functions in TRACED {
            set("set_ftrace_filter", functions);
            let promoted = promoted();
            let on = set("current_tracer", tracer);
            for _ in 0..2 {
                module::tell("relearn");
                sleep(Duration::from_millis(800));
            }
            set("tracing_on", "0");
            let text = fs::read_to_string(format!("{TRACING}/trace")).unwrap_or_default();
            entries += text.lines().filter(|line| !line.starts_with('#')).count();
            by_tree += text.lines().filter_map(entry).filter(|pair| promoted.contains(pair)).count();
            switched += u32::from(on && set("current_tracer", "nop"));
            set("tracing_on", "1");
        }
        let made = stat("promotions") - before;
        report.check(switched == 3, format!("{tracer}: {switched} of 3 times switched on and off"));
        report.check(entries > 0, format!("{tracer}: {entries} entries in its buffer"));
        report.check(made > 0, format!("{tracer}: {made} promotions meanwhile"));
        if tracer == "function" {
            let what = format!("function: {by_tree} entries name a tree's target, called by the function of its site");
            report.check(by_tree > 0, what);
        }
    }
    // While nobody traces, this changes no text.
    set("set_ftrace_filter", "");
}

/// Writes one of the tracer's files; whether it took that.
fn set(file: &str, value: &str) -> bool {
    fs::write(format!("{TRACING}/{file}"), value).is_ok()
}

/// Of each promoted site: its function, and a target of its tree.
fn promoted() -> HashSet<(String, String)> {
    let mut pairs = HashSet::new();
    for site in module::sites() {
        let caller = site.place.split(['+', '.']).next().unwrap_or_default().to_owned();
        let targets = site.targets.iter().filter_map(|target| target.split(' ').next());
        pairs.extend(targets.map(|target| (caller.clone(), target.to_owned())));
    }
    pairs
}

/// Caller and callee of the function tracer's line `task-pid [cpu] flags time: callee <-caller`.
fn entry(line: &str) -> Option<(String, String)> {
    let (rest, caller) = line.split_once(" <-")?;
    Some((caller.split_whitespace().next()?.to_owned(), rest.split_whitespace().last()?.to_owned()))
}
