// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the module finds, and what it leaves behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::kernel_text::{Memory, Symbols};
use crate::module;
use crate::report::Report;

/// Offsets from `_stext` of the sites that the kernel's own build listed.
fn expected() -> BTreeSet<u64> {
    let text = fs::read_to_string("/expected/sites").unwrap_or_default();
    text.lines().filter_map(|line| u64::from_str_radix(line, 16).ok()).collect()
}

/// Where the kernel may have changed its instructions at boot: offsets from `_stext`, and lengths.
fn alternatives() -> Vec<(u64, u64)> {
    let text = fs::read_to_string("/expected/alternatives").unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(at, len)| Some((u64::from_str_radix(at, 16).ok()?, len.parse().ok()?))).collect()
}

/// The bytes of every branch that the kernel's own build listed, by address.
pub fn branches_of_the_kernel() -> BTreeMap<u64, [u8; 5]> {
    let stext = Symbols::read().address("_stext").unwrap_or(0);
    let Some(memory) = Memory::open() else { return BTreeMap::new() };
    expected().into_iter().filter_map(|offset| Some((stext + offset, memory.branch(stext + offset)?))).collect()
}

/// The sites found are those that the builds of the kernel and of its modules listed.
pub fn sites(report: &mut Report) {
    let stext = Symbols::read().address("_stext").unwrap_or(0);
    let sites = module::sites();
    let is_of_kernel = |site: &&module::Site| !site.place.contains('[');
    let found: BTreeSet<u64> = sites.iter().filter(is_of_kernel).map(|site| site.address - stext).collect();
    let expected = expected();
    let missing = expected.difference(&found).count();
    // The one reason for a site that the build did not list: the kernel put it there when it booted.
    let alternatives = alternatives();
    let is_alternative = |offset: u64| alternatives.iter().any(|&(start, len)| (start..start + len).contains(&offset));
    let (explained, extra): (Vec<u64>, Vec<u64>) =
        found.difference(&expected).copied().partition(|&offset| is_alternative(offset));
    for offset in extra.iter().chain(&explained) {
        let place = sites.iter().find(|site| site.address - stext == *offset).map(|site| site.place.as_str());
        report.note(format!("not listed: {}", place.unwrap_or_default()));
    }
    let reason = match explained.len() {
        0 => String::new(),
        count => format!(" and {count} that alternatives put in place at boot"),
    };
    report.table(format!("{} sites found, {} listed{reason}", found.len(), expected.len()));
    report.check(
        missing == 0 && extra.is_empty() && !expected.is_empty(),
        format!(
            "{} sites found in the kernel, {} in its image's .retpoline_sites{reason}: {missing} missing, {} extra",
            found.len(),
            expected.len(),
            extra.len()
        ),
    );
    mitigations(report);
    report.check(module::stat("sites_refused") == 0, "none of them was refused as no instruction");
    of_modules(report, &sites);
}

/// What the kernel says that it does against what its processor is vulnerable to.
fn mitigations(report: &mut Report) {
    for name in ["spectre_v2", "retbleed", "spec_rstack_overflow"] {
        let said = fs::read_to_string(format!("/sys/devices/system/cpu/vulnerabilities/{name}")).unwrap_or_default();
        // Of spectre_v2, what comes first is meant: the rest is of other things.
        let first = said.trim().split([',', ';']).next().unwrap_or_default();
        if !first.is_empty() && first != "Not affected" {
            report.table(format!("{name}: {}", first.trim_start_matches("Mitigation: ")));
        }
    }
}

/// Likewise for each module that came with us and is loaded.
pub fn of_modules(report: &mut Report, sites: &[module::Site]) {
    let loaded = fs::read_to_string("/proc/modules").unwrap_or_default();
    let listed = fs::read_to_string("/expected/modules").unwrap_or_default();
    for (name, count) in listed.lines().filter_map(|line| line.split_once(' ')) {
        if loaded.lines().any(|line| line.split(' ').next() == Some(name)) {
            let mark = format!("[{name}]");
            let found = sites.iter().filter(|site| site.place.contains(&mark)).count();
            report
                .check(found.to_string() == count, format!("{found} sites found in the module {name}, {count} listed"));
        }
    }
}

/// After unloading, every branch is what it was.
pub fn unload(report: &mut Report, before: &BTreeMap<u64, [u8; 5]>) {
    let changed = branches_of_the_kernel();
    let moved = changed.iter().filter(|&(address, bytes)| before.get(address) != Some(bytes)).count();
    report.check(moved > 7000, format!("{moved} branches of the kernel lead to the module while it is loaded"));
    let unloaded = module::unload();
    report.check(unloaded.is_ok(), format!("the module unloads {}", unloaded.err().unwrap_or_default().trim()));
    let after = branches_of_the_kernel();
    let left = after.iter().filter(|&(address, bytes)| before.get(address) != Some(bytes)).count();
    let same = left == 0 && after.len() == before.len() && !before.is_empty();
    report.check(same, format!("every one of {} branches is what it was: {left} differ", after.len()));
}
