//! Machines on which the module must refuse to load, and modules that are broken on purpose and must refuse
//! to.

use std::path::Path;

use anyhow::Result;

use super::build::build_broken;
use super::test::{Bench, Verdict};
use super::{BuildOptions, TestOptions};

/// A machine on which the module must refuse to load.
struct Refusal {
    name: &'static str,
    /// Options of the kernel.
    options: &'static str,
    /// What the reason says; `_` stands for a blank.
    reason: &'static str,
    /// The processor, where it is not the one that was asked for.
    cpu: Option<&'static str>,
    /// What the kernel must have been built with; on others there is nothing to refuse.
    config: Option<&'static str>,
}

const fn refusal(name: &'static str, options: &'static str, reason: &'static str) -> Refusal {
    Refusal { name, options, reason, cpu: None, config: None }
}

const REFUSALS: [Refusal; 5] = [
    refusal("spectre_v2=off", "spectre_v2=off", "mitigations_are_off"),
    refusal("lfence", "spectre_v2=retpoline,lfence", "lfence_instead_of_retpolines"),
    refusal("lockdown", "lockdown=integrity", "locked_down"),
    refusal("another kernel", "", "built_for_Linux"),
    // A processor that Linux takes for vulnerable to Retbleed, and on which it can count the depth of calls
    // against that. With slub_debug=F its allocator does without cmpxchg16b: QEMU's is not to be trusted (see
    // --cpu), and what stands in for it answers in flags, which counting at the return changes (seen on 6.12,
    // which died in its allocator before any module).
    Refusal {
        name: "call depth",
        options: "spectre_v2=retpoline retbleed=stuff slub_debug=F",
        reason: "tracks_the_depth_of_calls",
        cpu: Some("Skylake-Client,-cx16"),
        config: Some("CALL_DEPTH_TRACKING"),
    },
];

/// Modules that are broken on purpose (`shim/`, by macros): each must say so in place of being loaded.
const BROKEN: [(&str, &str); 4] = [
    ("kernel-shifted-stub", "stubs do not lie where they should"),
    ("kernel-missing-symbol", "has no symbol kprobe_mutex_of_another_kernel"),
    ("kernel-wrong-symbol", "text_mutex is not what the module takes it for"),
    ("kernel-wrong-thunk", "__x86_indirect_thunk_rbx is not the retpoline of rbx"),
];

/// Boots one machine for each refusal.
pub fn refusals(bench: &Bench, verdict: &mut Verdict) -> Result<()> {
    for refusal in REFUSALS {
        println!("refusal: {}", refusal.name);
        if refusal.config.is_some_and(|option| !bench.image.is_built_with(option)) {
            println!("       this kernel has no {}", refusal.config.unwrap_or_default());
            continue;
        }
        let words = format!("{} rlp.refusal={}", refusal.options, refusal.reason);
        let mut machine = bench.machine(&words, 240);
        machine.cpu = refusal.cpu.unwrap_or(machine.cpu);
        let file = refusal.name.replace([' ', '='], "-");
        bench.boot(&machine, &file, verdict)?;
    }
    Ok(())
}

/// Modules for [`broken`], in the machine's files: each, and what it must say.
pub fn build_all_broken(options: &BuildOptions, module: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    let mut expected = String::new();
    for (fault, reason) in BROKEN {
        files.push((format!("broken/{fault}.ko"), std::fs::read(build_broken(options, module, fault)?)?));
        expected += &format!("{fault} {reason}\n");
    }
    files.push(("expected/broken".to_owned(), expected.into_bytes()));
    Ok(files)
}

/// One machine, in which all of them are tried.
pub fn broken(bench: &Bench, options: &TestOptions, verdict: &mut Verdict) -> Result<()> {
    println!("modules that are broken on purpose");
    let words = format!("{} rlp.broken=1", super::test::mitigations(options));
    bench.boot(&bench.machine(&words, 300), "broken", verdict)
}
