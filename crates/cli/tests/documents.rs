//! The recipes of the pages in docs/: what a reader would type is typed here.
//!
//! A page is run section by section (`##`): all blocks marked `sh` of a section are one script for a shell that stops at
//! the first failure, in an empty directory, with this build's `relpoline` in front of PATH. Each line of a block marked
//! `text` that directly follows must be found in what was printed, in that order. A section whose condition
//! (`<!-- if: COMMAND -->`) fails is skipped, which is said.

use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// The command's directory, to be found first.
fn path() -> String {
    let relpoline = Path::new(env!("CARGO_BIN_EXE_relpoline"));
    format!("{}:{}", relpoline.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default())
}

/// A part of a page that is run.
#[derive(Debug, Default)]
struct Section {
    title: String,
    condition: Option<String>,
    script: String,
    /// Lines to be printed.
    expected: Vec<String>,
}

fn sections(page: &str) -> Vec<Section> {
    let mut sections = vec![Section::default()];
    // The block that is open, and whether what comes next says what the last script prints.
    let (mut open, mut answers) = (None::<&str>, false);
    for line in page.lines() {
        let section = sections.last_mut().unwrap();
        match (open, line) {
            (None, _) if line.starts_with("## ") => {
                sections.push(Section { title: line[3..].to_owned(), ..Section::default() });
                answers = false;
            }
            (None, _) if line.starts_with("<!-- if: ") => {
                section.condition = Some(line["<!-- if: ".len()..].trim_end_matches("-->").to_owned());
            }
            (None, "```sh") => open = Some("sh"),
            (None, "```text") if answers => open = Some("answer"),
            (None, _) if line.starts_with("```") => open = Some("other"),
            (None, "") => {}
            (None, _) => answers = false,
            (Some(kind), "```") => {
                answers = kind == "sh";
                open = None;
            }
            (Some("sh"), _) => section.script += &format!("{line}\n"),
            (Some("answer"), _) => section.expected.push(line.trim().to_owned()),
            (Some(_), _) => {}
        }
    }
    sections.retain(|section| !section.script.is_empty());
    sections
}

/// Runs a script; whether it succeeded, and what it printed.
fn shell(script: &str, directory: &Path) -> (bool, String) {
    // Whatever hangs is ended, with all that it has started. What it says goes to a file: a server that a failed recipe leaves
    // behind would keep a pipe open.
    let mut said = tempfile::tempfile().unwrap();
    let mut command = Command::new("timeout");
    command
        .args(["-k", "5", "120", "bash", "-euo", "pipefail", "-c", script])
        .current_dir(directory)
        .env("PATH", path())
        .stdin(Stdio::null());
    for name in
        ["LD_PRELOAD", "RELPOLINE", "RELPOLINE_OPTS", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTUP_TOOLCHAIN"]
    {
        command.env_remove(name);
    }
    // Cargo tells tests where it builds; a reader's cargo is told nothing.
    command.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR");
    command.stdout(said.try_clone().unwrap()).stderr(said.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let status = child.wait().unwrap();
    // timeout(1) made a process group of its own: nobody else is in it.
    let _ =
        rustix::process::kill_process_group(rustix::process::Pid::from_child(&child), rustix::process::Signal::KILL);
    let mut text = Vec::new();
    said.rewind().unwrap();
    said.read_to_end(&mut text).unwrap();
    (status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// The first line that was expected and not printed in its turn.
fn missing<'a>(expected: &'a [String], said: &str) -> Option<&'a String> {
    let mut lines = said.lines();
    expected.iter().find(|expected| !lines.any(|line| line.contains(expected.as_str())))
}

fn run(page: &str) {
    let text = std::fs::read_to_string(Path::new("../../docs").join(page)).unwrap();
    let sections = sections(&text);
    assert!(!sections.is_empty(), "{page} has nothing to run");
    let mut failures = Vec::new();
    for section in sections {
        let directory = tempfile::tempdir().unwrap();
        if let Some(condition) = &section.condition
            && !shell(condition, directory.path()).0
        {
            eprintln!("skipped: {page}, {}: {condition}", section.title);
            continue;
        }
        let (succeeded, said) = shell(&section.script, directory.path());
        let missing = missing(&section.expected, &said);
        if !succeeded || missing.is_some() {
            failures
                .push(format!("{page}, {}: succeeded: {succeeded}, not printed: {missing:?}\n{said}", section.title));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn building() {
    run("build.md");
}

#[test]
fn deploying() {
    run("deploy.md");
}

/// What this runner says of a page that does not hold.
#[test]
fn a_recipe_that_does_not_hold_is_noticed() {
    let page = "## One\n```sh\necho a; echo b\n```\n```text\na\nb\n```\n\n## Two\n<!-- if: false -->\n```sh\nfalse\n```\n```text\nc\n```\nwords\n```text\nd\n```\n";
    let sections = sections(page);
    assert_eq!(sections.len(), 2);
    let place = tempfile::tempdir().unwrap();
    let (succeeded, said) = shell(&sections[0].script, place.path());
    assert!(succeeded && missing(&sections[0].expected, &said).is_none());
    assert!(missing(&["b".to_owned(), "a".to_owned()], &said).is_some(), "the order counts");
    assert!(
        !shell(&sections[1].script, place.path()).0 && !shell(sections[1].condition.as_ref().unwrap(), place.path()).0
    );
    assert_eq!(sections[1].expected, ["c"], "a block after other words is no answer");
    assert!(!shell("false | true", place.path()).0 && !shell("false\ntrue", place.path()).0);
}
