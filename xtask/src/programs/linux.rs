//! The Linux kernel, run as a program: User-Mode Linux.
//!
//! Its network and file system layers are those of a kernel on the bare machine, with the call sites of which
//! the mails speak that Relpoline comes from: `pt_prev->func`, `NF_HOOK`, the hooks of security modules. Here
//! they run at the processor's full speed, with no hypervisor and no system call between them. What is not
//! the same: interrupts are signals, and whatever a process of that kernel asks of it costs a switch of the
//! host's; so a workload is a loop inside the kernel, or one that asks seldom.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Program, Source};
use crate::build::Tree;
use crate::measure;
use crate::place::Place;
use crate::server::SERVER_CPU;
use crate::stats;
use crate::variant::Variant;
use crate::workload::{Better, Metric, Sample, Setting, Workload, digest};

pub struct Linux;

/// What is switched on beside the default configuration: what moves packets, and what looks at them on the
/// way.
const WITH: [&str; 19] = [
    "NET_PKTGEN",
    "IPV6",
    "DUMMY",
    "VETH",
    "BRIDGE",
    "NETFILTER",
    "IP_NF_IPTABLES",
    "IP_NF_FILTER",
    "TMPFS",
    "HOSTFS",
    "EPOLL",
    "PACKET",
    "UNIX",
    "SECURITY",
    "SECURITY_NETWORK",
    "SECURITY_PATH",
    "SECURITY_APPARMOR",
    "SECURITY_LANDLOCK",
    "SECURITY_YAMA",
];
/// And what is switched off.
const WITHOUT: [&str; 2] = ["SOUND", "WERROR"];
const HOOKS: &str = "landlock,yama,apparmor";
/// More than any processor's extended registers take today.
const STATE: &str = "DEFINE_LONGS(HOST_FP_SIZE, 16384);";
/// They lie on the kernel's stacks, of which each gets two to the power of this many pages.
const STACK_ORDER: &str = "4";
/// Takes every symbol of a `make` on the command line for the architecture.
const ARCH: &str = "ARCH=um";

impl Program for Linux {
    fn name(&self) -> &'static str {
        "linux"
    }

    fn source(&self) -> Source {
        Source::Kernel("linux-source-6.1")
    }

    fn needs(&self) -> &'static [&'static str] {
        &["flex", "bison", "bc", "libelf-dev", "libssl-dev", "xz-utils"]
    }

    fn executable(&self) -> &'static str {
        "linux"
    }

    fn recipe(&self) -> u32 {
        2
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        // The large code model calls everything by register, and gcc refuses it together with thunks.
        exchange(tree, "arch/um/Makefile", "KBUILD_CFLAGS += -mcmodel=large", "")?;
        // A process's extended registers. With AMX the host has 11 KiB of them and takes them back as a whole
        // only.
        exchange(tree, "arch/x86/um/user-offsets.c", "DEFINE_LONGS(HOST_FP_SIZE, 2696);", STATE)?;
        let compiler = format!("CC={}", tree.cc.display());
        tree.make(&[ARCH, &compiler, "x86_64_defconfig"])?;
        let switched = WITH.iter().flat_map(|name| ["-e", *name]).chain(WITHOUT.iter().flat_map(|name| ["-d", *name]));
        let set = ["--set-str", "LSM", HOOKS, "--set-val", "KERNEL_STACK_ORDER", STACK_ORDER];
        tree.step("scripts/config", &switched.chain(set).collect::<Vec<_>>())?;
        tree.make(&[ARCH, &compiler, "olddefconfig"])?;
        tree.make(&[ARCH, &compiler, "linux"])
    }

    fn prepare(&self, setting: &Setting) -> Result<()> {
        let root = setting.run.join("root");
        for part in ["proc", "tmp", "dev", "sys"] {
            fs::create_dir_all(root.join(part))?;
        }
        let source = setting.place.workload("linux/init.c");
        let mut compiler = Command::new("gcc");
        compiler.args(["-O2", "-static", "-o"]).arg(root.join("init")).arg(source);
        measure::run(&mut compiler, Duration::from_secs(60)).map(drop)
    }

    fn has(&self, variant: Variant) -> bool {
        matches!(
            variant,
            Variant::Retpoline | Variant::Plain | Variant::Jmpthunk | Variant::Relpoline | Variant::Lfence
        )
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![
            Box::new(Boot { name: "packets received", does: "receive" }),
            Box::new(Boot { name: "packets sent", does: "send" }),
            Box::new(Boot { name: "directory entries", does: "list" }),
            Box::new(Boot { name: "udp over loopback", does: "udp" }),
            Box::new(Boot { name: "tcp over loopback", does: "tcp" }),
            Box::new(Boot { name: "pipe", does: "pipe" }),
            Box::new(Boot { name: "tmpfs file", does: "write" }),
        ]
    }
}

