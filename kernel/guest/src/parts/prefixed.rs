// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What Linux does, without the module, when a probe before the `cs` prefix of a padded call is armed.
//!
//! Its kprobes emulate a call, and reckon with five bytes whatever its length: a padded call has six, and
//! returns one byte short, into its own last byte. So the test of the module arms no such probes
//! (`registered`); this is what says whose fault that is. Nothing is checked here: whether the machine comes
//! to its end is what is told.

use std::thread::sleep;
use std::time::Duration;

use super::{loading, registered};
use crate::kernel_text::{Memory, Symbols};
use crate::load::{self, Load};
use crate::machine;
use crate::report::Report;
use crate::traffic;

/// Functions that the load runs all the time.
const BUSY: [&str; 8] = ["vfs_", "path_openat", "do_dentry_open", "__fput", "lookup_", "ext4_", "tcp_", "sock_"];
/// Probes at most.
const PROBES: usize = 24;

/// Registers and arms them under load.
pub fn run(report: &mut Report) {
    traffic::up("lo");
    report.note(format!("ext4 for the load: {}", load::mount_ext4()));
    let (Some(memory), symbols) = (Memory::open(), Symbols::read()) else {
        report.note("the kernel's memory cannot be read");
        return;
    };
    report.note(format!("the module is loaded: {}", std::fs::exists("/sys/module/relpoline").unwrap_or(false)));
    let mut set = 0;
    for (address, bytes) in loading::branches_of_the_kernel() {
        let is_padded = memory.branch(address - 1).is_some_and(|bytes| bytes[0] == 0x2e);
        let name = symbols.name(address);
        if bytes[0] != 0xe8 || !is_padded || set == PROBES || !BUSY.iter().any(|start| name.starts_with(start)) {
            continue;
        }
        let Some(start) = symbols.address(name) else { continue };
        set += usize::from(registered::add("waiting", address, &format!("{name}+{:#x}", address - 1 - start)));
    }
    report.note(format!("{set} probes before a cs prefix are registered"));
    let _load = Load::start();
    sleep(Duration::from_secs(machine::number("seconds", 3)));
    report.note(format!("armed: {}", registered::arm(true)));
    sleep(Duration::from_secs(8));
    report.note(format!("they were hit {} times", registered::hits()));
    registered::arm(false);
}
