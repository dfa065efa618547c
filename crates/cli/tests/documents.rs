//! The recipes of the pages in docs/: what a reader would type is typed here.
//!
//! A page is run section by section (`##`): all blocks marked `sh` of a section are one script for a shell that stops at
//! the first failure, in an empty directory, with this build's `relpoline` in front of PATH. Each line of a block marked
//! `text` that directly follows must be found in what was printed, in that order. A section whose condition
//! (`<!-- if: COMMAND -->`) fails is skipped, which is said. What is shown as typed at a terminal (`$ …`) is typed, too, with what
//! is the reader's replaced (`documents/shown.rs`).

#[path = "documents/page.rs"]
mod page;
#[path = "documents/shown.rs"]
mod shown;

use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::{CommandFactory as _, Parser as _};
use page::{missing, sections};
use relpoline_cli::arguments::Arguments;

/// The command's directory, to be found first.
fn path() -> String {
    let relpoline = Path::new(env!("CARGO_BIN_EXE_relpoline"));
    format!("{}:{}", relpoline.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default())
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

fn run(page: &str) {
    run_in(page, false);
}

/// Runs a page: each section in an empty directory, or all of them, one after the other, in one.
fn run_in(page: &str, one_directory: bool) {
    let text = std::fs::read_to_string(Path::new("../../docs").join(page)).unwrap();
    let sections = sections(&text);
    assert!(!sections.is_empty(), "{page} has nothing to run");
    let mut failures = Vec::new();
    let mut directory = tempfile::tempdir().unwrap();
    for section in sections {
        if !one_directory {
            directory = tempfile::tempdir().unwrap();
        }
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

#[test]
fn what_can_go_wrong() {
    run_in("what-can-go-wrong.md", true);
}

#[test]
fn the_first_hour() {
    run_in("first-hour.md", true);
}

/// The pages that show what is typed at a terminal: README and docs/, each with its name from the root.
fn pages_with_blocks() -> Vec<(String, Vec<Vec<String>>)> {
    let docs = std::fs::read_dir("../../docs").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = docs.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"));
    let read = |name: String| {
        let blocks = shown::blocks(&std::fs::read_to_string(Path::new("../..").join(&name)).unwrap());
        (name, blocks)
    };
    names.chain(["README.md".to_owned()]).map(read).collect()
}

/// What becomes of a block.
fn block_of(page: &str, lines: &[String]) -> Option<&'static shown::Block> {
    shown::BLOCKS.iter().find(|block| block.page == page && lines[0].starts_with(block.begins))
}

#[test]
fn every_block_that_is_shown_is_run_or_left_out_for_a_reason() {
    let pages = pages_with_blocks();
    let all = || pages.iter().flat_map(|(page, blocks)| blocks.iter().map(move |block| (page, block)));
    let strangers: Vec<_> = all().filter(|(page, block)| block_of(page, block).is_none()).collect();
    assert!(strangers.is_empty(), "neither run nor left out: {strangers:#?}");
    let is_shown = |known: &&shown::Block| {
        all().any(|(page, block)| block_of(page, block).is_some_and(|b| std::ptr::eq(b, *known)))
    };
    let gone: Vec<_> = shown::BLOCKS.iter().filter(|known| !is_shown(known)).map(|known| known.begins).collect();
    assert!(gone.is_empty(), "no page shows them any more: {gone:?}");
    // What takes the place of something takes the place of something that is there.
    for (page, block) in all() {
        let known = block_of(page, block).unwrap();
        match known.fate {
            shown::Fate::Run { instead, .. } => {
                let text = block.join("\n");
                for (from, _) in instead {
                    assert!(text.contains(from), "{page}: {from:?} is not in\n{text}");
                }
            }
            shown::Fate::Left(reason) => println!("left out: {page}: {}: {reason}", known.begins),
        }
    }
    assert!(all().count() >= 24 && block_of("README.md", &["relpoline frobnicate".to_owned()]).is_none());
}

/// Types the blocks of some pages.
fn type_blocks(of: impl Fn(&str) -> bool) {
    let mut failures = Vec::new();
    for (page, blocks) in pages_with_blocks().iter().filter(|(page, _)| of(page)) {
        for lines in blocks {
            let block = block_of(page, lines).unwrap();
            let Some(script) = block.script(lines) else { continue };
            let directory = tempfile::tempdir().unwrap();
            let (succeeded, said) = shell(&script, directory.path());
            for line in said.lines().filter(|line| line.starts_with("skipped: ")) {
                println!("{line} ({page}: {})", block.begins);
            }
            if !succeeded {
                failures.push(format!("{page}: {}\n{said}", lines.join("\n")));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_the_readme_shows_is_typed() {
    type_blocks(|page| page == "README.md");
}

#[test]
fn what_other_pages_show_is_typed() {
    type_blocks(|page| page.starts_with("docs/") && page != "docs/torture.md");
}

#[test]
fn what_the_page_on_torture_shows_is_typed() {
    type_blocks(|page| page == "docs/torture.md");
}

/// Lines that show a command of ours: in blocks of the pages, and in what `--help` ends with.
fn shown_commands() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let pages = std::fs::read_dir("../../docs").unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.chain(["../../README.md".into(), "../relpoline/README.md".into()]);
    for page in pages.filter(|path| path.extension().is_some_and(|end| end == "md")) {
        let text = std::fs::read_to_string(&page).unwrap();
        let mut open = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                open = !open;
            } else if let Some(command) = line.trim_start().strip_prefix("$ ").filter(|_| open) {
                found.push((page.display().to_string(), command.to_owned()));
            }
        }
    }
    let mut waiting = vec![Arguments::command()];
    while let Some(command) = waiting.pop() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in help.lines().filter_map(|line| line.strip_prefix("  relpoline ")) {
            // Behind two spaces stands what it does.
            let line = line.split("  ").next().unwrap().trim_end_matches(" and see what was promoted, and why not");
            found.push((format!("{} --help", command.get_name()), format!("relpoline {line}")));
        }
        waiting.extend(command.get_subcommands().cloned());
    }
    found
}

/// What is shown is understood: no option that was renamed, none that is missing. A shell takes the lines apart, in which
/// `relpoline` does nothing but tell its arguments, and in which there are no other commands.
#[test]
fn every_command_that_is_shown_is_understood() {
    let commands = shown_commands();
    assert!(commands.len() > 80, "{commands:?}");
    let script = r#"
        relpoline() { printf '%s\0' "$@" >&3; printf '\n\0' >&3; }
        sudo() { "$@"; }
        PATH=/nonexistent
        eval "$0" 3>&1 >/dev/null 2>/dev/null </dev/null
    "#;
    let mut wrong = Vec::new();
    for (place, line) in &commands {
        let output = Command::new("/bin/bash").args(["-c", script, line]).current_dir("/").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        for one in said.split_terminator("\n\0").filter(|one| !one.is_empty()) {
            // What a command that is not there would print stands for a process.
            let words = one.split_terminator('\0').map(|word| if word.is_empty() { "1" } else { word });
            let words: Vec<&str> = words.filter(|word| *word != "…").collect();
            if let Err(error) = Arguments::try_parse_from(std::iter::once("relpoline").chain(words.iter().copied()))
                && error.exit_code() != 0
            {
                wrong.push(format!("{place}: {line}\n    {words:?}: {}", error.to_string().lines().next().unwrap()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The dashboard asks for nothing that is not there, and for what matters.
#[test]
fn the_dashboard_names_metrics_that_exist() {
    let text = std::fs::read_to_string("../../docs/grafana.json").unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let known = relpoline_cli::metrics::text::names();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut asked = std::collections::BTreeSet::new();
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        let expression = target["expr"].as_str().unwrap();
        let names = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<&str> = names.filter(|name| name.starts_with("relpoline_")).collect();
        assert!(!names.is_empty(), "{expression}");
        asked.extend(names);
    }
    let strangers: Vec<&&str> = asked.iter().filter(|name| !known.contains(name)).collect();
    assert!(strangers.is_empty() && asked.len() >= 12, "{strangers:?}");
    let places: std::collections::BTreeSet<String> = panels.iter().map(|panel| panel["gridPos"].to_string()).collect();
    assert_eq!(places.len(), panels.len(), "two panels lie on each other");
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