/// Puts `new` where `old` stands in a file of the source.
fn exchange(tree: &Tree, file: &str, old: &str, new: &str) -> Result<()> {
    let path = tree.dir.join(file);
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains(old), "{file} is another one than was expected");
    fs::write(&path, text.replace(old, new)).map_err(Into::into)
}

/// The kernel is booted, does one thing several times, and is switched off.
struct Boot {
    name: &'static str,
    does: &'static str,
}

/// How often it is done, behind a first time that does not count: in it the engine learns.
const TIMES: u64 = 4;

impl Boot {
    fn arguments(&self, root: &str, times: u64) -> Vec<String> {
        let flags = format!("rootflags={root}");
        let words =
            ["mem=512M", "rootfstype=hostfs", &flags, "rw", "init=/init", "con=null", "con0=null,fd:1", "quiet"];
        let own = [format!("WORK={}", self.does), format!("TIMES={times}")];
        words.map(str::to_owned).into_iter().chain(own).collect()
    }
}

impl Workload for Boot {
    fn name(&self) -> &'static str {
        self.name
    }

    fn metrics(&self) -> &'static [Metric] {
        &[Metric { name: "rate", unit: "1/s", better: Better::More }]
    }

    fn run(&self, setting: &Setting) -> Result<Sample> {
        let root = setting.run.join("root");
        let mut command = setting.start("linux", Some(SERVER_CPU));
        command.args(self.arguments(&root.to_string_lossy(), setting.count(TIMES)).iter().map(OsStr::new));
        command.current_dir(&setting.run);
        let done = measure::run(&mut command, Duration::from_secs(180))?;
        let text = String::from_utf8_lossy(&done.stdout);
        Ok(Sample { values: vec![rate(&text, self.does)?], answer: digest(self.does.as_bytes()) })
    }

    fn example(&self, place: &Place, program: &str, variant: Variant) -> String {
        let root = place.work.join("run").join(program).join("root");
        let words = self.arguments(&root.to_string_lossy(), TIMES).join(" ");
        format!("{}/linux {words}", place.built(program, variant).display())
    }
}

/// The median of the rates that it told, if it came to its end.
fn rate(said: &str, does: &str) -> Result<f64> {
    let end = format!("done {does}");
    ensure!(
        said.lines().any(|line| line.trim() == end),
        "the kernel did not come to the end:\n{}",
        measure::last_lines(said, 15)
    );
    let rates: Vec<f64> = said.lines().filter_map(|line| line.trim().strip_prefix("rate ")?.parse().ok()).collect();
    stats::median(&rates).with_context(|| format!("the kernel told no rate:\n{}", measure::last_lines(said, 15)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_an_early_end_is_noticed() {
        assert_eq!(rate("boot\r\nrate 3\r\nrate 1\r\nrate 2\r\ndone send\r\n", "send").ok(), Some(2.0));
        assert!(rate("rate 3\nfailed: bind: no\n", "send").is_err());
        assert!(rate("done send\n", "send").is_err());
    }
}
