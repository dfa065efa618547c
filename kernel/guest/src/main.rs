// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The first process of the virtual machine in which `relpoline.ko` is tested.
//!
//! `cargo xtask kernel-test` boots Debian's stock kernel with this as `/init`. It drives load on the kernel,
//! tells the module what to do through the command `relpoline`, looks at what the module did, and reports
//! over the second serial line: `part NAME`, `ok WHAT`, `FAIL WHAT`, and `done`. The kernel's own complaints
//! are on the first line, where the host looks for them.
//!
//! Emulation runs some fifty times slower than the clock that the module reads. A site that is hot on
//! hardware looks rare here, so [`emulated`] turns the knobs that compare calls with time.

mod kernel_text;
mod load;
mod machine;
mod module;
mod parts;
mod report;
mod traffic;

use std::process::ExitCode;

use report::Report;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("relpoline-kernel-guest is the first process of a test machine; run it by: cargo xtask kernel-test");
        return ExitCode::FAILURE;
    }
    machine::set_up();
    let mut report = Report::open();
    if let Some(reason) = machine::option("refusal") {
        parts::refusal::run(&mut report, &reason);
    } else if machine::option("broken").is_some() {
        parts::refusal::broken(&mut report);
    } else if machine::option("prefixed").is_some() {
        parts::prefixed::run(&mut report);
    } else if let Some(which) = machine::option("kexec") {
        parts::kexec::run(&mut report, &which);
    } else {
        parts::all(&mut report);
    }
    report.done();
    machine::power_off()
}

/// Turns the knobs that compare the number of calls with the time that has passed.
fn emulated() {
    for knob in [
        "cold_share 1000000000",
        "relearn_share 1000000000",
        // A change of text takes milliseconds here, and is paid for at what it takes.
        "learning_share 1",
        "patience_ms 20000",
        "patch_interval_us 10",
        "retry_ms 20",
    ] {
        module::tell(knob);
    }
}
