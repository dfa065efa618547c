//! `relpoline kernel doctor`: whether this machine's kernel has something to gain from the module, and what
//! is in the way.
//!
//! Everything is read from files that anybody may read. The module looks again, at the kernel itself, when it
//! is loaded.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::device;
use super::module;

/// What is known of a kernel and the machine it runs on.
#[derive(Debug, Default, Clone)]
struct Facts {
    release: String,
    /// The kernel's own words on its mitigations of Spectre v2, Retbleed and ITS.
    spectre_v2: String,
    retbleed: String,
    its: String,
    /// Its configuration, empty where that cannot be read.
    config: String,
    command_line: String,
    /// The processor's flags.
    flags: String,
    /// What kind of guest of Xen's it is.
    xen: String,
    lockdown: Option<String>,
    module: Option<String>,
    is_loaded: bool,
}

/// What one look came to.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Finding {
    Good,
    /// Can be changed by the user.
    InTheWay,
    /// The module is of no use here.
    NothingToGain,
}

/// Looks, prints what was found, and says whether there is anything to gain.
///
/// # Errors
/// `/proc` is not mounted.
pub fn run() -> Result<ExitCode> {
    let facts = Facts::read(Path::new("/"))?;
    let findings = facts.findings();
    for (finding, what) in &findings {
        let mark = match finding {
            Finding::Good => "ok  ",
            Finding::InTheWay => "todo",
            Finding::NothingToGain => "no  ",
        };
        println!("{mark} {what}");
    }
    println!("\n{}", verdict(&findings));
    let useful = !findings.iter().any(|(finding, _)| *finding == Finding::NothingToGain);
    Ok(if useful { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verdict(findings: &[(Finding, String)]) -> &'static str {
    let has = |wanted| findings.iter().any(|(finding, _)| *finding == wanted);
    if has(Finding::NothingToGain) {
        "There is nothing to gain from relpoline.ko on this machine as it runs now."
    } else if has(Finding::InTheWay) {
        "There is something to gain, once what is marked \"todo\" is done."
    } else {
        "There is something to gain: relpoline kernel load"
    }
}

impl Facts {
    fn read(root: &Path) -> Result<Facts> {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default().trim().to_owned();
        let mitigation = |name: &str| text(&format!("sys/devices/system/cpu/vulnerabilities/{name}"));
        let release = module::release()?;
        let cpuinfo = text("proc/cpuinfo");
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default().to_owned();
        Ok(Facts {
            spectre_v2: mitigation("spectre_v2"),
            retbleed: mitigation("retbleed"),
            its: mitigation("indirect_target_selection"),
            config: text(&format!("boot/config-{release}")),
            command_line: text("proc/cmdline"),
            flags,
            xen: text("sys/hypervisor/guest_type"),
            lockdown: module::lockdown(),
            module: module::find(&release).ok().map(|path| path.display().to_string()),
            is_loaded: device::is_loaded(),
            release,
        })
    }

    fn findings(&self) -> Vec<(Finding, String)> {
        let mut findings = vec![self.mitigation()];
        findings.extend(self.hindrances().into_iter().map(|what| (Finding::NothingToGain, what)));
        if let Some(state) = &self.lockdown {
            let what = format!("the kernel is locked down ({state}): it takes only signed modules (docs/kernel.md)");
            findings.push((Finding::InTheWay, what));
        }
        findings.push(match (&self.module, self.is_loaded) {
            (_, true) => (Finding::Good, "the module is loaded; see: relpoline kernel status".to_owned()),
            (Some(path), _) => (Finding::Good, format!("the module for this kernel is there: {path}")),
            (None, _) => {
                let what = format!("there is no module for {} yet: install relpoline-dkms", self.release);
                (Finding::InTheWay, what)
            }
        });
        findings
    }

    /// Whether indirect calls go through retpolines.
    fn mitigation(&self) -> (Finding, String) {
        let said = &self.spectre_v2;
        let no = |why: &str| (Finding::NothingToGain, format!("{why} (spectre_v2: {said})"));
        if said.is_empty() {
            no("the kernel does not say how it mitigates Spectre v2")
        } else if said.contains("Retpolines") {
            (Finding::Good, format!("the kernel's indirect calls go through retpolines (spectre_v2: {said})"))
        } else if said.contains("LFENCE") {
            no("the kernel uses lfence instead of retpolines")
        } else if said.contains("IBRS") {
            no("the processor protects indirect calls by itself, so the kernel's are plain and cost little; \
                with spectre_v2=retpoline they would not be, and that would be slower than now")
        } else {
            no("the kernel does not use retpolines: its indirect calls are plain")
        }
    }

    /// Why the module would refuse.
    fn hindrances(&self) -> Vec<String> {
        let has = |option: &str| self.config.lines().any(|line| line == format!("{option}=y"));
        let has_flag = |flag: &str| self.flags.split_whitespace().any(|word| word == flag);
        let mut found = Vec::new();
        if !cfg!(target_arch = "x86_64") {
            found.push("the module is for x86-64".to_owned());
        }
        if has_flag("ibt") && has("CONFIG_X86_KERNEL_IBT") && !self.command_line.contains("ibt=off") {
            found.push("the kernel runs with indirect branch tracking; boot with ibt=off".to_owned());
        }
        if [&self.retbleed, &self.its].iter().any(|said| said.to_lowercase().contains("stuffing")) {
            found.push("the kernel tracks the depth of calls, and its indirect calls go by other thunks".to_owned());
        }
        if self.xen == "PV" {
            found.push("the kernel is a Xen PV guest".to_owned());
        }
        for option in ["CONFIG_KPROBES", "CONFIG_KALLSYMS_ALL", "CONFIG_MODULES"] {
            if !self.config.is_empty() && !has(option) {
                found.push(format!("the kernel was built without {option}"));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retpolines() -> Facts {
        Facts {
            release: "6.12.0".to_owned(),
            spectre_v2: "Mitigation: Retpolines; STIBP: disabled; RSB filling".to_owned(),
            retbleed: "Mitigation: untrained return thunk; SMT disabled".to_owned(),
            config: "CONFIG_KPROBES=y\nCONFIG_KALLSYMS_ALL=y\nCONFIG_MODULES=y\nCONFIG_X86_KERNEL_IBT=y".to_owned(),
            flags: "flags : fpu vme".to_owned(),
            module: Some("/lib/modules/6.12.0/updates/dkms/relpoline.ko".to_owned()),
            ..Facts::default()
        }
    }

    fn has(facts: &Facts, wanted: Finding) -> bool {
        facts.findings().iter().any(|(finding, _)| *finding == wanted)
    }

    #[test]
    fn a_machine_with_retpolines_has_something_to_gain() {
        let facts = retpolines();
        assert!(facts.findings().iter().all(|(finding, _)| *finding == Finding::Good), "{:?}", facts.findings());
        assert!(verdict(&facts.findings()).ends_with("relpoline kernel load"));
    }

    #[test]
    fn other_mitigations_are_told_apart() {
        for (said, why) in [
            ("Mitigation: Enhanced / Automatic IBRS; IBPB: conditional", "by itself"),
            ("Mitigation: LFENCE", "lfence"),
            ("Vulnerable; IBPB: disabled", "plain"),
            ("", "does not say"),
        ] {
            let facts = Facts { spectre_v2: said.to_owned(), ..retpolines() };
            let (finding, what) = facts.mitigation();
            assert!(finding == Finding::NothingToGain && what.contains(why), "{said}: {what}");
        }
    }

    #[test]
    fn what_the_module_would_refuse_is_said_before() {
        let ibt = Facts { flags: "flags : fpu ibt".to_owned(), ..retpolines() };
        assert!(has(&ibt, Finding::NothingToGain));
        assert!(!has(&Facts { command_line: "quiet ibt=off".to_owned(), ..ibt }, Finding::NothingToGain));
        assert!(has(
            &Facts { its: "Mitigation: Retpolines, Stuffing RSB".to_owned(), ..retpolines() },
            Finding::NothingToGain
        ));
        assert!(has(&Facts { xen: "PV".to_owned(), ..retpolines() }, Finding::NothingToGain));
        assert!(has(&Facts { config: "CONFIG_KPROBES=y".to_owned(), ..retpolines() }, Finding::NothingToGain));
        assert!(has(&Facts { lockdown: Some("integrity".to_owned()), ..retpolines() }, Finding::InTheWay));
        assert!(has(&Facts { module: None, ..retpolines() }, Finding::InTheWay));
    }
}
