//! Stack traces through promoted calls are those of the program without the engine.

use std::process::Command;

use relpoline_tests::{Program, Run, tool};

fn program() -> Program {
    Program::retpolined("trace.c").flags(&["-rdynamic"])
}

#[test]
fn backtrace_sees_the_true_callers() {
    let outcome = Run::new(program().build()).same();
    assert!(outcome.text().contains("odd_link+"), "{}", outcome.text());
    outcome.report().assert_promoted(&["even_link", "odd_link", "tail_link", "main"]);
}

#[test]
fn backtrace_by_frame_pointers_and_at_every_level() {
    for flags in [&["-O0"][..], &["-O1", "-fno-omit-frame-pointer"], &["-O3", "-no-pie", "-fno-pie"]] {
        let outcome = Run::new(program().flags(flags).build()).same();
        outcome.report().assert_promoted(&["even_link", "odd_link"]);
    }
}

/// What gdb says at a breakpoint in a callee of promoted calls.
fn traced_by_gdb(with_engine: bool) -> Option<String> {
    let wrapper = format!("set exec-wrapper env LD_PRELOAD={}", tool::engine().display());
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-ex", "set debuginfod enabled off"]);
    if with_engine {
        gdb.args(["-ex", &wrapper]);
    }
    gdb.args([
        "-ex",
        "break stop_here",
        "-ex",
        "run",
        "-ex",
        "bt",
        "-ex",
        "info sharedlibrary",
        "-ex",
        "continue",
        "-ex",
        "bt",
    ]);
    let output = gdb.arg(program().build()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The frames, without addresses.
fn frames(text: &str) -> Vec<String> {
    let frame = |line: &str| {
        Some(
            line.strip_prefix('#')?
                .split_whitespace()
                .filter(|word| !word.starts_with("0x"))
                .collect::<Vec<_>>()
                .join(" "),
        )
    };
    text.lines().filter_map(frame).collect()
}

#[test]
fn gdb_sees_the_true_callers() {
    let Some(plain) = traced_by_gdb(false) else {
        println!("skipped: there is no gdb");
        return;
    };
    let promoted = traced_by_gdb(true).expect("gdb ran before");
    assert!(promoted.contains("librelpoline_engine.so"), "{promoted}");
    assert!(frames(&plain).iter().filter(|frame| frame.contains("even_link")).count() >= 6, "{plain}");
    assert_eq!(frames(&promoted), frames(&plain), "{promoted}\n{plain}");
}
