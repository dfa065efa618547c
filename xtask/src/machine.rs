//! The machine a result was made on: a number without it cannot be compared with anything.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Processor, kernel, compiler.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Host name.
    pub host: String,
    /// Model name of the processor.
    pub cpu: String,
    /// Number of processors.
    pub processors: usize,
    /// Whether it is a virtual machine.
    pub virtualised: bool,
    /// Release of the kernel.
    pub kernel: String,
    /// What the kernel does about Spectre v2; its own calls cost accordingly.
    pub spectre_v2: String,
    /// First line of `gcc --version`.
    pub compiler: String,
    /// The distribution.
    pub system: String,
}

impl Machine {
    /// Looks around; what cannot be found out is an empty string.
    pub fn here() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = value_of(&cpuinfo, "flags").unwrap_or_default();
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or_default();
        Machine {
            host: line_from("/proc/sys/kernel/hostname"),
            cpu: value_of(&cpuinfo, "model name").unwrap_or_default().to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            virtualised: flags.split(' ').any(|flag| flag == "hypervisor"),
            kernel: line_from("/proc/sys/kernel/osrelease"),
            spectre_v2: line_from("/sys/devices/system/cpu/vulnerabilities/spectre_v2"),
            compiler: output_line("gcc", &["--version"]),
            system: name.trim_matches('"').to_owned(),
        }
    }
}

/// On one line: processor, kernel, compiler.
impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Machine { cpu, processors, kernel, compiler, .. } = self;
        let kind = if self.virtualised { ", virtual" } else { "" };
        write!(f, "{cpu} ({processors} processors{kind}), Linux {kernel}, {compiler}")
    }
}

/// Today, as in 2025-01-31, in universal time.
pub fn today() -> String {
    output_line("date", &["-u", "+%F"])
}

/// Now, to the second, in universal time.
pub fn now() -> String {
    output_line("date", &["-u", "+%FT%TZ"])
}

/// How many processes wanted to run in the last minute: how disturbed a measurement was.
pub fn load_average() -> f64 {
    line_from("/proc/loadavg").split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

fn value_of<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    let pairs = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    pairs.into_iter().find_map(|(name, value)| (name.trim() == key).then_some(value.trim()))
}

fn line_from(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

fn output_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_cpuinfo_is_found_by_its_whole_name() {
        let text = "model\t\t: 106\nmodel name\t: Some CPU @ 2 GHz\n";
        assert_eq!(value_of(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(value_of(text, "flags"), None);
    }

    #[test]
    fn dates_have_their_shape() {
        assert_eq!(today().len(), 10);
        assert!(now().starts_with(&today()[..4]) && now().ends_with('Z'));
    }
}
