// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The module as its user sees it: the command `relpoline`, and its devices.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

const DIRECTORY: &str = "/dev/relpoline";
/// The module's file in this machine.
pub const FILE: &str = "/relpoline.ko";
/// Instead of it, where DKMS has packed it.
const PACKED: [&str; 2] = ["/relpoline.ko.xz", "/relpoline.ko.zst"];

/// Runs `relpoline kernel …`, ahead of the load that the test drives.
pub fn relpoline(arguments: &[&str]) -> Output {
    let mut command = Command::new("/bin/relpoline");
    command.arg("kernel").args(arguments);
    // SAFETY: a system call that may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::setpriority(libc::PRIO_PROCESS, 0, -15);
            Ok(())
        })
    };
    command.output().expect("the command relpoline runs")
}

/// Loads the module: what went wrong, if anything did.
pub fn load() -> Result<String, String> {
    let packed = PACKED.into_iter().find(|file| fs::exists(file).unwrap_or(false));
    load_file(packed.unwrap_or(FILE))
}

/// Loads the module that is in `file`.
pub fn load_file(file: &str) -> Result<String, String> {
    said(relpoline(&["load", "--module", file]))
}

/// Unloads it.
pub fn unload() -> Result<String, String> {
    said(relpoline(&["unload"]))
}

/// What a command printed, as its outcome.
pub fn said(output: Output) -> Result<String, String> {
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Whether it is in the kernel.
pub fn is_loaded() -> bool {
    fs::exists("/sys/module/relpoline").unwrap_or(false)
}

/// Gives the module a command by its device.
pub fn tell(command: &str) -> bool {
    fs::write(format!("{DIRECTORY}/control"), command).is_ok()
}

/// The module's figures.
pub fn stats() -> HashMap<String, u64> {
    let text = fs::read_to_string(format!("{DIRECTORY}/stats")).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

/// One of them.
pub fn stat(name: &str) -> u64 {
    stats().get(name).copied().unwrap_or(0)
}

/// A site's line.
#[derive(Debug, Clone)]
pub struct Site {
    pub address: u64,
    pub place: String,
    pub kind: String,
    pub reg: String,
    pub phase: String,
    pub relearned: u64,
    pub before: String,
    pub targets: Vec<String>,
}

impl Site {
    fn parse(line: &str) -> Option<Site> {
        let fields: Vec<&str> = line.split('\t').collect();
        let text = |i: usize| fields.get(i).map(|field| (*field).to_owned());
        Some(Site {
            address: u64::from_str_radix(fields.first()?, 16).ok()?,
            place: text(1)?,
            kind: text(2)?,
            reg: text(3)?,
            phase: text(4)?,
            relearned: fields.get(7)?.parse().ok()?,
            before: text(12)?,
            targets: fields.iter().skip(13).filter_map(|field| Some(field.split_once(' ')?.1.to_owned())).collect(),
        })
    }

    /// Whether it stands in the function `name`.
    pub fn is_in(&self, name: &str) -> bool {
        self.place.split(['+', '.']).next() == Some(name)
    }

    /// Whether `name` is among the targets of its tree.
    pub fn leads_to(&self, name: &str) -> bool {
        self.targets.iter().any(|target| target.split(' ').next() == Some(name))
    }
}

/// All sites.
pub fn sites() -> Vec<Site> {
    let text = fs::read_to_string(format!("{DIRECTORY}/sites")).unwrap_or_default();
    text.lines().filter_map(Site::parse).collect()
}

/// Waits until `holds`, for `seconds` at most; whether it did.
pub fn wait_until(seconds: u64, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        sleep(Duration::from_millis(200));
    }
}
