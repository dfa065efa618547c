// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Kprobes that are registered on promoted sites and not armed: they hold a copy of the branch as it is now,
//! and execute that copy whenever they are armed, whatever stands in the text by then.
//!
//! A module that let such a site go would leave a probe behind that jumps into memory which is no longer
//! there. So the site stays as it is, and the module cannot be unloaded, until the probe is gone.

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
/// Where probes before a `cs` prefix go, which are never armed. Linux's own kprobes take every call for five
/// bytes (`int3_emulate_call`): the padded one returns one byte short, with the module or without (see
/// `prefixed`).
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

/// Promotes anew under load, as often as is wanted, while probes come, are armed, disarmed and go, in no
/// order.
fn churn(report: &mut Report) {
    let wanted = machine::number("churn", 500);
    for knob in ["cold_calls 8", "window_first 16"] {
        module::tell(knob);
    }
    let _load = Load::start();
    let before = stat("promotions");
    let mut seed = 12345_u64;
    let (mut set, mut armed, mut rounds) = (0, 0, 0);
    // Some twenty promotions come of a round; a kernel on which fewer than two do has something wrong with
    // it.
    while (stat("promotions") - before < wanted || rounds < 20) && rounds < 20 + wanted / 2 {
        rounds += 1;
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match (seed >> 33) % 4 {
            0 => set += register().0,
            1 => armed += usize::from(arm(true)),
            2 => {
                arm(false);
            }
            _ => forget(),
        }
        module::tell("relearn");
        sleep(Duration::from_millis(300));
    }
    arm(false);
    forget();
    let made = stat("promotions") - before;
    report.check(
        made >= wanted,
        format!("{made} promotions in {rounds} rounds while probes came and went, {wanted} wanted"),
    );
    let happened = set > 0 && armed > 0;
    report.check(happened, format!("{set} probes came meanwhile, and {armed} times all were armed"));
    let restored = wait_until(20, || stat("now_pending") == 0);
    report.check(restored, "afterwards no branch waits");
    for knob in ["cold_calls 128", "window_first 256"] {
        module::tell(knob);
    }
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
        if add(group, site.address, &place) {
            set += 1;
            padded += usize::from(is_padded);
        }
        if set == PROBES {
            break;
        }
    }
    (set, padded)
}

/// Registers a probe, which is not armed; whether the kernel takes it.
pub fn add(group: &str, address: u64, place: &str) -> bool {
    let event = format!("p:{group}/p{address:x} {place}\n");
    let file = fs::OpenOptions::new().append(true).open(EVENTS);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, event.as_bytes())).is_ok()
}

/// `function+offset` of the site's instruction.
fn place(site: &Site, is_padded: bool) -> Option<String> {
    let (function, offset) = site.place.split('/').next()?.split_once('+')?;
    let offset = u64::from_str_radix(offset.trim_start_matches("0x"), 16).ok()?;
    Some(format!("{function}+{:#x}", offset.checked_sub(u64::from(is_padded))?))
}

/// Whether something was armed, or disarmed: where there are no probes, nothing is.
pub fn arm(on: bool) -> bool {
    fs::write(format!("{GROUP}/enable"), if on { "1" } else { "0" }).is_ok()
}

fn forget() {
    // One that is armed does not go; the next round disarms it.
    let text = fs::read_to_string(EVENTS).unwrap_or_default();
    for name in text.lines().filter_map(|line| line.split_whitespace().next()?.strip_prefix("p:")) {
        let file = fs::OpenOptions::new().append(true).open(EVENTS);
        let _ = file.and_then(|mut file| std::io::Write::write_all(&mut file, format!("-:{name}\n").as_bytes()));
    }
}

/// How often probes were hit.
pub fn hits() -> u64 {
    let text = fs::read_to_string("/sys/kernel/tracing/kprobe_profile").unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}
