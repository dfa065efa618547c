// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Kernel modules that come and go while theirs are promoted.

use std::fs;
use std::net::{TcpListener, UdpSocket};

use crate::machine::{insmod, rmmod};
use crate::module::{self, Site, stat, wait_until};
use crate::report::Report;
use crate::traffic::{self, Tunnel};

const ROUNDS: u32 = 5;

/// A module's sites come and go with it; a target in it leaves every tree before its memory goes.
pub fn run(report: &mut Report) {
    // Nothing else calls through the sites at which the module's functions shall be found.
    let _quiet = (TcpListener::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
    let (mut came, mut learned, mut left) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let before = stat("sites_modules");
        if !insmod("tun") {
            report.check(false, "the module tun can be loaded");
            return;
        }
        came += u32::from(stat("sites_modules") > before);
        learned += u32::from(leads_into_tun());
        let targets = module::sites().iter().filter(|site| leads_into(site)).count();
        report.note(format!("{targets} trees lead into tun"));
        rmmod("tun");
        let gone = stat("sites_modules") == before && !module::sites().iter().any(leads_into);
        left += u32::from(gone && !fs::exists("/sys/module/tun").unwrap_or(true));
    }
    report.check(came == ROUNDS, format!("{came} of {ROUNDS} times a module's sites came with it"));
    report.check(learned == ROUNDS, format!("{learned} of {ROUNDS} times a site learned a target in that module"));
    report.check(left == ROUNDS, format!("{left} of {ROUNDS} times its sites and targets were gone when it was"));
    report.check(stat("demotions") > 0, "sites were demoted for it");
}

/// Uses a device of the module until some tree leads into it.
fn leads_into_tun() -> bool {
    let Some(mut tunnel) = Tunnel::open("rlp0", false, false) else { return false };
    wait_until(20, || {
        tunnel.send(&traffic::ipv4_packet([10, 255, 255, 1]), 2000);
        module::sites().iter().any(leads_into)
    })
}

fn leads_into(site: &Site) -> bool {
    site.targets.iter().any(|target| target.ends_with("[tun]"))
}
