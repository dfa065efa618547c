//! `relpoline inspect` on compiled programs, on what is no program, and on damaged files.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use relpoline_cli::inspect::examine;
use relpoline_cli::inspect::findings::{Entry, Findings, Inspection};
use tempfile::TempDir;

const PROGRAM: &str = r"
long (*volatile hook)(long);
__attribute__((noinline)) long run(const unsigned char *p, long a) {
    static const void *const table[] = { &&inc, &&dec, &&end };
    goto *table[*p++];
inc: a++; goto *table[*p++];
dec: a -= 3; goto *table[*p++];
end: return a;
}
__attribute__((noinline)) long tail(long a) { return hook(a + 1); }
static long twice(long a) { return a * 2; }
int main(int argc, char **argv) {
    hook = twice;
    return (int)(run((const unsigned char *)argv[0], argc) + hook(2) + tail(argc));
}
";

const RETPOLINES: [&str; 4] = ["-O2", "-fcf-protection=none", "-mindirect-branch=thunk", "-mindirect-branch-register"];

/// A folder with a compiled program in it. A C compiler called `cc` is a requirement of these tests.
struct Program {
    folder: TempDir,
    path: PathBuf,
}

impl Program {
    fn new(flags: &[&str]) -> Program {
        Program::of(PROGRAM, flags)
    }

    fn of(text: &str, flags: &[&str]) -> Program {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("program.c");
        let path = folder.path().join("program");
        fs::write(&source, text).unwrap();
        let mut cc = Command::new("cc");
        let output = cc.arg("-o").arg(&path).arg(&source).args(flags).output();
        let output = output.expect("these tests need a C compiler called cc");
        assert!(output.status.success(), "{flags:?}: {output:?}");
        Program { folder, path }
    }

    fn with_retpolines(flags: &[&str]) -> Program {
        Program::new(&[&RETPOLINES[..], flags].concat())
    }

    fn findings(&self) -> Findings {
        examine(&self.path, File::open(&self.path).unwrap()).unwrap()
    }
}

fn inspect(arguments: &[&Path]) -> Output {
    let command = env!("CARGO_BIN_EXE_relpoline");
    Command::new(command).arg("inspect").args(arguments).output().unwrap()
}

fn count(findings: &Findings, kind: &str) -> usize {
    findings.sites.iter().filter(|site| site.kind == kind).count()
}

#[test]
fn a_program_with_retpolines() {
    for (flags, kind) in [(["-pie", "-fPIE"], "pie"), (["-no-pie", "-fno-pie"], "fixed")] {
        let found = Program::with_retpolines(&flags).findings();
        assert_eq!(found.kind, kind);
        assert!(found.thunks.iter().all(|thunk| thunk.shape == "gcc"));
        assert!(
            found
                .thunks
                .iter()
                .any(|thunk| { thunk.symbol.as_deref().is_some_and(|name| name.starts_with("__x86_indirect_thunk_")) })
        );
        assert!(count(&found, "call") >= 1, "{found:?}");
        assert!(found.sites.iter().any(|site| site.function == "run" && site.kind == "jump"), "{found:?}");
        assert!(found.sites.iter().any(|site| site.function == "tail" && site.kind == "jump"));
        assert!(found.refused.is_empty() && found.unwind_tables && !found.stripped);
        let bare = found.libraries.iter().find(|library| library.name == "libc.so.6").unwrap();
        assert_eq!(bare.thunks, Some(0));
        assert!(found.conclusion.contains("can promote all of its"), "{}", found.conclusion);
    }
}

#[test]
fn a_stripped_program_is_the_same_without_names() {
    let named = Program::with_retpolines(&[]).findings();
    let stripped = Program::with_retpolines(&["-s"]).findings();
    assert!(stripped.stripped && stripped.thunks.iter().all(|thunk| thunk.symbol.is_none()));
    assert_eq!(stripped.sites.len(), named.sites.len());
}

#[test]
fn a_program_without_retpolines() {
    let found = Program::new(&["-O2", "-fcf-protection=none"]).findings();
    assert!(found.thunks.is_empty() && found.sites.is_empty());
    assert!(found.unprotected.calls + found.unprotected.jumps >= 2, "{:?}", found.unprotected);
    assert!(found.conclusion.contains("without retpolines"), "{}", found.conclusion);
}

#[test]
fn inline_jumps_are_listed() {
    let flags = ["-O2", "-fcf-protection=none", "-mindirect-branch=thunk-inline"];
    let found = Program::new(&flags).findings();
    assert!(found.thunks.iter().any(|thunk| thunk.shape == "gcc inline" && thunk.sites == 1));
    assert!(found.thunks.iter().any(|thunk| thunk.shape == "gcc inline jump"));
    assert!(found.refused.iter().any(|refused| refused.reason.contains("inlined")));
}

