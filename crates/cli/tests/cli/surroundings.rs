//! Help, completions, manual pages.

use std::process::Command;

use crate::started::{RELPOLINE, output, relpoline, stderr, stdout};

#[test]
fn every_verb_has_help_with_examples_and_its_environment() {
    for verb in ["run", "demo"] {
        let help = stdout(&mut relpoline(&[verb, "--help"]));
        for part in ["Examples:", "Exit status", "Environment:"] {
            assert!(help.contains(part), "{verb}: {part}");
        }
        assert!(!help.contains('\x1b'), "colours go to terminals only");
    }
    assert!(stdout(&mut relpoline(&["--help"])).contains("RELPOLINE=off"));
    assert!(stdout(&mut relpoline(&["--version"])).starts_with("relpoline "));
}

#[test]
fn an_error_is_one_line_with_our_name() {
    let said = stderr(&mut relpoline(&["run", "--", "no-such-program"]));
    assert_eq!(said, "relpoline: no-such-program was not found\n");
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(stdout(&mut relpoline(&["completions", shell])).contains("report-format"), "{shell}");
    }
}

#[test]
fn manual_pages() {
    assert!(stdout(&mut relpoline(&["man"])).contains(".TH relpoline"));
    let directory = tempfile::tempdir().unwrap();
    stdout(relpoline(&["man", "--out"]).arg(directory.path()));
    for page in ["relpoline.1", "relpoline-run.1", "relpoline-demo.1"] {
        assert!(directory.path().join(page).exists(), "{page}");
    }
}

#[test]
fn a_full_stderr_and_a_reader_that_goes_away_are_no_crashes() {
    let script = format!("{RELPOLINE} run -- no-such 2>/dev/full; echo $?; {RELPOLINE} completions zsh | head -1");
    let said = output(Command::new("bash").args(["-o", "pipefail", "-c", &script]));
    assert!(String::from_utf8(said.stdout).unwrap().starts_with("127\n#compdef"));
    assert_eq!(String::from_utf8(said.stderr).unwrap(), "");
}
