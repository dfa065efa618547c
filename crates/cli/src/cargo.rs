//! `cargo relpoline build`: a Rust program with retpolines, and a look at what came of it.
//!
//! ```text
//! rustc's flags   appended to those that are set (RUSTFLAGS), or to build.rustflags of the config files
//! C's flags       appended to CFLAGS and CXXFLAGS, for what build scripts compile
//! cargo build     as it was asked for; its messages are read, and rustc's complaint about our flags is left out
//! inspect         of each program and library that came of it: what can be promoted
//! ```
//! The flags are part of what cargo compares, so what was built without them is built anew, and nothing else
//! is.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::{inspect, shown};

/// What rustc on stable takes, with a warning.
const FEATURES: &str = "-Ctarget-feature=+retpoline-indirect-calls,+retpoline-indirect-branches";
/// What comes instead, on nightly; the standard library need not be compiled anew for it.
const NIGHTLY: [&str; 2] = ["-Zretpoline", "-Cunsafe-allow-abi-mismatch=retpoline"];
/// What stands between flags in `CARGO_ENCODED_RUSTFLAGS`.
const BETWEEN: &str = "\u{1f}";

const HELP: &str = "\
Build a Rust program with retpolines, and say what relpoline can promote in it.

Usage: cargo relpoline build [ARGUMENTS OF CARGO BUILD]
       cargo relpoline flags

Examples:
  cargo relpoline build --release
  cargo relpoline build --release --bin server && relpoline run -- target/release/server
  RUSTFLAGS=\"$(cargo relpoline flags)\" cargo test
  cargo +nightly relpoline build --release -Zbuild-std --target x86_64-unknown-linux-gnu
                       the standard library's own calls too (component rust-src)

`flags` prints what rustc is given. C and C++ that build scripts compile is built with retpolines too (CFLAGS, CXXFLAGS).
Flags of [target.…] in config files are taken by cargo in place of those of [build]: there, add what `flags` prints.

Exit status: 0 when something was built that has retpolines; 1 when not; else cargo's own.";

/// The subcommand.
#[must_use]
pub fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Cargo puts the subcommand's name first; who starts us directly does not.
    if arguments.first().is_some_and(|first| first == "relpoline") {
        arguments.remove(0);
    }
    let outcome = match arguments.first().and_then(|verb| verb.to_str()) {
        Some("build") => build(arguments.get(1..).unwrap_or_default()),
        Some("flags") if arguments.len() == 1 => flags(),
        Some("-h" | "--help" | "help") | None => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        Some("-V" | "--version") => {
            println!("cargo-relpoline {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    outcome.unwrap_or_else(|error| {
        crate::complain(format_args!("{error:#}"));
        ExitCode::FAILURE
    })
}

/// What rustc is given.
fn flags() -> anyhow::Result<ExitCode> {
    println!("{}", rustc_flags().join(" "));
    Ok(ExitCode::SUCCESS)
}

/// The flags that this toolchain's rustc knows.
fn rustc_flags() -> Vec<&'static str> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let options = Command::new(rustc).args(["-Z", "help"]).stderr(Stdio::null()).output();
    let is_known = options.is_ok_and(|output| {
        output.status.success()
            && String::from_utf8_lossy(&output.stdout).split_whitespace().any(|w| w == "retpoline=val")
    });
    if is_known { NIGHTLY.to_vec() } else { vec![FEATURES] }
}

fn build(arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    ensure!(
        !arguments.iter().any(|one| one.to_string_lossy().starts_with("--message-format")),
        "--message-format cannot be chosen: relpoline reads cargo's messages"
    );
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    let flags = rustc_flags();
    let environment = |name: &str| std::env::var_os(name);
    command.arg("build").arg("--message-format=json,json-diagnostic-rendered-ansi");
    if let Some(setting) = with_flags(&mut command, &flags, environment) {
        command.arg("--config").arg(setting);
    }
    let c = c_flags(environment);
    for (name, own) in [("CFLAGS", &c), ("CXXFLAGS", &c)] {
        let mut all = environment(name).unwrap_or_default();
        all.push(if all.is_empty() { "" } else { " " });
        all.push(own);
        command.env(name, all);
    }
    let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().context("cargo cannot be started")?;
    let messages = child.stdout.take().context("cargo has no stdout")?;
    let built = read(BufReader::new(messages), &mut io::stderr())?;
    let status = child.wait()?;
    if !status.success() {
        if built.flags_refused {
            crate::complain(format_args!(
                "this rustc does not take retpolines as target features any more; nightly has them as an option of their own: \
                 cargo +nightly relpoline build"
            ));
        }
        return Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)));
    }
    look(&built.files)
}

/// Lets rustc have the flags: in the environment, where some are set there, else beside those of `[build]` in
/// the config files. What cargo is to be told by `--config`.
fn with_flags(command: &mut Command, flags: &[&str], set: impl Fn(&str) -> Option<OsString>) -> Option<String> {
    if let Some(mut all) = set("CARGO_ENCODED_RUSTFLAGS") {
        for flag in flags {
            all.push(if all.is_empty() { "" } else { BETWEEN });
            all.push(flag);
        }
        command.env("CARGO_ENCODED_RUSTFLAGS", all);
        return None;
    }
    if let Some(mut all) = set("RUSTFLAGS") {
        for flag in flags {
            all.push(" ");
            all.push(flag);
        }
        command.env("RUSTFLAGS", all);
        return None;
    }
    let quoted: Vec<String> = flags.iter().map(|flag| format!("{flag:?}")).collect();
    Some(format!("build.rustflags=[{}]", quoted.join(",")))
}

