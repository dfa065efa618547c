//! What the engine has written into a process that runs, read back and disassembled: from every gate, stub and tree on, along
//! every branch, there is no indirect branch (`ff /2`, `ff /4`), no jump without `int3` behind it, and no return but those of
//! retpolines and of the slow path, which is called.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::process::Command;
use std::time::{Duration, Instant};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};
use relpoline_stats::{Stats, live};
use relpoline_tests::{Living, Program, tool};
use serde_json::Value;

const LFENCE: [u8; 3] = [0x0f, 0xae, 0xe8];
const INT3: u8 = 0xcc;

/// The executable memory of a process' arenas.
struct Arenas(Vec<(u64, Vec<u8>)>);

impl Arenas {
    fn of(pid: u32) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
        let mut memory = File::open(format!("/proc/{pid}/mem")).expect("its memory can be read");
        let ranges = maps.lines().filter(|line| line.contains("r-x") && line.contains("memfd:relpoline"));
        let mut read = |line: &str| {
            let number = |text| u64::from_str_radix(text, 16).expect("maps have numbers");
            let (start, rest) = line.split_once('-').expect("a range");
            let (start, end) = (number(start), number(rest.split(' ').next().expect("an end")));
            let mut bytes = vec![0; (end - start) as usize];
            memory.seek(SeekFrom::Start(start)).expect("it can be sought");
            memory.read_exact(&mut bytes).expect("it is mapped");
            (start, bytes)
        };
        Self(ranges.map(&mut read).collect())
    }

    /// The bytes around an address: those before it, and those from it on.
    fn around(&self, at: u64) -> Option<(&[u8], &[u8])> {
        self.0.iter().find_map(|(start, bytes)| bytes.split_at_checked(usize::try_from(at.checked_sub(*start)?).ok()?))
    }

    /// Follows everything from `at` on. What is wrong with it, or the instructions that were seen.
    fn follow(&self, at: u64, seen: &mut BTreeSet<u64>) -> Result<(), String> {
        let mut todo = vec![at];
        while let Some(at) = todo.pop() {
            // What lies outside is the program's: a target, or its thunk.
            let Some((before, bytes)) = self.around(at).filter(|(_, bytes)| !bytes.is_empty() && seen.insert(at))
            else {
                continue;
            };
            let insn = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
            check(&insn, before, &bytes[insn.len().min(bytes.len())..])?;
            match insn.flow_control() {
                FlowControl::UnconditionalBranch => todo.push(insn.near_branch_target()),
                FlowControl::ConditionalBranch | FlowControl::Call => {
                    todo.extend([insn.near_branch_target(), insn.next_ip()]);
                }
                FlowControl::Return => {}
                _ => todo.push(insn.next_ip()),
            }
        }
        Ok(())
    }
}

fn check(insn: &Instruction, before: &[u8], behind: &[u8]) -> Result<(), String> {
    let fault = |what: &str| Err(format!("{:#x}: {insn}: {what}", insn.ip()));
    let is_capture_loop = before.ends_with(&LFENCE) && insn.near_branch_target() < insn.ip();
    match insn.flow_control() {
        FlowControl::IndirectBranch | FlowControl::IndirectCall => fault("an indirect branch"),
        FlowControl::Exception | FlowControl::Interrupt => fault("nothing leads here"),
        FlowControl::UnconditionalBranch if !is_capture_loop && behind.first() != Some(&INT3) => {
            fault("no int3 behind it")
        }
        FlowControl::Return if !is_retpoline(before) && !ends_slow_path(before) => {
            fault("a return that is neither a retpoline's nor the slow path's")
        }
        _ if insn.is_invalid() => fault("no instruction"),
        _ => Ok(()),
    }
}

/// Whether these bytes end in `mov %reg, (%rsp)`.
fn is_retpoline(before: &[u8]) -> bool {
    let Some(tail) = before.len().checked_sub(4).map(|at| &before[at..]) else { return false };
    let insn = Decoder::with_ip(64, tail, 0, DecoderOptions::NONE).decode();
    insn.len() == 4 && insn.mnemonic() == Mnemonic::Mov && insn.memory_base() == Register::RSP && !insn.is_invalid()
}

