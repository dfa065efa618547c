//! Where a measurement was made: figures mean little without it.

use serde::Serialize;

use super::compiler::Compiler;

/// The machine, its kernel and the compiler.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Model of the CPU.
    pub cpu: String,
    /// Logical CPUs that may be used.
    pub cpus: usize,
    /// Kernel release.
    pub kernel: String,
    /// The kernel's own word on Spectre v2.
    pub spectre_v2: String,
    /// First line of the compiler's version.
    pub compiler: String,
}

/// Asks the kernel and the compiler.
pub fn describe(compiler: &Compiler) -> Machine {
    Machine { compiler: compiler.version().unwrap_or_else(unknown), ..without_compiler() }
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// Asks the kernel; for measurements that compile nothing.
pub fn without_compiler() -> Machine {
    let line = |path: &str| std::fs::read_to_string(path).map_or_else(|_| unknown(), |text| text.trim().to_owned());
    Machine {
        cpu: cpu().unwrap_or_else(unknown),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: line("/proc/sys/kernel/osrelease"),
        spectre_v2: line("/sys/devices/system/cpu/vulnerabilities/spectre_v2"),
        compiler: String::new(),
    }
}

fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
