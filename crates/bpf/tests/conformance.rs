//! Alan Jowett's bpf_conformance against interpreter and compiled code.
//!
//! None of its files is in this repository. `RELPOLINE_BPF_CONFORMANCE` names a copy (the directory with `tests`
//! and `negative`); without it the test says so and passes. `RELPOLINE_BPF_PLUGIN` names the command `relpoline`: then
//! every case also goes through `relpoline bpf plugin`, as bpf_conformance's own runner calls it.

mod support;

use relpoline_bpf::insn::{Insn, parse};
use relpoline_bpf::{Engine, Invocation, Options, Runtime};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::asm::{assemble, number};

/// One file's content.
struct Case {
    insns: Vec<Insn>,
    memory: Vec<u8>,
    result: Option<u64>,
}

fn read(path: &Path) -> Option<Case> {
    let text = std::fs::read_to_string(path).ok()?;
    let (mut asm, mut raw, mut memory, mut result) = (String::new(), String::new(), String::new(), None);
    let mut section = "";
    for line in text.lines().map(|l| l.split('#').next().unwrap_or("").trim_end()) {
        if let Some(name) = line.trim().strip_prefix("--") {
            section = ["asm", "raw", "mem", "result", "error"].into_iter().find(|s| name.contains(s)).unwrap_or("");
            continue;
        }
        match section {
            "asm" => asm.extend([line, "\n"]),
            "raw" => raw.extend([line, " "]),
            "mem" => memory.extend([line, " "]),
            "result" if !line.trim().is_empty() => result = number(line.trim()).map(i64::cast_unsigned),
            _ => {}
        }
    }
    let insns = if raw.trim().is_empty() { assemble(&asm).ok()? } else { raw_insns(&raw)? };
    let memory = memory.split_whitespace().map(|b| u8::from_str_radix(b, 16)).collect::<Result<_, _>>().ok()?;
    Some(Case { insns, memory, result })
}

/// Whole slots as numbers, or bytes.
fn raw_insns(raw: &str) -> Option<Vec<Insn>> {
    let words: Vec<&str> = raw.split_whitespace().collect();
    if words.iter().all(|w| w.len() == 2) {
        let bytes: Vec<u8> = words.iter().map(|w| u8::from_str_radix(w, 16)).collect::<Result<_, _>>().ok()?;
        return parse(&bytes);
    }
    words.iter().map(|w| number(w).map(|n| Insn::from_bytes(n.to_le_bytes()))).collect()
}

/// The version of the instruction set that `insns` need: 4 or at most 3. Calls by register, which the suite leaves out by
/// default, count as the former.
fn version(insns: &[Insn]) -> u32 {
    let new = |i: &Insn| match i.opcode {
        0x06 | 0x81 | 0x89 | 0x8d | 0x91 | 0xd7 => true,
        0x34 | 0x37 | 0x3c | 0x3f | 0x94 | 0x97 | 0x9c | 0x9f | 0xbc | 0xbf => i.offset != 0,
        _ => false,
    };
    if insns.iter().any(new) { 4 } else { 3 }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|d| {
            d.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.extension().is_some_and(|e| e == "data")).collect()
        })
        .unwrap_or_default();
    files.sort();
    files
}

fn outcome(runtime: &Runtime, case: &Case, engine: Engine) -> Result<u64, String> {
    let program =
        support::load_insns(runtime, "case", &case.insns, &[], Options::default()).map_err(|e| e.to_string())?;
    let mut memory = case.memory.clone();
    program.invoke(Invocation::new(&mut memory).engine(engine)).map_err(|e| e.to_string())
}

/// What `relpoline bpf plugin` makes of a case.
fn through_plugin(command: &Path, case: &Case, engine: Engine) -> Result<u64, String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x} ")).collect::<String>();
    let code: Vec<u8> = case.insns.iter().flat_map(|insn| insn.to_bytes()).collect();
    let mut plugin = Command::new(command);
    plugin.args(["bpf", "plugin", &hex(&case.memory)]);
    if engine == Engine::Interpreter {
        plugin.arg("--interpret");
    }
    let mut child = plugin
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", command.display()));
    child.stdin.take().unwrap().write_all(hex(&code).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    u64::from_str_radix(text.trim(), 16).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn all_of_bpf_conformance() {
    let Some(root) = std::env::var_os("RELPOLINE_BPF_CONFORMANCE").map(PathBuf::from) else {
        eprintln!("skipped: RELPOLINE_BPF_CONFORMANCE names no copy of bpf_conformance");
        return;
    };
    let runtime = Runtime::new().unwrap();
    let plugin = std::env::var_os("RELPOLINE_BPF_PLUGIN").map(PathBuf::from);
    let mut failures = Vec::new();
    let mut through = 0;
    for engine in [Engine::Interpreter, Engine::Compiled] {
        let (mut v3, mut v4) = ((0, 0), (0, 0));
        for path in files(&root.join("tests")) {
            let Some(case) = read(&path) else { panic!("cannot read {}", path.display()) };
            let version = version(&case.insns);
            let got = outcome(&runtime, &case, engine);
            let passed = got.as_ref().ok().copied() == case.result && case.result.is_some();
            if !passed {
                failures.push(format!("{engine:?} {}: {got:x?}, not {:x?}", path.display(), case.result));
            }
            if let Some(command) = &plugin {
                let got = through_plugin(command, &case, engine);
                through += 1;
                if got.as_ref().ok().copied() != case.result {
                    failures.push(format!("plugin, {engine:?} {}: {got:x?}, not {:x?}", path.display(), case.result));
                }
            }
            v4 = (v4.0 + u32::from(passed), v4.1 + 1);
            if version == 3 {
                v3 = (v3.0 + u32::from(passed), v3.1 + 1);
            }
        }
        eprintln!("{engine:?}: v3 {}/{}, v4 {}/{}", v3.0, v3.1, v4.0, v4.1);
        assert_eq!((v3.1, v4.1), (253, 313), "another version of bpf_conformance");
    }
    eprintln!("{through} cases through relpoline bpf plugin");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_must_be_refused_is() {
    let Some(root) = std::env::var_os("RELPOLINE_BPF_CONFORMANCE").map(PathBuf::from) else {
        return;
    };
    let runtime = Runtime::new().unwrap();
    let mut count = 0;
    for path in files(&root.join("negative")) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(case) = read(&path).filter(|_| name.starts_with("unused-")) else {
            continue;
        };
        assert!(outcome(&runtime, &case, Engine::Interpreter).is_err(), "{name} was accepted");
        count += 1;
    }
    eprintln!("{count} programs with unused fields refused");
    assert!(count > 0);
}
