//! Whatever a program uses to unwind sees, from any instruction of ours, what it sees without us.
//!
//! `steps.c` steps through its calls one instruction after the other and unwinds at each; the others are programs that are
//! interrupted at random: a profiler, handlers that throw or end their thread, asynchronous cancellation, a crash reporter.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use relpoline_tests::broken::run;
use relpoline_tests::living::{relpoline, text};
use relpoline_tests::{Living, Outcome, Program, Run, tool};

/// What `steps.c` has seen: steps, of those looked at, of those in an arena, in the engine; whether libunwind was there.
struct Figures {
    looked_at: u64,
    in_arena: u64,
    in_engine: u64,
    has_libunwind: bool,
}

fn steps() -> Program {
    Program::retpolined("steps.c")
}

fn figures(file: &Path) -> Figures {
    let text = std::fs::read_to_string(file).expect("steps.c writes figures");
    let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().expect("numbers")).collect();
    let [_, looked_at, in_arena, in_engine, has_libunwind] = numbers[..] else { panic!("{text}") };
    Figures { looked_at, in_arena, in_engine, has_libunwind: has_libunwind != 0 }
}

/// Steps with and without the engine; the program compares what it sees with what is true.
fn steps_through(program: &Program, kind: &str, option: &str) -> Outcome {
    steps_through_engine(&tool::engine(), program, kind, option)
}

/// The same with this engine.
fn steps_through_engine(engine: &Path, program: &Program, kind: &str, option: &str) -> Outcome {
    let place = tempfile::tempdir().expect("no temporary directory");
    let file = place.path().join("figures");
    let run = Run::new(program.build()).args(&[kind]).option(option).env("STEPS_FIGURES", &file);
    // Each step is a signal, of which a busy machine delivers few.
    let outcome = run.env("RELPOLINE_ENGINE", engine).deadline(Duration::from_secs(300)).same();
    let figures = figures(&file);
    if !figures.has_libunwind {
        println!("skipped in part: there is no libunwind.so.8 (Debian: libunwind8), only libgcc was asked");
    }
    if kind == "system" {
        assert!(figures.in_engine > 1_000 && figures.looked_at > 200, "{} {}", figures.in_engine, figures.looked_at);
        return outcome;
    }
    assert!(figures.in_arena > 10_000 && figures.in_engine > 10_000, "{} {}", figures.in_arena, figures.in_engine);
    assert!(figures.looked_at > 5_000, "{} were looked at", figures.looked_at);
    outcome
}

#[test]
fn every_instruction_at_a_call_that_is_linked() {
    let outcome = steps_through(&steps(), "call", "--count");
    assert!(outcome.report().engine.links > 0, "it was not linked");
}

#[test]
fn every_instruction_at_a_call_that_learns_again() {
    let outcome = steps_through(&steps(), "call", "--nervous");
    assert!(outcome.report().sites.iter().any(|site| site.relearned > 0), "nothing was learned again");
}

#[test]
fn every_instruction_at_a_tail_jump() {
    steps_through(&steps(), "jump", "--count");
}

/// The rule of the function with the goto holds in all code that runs for it.
#[test]
fn every_instruction_at_a_computed_goto() {
    steps_through(&steps(), "goto", "--count");
}

/// Likewise, counted from rbp.
#[test]
fn every_instruction_at_a_computed_goto_of_a_program_with_frame_pointers() {
    steps_through(&steps().flags(&["-fno-omit-frame-pointer"]), "goto", "--nervous");
}

#[test]
fn every_instruction_at_a_call_of_a_position_dependent_program() {
    steps_through(&steps().flags(&["-no-pie"]), "call", "--count");
}

/// Boards and their leaves.
#[test]
fn every_instruction_at_sites_whose_targets_change_for_ever() {
    let boards = tool::broken_engine("boards-at-once");
    for kind in ["call", "goto"] {
        steps_through_engine(&boards, &steps(), kind, "--nervous");
    }
}

/// `syscall`, `prctl` and `execve` of libc's, each led to the engine by its first instruction.
#[test]
fn every_instruction_in_functions_that_are_led_to_the_engine() {
    steps_through(&steps(), "system", "--count");
}

/// Starts the program without an engine; it steps, waits for a line, and steps on.
fn begins(kind: &str, figures: &Path) -> Living {
    let mut command = Command::new(steps().build());
    command.args([kind, "6000", "wait"]).env("STEPS_FIGURES", figures);
    let program = Living::start(&mut command);
    assert_eq!(program.said, "ready");
    program
}

#[test]
fn every_instruction_of_an_engine_that_was_attached() {
    for kind in ["call", "jump", "goto"] {
        let place = tempfile::tempdir().expect("no temporary directory");
        let file = place.path().join("figures");
        let mut program = begins(kind, &file);
        program.must(&["attach"]);
        let said = program.tell("\n");
        assert!(said.starts_with(kind), "it noticed something: {said}");
        assert!(figures(&file).in_arena > 1_000, "{kind}: it was not stepped through");
    }
}

