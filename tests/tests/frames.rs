//! What the slow path takes of a stack that may be small: the frames of the engine's functions, read from its code and added
//! up along the deepest chain of calls.
//!
//! Signal handlers may run on little more than the kernel itself needs. An engine whose frames came to 2,448 bytes crashed
//! `relpoline torture`, whose handlers do; functions that are inlined into a large one are what makes frames grow.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use relpoline_tests::tool;

/// Bytes that are promised (SPECIFICATION.md), without the registers that the assembly in front saves.
const MOST: u64 = 2300;

/// A function: bytes of its frame, and whom it calls.
#[derive(Default)]
struct Function {
    frame: u64,
    calls: BTreeSet<String>,
}

/// All functions in the engine, by their mangled names.
fn functions() -> BTreeMap<String, Function> {
    let engine = tool::engine();
    let output = Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(engine).output();
    let code = String::from_utf8(output.expect("binutils are needed").stdout).expect("objdump writes text");
    let mut functions: BTreeMap<String, Function> = BTreeMap::new();
    let mut name = String::new();
    for line in code.lines() {
        if let Some((_, started)) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")) {
            name = started.to_owned();
            // The return address.
            functions.entry(name.clone()).or_default().frame = 8;
        }
        let (Some(function), Some((_, insn))) = (functions.get_mut(&name), line.split_once(":\t")) else { continue };
        let (mnemonic, operands) = insn.split_once(' ').unwrap_or((insn, ""));
        match mnemonic {
            "push" => function.frame += 8,
            "sub" => {
                let bytes = operands.trim().strip_prefix("$0x").and_then(|rest| rest.strip_suffix(",%rsp"));
                function.frame += bytes.map_or(0, |digits| u64::from_str_radix(digits, 16).expect("a number"));
            }
            "call" | "jmp" => {
                let callee = operands.split_once('<').and_then(|(_, rest)| rest.strip_suffix('>'));
                function.calls.extend(callee.filter(|callee| !callee.contains('+')).map(str::to_owned));
            }
            _ => {}
        }
    }
    functions
}

/// The deepest chain of calls from a function on: its bytes, and the functions. What is called through pointers is not seen.
fn deepest(functions: &BTreeMap<String, Function>, name: &str, above: &mut Vec<String>) -> (u64, Vec<String>) {
    let Some(function) = functions.get(name).filter(|_| !name.contains("panic")) else { return (0, Vec::new()) };
    assert!(!above.iter().any(|caller| caller == name), "{name} calls itself, by {above:?}");
    above.push(name.to_owned());
    let callees = function.calls.iter().filter(|callee| *callee != name);
    let (below, chain) =
        callees.map(|callee| deepest(functions, callee, above)).max_by_key(|(bytes, _)| *bytes).unwrap_or_default();
    above.pop();
    (function.frame + below, [vec![format!("{name}: {} bytes", function.frame)], chain].concat())
}

#[test]
fn the_slow_path_fits_small_stacks() {
    let functions = functions();
    let slow = functions.keys().find(|name| name.contains("5judge4slow")).expect("the engine has a slow path");
    let (bytes, chain) = deepest(&functions, slow, &mut Vec::new());
    assert!(chain.len() > 1, "the slow path calls nobody: {chain:?}");
    assert!(bytes <= MOST, "{bytes} bytes of frames, by {chain:#?}");
}
