//! Names that are orders: for a terminal, for a reader, for other tools.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use relpoline_tests::{Living, Program, tool};

use crate::attacker::{EVIL, open_directory};
use crate::command::{assert_clean, ends, ends_raw, limited, text};

/// The program with every occurrence of a name replaced by something of the same length.
fn renamed(from: &str, to: &[u8], into: &Path) {
    let mut bytes = fs::read(Program::retpolined("named.c").build()).unwrap();
    let places: Vec<usize> =
        bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        let end = (at + from.len()).min(at + to.len());
        bytes[at..end].copy_from_slice(&to[..end - at]);
    }
    tool::write_executable(into, &bytes);
}

/// Names of functions, files, processes and arguments, in all that is shown of a program.
#[test]
fn names_that_give_orders() {
    let directory = open_directory();
    // A file's name may hold anything but a slash and a NUL; symbols must be text to be looked at at all.
    let evil: Vec<u8> = EVIL.iter().copied().filter(|byte| *byte != b'/').collect();
    let name = [b"prog".as_slice(), &evil].concat();
    let program = directory.path().join(std::ffi::OsStr::from_bytes(&name));
    renamed(
        &"A".repeat(64),
        "\u{1b}]0;OWNED\u{7}\u{1b}[31m\n2J\u{9b}\u{202e}\u{2066}\u{2028} <b>&\"'".as_bytes(),
        &program,
    );
    let at = |name: &str| directory.path().join(name).display().to_string();
    let relpoline = tool::relpoline();
    let mut run = Command::new(relpoline);
    run.args(["run", "--count", "--report", &at("report.json"), "--profile", &at("profile"), "--"]).arg(&program);
    let output = run.env("HOSTILE_NAME", "\u{1b}[31mred\n").arg("\u{1b}[31m\n\u{202e}").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_clean(&output.stderr, "run");
    for format in ["text", "json", "html", "flamegraph"] {
        let shown = ends(&["report", &at("report.json"), "--format", format]);
        assert!(text(&shown.stdout).contains("OWNED"), "{format} shows nothing of it");
    }
    assert_clean(&fs::read(at("report.json")).unwrap(), "the report itself");
    ends(&["profile", "show", &at("profile")]);
    ends(&["profile", "show", "--json", &at("profile")]);
    for json in [&[][..], &["--json"]] {
        let output = limited(relpoline, &[&["inspect"], json].concat()).arg(&program).output().unwrap();
        assert_clean(&output.stdout, "inspect");
        assert!(text(&output.stdout).contains("OWNED"));
        let output = limited(relpoline, &["inspect"])
            .arg(directory.path().join(std::ffi::OsStr::from_bytes(&evil)))
            .output()
            .unwrap();
        assert_clean(&output.stderr, "inspect of nothing");
    }
    for format in ["bolt", "autofdo"] {
        let mut export = limited(relpoline, &["profile", "export", "--format", format, "--object"]);
        let output = export.arg(&program).arg(at("profile")).output().unwrap();
        assert_clean(&output.stdout, format);
        assert_clean(&output.stderr, format);
    }
    assert!(ends_raw(&["profile", "export", "--format", "pprof", "-o", &at("pprof"), &at("profile")]));
    let unpacked = Command::new("gzip").arg("-dc").arg(at("pprof")).output().unwrap().stdout;
    assert!(text(&unpacked).contains("OWNED") && !unpacked.windows(2).any(|pair| pair == b"\x1b]"));
}