/// What the C compiler is given for retpolines, by its kind.
fn c_flags(set: impl Fn(&str) -> Option<OsString>) -> &'static str {
    let compiler = set("CC").unwrap_or_else(|| "cc".into());
    let said = Command::new(&compiler).arg("--version").stderr(Stdio::null()).output();
    let is_clang = said.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("clang"));
    if is_clang { "-mretpoline" } else { "-mindirect-branch=thunk -mindirect-branch-register -fcf-protection=none" }
}

/// What came of a build.
#[derive(Debug, Default, PartialEq)]
struct Built {
    /// Programs and shared libraries.
    files: Vec<PathBuf>,
    /// rustc calls our flags an error.
    flags_refused: bool,
}

/// Reads cargo's messages. What compilers say goes to `out`, but for the warning that our flags draw in every
/// crate.
fn read(messages: impl BufRead, out: &mut impl Write) -> io::Result<Built> {
    let mut built = Built::default();
    for line in messages.lines() {
        let line = line?;
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            // A program that cargo runs may write anything.
            writeln!(out, "{}", shown::line(&line))?;
            continue;
        };
        match message["reason"].as_str() {
            Some("compiler-message") => {
                let said = &message["message"];
                let text = said["message"].as_str().unwrap_or_default();
                let is_ours = text.contains("retpoline-indirect-") && text.contains("-Ctarget-feature");
                // What rustc says last of each crate; cargo says it again.
                let is_sum = text.ends_with(" warning emitted") || text.ends_with(" warnings emitted");
                let is_error = said["level"].as_str().is_some_and(|level| level.starts_with("error"));
                built.flags_refused |= is_ours && is_error;
                if is_error || !(is_ours || is_sum) {
                    out.write_all(said["rendered"].as_str().unwrap_or_default().as_bytes())?;
                }
            }
            Some("compiler-artifact") => {
                let kinds = message["target"]["kind"].as_array().map(Vec::as_slice).unwrap_or_default();
                let is_library = kinds.iter().any(|kind| kind == "cdylib" || kind == "dylib");
                let names = message["filenames"].as_array().map(Vec::as_slice).unwrap_or_default();
                let libraries =
                    names.iter().filter_map(Value::as_str).filter(|name| is_library && name.ends_with(".so"));
                let program =
                    message["executable"].as_str().filter(|_| !kinds.iter().any(|kind| kind == "custom-build"));
                built.files.extend(program.into_iter().chain(libraries).map(PathBuf::from));
            }
            _ => {}
        }
    }
    Ok(built)
}

/// Inspects what was built.
fn look(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    if files.is_empty() {
        bail!("no program and no shared library was built: there is nothing to look at");
    }
    let mut text = String::new();
    let mut sites = 0;
    for path in files {
        let name = path.display();
        match examine(path) {
            Ok(findings) => {
                sites += findings.sites.len();
                let conclusion = &findings.conclusion;
                writeln!(text, "{name}: {conclusion}")?;
            }
            Err(error) => writeln!(text, "{name}: {error:#}")?,
        }
    }
    shown::write(&mut io::stdout(), &text)?;
    if sites == 0 {
        crate::complain(format_args!(
            "nothing that was built has retpolines. Are there flags of [target.…] in a config file of cargo's? They take the place \
             of ours: add there what `cargo relpoline flags` prints"
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn examine(path: &Path) -> anyhow::Result<inspect::findings::Findings> {
    let file = crate::files::open::plain(path).context("cannot be opened")?;
    inspect::examine(path, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_added_to_those_that_are_set() {
        let settings = |name: &'static str, value: &'static str| {
            let mut command = Command::new("cargo");
            let config = with_flags(&mut command, &["-A", "-B"], |asked| (asked == name).then(|| value.into()));
            let set =
                command.get_envs().find(|(known, _)| *known == std::ffi::OsStr::new(name)).and_then(|(_, value)| value);
            (config, set.map(|value| value.to_str().unwrap().to_owned()))
        };
        assert_eq!(settings("RUSTFLAGS", "-x"), (None, Some("-x -A -B".into())));
        assert_eq!(settings("CARGO_ENCODED_RUSTFLAGS", "-x"), (None, Some("-x\u{1f}-A\u{1f}-B".into())));
        assert_eq!(settings("OTHER", ""), (Some("build.rustflags=[\"-A\",\"-B\"]".into()), None));
    }

    #[test]
    fn what_compilers_say_goes_on_but_for_the_warning_that_our_flags_draw() {
        let ours = r#"{"reason":"compiler-message","message":{"level":"warning","message":"target feature `retpoline-indirect-calls` cannot be enabled with `-Ctarget-feature`: use `x`","rendered":"ours\n"}}"#;
        let refused = ours.replace("\"warning\"", "\"error\"");
        let theirs =
            r#"{"reason":"compiler-message","message":{"level":"warning","message":"unused","rendered":"theirs\n"}}"#;
        let program =
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"]},"filenames":["/t/p"],"executable":"/t/p"}"#;
        let script = r#"{"reason":"compiler-artifact","target":{"kind":["custom-build"]},"filenames":["/t/b"],"executable":"/t/b"}"#;
        let library =
            r#"{"reason":"compiler-artifact","target":{"kind":["cdylib"]},"filenames":["/t/l.so"],"executable":null}"#;
        let (mut out, lines) = (Vec::new(), [ours, theirs, program, script, library, "junk"].join("\n"));
        let built = read(lines.as_bytes(), &mut out).unwrap();
        assert_eq!(built, Built { files: vec!["/t/p".into(), "/t/l.so".into()], flags_refused: false });
        assert_eq!(String::from_utf8(out).unwrap(), "theirs\njunk\n");
        let mut out = Vec::new();
        assert!(read(refused.as_bytes(), &mut out).unwrap().flags_refused && out == b"ours\n");
    }
}
