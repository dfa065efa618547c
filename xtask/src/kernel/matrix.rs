//! All kernels and processors on which the module is tried, and a line for each.
//!
//! A kernel on which a check fails keeps its line: what was found and promoted there is told beside what
//! failed.

use anyhow::{Result, bail};

use super::TestOptions;
use super::debian::KERNELS;
use super::test::{Outcome, one};

/// What is run on each kernel of the matrix, unless `--only` says otherwise.
const PARTS: &str = "sites,learning,named,modules,probe,registered,sized,hotplug,traced,livepatched,suspended,taken,\
                     starving,switching,locked,kexec,refusals,broken";

/// What is run on the processors of [`PROCESSORS`].
const PARTS_OF_PROCESSORS: &str = "sites,learning,probe,registered,switching";

/// Processors, besides the default, on which kernels are tried with the mitigations that they choose there by
/// themselves: returns are mitigated, too, against Retbleed (Zen 2) and against SRSO (Zen 3).
const PROCESSORS: [(&str, &str); 6] = [
    ("6.1", "EPYC-Rome,-cx16"),
    ("6.1", "EPYC-Milan,-cx16"),
    ("6.12", "EPYC-Rome,-cx16"),
    ("6.12", "EPYC-Milan,-cx16"),
    ("7.3", "EPYC-Rome,-cx16"),
    ("7.3", "EPYC-Milan,-cx16"),
];

/// Tests one kernel, or all of them one after the other.
///
/// # Errors
/// A check failed, or a machine could not be made.
pub fn test(options: &TestOptions) -> Result<()> {
    if options.all {
        return all(options);
    }
    let outcome = one(options)?;
    println!("{}", outcome.line);
    if outcome.failed == 0 { Ok(()) } else { bail!("{} checks failed, see above", outcome.failed) }
}

/// The options for each line: kernels on the processor that was asked for, then kernels on the other
/// processors.
fn lines(options: &TestOptions) -> Vec<TestOptions> {
    let with = |kernel: &str, cpu: &str, default_mitigations: bool, parts: &str| {
        let mut line = options.clone();
        (line.build.kernel, line.cpu) = (Some(kernel.to_owned()), cpu.to_owned());
        line.default_mitigations |= default_mitigations;
        if line.only.is_empty() {
            line.only = parts.split(',').map(str::to_owned).collect();
        }
        line
    };
    let plain = KERNELS.iter().map(|kernel| with(kernel.name, &options.cpu, false, PARTS));
    plain.chain(PROCESSORS.map(|(kernel, cpu)| with(kernel, cpu, true, PARTS_OF_PROCESSORS))).collect()
}

/// A line for each kernel and processor; goes on when one fails.
fn all(options: &TestOptions) -> Result<()> {
    let (mut table, mut failed) = (Vec::new(), 0);
    for line in lines(options) {
        let name = line.build.kernel.as_deref().unwrap_or_default();
        println!("\n{name} on {}", line.cpu);
        let outcome =
            one(&line).unwrap_or_else(|error| Outcome { line: format!("could not be tested: {error:#}"), failed: 1 });
        failed += usize::from(outcome.failed > 0);
        table.push(format!("{name:12} {:16} {}", line.cpu, outcome.line));
    }
    println!("\n{}", table.join("\n"));
    if failed == 0 { Ok(()) } else { bail!("{failed} of {} lines have something that failed", table.len()) }
}