/// A thread that steps through its code right now is not made to run ours: the tool says so, and may try again.
#[test]
fn every_instruction_while_an_engine_is_being_attached() {
    let place = tempfile::tempdir().expect("no temporary directory");
    let mut program = begins("call", &place.path().join("figures"));
    let pid = program.pid().to_string();
    let tries = std::thread::spawn(move || {
        for n in 0.. {
            let said = relpoline(&["attach"], &pid);
            let is_over = said.status.success()
                || ["no process", "No such process", "has ended"].iter().any(|end| text(&said).contains(end));
            if is_over {
                return (n, text(&said));
            }
            assert!(text(&said).contains("try again"), "{}", text(&said));
        }
        unreachable!("it ends or is attached")
    });
    let said = program.tell("\n");
    assert!(said.starts_with("call"), "it noticed something: {said}");
    let (failed, said) = tries.join().expect("the tries are checked");
    println!("after {failed} refusals: {said}");
}

/// LLVM's unwinder of before 19, which looks everything up in the lists of objects. Debian's package of it excludes the other
/// libunwind's, so it is unpacked beside it.
#[test]
fn every_instruction_by_llvms_unwinder() {
    let place = tempfile::tempdir().expect("no temporary directory");
    let shell = "apt-get download -q libunwind-14 && dpkg -x libunwind-14*.deb .";
    let fetched = Command::new("sh").args(["-c", shell]).current_dir(&place).output();
    let library = place.path().join("usr/lib/x86_64-linux-gnu/libunwind.so.1");
    if !library.exists() {
        println!("skipped: LLVM's libunwind cannot be had: {fetched:?}");
        return;
    }
    for kind in ["call", "jump", "goto"] {
        let run = Run::new(steps().build()).args(&[kind, "4000"]).option("--count").env("STEPS_LLVM", &library);
        let _ = run.deadline(Duration::from_secs(300)).same();
    }
}

/// Engines that do not say how they unwind, or say it wrongly in one place, are noticed: frames differ, or the unwinder reads
/// where there is nothing.
#[test]
fn a_rule_that_is_missing_or_wrong() {
    for (variant, kind) in [("frame-missing", "call"), ("frame-wrong", "call"), ("row-wrong", "goto")] {
        let outcome = run(variant, &steps(), &[kind], "--count");
        let is_seen = outcome.text().contains("frames differ") || outcome.status.signal().is_some();
        assert!(is_seen, "{variant}: {} {}", outcome.status, outcome.text());
    }
}

/// What a program says whose library's gates were another's: in an engine of this variant.
fn used_again(engine: &Path, first: &[&str], second: &[&str]) -> Outcome {
    let build = |flags: &[&str]| Program::plain("rows.S").flags(&["-shared"]).flags(flags).build();
    let (first, second) = (build(first), build(second));
    let names = [first, second].map(|path| path.to_str().expect("a path of ours").to_owned());
    let run = Run::new(Program::plain("rows.c").build()).args(&names.each_ref().map(String::as_str));
    run.env("RELPOLINE_ENGINE", engine).promoted()
}

/// Gates that unwind in one way are not used for sites that unwind in another: those of a library that comes to the place of
/// another build, and those of libraries that are forgotten.
#[test]
fn gates_that_are_used_again_unwind_as_their_new_function() {
    let (whole, broken) = (tool::engine(), tool::broken_engine("frames-mixed"));
    for (first, is_one_place) in [(vec!["-DROOM=24"], true), (vec!["-DROOM=24", "-DMORE=17000"], false)] {
        let right = used_again(&whole, &first, &["-DROOM=40"]);
        assert!(right.status.success() && right.text().contains("rows done"), "{} {}", right.status, right.text());
        // Where the second one comes is the loader's choice, but it has always been there.
        assert!(!is_one_place || right.text().contains("at one place"), "{}", right.text());
        // Whether a gate suits the second one depends on where the loader puts it.
        let is_seen = (0..16).any(|_| {
            let wrong = used_again(&broken, &first, &["-DROOM=40"]);
            // The unwinder may also read where there is nothing.
            wrong.text().contains("samples are wrong") || wrong.status.signal().is_some()
        });
        assert!(is_seen, "gates of other frames go unnoticed");
    }
}

/// Unwind tables that are right at every instruction, for what throws out of handlers.
const ASYNCHRONOUS: [&str; 2] = ["-fnon-call-exceptions", "-fasynchronous-unwind-tables"];

/// A program that is interrupted at random sees no wrong frame, with and without the engine.
fn interrupted(what: &str) -> Outcome {
    Run::new(Program::retpolined("interrupted.cc").flags(&ASYNCHRONOUS).build()).args(&[what]).same()
}

#[test]
fn a_profiler_from_the_first_call_on() {
    interrupted("profile");
}

#[test]
fn a_profiler_in_a_deep_stack() {
    interrupted("deep");
}

#[test]
fn handlers_that_throw() {
    interrupted("throw");
}

#[test]
fn a_profiler_at_computed_gotos() {
    interrupted("goto");
}

#[test]
fn handlers_that_throw_at_computed_gotos() {
    interrupted("goto-throw");
}

#[test]
fn asynchronous_cancellation() {
    interrupted("cancel");
}

#[test]
fn handlers_that_end_their_thread() {
    interrupted("exit");
}

#[test]
fn a_crash_reporter_on_a_stack_of_its_own() {
    interrupted("crash");
}
