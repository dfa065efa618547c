//! Random programs print the same with the engine as without: from gcc and clang, at every level of optimisation.
//!
//! Fifteen by default, one of each; `RELPOLINE_GENERATED=300` for more, `RELPOLINE_GENERATED_SEED` for others. A failure names the seed,
//! and keeps the program's source.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use relpoline_tests::generate::Generator;
use relpoline_tests::living::is_installed;
use relpoline_tests::tool::target_directory;
use relpoline_tests::{Outcome, Run};

const GCC: (&str, &[&str]) =
    ("gcc", &["-fcf-protection=none", "-mindirect-branch=thunk", "-mindirect-branch-register"]);
/// With retpolines gcc makes a jump table of a switch only if it is told to, and clang makes none.
const GCC_WITH_TABLES: (&str, &[&str]) =
    ("gcc", &["-fcf-protection=none", "-mindirect-branch=thunk", "-mindirect-branch-register", "-fjump-tables"]);
const CLANG: (&str, &[&str]) = ("clang", &["-fcf-protection=none", "-mretpoline"]);
const LEVELS: [&str; 5] = ["-O0", "-O1", "-O2", "-O3", "-Os"];

fn number(variable: &str, otherwise: u64) -> u64 {
    env::var(variable).ok().map_or(otherwise, |text| text.parse().expect("the variable is a number"))
}

/// Compiles the program of a seed.
fn compile(directory: &Path, seed: u64, (compiler, flags): (&str, &[&str]), level: &str) -> PathBuf {
    let (source, program) = (directory.join(format!("{seed}.c")), directory.join(format!("{seed}{level}")));
    fs::write(&source, Generator::new(seed).program()).expect("cannot write the source");
    let mut command = Command::new(compiler);
    command.args(flags).args([level, "-w", "-pthread", "-o"]).arg(&program).arg(&source);
    let output = command.output().expect("the tests need gcc");
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// Runs with the engine, with different options; all must be like the run without. Sites that were promoted.
fn compare(program: &Path, what: &str) -> u64 {
    let run = Run::new(program);
    let plain = run.plain();
    assert!(!plain.stdout.is_empty(), "{what} prints nothing");
    let same = |promoted: &Outcome, options: &str| {
        assert_eq!(promoted.status, plain.status, "{what} {options}: {}", promoted.text());
        assert_eq!(promoted.text(), plain.text(), "{what} {options}");
        promoted.report().sites.iter().filter(|site| site.was_promoted()).count() as u64
    };
    let usual = run.promoted();
    // Judged after very few calls: much is learned wrongly, and learned anew.
    let hasty = run.clone().option("--nervous").promoted();
    let behind_gates = run.clone().option("--nervous").option("--no-link").promoted();
    same(&usual, "") + same(&hasty, "--nervous") + same(&behind_gates, "--nervous --no-link")
}

#[test]
fn random_programs_print_the_same() {
    let (count, first) = (number("RELPOLINE_GENERATED", 15), number("RELPOLINE_GENERATED_SEED", 4711));
    println!("{count} programs from seed {first} on");
    let mut compilers = vec![GCC, GCC_WITH_TABLES];
    if is_installed("clang") {
        compilers.push(CLANG);
    } else {
        println!("skipped: clang is not installed; gcc alone");
    }
    let directory = target_directory().join("generated");
    fs::create_dir_all(&directory).unwrap();
    let mut promoted = 0;
    for number in 0..count {
        let (seed, turn) = (first + number, number as usize);
        let compiler = compilers[turn % compilers.len()];
        let level = LEVELS[turn / compilers.len() % LEVELS.len()];
        let program = compile(&directory, seed, compiler, level);
        promoted += compare(&program, &format!("seed {seed}, {} {level}, in {}", compiler.0, directory.display()));
        fs::remove_file(program).unwrap();
        fs::remove_file(directory.join(format!("{seed}.c"))).unwrap();
    }
    println!("{promoted} sites were promoted");
    assert!(promoted >= count * 3, "hardly anything was promoted: {promoted} sites in {count} programs");
}

#[test]
fn a_seed_gives_one_program() {
    let text = |seed| Generator::new(seed).program();
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
}
