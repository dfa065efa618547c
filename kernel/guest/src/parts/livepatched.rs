// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A live patch of a function that holds a promoted site and is a tree's target: `sock_poll`.
//!
//! A live patch takes effect when no task's stack holds the old function, so stacks must be unwound through
//! trees. Its own sites come and go with its module.

use std::fs;
use std::net::TcpListener;
use std::thread::sleep;
use std::time::Duration;

use crate::load::Load;
use crate::machine::{has_of_test, insmod_of_test, rmmod};
use crate::module::{self, stat, wait_until};
use crate::report::Report;
use crate::traffic::{poll, readiness};

const PATCH: &str = "/sys/kernel/livepatch/patched";
/// What only the new function says.
const MARK: i16 = 0x400;
const ROUNDS: u32 = 3;

/// The patch comes, is used, and goes, some times.
pub fn run(report: &mut Report) {
    if !has_of_test("patched") {
        report.note("this kernel has no live patches");
        return;
    }
    let Ok(socket) = TcpListener::bind("127.0.0.1:0") else {
        report.check(false, "a socket to poll");
        return;
    };
    let leads = |function: &str, target: &str| {
        wait_until(40, || {
            poll(&socket, 3000);
            module::sites().iter().any(|site| site.is_in(function) && site.leads_to(target))
        })
    };
    let _load = Load::start();
    let (mut old, mut new, mut back, mut gone) = (0, 0, 0, 0);
    for _ in 0..ROUNDS {
        old += u32::from(leads("sock_poll", "tcp_poll") && readiness(&socket, MARK) == 0);
        if let Err(error) = insmod_of_test("patched", &[]) {
            report.check(false, format!("the live patch can be loaded: {error}"));
            return;
        }
        let took_effect = settles(|| module::tell("relearn"));
        new += u32::from(took_effect && readiness(&socket, MARK) == MARK && leads("new_sock_poll", "tcp_poll"));
        let _ = fs::write(format!("{PATCH}/enabled"), "0");
        back += u32::from(settles(|| module::tell("relearn")) && readiness(&socket, MARK) == 0);
        // The kernel lets the module go by itself when the transition has ended.
        let left = wait_until(20, || rmmod("patched"));
        gone += u32::from(left && !module::sites().iter().any(|site| site.place.contains("[patched]")));
    }
    report.check(old == ROUNDS, format!("{old} of {ROUNDS} times sock_poll is promoted, and is the old one"));
    let what = "the patch took effect, and the new function's own site was promoted";
    report.check(new == ROUNDS, format!("{new} of {ROUNDS} times {what}"));
    report.check(back == ROUNDS, format!("{back} of {ROUNDS} times it was taken back"));
    report.check(gone == ROUNDS, format!("{gone} of {ROUNDS} times its module went, and its sites with it"));
    report.check(leads("sock_poll", "tcp_poll"), "afterwards sock_poll is promoted again");
    report.check(stat("now_pending") == 0, "and no branch waits");
}

/// Waits until no transition is going on, while `meanwhile` is done; whether it came to its end.
fn settles(meanwhile: impl Fn() -> bool) -> bool {
    for _ in 0..300 {
        meanwhile();
        sleep(Duration::from_millis(200));
        // Without its folder the patch is gone altogether.
        let state = fs::read_to_string(format!("{PATCH}/transition")).unwrap_or_else(|_| "0".to_owned());
        if state.trim() == "0" {
            return true;
        }
    }
    false
}
