// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Loading while memory is short: whatever the module asks the kernel for and does not get, it refuses to
//! load with one sentence and leaves nothing behind.
//!
//! Each thing that it asks for is refused once, by a module of the test's
//! (`kernel/guest/modules/starving.c`).

use std::collections::BTreeMap;
use std::fs;

use super::loading::branches_of_the_kernel;
use crate::emulated;
use crate::kernel_text::Symbols;
use crate::machine::{insmod_of_test, parameter, rmmod};
use crate::module::{self, stat};
use crate::report::Report;

/// "No memory", as a number and as an address.
const NO_MEMORY: i64 = -12;

/// A function of the kernel by the names that it had in the course of time, calls of it that are refused, the
/// answer.
type Asked = (&'static [&'static str], u32, i64);

const ASKED: [Asked; 7] = [
    (&["__kvmalloc_node_noprof", "kvmalloc_node_noprof", "kvmalloc_node"], 4, 0),
    (&["__cpuhp_setup_state"], 1, NO_MEMORY),
    (&["register_module_notifier"], 1, NO_MEMORY),
    (&["alloc_workqueue_noprof", "alloc_workqueue"], 1, 0),
    (&["kthread_create_on_node"], 1, NO_MEMORY),
    (&["misc_register"], 3, NO_MEMORY),
    (&["register_kprobe"], 1, NO_MEMORY),
];

/// All of it, one after the other.
pub fn run(report: &mut Report) {
    if let Err(error) = module::unload() {
        report.check(false, format!("the module unloads: {}", error.trim()));
        return;
    }
    let before = branches_of_the_kernel();
    let symbols = Symbols::read();
    let mut seen = BTreeMap::new();
    for (names, calls, answer) in ASKED {
        let Some(name) = names.iter().find(|name| symbols.address(name).is_some()) else {
            report.check(false, format!("the kernel has a function {}", names[0]));
            continue;
        };
        for nth in 1..=calls {
            let (refused, said) = load_starving(name, nth, answer);
            let sentence = said.trim().to_owned();
            // The module's own reason, not what the command makes of the kernel's error.
            let is_own = !sentence.contains("os error") && !sentence.contains("the module itself");
            let is_one = sentence.lines().count() == 1 && is_own;
            let nothing = !module::is_loaded() && !fs::exists("/dev/relpoline").unwrap_or(true);
            report.check(refused && is_one && nothing, format!("no {name} ({nth}): {sentence}"));
            *seen.entry(sentence).or_insert(0) += 1;
        }
    }
    report.note(format!("{} different sentences", seen.len()));
    let same = branches_of_the_kernel() == before && !before.is_empty();
    report.check(same, format!("every one of {} branches is what it was", before.len()));
    let loaded = module::load();
    report.check(loaded.is_ok(), format!("with memory it loads: {}", loaded.unwrap_or_else(|error| error).trim()));
    emulated();
    report.check(stat("enabled") == 1, "and promotes");
}

/// Loads the module while a call of `function` is let down: whether that happened, and what the user was
/// told.
fn load_starving(function: &str, nth: u32, answer: i64) -> (bool, String) {
    let parameters = [format!("function={function}"), format!("nth={nth}"), format!("answer={answer}")];
    if let Err(error) = insmod_of_test("starving", &parameters) {
        return (false, error);
    }
    let loaded = module::load();
    let refused = parameter("starving", "refused") == "1";
    rmmod("starving");
    if loaded.is_ok() {
        let _ = module::unload();
    }
    (refused, loaded.err().unwrap_or_else(|| "it was loaded".to_owned()))
}
