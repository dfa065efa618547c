// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `kernel/measure.sh`, as far as it can be run anywhere: its table, and what it does not do.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

fn measure(arguments: &[&str]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/measure.sh");
    Command::new("bash").arg(script).args(arguments).output().expect("bash runs")
}

fn table(name: &str, rounds: &str) -> String {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&file, rounds).expect("a file for the rounds");
    let output = measure(&["--table", file.to_str().expect("a path")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn line<'a>(table: &'a str, program: &str) -> Vec<&'a str> {
    let found = table.lines().find(|line| line.starts_with(program));
    found.map(|line| line.split_whitespace().collect()).unwrap_or_default()
}

/// Ten rounds whose ratios are 1.01, 1.02 … 1.10, in no order: the median is 1.055, and from the second
/// lowest to the second highest lies what holds the true one in 97.9 of 100 cases (1 - 2 * (1 + 10) / 1024).
#[test]
fn the_interval_is_that_of_the_binomial_distribution() {
    let mut rounds = String::new();
    for (round, percent) in [7, 1, 10, 4, 2, 9, 3, 8, 6, 5].into_iter().enumerate() {
        // What drifts from round to round is not in the ratios.
        let base = 1000 + 100 * round;
        rounds += &format!("{} nginx with {}\n{} nginx without {base}\n", round, base * (100 + percent) / 100, round);
    }
    let table = table("ten", &rounds);
    assert_eq!(line(&table, "nginx")[3..], ["1.055", "1.020", "–", "1.090", "(97.9", "%)"], "{table}");
    assert_eq!(line(&table, "nginx")[1], "1450.0");
}

#[test]
fn few_rounds_allow_of_no_interval_and_missing_values_are_told() {
    let table = table("few", "1 redis with 2\n1 redis without 1\n2 redis with 0\n2 redis without 1\n1 dbench with 0\n");
    assert!(table.contains("too few rounds for one: 1   1 values missing"), "{table}");
    assert!(table.contains("dbench     gave no value"), "{table}");
    assert!(!table.contains("nginx"), "{table}");
}

#[test]
fn what_makes_no_sense_is_refused_with_a_sentence() {
    for arguments in [["--rounds", "x"], ["--seconds", "0"], ["--dir", "/nowhere"], ["--colour", ""]] {
        let output = measure(&arguments);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("measure: ") && said.lines().count() == 1, "{said}");
    }
}
