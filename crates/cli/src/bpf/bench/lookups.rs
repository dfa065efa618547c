//! Look-ups in maps: a program that looks up 32 keys that are there, one after the other, less the same
//! program without the calls, divided by 32; here and in the kernel. rbpf and ubpf have no maps.

use std::hint::black_box;
use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use relpoline_bpf::insn::Insn;
use relpoline_bpf::{Engine, Invocation, Map, MapHandle, MapKind, MapSpec, Mode, Options, Program, Runtime, Source};
use serde::Serialize;

use super::contender::cpu_time;
use super::kernel::{self, test_run};
use crate::workbench::sample::Sample;

/// Look-ups in a run.
const LOOKUPS: u32 = 32;
/// Entries of each map, and room: the kernel's LRU drops some long before it is full.
const ENTRIES: u32 = 1000;
const ROOM: u32 = 4 * ENTRIES;
/// Runs in a round.
const RUNS: u32 = 20_000;
/// `BPF_F_NO_PREALLOC`, which tries of the kernel's must have.
const NO_PREALLOC: u32 = 1;

/// A kind of map: its name, what it is here, and in the kernel (`enum bpf_map_type`).
struct Kind {
    name: &'static str,
    here: MapKind,
    there: u32,
}

const KINDS: [Kind; 6] = [
    Kind { name: "array", here: MapKind::Array, there: 2 },
    Kind { name: "per-CPU array", here: MapKind::PerCpuArray, there: 6 },
    Kind { name: "hash", here: MapKind::Hash, there: 1 },
    Kind { name: "LRU hash", here: MapKind::LruHash, there: 9 },
    Kind { name: "per-CPU hash", here: MapKind::PerCpuHash, there: 5 },
    Kind { name: "trie of prefixes", here: MapKind::LpmTrie, there: 11 },
];

impl Kind {
    fn is_trie(&self) -> bool {
        self.here == MapKind::LpmTrie
    }

    fn key_size(&self) -> u32 {
        if self.is_trie() { 8 } else { 4 }
    }

    /// The nth entry's key. Of a trie, every fourth is a network of 16 bits, the others are of 24.
    fn entry(&self, n: u32) -> Vec<u8> {
        if !self.is_trie() {
            return n.to_le_bytes().into();
        }
        let (bits, last) = if n.is_multiple_of(4) { (16u32, 0) } else { (24, n as u8) };
        [bits.to_le_bytes(), [10, (n / 4) as u8, last, 0]].concat()
    }

    /// What finds it: of a trie, an address in that network.
    fn asked(&self, n: u32) -> Vec<u8> {
        if self.is_trie() { [32u32.to_le_bytes(), [10, (n / 4) as u8, n as u8, 5]].concat() } else { self.entry(n) }
    }

    /// Looks up all keys in the map that `reference` is, and counts those that are there; or does all but
    /// that.
    fn program(&self, reference: i32, looks: bool) -> Vec<Insn> {
        let insn = |opcode, dst, src, offset, imm| Insn { opcode, dst, src, offset, imm };
        let size = self.key_size() as i16;
        let mut out = vec![insn(0xb7, 6, 0, 0, 0)];
        for n in 0..LOOKUPS {
            for (at, word) in (-size..).step_by(4).zip(self.asked(n * 31 % ENTRIES).chunks_exact(4)) {
                let word = i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                out.push(insn(0x62, 10, 0, at, word));
            }
            out.extend([insn(0xbf, 2, 10, 0, 0), insn(0x07, 2, 0, 0, -i32::from(size))]);
            out.extend([insn(0x18, 1, 1, 0, reference), insn(0, 0, 0, 0, 0)]);
            out.push(if looks { insn(0x85, 0, 0, 0, 1) } else { insn(0xb7, 0, 0, 0, 1) });
            out.extend([insn(0x15, 0, 0, 1, 0), insn(0x07, 6, 0, 0, 1)]);
        }
        out.extend([insn(0xbf, 0, 6, 0, 0), insn(0x95, 0, 0, 0, 0)]);
        out
    }
}

/// A row of the table.
#[derive(Debug, Serialize)]
pub struct Lookup {
    /// The map.
    pub map: String,
    /// Nanoseconds of a look-up here, as compiled code.
    pub here_ns: Sample,
    /// In the interpreter.
    pub interpreter_ns: Sample,
    /// In the kernel, where it lets us.
    pub kernel_ns: Option<Sample>,
    /// Ours by the kernel's, round by round.
    pub ratio: Option<Sample>,
}