/// Jumps need the word below the stack that a retpoline overwrites; calls do not.
#[test]
fn jumps_to_thunks_that_begin_with_no_call_are_left_alone() {
    let thunk = |name: &str| {
        format!(
            "__asm__(\".globl __x86_indirect_thunk_{name}\\n.type __x86_indirect_thunk_{name}, @function\\n\"\n\
             \"__x86_indirect_thunk_{name}: lfence\\n jmp *%{name}\\n\");\n"
        )
    };
    let registers = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11"];
    let source: String = [PROGRAM.to_owned()].into_iter().chain(registers.map(thunk)).collect();
    let flags = ["-O2", "-fcf-protection=none", "-mindirect-branch=thunk-extern", "-mindirect-branch-register"];
    let found = Program::of(&source, &flags).findings();
    assert!(found.thunks.iter().any(|thunk| thunk.shape == "lfence"), "{found:?}");
    assert!(count(&found, "call") >= 1 && count(&found, "jump") == 0, "{found:?}");
    let is_refused = |name: &str| found.refused.iter().any(|refused| refused.function.as_deref() == Some(name));
    assert!(is_refused("tail"), "{:?}", found.refused);
    assert!(found.refused.iter().all(|refused| refused.reason.contains("begins with no call")), "{:?}", found.refused);
}

#[test]
fn without_unwind_tables_nothing_is_trusted_but_symbols() {
    let found = Program::with_retpolines(&["-fno-asynchronous-unwind-tables", "-nostartfiles", "-Wl,-e,main"]);
    let found = found.findings();
    assert!(!found.unwind_tables);
    assert!(found.conclusion.contains("no unwind tables"), "{}", found.conclusion);
}

#[test]
fn the_command_prints_text_and_json() {
    let program = Program::with_retpolines(&[]);
    let text = inspect(&[&program.path]);
    assert!(text.status.success() && text.stderr.is_empty(), "{text:?}");
    let text = String::from_utf8(text.stdout).unwrap();
    let body = text.lines().skip(1);
    assert!(body.clone().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("relpoline can promote"), "{text}");

    let json = inspect(&[Path::new("--json"), &program.path, Path::new("/")]);
    assert_eq!(json.status.code(), Some(1));
    let read: Inspection = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((read.schema, read.files.len()), (1, 2));
    assert_eq!(read.files[0].findings(), Some(&program.findings()));
    assert!(read.files[1].failure().is_some_and(|failure| failure.error.contains("directory")));
}

#[test]
fn bad_input_is_one_sentence() {
    let program = Program::with_retpolines(&[]);
    let bytes = fs::read(&program.path).unwrap();
    let changed = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        bytes
    };
    let cases: [(&str, Vec<u8>); 7] = [
        ("is empty", vec![]),
        ("is not an ELF file", b"hello".to_vec()),
        ("is a script", b"#!/bin/sh\n".to_vec()),
        ("32-bit", changed(4, 1)),
        ("another processor", changed(18, 0xb7)),
        ("not linked yet", changed(16, 1)),
        ("truncated or damaged", bytes[..40].to_vec()),
    ];
    for (expected, content) in cases {
        let path = program.folder.path().join("bad");
        fs::write(&path, content).unwrap();
        refuses(&path, expected);
    }
    refuses(Path::new("/nonexistent"), "cannot be opened");
    refuses(program.folder.path(), "is a directory");
    refuses(Path::new("/dev/null"), "not a regular file");
    refuses(&Program::new(&["-static"]).path, "statically linked");
}

fn refuses(path: &Path, expected: &str) {
    let output = inspect(&[path]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(expected), "{expected}: {message}");
    assert_eq!((message.lines().count(), output.stdout.len()), (1, 0), "{message}");
}

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Any answer is fine for a damaged file; a panic is not.
#[test]
fn damaged_files_do_no_harm() {
    let nowhere = Path::new("/nonexistent/program");
    for flags in [["-pie", "-fPIE"], ["-no-pie", "-fno-pie"]] {
        let whole = fs::read(&Program::with_retpolines(&flags).path).unwrap();
        for len in (0..whole.len()).step_by(211) {
            let _ = examine(nowhere, file_of(&whole[..len]));
        }
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..250 {
            let mut bytes = whole.clone();
            // Half of the changes go where the structure is.
            for _ in 0..=random.below(12) {
                let reach = if random.below(2) == 0 { 0x400 } else { bytes.len() };
                let at = random.below(reach);
                bytes[at] = random.below(256) as u8;
            }
            if let Ok(findings) = examine(nowhere, file_of(&bytes)) {
                let entry = Entry::Found(Box::new(findings));
                assert!(serde_json::to_string(&entry).is_ok());
            }
        }
    }
}

/// What a small library may cost is no bound for those that come after it.
#[test]
fn a_small_library_does_not_hide_a_large_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Of code, as far as the file says.
    let large = "__attribute__((section(\".text,\\\"ax\\\",@progbits#\"))) const char code[3 << 20] = { 1 };\n";
    for (name, code) in [("large", large), ("small", "int small = 1;\n")] {
        fs::write(at(&format!("{name}.c")), code).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).arg(at(&format!("lib{name}.so"))).arg(at(&format!("{name}.c")));
        assert!(cc.status().unwrap().success());
    }
    fs::write(at("program.c"), PROGRAM).unwrap();
    let mut cc = Command::new("cc");
    cc.arg("-o").arg(at("program")).arg(at("program.c")).args(RETPOLINES).arg("-Wl,--no-as-needed,-rpath,$ORIGIN");
    cc.arg("-L").arg(folder.path()).args(["-llarge", "-lsmall"]);
    assert!(cc.status().unwrap().success());
    let found = examine(&at("program"), File::open(at("program")).unwrap()).unwrap();
    for name in ["liblarge.so", "libsmall.so", "libc.so.6"] {
        let library = found.libraries.iter().find(|library| library.name == name).unwrap();
        assert_eq!(library.thunks, Some(0), "{name}: {:?}", found.libraries);
    }
}
