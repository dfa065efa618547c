// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Another module that patches text takes a promoted branch (`kernel/guest/modules/takes.c`), and gives it
//! back; and a process has one of the module's devices open. Neither is waited for: unloading ends at once,
//! with a sentence.

use std::fs::File;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::emulated;
use crate::load::Load;
use crate::machine::{insmod_of_test, rmmod};
use crate::module::{self, Site, relpoline, said, stat, wait_until};
use crate::report::Report;

/// Registers by their numbers.
const REGISTERS: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// A branch that is taken and given back, then an open device.
pub fn run(report: &mut Report) {
    {
        let _load = Load::start();
        wait_until(60, || stat("now_promoted") > 50);
        taken(report);
        module::tell("enable");
        wait_until(30, || stat("now_promoted") > 10);
        open(report);
    }
    let unloaded = module::unload();
    report.check(unloaded.is_ok(), format!("the module unloads {}", unloaded.err().unwrap_or_default().trim()));
    let loaded = module::load();
    report.check(loaded.is_ok(), format!("and loads again: {}", loaded.unwrap_or_else(|error| error).trim()));
    emulated();
}

fn taken(report: &mut Report) {
    let promoted = |site: &Site| site.phase == "promoted" && !site.place.contains('[');
    let Some(site) = module::sites().into_iter().find(promoted) else {
        report.check(false, "a site is promoted");
        return;
    };
    let Some(reg) = REGISTERS.iter().position(|name| *name == site.reg) else {
        report.check(false, format!("{} is a register", site.reg));
        return;
    };
    let taken = insmod_of_test("taker", &[format!("at={:#x}", site.address), format!("reg={reg}")]);
    let error = taken.as_ref().err().cloned().unwrap_or_default();
    report.check(taken.is_ok(), format!("another module takes the branch {} {error}", site.place));
    if taken.is_err() {
        return;
    }
    for _ in 0..3 {
        module::tell("relearn");
        sleep(Duration::from_millis(500));
    }
    let waits = stat("now_pending");
    report.check(waits == 1, format!("{waits} branch waits: what is not ours is not changed"));
    let (refused, took) = timed(module::unload);
    let sentence = refused.err().unwrap_or_default();
    let says = sentence.contains("somebody else has 1 of its branches") && sentence.trim().lines().count() == 1;
    report.check(says, format!("unload ends after {took} ms, refused: {}", sentence.trim()));
    report.check(rmmod("taker"), "the other module gives the branch back");
    let restored = wait_until(20, || stat("now_pending") == 0);
    report.check(restored, "then it is put back");
}

fn open(report: &mut Report) {
    let Ok(device) = File::open("/dev/relpoline/stats") else {
        report.check(false, "a device of the module can be opened");
        return;
    };
    let (refused, took) = timed(module::unload);
    let sentence = refused.err().unwrap_or_default();
    let says = sentence.contains("open") && sentence.trim().lines().count() == 1;
    report.check(says, format!("a device is open: unload ends after {took} ms, refused: {}", sentence.trim()));
    drop(device);
    let on = said(relpoline(&["enable"]));
    report.check(on.is_ok() && wait_until(30, || stat("now_promoted") > 10), "and promotion can be switched on again");
}

fn timed<T>(what: impl FnOnce() -> T) -> (T, u128) {
    let began = Instant::now();
    let result = what();
    (result, began.elapsed().as_millis())
}
