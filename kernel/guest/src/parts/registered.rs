// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Kprobes that are registered on promoted sites and not armed: they hold a copy of the branch as it is now, and execute
//! that copy whenever they are armed, whatever stands in the text by then.
//!
//! A module that let such a site go would leave a probe behind that jumps into memory which is no longer there. So the
//! site stays as it is, and the module cannot be unloaded, until the probe is gone.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::kernel_text::Memory;
use crate::load::Load;
use crate::module::{self, Site, said, stat, wait_until};
use crate::report::Report;
use crate::{emulated, machine};

const EVENTS: &str = "/sys/kernel/tracing/kprobe_events";
const GROUP: &str = "/sys/kernel/tracing/events/waiting";
/// Probes that are wanted at once.
const PROBES: usize = 12;
/// Where probes before a `cs` prefix go, which are never armed. On 6.12 the kernel panicked once, beside the module, when
/// one was: the return address was one byte short, as if Linux's own kprobes took every call for five bytes
/// (`int3_emulate_call`). It was not tried without the module.
const NEVER: &str = "unarmed";

/// Registers probes, tries to unload, arms them, lets them go, unloads.
pub fn run(report: &mut Report) {
    let load = Load::start();
    wait_until(30, || stat("now_promoted") > 50);
    let (plain, padded) = register();
    report.check(plain > 0, format!("{plain} probes are registered on promoted branches and not armed"));
    // Compilers began to pad with cs after 5.10 was built.
    report.note(format!("{padded} of them before a cs prefix"));
    let refused = said(module::relpoline(&["unload"])).err().unwrap_or_default();
    report.check(refused.contains("somebody else has"), format!("unload is refused: {}", refused.trim()));
    let rmmod = machine::rmmod("relpoline");
    report.check(!rmmod && module::is_loaded(), "rmmod is refused too, as the module holds itself");
    arm(true);
    sleep(Duration::from_secs(4));
    let hits = hits();
    report.check(hits > 0, format!("armed, they were hit {hits} times, and the kernel goes on"));
    arm(false);
    forget();
    let restored = wait_until(20, || stat("now_pending") == 0);
    report.check(restored, "when they have gone, every branch is put back");
    let unloaded = module::unload();
    report.check(unloaded.is_ok(), format!("and the module unloads {}", unloaded.err().unwrap_or_default().trim()));
    drop(load);
    let loaded = module::load();
    report.check(loaded.is_ok(), format!("and loads again: {}", loaded.unwrap_or_else(|error| error).trim()));
    emulated();
    churn(report);
}

/// Promotes anew under load while probes come, are armed, disarmed and go, in no order.
fn churn(report: &mut Report) {
    let rounds = machine::number("churn", 20);
    let _load = Load::start();
    let before = stat("promotions");
    let mut seed = 12345_u64;
    let mut set = 0;
    for _ in 0..rounds {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match (seed >> 33) % 4 {
            0 => set += register().0,
            1 => arm(true),
            2 => arm(false),
            _ => forget(),
        }
        module::tell("relearn");
        sleep(Duration::from_millis(300));
    }
    arm(false);
    forget();
    let made = stat("promotions") - before;
    report.check(made > 0 && set > 0, format!("{made} promotions while {set} probes came, were armed, and went"));
    let restored = wait_until(20, || stat("now_pending") == 0);
    report.check(restored, "afterwards no branch waits");
}

/// Registers probes on promoted sites: how many, and how many of them on a prefix.
fn register() -> (usize, usize) {
    let Some(memory) = Memory::open() else { return (0, 0) };
    let (mut set, mut padded) = (0, 0);
    let mut sites: Vec<(bool, Site)> = module::sites()
        .into_iter()
        .filter(|site| site.phase == "promoted" && site.kind == "call")
        .map(|site| (memory.branch(site.address - 1).is_some_and(|bytes| bytes[0] == 0x2e), site))
        .collect();
    // Those with a prefix are the fewer: they come first, up to a third.
    sites.sort_by_key(|(is_padded, _)| !is_padded);
    for (is_padded, site) in sites {
        if is_padded && padded == PROBES / 3 {
            continue;
        }
        let Some(place) = place(&site, is_padded) else { continue };
        // Appended: what is registered stays.
        let group = if is_padded { NEVER } else { "waiting" };
        let event = format!("p:{group}/p{:x} {place}\n", site.address);
        let file = fs::OpenOptions::new().append(true).open(EVENTS);
        if file.and_then(|mut file| std::io::Write::write_all(&mut file, event.as_bytes())).is_ok() {
            set += 1;
            padded += usize::from(is_padded);
        }
        if set == PROBES {
            break;
        }
    }
    (set, padded)
}

/// `function+offset` of the site's instruction.
fn place(site: &Site, is_padded: bool) -> Option<String> {
    let (function, offset) = site.place.split('/').next()?.split_once('+')?;
    let offset = u64::from_str_radix(offset.trim_start_matches("0x"), 16).ok()?;
    Some(format!("{function}+{:#x}", offset.checked_sub(u64::from(is_padded))?))
}

fn arm(on: bool) {
    // Where there are no probes, nothing is armed.
    let _ = fs::write(format!("{GROUP}/enable"), if on { "1" } else { "0" });
}

fn forget() {
    // One that is armed does not go; the next round disarms it.
    let text = fs::read_to_string(EVENTS).unwrap_or_default();
    for name in text.lines().filter_map(|line| line.split_whitespace().next()?.strip_prefix("p:")) {
        let file = fs::OpenOptions::new().append(true).open(EVENTS);
        let _ = file.and_then(|mut file| std::io::Write::write_all(&mut file, format!("-:{name}\n").as_bytes()));
    }
}

fn hits() -> u64 {
    let text = fs::read_to_string("/sys/kernel/tracing/kprobe_profile").unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}