/// What a compiler wrote of functions is not what a compiler wrote: names in debug information are words of the file that is
/// exported, or are not in it. Compressed, a section may say that it is larger than memory.
#[test]
fn debug_information_that_lies() {
    let directory = open_directory();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let source = directory.path().join("loop.c");
    let name = "A".repeat(24);
    let code = format!(
        "long one(long x) {{ return x + 1; }} long two(long x) {{ return x + 2; }}\n\
         long {name}(long (*f)(long), long x) {{ return f(x) + 1; }}\n\
         int main() {{ volatile long s = 0; for (long i = 0; i < 3000000; i++) s += {name}(i & 1 ? one : two, i); }}\n"
    );
    fs::write(&source, code).unwrap();
    for (kind, flags) in [("plain", &["-gz=none"][..]), ("packed", &["-gz=zlib"])] {
        let program = directory.path().join(kind);
        let mut compile = Command::new("cc");
        compile.args(["-O1", "-g", "-fno-inline", "-mindirect-branch=thunk", "-mindirect-branch-register"]).args(flags);
        assert!(compile.arg("-o").arg(&program).arg(&source).status().unwrap().success());
        let mut run = Command::new(tool::relpoline());
        run.args(["run", "-q", "--profile", &at("profile"), "--"]).arg(&program);
        assert!(run.status().unwrap().success());
        let mut bytes = fs::read(&program).unwrap();
        if kind == "plain" {
            // In .debug_str and .symtab, everywhere.
            let places: Vec<usize> =
                (0..bytes.len() - 24).filter(|&n| bytes[n..].starts_with(name.as_bytes())).collect();
            assert!(places.len() > 1);
            for at in places {
                bytes[at..at + 20].copy_from_slice(b"\x1b]0;OWNED\x07\n one:1:0\n");
            }
        } else {
            // ch_type ELFCOMPRESS_ZLIB, reserved, ch_size, ch_addralign: the sections begin like that.
            let heads: Vec<usize> = (0..bytes.len() - 24)
                .filter(|&n| {
                    bytes[n..n + 8] == [1, 0, 0, 0, 0, 0, 0, 0] && bytes[n + 16..n + 25] == *b"\x01\0\0\0\0\0\0\0\x78"
                })
                .collect();
            assert!(!heads.is_empty());
            for at in heads {
                bytes[at + 8..at + 16].copy_from_slice(&(1_u64 << 35).to_le_bytes());
            }
        }
        tool::write_executable(&program, &bytes);
        let mut export = limited(tool::relpoline(), &["profile", "export", "--format", "autofdo", "--object"]);
        let output = export.arg(&program).arg(at("profile")).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{kind}: {}", output.status);
        for said in [&output.stdout, &output.stderr] {
            assert_clean(said, kind);
            assert!(!text(said).lines().any(|line| line.trim_start() == "one:1:0"), "{kind}: {}", text(said));
        }
        // What is left out is said, or why all of it is.
        assert!(
            text(&output.stderr).contains(if kind == "plain" { "left out" } else { "larger than any" }),
            "{kind}: {}",
            text(&output.stderr)
        );
    }
}

/// The same of a process that runs, with a thread's name and a command line of that kind, and names of 64 KiB.
#[test]
fn names_of_a_process_that_runs() {
    let directory = open_directory();
    let program = directory.path().join(std::ffi::OsStr::from_bytes(
        &[b"p".as_slice(), EVIL].concat().into_iter().filter(|b| *b != b'/').collect::<Vec<_>>(),
    ));
    tool::install(&Program::retpolined("hostile.c").build(), &program);
    let mut command = Command::new(tool::relpoline());
    command.args(["run", "-q", "--"]).arg(&program).arg("\u{1b}[31m\n\u{202e}").arg("x".repeat(1 << 16));
    let mut living = Living::start(command.env("HOSTILE_NAME", "\u{1b}[31mr\u{9b}\n"));
    assert_eq!(living.said, "ready");
    let pid = living.pid().to_string();
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &["metrics"],
        &["top", "--once"],
        &["top", "--once", "--json"],
        &["top", &pid, "--once"],
        &["top", &pid, "--once", "--json"],
        &["report", &pid],
        &["explain", &pid, "main"],
        &["explain", &pid, "no\u{1b}[31m_such\n"],
        &["attach", &pid],
        &["disable", "--site", "\u{1b}[31m\n", &pid],
        &["detach", &pid],
        &["attach", "--anyway", &pid],
    ] {
        ends(arguments);
    }
    let metrics = ends(&["metrics"]);
    let lines: Vec<String> = text(&metrics.stdout).lines().map(str::to_owned).collect();
    assert!(lines.iter().all(|line| line.starts_with("# ") || line.starts_with("relpoline_")), "{lines:?}");
    assert!(living.is_alive());
}
