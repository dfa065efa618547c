//! The command, with limits that it does not need, and what it may say.

use std::path::Path;
use std::process::{Command, Output};

use relpoline_tests::tool;

/// `relpoline` with what it may use.
pub fn limited(relpoline: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "240", "sh", "-c", "ulimit -v 1500000; ulimit -t 40; exec \"$@\"", "sh"]);
    command.arg(relpoline).args(arguments).env_remove("RELPOLINE_OPTS");
    command
}

/// What a tool says; it ends by itself, and what it says is fit to be shown.
pub fn ends(arguments: &[&str]) -> Output {
    ends_with(arguments, &[0, 1])
}

/// The same of one that has other exit statuses.
pub fn ends_with(arguments: &[&str], statuses: &[i32]) -> Output {
    let output = limited(tool::relpoline(), arguments).output().unwrap();
    let status = output.status.code().filter(|code| statuses.contains(code));
    assert!(status.is_some(), "{arguments:?}: {}: {}", output.status, text(&output.stderr));
    for said in [&output.stdout, &output.stderr] {
        assert_clean(said, &format!("{arguments:?}"));
    }
    output
}

pub fn ends_raw(arguments: &[&str]) -> bool {
    limited(tool::relpoline(), arguments).status().unwrap().success()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Nothing gives orders to a terminal, nothing misleads a reader, and nothing begins a line that is not ours.
pub fn assert_clean(said: &[u8], by: &str) {
    let said = std::str::from_utf8(said).unwrap_or_else(|error| panic!("{by}: {error}"));
    let misleads = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if let Some(at) = said.find(misleads) {
        let near: String = said[..at].chars().rev().take(60).collect::<String>().chars().rev().collect();
        panic!("{by}: {:?} behind {near:?}", said[at..].chars().next());
    }
    assert!(!said.lines().any(|line| line.starts_with("[31m") || line.starts_with("2J")), "{by}: {said}");
}