/// Two programs of ours, with look-ups and without.
struct Here {
    programs: [Program; 2],
}

impl Here {
    fn new(kind: &Kind) -> Result<Here> {
        let runtime = Runtime::new()?;
        let (name, key_size) = ("map".to_string(), kind.key_size());
        let spec =
            MapSpec { name, kind: kind.here, key_size, value_size: 8, max_entries: ROOM, read_only: false, hashes: 0 };
        let map = Map::new(&runtime, &spec)?;
        (0..ENTRIES).try_for_each(|n| map.set(&kind.entry(n), &[1; 8], Mode::Any))?;
        let maps = [MapHandle::Map(map)];
        let load = |looks| {
            let insns = kind.program(0, looks);
            Program::load(
                &runtime,
                Source { name: "looks", section: "", insns: &insns, maps: &maps },
                Options::default(),
            )
        };
        Ok(Here { programs: [load(true)?, load(false)?] })
    }

    /// Nanoseconds of a look-up.
    fn round(&self, engine: Engine) -> Result<f64> {
        let runs = if engine == Engine::Compiled { RUNS } else { RUNS / 20 };
        let [with, without] = [&self.programs[0], &self.programs[1]].map(|program| -> Result<f64> {
            let begin = cpu_time();
            for _ in 0..runs {
                let found = program.invoke(Invocation::new(black_box(&mut [])).engine(engine))?;
                ensure!(found == u64::from(LOOKUPS), "only {found} keys were found");
            }
            Ok((cpu_time() - begin) / f64::from(runs))
        });
        Ok((with? - without?) / f64::from(LOOKUPS))
    }
}

/// The same in the kernel.
struct There {
    programs: [std::os::fd::OwnedFd; 2],
    _map: std::os::fd::OwnedFd,
}

impl There {
    fn new(kind: &Kind) -> Result<There> {
        let flags = if kind.is_trie() { NO_PREALLOC } else { 0 };
        let map = kernel::make_map(kind.there, kind.key_size(), ROOM, flags)?;
        for n in 0..ENTRIES {
            kernel::set(&map, &kind.entry(n))?;
        }
        let load = |looks| kernel::load(&kind.program(map.as_raw_fd(), looks));
        let there = There { programs: [load(true)?, load(false)?], _map: map };
        let (_, found) = test_run(&there.programs[0], 1)?;
        ensure!(found == LOOKUPS, "only {found} keys were found");
        Ok(there)
    }

    fn round(&self) -> Result<f64> {
        let [with, without] = [&self.programs[0], &self.programs[1]].map(|program| test_run(program, RUNS));
        Ok((f64::from(with?.0) - f64::from(without?.0)) / f64::from(LOOKUPS))
    }
}

/// Measures all kinds, in turns. What the kernel does not let us goes to `missing`.
///
/// # Errors
/// When a map or program cannot be made here, or finds something else than it ought to.
pub fn measure(rounds: u32, in_kernel: bool, missing: &mut Vec<String>) -> Result<Vec<Lookup>> {
    let mut all = Vec::new();
    for kind in &KINDS {
        let there = in_kernel.then(|| There::new(kind)).transpose().unwrap_or_else(|error| {
            missing.push(format!("look-ups in the kernel, {}: {error:#}", kind.name));
            None
        });
        all.push((kind, Here::new(kind)?, there, [const { Vec::new() }; 3]));
    }
    // The first round warms up.
    for round in 0..=rounds {
        for (_, here, there, times) in &mut all {
            let compiled = here.round(Engine::Compiled)?;
            let in_kernel = there.as_ref().map(There::round).transpose()?;
            let interpreted = here.round(Engine::Interpreter)?;
            if round > 0 {
                times[0].push(compiled);
                times[1].push(interpreted);
                times[2].extend(in_kernel);
            }
        }
    }
    let lines = all.iter().map(|(kind, _, there, [here, interpreter, kernel])| Lookup {
        map: kind.name.into(),
        here_ns: Sample::of(here),
        interpreter_ns: Sample::of(interpreter),
        kernel_ns: there.is_some().then(|| Sample::of(kernel)),
        ratio: there.is_some().then(|| Sample::of_ratios(here, kernel)),
    });
    Ok(lines.collect())
}