/// Whether these bytes end as the slow path does, which is called: all registers are given back, rbp last.
fn ends_slow_path(before: &[u8]) -> bool {
    before.ends_with(&[0x41, 0x58, 0x5f, 0x5e, 0x5a, 0x59, 0x58, 0x48, 0x9d, 0x48, 0x8b, 0x6d, 0x00])
}

/// Gates and trees by the report on a process.
fn places(process: &Living) -> (Vec<u64>, Vec<u64>) {
    let report = process.must(&["report", "--format", "json"]);
    let report: Value = serde_json::from_str(&report).unwrap_or_else(|error| panic!("{error}: {report}"));
    let all = |field: &str| {
        let sites = report["sites"].as_array().expect("sites").iter();
        let addresses = sites.filter_map(|site| site[field].as_str()?.strip_prefix("0x").map(str::to_owned));
        addresses.map(|text| u64::from_str_radix(&text, 16).expect("an address")).collect()
    };
    (all("gate"), all("tree"))
}

/// Stubs that have recorded, by the process' statistics: they stay where they are, and are not written over.
fn recording_stubs(process: &Living) -> Vec<u64> {
    let user = rustix::process::geteuid().as_raw();
    let directory = format!("{}{user}", live::PREFIX);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory}: {error}")).flatten();
    let is_its = |path: &std::path::PathBuf| {
        let name = path.file_name().and_then(|name| live::Name::parse(name.as_encoded_bytes()));
        name.is_some_and(|name| name.pid == process.pid())
    };
    let file = entries.map(|entry| entry.path()).find(is_its).expect("its statistics");
    let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let stats = Stats::parse(&bytes).expect("its statistics can be read");
    stats.sites().map(|site| site.recording).filter(|at| *at != 0).collect()
}

#[test]
fn generated_code_holds_no_unprotected_branch() {
    let program = Program::retpolined("attached.c").build();
    let process = Living::start(Command::new(program).env("LD_PRELOAD", tool::engine()));
    let begun = Instant::now();
    let (gates, trees) = loop {
        let (gates, trees) = places(&process);
        if trees.len() >= 2 || begun.elapsed() > Duration::from_secs(30) {
            break (gates, trees);
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(gates.len() >= 2 && trees.len() >= 2, "{gates:x?} {trees:x?}");
    // The miss gate leads to the counting stub, and that to the slow entry and the slow path.
    let stubs = gates.iter().map(|gate| gate + 24);
    let (arenas, mut seen) = (Arenas::of(process.pid()), BTreeSet::new());
    let recording = recording_stubs(&process);
    assert!(recording.len() >= 2, "{recording:x?}");
    for at in gates.iter().chain(&trees).copied().chain(stubs).chain(recording) {
        arenas.follow(at, &mut seen).unwrap_or_else(|fault| panic!("{fault}"));
    }
    assert!(seen.len() > 100, "only {} instructions were seen", seen.len());
}

#[test]
fn what_is_not_allowed_is_noticed() {
    let follow = |code: &[u8]| Arenas(vec![(0x1000, code.to_vec())]).follow(0x1000, &mut BTreeSet::new());
    let fine: [&[u8]; 2] = [
        &[0xe9, 0, 0x10, 0, 0, INT3],
        &[0xe8, 7, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0x48, 0x89, 0x04, 0x24, 0xc3],
    ];
    for code in fine {
        assert_eq!(follow(code), Ok(()), "{code:x?}");
    }
    let bad: [&[u8]; 5] = [
        &[0xff, 0xe0, INT3],
        &[0xff, 0xd0, 0x90],
        &[0xe9, 0, 0x10, 0, 0, 0x90],
        &[0x90, 0xc3],
        &[0xff, 0x25, 0, 0, 0, 0],
    ];
    for code in bad {
        assert!(follow(code).is_err(), "{code:x?}");
    }
}
