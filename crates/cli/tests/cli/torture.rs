//! The torture, short: `RELPOLINE_TORTURE_SECONDS` makes it longer. That it can fail is shown by `tests/tests/broken.rs`.

use serde_json::Value;

use crate::started::{output, relpoline};

/// Counters that counted nothing.
fn silent(counters: &Value) -> Vec<&str> {
    let counters = counters.as_object().unwrap().iter();
    counters.filter(|(_, value)| value.as_u64() == Some(0)).map(|(name, _)| name.as_str()).collect()
}

#[test]
fn every_call_is_right() {
    let seconds = std::env::var("RELPOLINE_TORTURE_SECONDS").unwrap_or_else(|_| "15".to_owned());
    let is_long = seconds.parse::<u32>().unwrap() >= 60;
    let said = output(&mut relpoline(&["torture", "--json", "--seconds", &seconds]));
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
    assert!(said.stderr.is_empty(), "no progress bar off a terminal");
    let figures: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&figures["schema"], &figures["wrong"]), (&1.into(), &0.into()));
    assert_eq!(figures["faults"], Value::Array(Vec::new()));
    // A torture that leaves something out shows nothing of it.
    for counters in ["checked", "events"] {
        assert_eq!(silent(&figures[counters]), [""; 0], "{text}");
    }
    for what in ["judgements", "patches", "relearnings", "links"] {
        assert_ne!(figures["engine"][what], 0, "{text}");
    }
    assert_ne!(figures["outside"]["relearned"], 0, "{text}");
    // In a short one on a busy machine there may be no time for it.
    assert!(!is_long || (figures["outside"]["detached"] != 0 && figures["outside"]["attached"] != 0), "{text}");
    let is_there = |program: &str| std::process::Command::new(program).arg("--version").output().is_ok();
    assert!(!is_there("g++") || !is_there("clang") || figures["left_out"] == Value::Array(Vec::new()), "{text}");
}

/// Processes whose first word is a program of that directory.
fn programs_of(directory: &std::path::Path) -> usize {
    let is_one = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.starts_with(directory.as_os_str().as_encoded_bytes())
    };
    std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter(is_one).count()
}

/// Whether that comes true within some minutes: the program has to be compiled first.
fn soon(mut holds: impl FnMut() -> bool) -> bool {
    (0..3000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        holds()
    })
}

#[test]
fn nothing_goes_on_when_the_command_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = relpoline(&["torture", "--seconds", "600", "--threads", "1", "--keep"]);
    let mut torture = command.arg(directory.path()).spawn().unwrap();
    assert!(soon(|| programs_of(directory.path()) > 0), "it does not begin");
    torture.kill().unwrap();
    torture.wait().unwrap();
    assert!(soon(|| programs_of(directory.path()) == 0), "the program goes on");
}

#[test]
fn without_a_compiler_it_says_what_to_do() {
    let said = output(relpoline(&["torture"]).env("PATH", "/nowhere").env_remove("CC"));
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8(said.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("relpoline: no C compiler") && text.contains("install gcc or clang"), "{text}");
}
