// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The engine on a simulated kernel: text with sites in it, symbols, rings, a clock that the test moves.
//!
//! With `RUSTFLAGS='--cfg relpoline_broken="kernel-stale-target"'` the test of a module that goes fails, with
//! `"kernel-no-grace"` that of slots. What the module does to a real kernel is tested by
//! `cargo xtask kernel-test`.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;

use relpoline_core::policy::Phase;
use relpoline_kernel::engine::{Engine, NO_TICK, Places};
use relpoline_kernel::layout::{COLD_JUMP, COLD_STUB, COUNTED, MISS, RECORDER, RECORDERS, SITES, TREE, TREES};
use relpoline_kernel::machine::{Machine, Poke, Text};
use relpoline_kernel::site::Site;
use relpoline_kernel::table::Table;
use relpoline_kernel::windows;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const THUNKS: u64 = 0xffff_ffff_81e0_0000;
const MODULE: u64 = 0xffff_ffff_c000_0000;
const COLD: u64 = 0xffff_ffff_c010_0000;
const RECORDING: u64 = 0xffff_ffff_c030_0000;
const SLOTS: u64 = 0xffff_ffff_c040_0000;
const FUNCTION: u64 = 0x40;
const KHZ: u32 = 1_000_000;

/// Where calls go that the tests make: entries of functions, in the kernel or in the module.
const A: u64 = TEXT + 0x10_0000;
const B: u64 = TEXT + 0x10_0040;
const IN_MODULE: u64 = MODULE + 0x40;

/// A kernel in which nothing runs but what a test runs.
#[derive(Debug)]
struct Simulated {
    clock: u64,
    text: &'static [u8],
    /// Live branches that were changed, by address.
    changed: BTreeMap<u64, [u8; 5]>,
    /// Module text that was written.
    written: BTreeMap<u64, Vec<u8>>,
    cold: BTreeMap<usize, u32>,
    misses: BTreeMap<usize, u32>,
    calls: BTreeMap<usize, u64>,
    ring: Vec<(u32, u64)>,
    /// Branches that a probe has.
    probed: BTreeSet<u64>,
    module_is_there: bool,
    /// Cycles that a batch of changes takes.
    batch_takes: u64,
}

impl Machine for Simulated {
    fn now(&self) -> u64 {
        self.clock
    }

    fn drain(&mut self, take: &mut dyn FnMut(u32, u64)) -> u32 {
        for (cpu, record) in self.ring.drain(..) {
            take(cpu, record);
        }
        0
    }

    fn cold_calls(&self, site: usize) -> u32 {
        self.cold.get(&site).copied().unwrap_or(0)
    }

    fn misses(&self, tree: usize) -> u32 {
        self.misses.get(&tree).copied().unwrap_or(0)
    }

    fn calls(&self, tree: usize) -> u64 {
        self.calls.get(&tree).copied().unwrap_or(0)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.written.insert(at, bytes.to_vec());
    }

    fn poke(&mut self, batch: &mut [Poke]) {
        self.clock += self.batch_takes;
        for poke in batch {
            assert_eq!(self.branch(poke.at), poke.old, "what is replaced is what stands there");
            poke.done = !self.probed.contains(&poke.at);
            if poke.done {
                self.changed.insert(poke.at, poke.new);
            }
        }
    }

    fn is_entry(&self, address: u64) -> bool {
        address.is_multiple_of(FUNCTION) && (address < MODULE || self.module_is_there)
    }

    fn function(&self, address: u64) -> Option<(u64, u64)> {
        let start = address & !(FUNCTION - 1);
        Some((start, start + FUNCTION))
    }

    fn is_barred(&self, start: u64) -> bool {
        start == TEXT + 3 * FUNCTION
    }

    fn text(&self, _start: u64, _end: u64) -> &'static [u8] {
        self.text
    }
}

impl Simulated {
    fn branch(&self, at: u64) -> [u8; 5] {
        let original = || self.text[(at - TEXT) as usize..][..5].try_into().expect("five bytes");
        self.changed.get(&at).copied().unwrap_or_else(original)
    }

    /// Where the branch at `at` leads.
    fn leads(&self, at: u64) -> u64 {
        let bytes = self.branch(at);
        let relative = i32::from_le_bytes(bytes[1..].try_into().expect("four bytes"));
        (at + 5).wrapping_add_signed(relative.into())
    }
}

/// Functions of one call each, through rax; the last by a jump through rbx.
fn text(functions: usize) -> &'static [u8] {
    let mut text = vec![0xcc; functions * FUNCTION as usize];
    for i in 0..functions {
        let at = i * FUNCTION as usize;
        let (opcode, thunk) = if i + 1 == functions { (0xe9, THUNKS + 3 * 32) } else { (0xe8, THUNKS) };
        text[at] = 0x90;
        text[at + 1] = opcode;
        let relative = (thunk - (TEXT + at as u64 + 6)) as u32;
        text[at + 2..at + 6].copy_from_slice(&relative.to_le_bytes());
        text[at + 6] = 0xc3;
    }
    text.leak()
}

fn engine(functions: usize) -> Engine<Simulated> {
    let machine = Simulated {
        clock: 1_000_000,
        text: text(functions),
        changed: BTreeMap::new(),
        written: BTreeMap::new(),
        cold: BTreeMap::new(),
        misses: BTreeMap::new(),
        calls: BTreeMap::new(),
        ring: Vec::new(),
        probed: BTreeSet::new(),
        module_is_there: true,
        batch_takes: 0,
    };
    let mut engine = Engine::new(machine);
    let sites: Vec<MaybeUninit<Site>> = (0..SITES).map(|_| MaybeUninit::uninit()).collect();
    let places = Places {
        cold: COLD,
        recorders: RECORDING,
        trees: SLOTS,
        thunks: std::array::from_fn(|i| THUNKS + 32 * i as u64),
    };
    engine.furnish(places, Table::new(sites.leak()), vec![0; windows::MEMORY].leak(), KHZ);
    let whole = Text { start: TEXT, end: TEXT + functions as u64 * FUNCTION, barred: [(0, 0); 2], owner: 0 };
    assert_eq!(engine.text_comes(&whole), functions);
    engine
}

fn site(engine: &Engine<Simulated>, id: usize) -> Site {
    *engine.sites().get(id).expect("a site")
}

fn leads(engine: &mut Engine<Simulated>, id: usize) -> u64 {
    let at = site(engine, id).address;
    engine.machine_mut().leads(at)
}

/// Lets some time pass and the engine look.
fn tick(engine: &mut Engine<Simulated>) {
    engine.machine_mut().clock += 25 * u64::from(KHZ);
    engine.tick();
}

/// Calls `target` many times through site `id`, wherever that leads now, until it is promoted or leads to its
/// thunk.
fn drive(engine: &mut Engine<Simulated>, id: usize, target: impl Fn(u32) -> u64) {
    for round in 0..60 {
        let to = leads(engine, id);
        let machine = engine.machine_mut();
        if (COLD..RECORDING).contains(&to) {
            *machine.cold.entry(((to - COLD) / COLD_STUB) as usize).or_default() += 50_000;
        } else if (RECORDING..SLOTS).contains(&to) {
            let number = (to - RECORDING) / RECORDER;
            machine.ring.extend((0..600).map(|i| (0, number << 32 | target(i) & 0xffff_ffff)));
        } else if to >= SLOTS && round > 3 {
            return;
        }
        tick(engine);
    }
}

fn targets(engine: &Engine<Simulated>, id: usize) -> Vec<u64> {
    let tree = engine.trees().get(site(engine, id).tree);
    tree.map(|tree| tree.targets().iter().map(|target| target.address).collect()).unwrap_or_default()
}

#[test]
fn the_shape_of_the_text_is_the_assemblers() {
    let header = include_str!("../shim/layout.h");
    let value = |name: &str| -> u64 {
        let line = header.lines().find(|line| line.split_whitespace().nth(1) == Some(name)).expect(name);
        line.split_whitespace().nth(2).and_then(|word| word.parse().ok()).expect(name)
    };
    assert_eq!(value("RLP_SITES"), SITES as u64);
    assert_eq!(value("RLP_COLD_STUB"), COLD_STUB);
    assert_eq!(value("RLP_COLD_JUMP"), COLD_JUMP);
    assert_eq!(16 * value("RLP_RECORDERS"), RECORDERS as u64);
    assert_eq!(value("RLP_RECORDER"), RECORDER);
    assert_eq!(value("RLP_TREES"), TREES as u64);
    assert_eq!(value("RLP_TREE"), TREE);
    assert_eq!(value("RLP_MISS"), MISS);
    assert_eq!(value("RLP_COUNTED"), COUNTED);
    assert_eq!(value("RLP_RING"), relpoline_kernel::layout::RING as u64);
}

#[test]
fn a_hot_site_is_promoted_and_one_by_name_never() {
    let mut engine = engine(6);
    assert_eq!(leads(&mut engine, 0), THUNKS, "nothing changes before it is switched on");
    engine.enable();
    assert_eq!(leads(&mut engine, 0), COLD);
    drive(&mut engine, 0, |_| A);
    assert_eq!(site(&engine, 0).state.phase(), Phase::Promoted);
    assert_eq!(targets(&engine, 0), [A]);
    let slot = u64::from(site(&engine, 0).tree);
    assert_eq!(leads(&mut engine, 0), SLOTS + slot * TREE);
    // cmp $A, %rax; je A; jmp miss
    let code = engine.machine_mut().written[&(SLOTS + slot * TREE)].clone();
    assert_eq!(code[..3], [0x48, 0x81, 0xf8]);
    assert_eq!(code[3..7], (A as u32).to_le_bytes());
    assert_eq!(site(&engine, 3).state.phase(), Phase::Barred);
    assert_eq!(leads(&mut engine, 3), THUNKS);
}

#[test]
fn four_targets_at_most_and_no_interior_address() {
    let mut engine = engine(2);
    engine.enable();
    // Seven in a repeating order, one of which is no entry.
    drive(&mut engine, 0, |i| A + FUNCTION * u64::from(i % 7) + u64::from(i % 7 == 0));
    let found = targets(&engine, 0);
    assert!(found.len() <= 4, "{found:x?}");
    assert!(found.iter().all(|target| target.is_multiple_of(FUNCTION)), "{found:x?}");
}

#[test]
fn misses_make_it_learn_another_target() {
    let mut engine = engine(2);
    engine.enable();
    drive(&mut engine, 0, |_| A);
    let tree = site(&engine, 0).tree;
    for _ in 0..10 {
        *engine.machine_mut().misses.entry(usize::from(tree)).or_default() += 100_000;
        tick(&mut engine);
    }
    assert_eq!(site(&engine, 0).state.phase(), Phase::Learning);
    drive(&mut engine, 0, |_| B);
    assert_eq!(targets(&engine, 0), [B]);
    assert_eq!((site(&engine, 0).before, site(&engine, 0).relearned), (A, 1));
}

#[test]
fn a_target_in_a_module_that_goes_leaves_every_tree() {
    let mut engine = engine(2);
    engine.enable();
    drive(&mut engine, 0, |_| IN_MODULE);
    assert_eq!(targets(&engine, 0), [IN_MODULE]);
    engine.machine_mut().module_is_there = false;
    engine.text_goes(7, MODULE, MODULE + 0x1000);
    assert_eq!(targets(&engine, 0), []);
    assert_eq!(leads(&mut engine, 0), COLD, "before its memory goes");
}

#[test]
fn a_slot_is_used_again_only_after_a_grace_period() {
    let mut engine = engine(2);
    engine.enable();
    let mut used = BTreeSet::new();
    for round in 0..40 {
        drive(&mut engine, 0, |_| A + FUNCTION * (round % 2));
        assert_eq!(site(&engine, 0).state.phase(), Phase::Promoted);
        let slot = site(&engine, 0).tree;
        assert!(used.insert(slot), "slot {slot} again, and nobody waited");
        engine.relearn();
    }
    let (free, left) = (engine.trees().slots.free(), engine.trees().slots.leaving());
    assert_eq!((free, left), (TREES - used.len(), used.len()));
    engine.grace_ended();
    assert_eq!(engine.trees().slots.free(), free, "nothing comes free that no grace period began for");
    engine.grace_begins();
    drive(&mut engine, 0, |_| A);
    engine.relearn();
    engine.grace_ended();
    assert_eq!(engine.trees().slots.free(), TREES - 1, "what was left meanwhile waits for the next");
}

#[test]
fn a_site_with_a_probe_waits() {
    let mut engine = engine(3);
    engine.enable();
    drive(&mut engine, 0, |_| A);
    let at = site(&engine, 0).address;
    engine.machine_mut().probed.insert(at);
    assert!(!engine.disable(), "one cannot be put back");
    assert_eq!(leads(&mut engine, 1), THUNKS);
    assert!(engine.machine_mut().leads(at) >= SLOTS, "its branch is not touched");
    assert_eq!(engine.trees().slots.leaving(), 0, "and its tree stays");
    engine.machine_mut().probed.clear();
    assert!(engine.disable());
    assert_eq!(engine.machine_mut().leads(at), THUNKS);
    assert_eq!(engine.trees().slots.leaving(), 1);
}

#[test]
fn when_nothing_happens_it_wakes_ever_less_often() {
    let mut engine = engine(3);
    engine.enable();
    let mut rest = |calls: u32| {
        let machine = engine.machine_mut();
        machine.clock += 1_000 * u64::from(KHZ);
        *machine.cold.entry(0).or_default() += calls;
        engine.tick()
    };
    let rests: Vec<u32> = (0..8).map(|_| rest(0)).collect();
    assert!(rests.is_sorted() && rests[0] < rests[7], "{rests:?}");
    assert!(rest(1_000_000) < rests[7] / 8, "a hot site is learned from at once");
}

#[test]
fn while_nothing_is_promoted_and_nothing_waits_it_does_not_wake() {
    let mut engine = engine(3);
    assert_eq!(engine.tick(), NO_TICK, "nobody has switched it on");
    engine.enable();
    assert!(engine.tick() <= 640_000);
    drive(&mut engine, 0, |_| A);
    let at = site(&engine, 0).address;
    engine.machine_mut().probed.insert(at);
    assert!(!engine.disable());
    assert!(engine.tick() <= 640_000, "a branch waits for its probe to go");
    engine.machine_mut().probed.clear();
    assert_eq!(engine.tick(), NO_TICK, "it was put back by this very tick");
    assert_eq!(engine.machine_mut().leads(at), THUNKS);
    let header = include_str!("../shim/module.c");
    assert!(header.contains("#define NO_END\t\tU32_MAX") && NO_TICK == u32::MAX, "the shim knows it");
    engine.enable();
    assert!(engine.tick() <= 640_000);
}

#[test]
fn what_a_change_costs_is_measured_and_smoothed() {
    let mut engine = engine(200);
    let first = engine.policy_mut().costs;
    assert_eq!((first.patch, first.link), (60_000, 60_000), "nothing was measured");
    engine.machine_mut().batch_takes = 900_000;
    engine.enable();
    assert_eq!(engine.policy_mut().costs, first, "all sites at once say nothing of one");
    for id in 10..40 {
        drive(&mut engine, id, |_| A);
        assert_eq!(targets(&engine, id), [A]);
    }
    let dear = engine.policy_mut().costs;
    assert!((800_000..=900_000).contains(&dear.patch) && dear.link == dear.patch, "{}", dear.patch);
    // Somebody held a lock for a second: that is not what a change costs.
    engine.machine_mut().batch_takes = 1_000_000_000;
    drive(&mut engine, 45, |_| A);
    let patch = engine.policy_mut().costs.patch;
    assert!(patch > dear.patch && patch < 10 * dear.patch, "{patch}");
    engine.machine_mut().batch_takes = 5_000;
    for id in 50..110 {
        drive(&mut engine, id, |_| A);
    }
    let cheap = engine.policy_mut().costs;
    assert!((5_000..=9_000).contains(&cheap.patch), "{}", cheap.patch);
    let told = engine.figures().iter().find(|(name, _)| *name == "patch_cycles").map(|(_, value)| *value);
    assert_eq!(told, Some(cheap.patch.into()));
}

#[test]
fn a_modules_sites_go_with_it_and_their_numbers_come_back() {
    let mut engine = engine(2);
    engine.enable();
    let sites = engine.sites().len();
    let text = Text { start: TEXT, end: TEXT + 2 * FUNCTION, barred: [(0, 0); 2], owner: 7 };
    // The same bytes again stand for a module's.
    engine.machine_mut().changed.clear();
    assert_eq!(engine.text_comes(&text), 2);
    engine.text_goes(7, MODULE, MODULE);
    assert!(site(&engine, sites).gone && site(&engine, sites + 1).gone);
    engine.grace_begins();
    engine.grace_ended();
    assert!(!engine.wants_grace());
}

#[test]
fn what_there_is_no_room_for_keeps_its_retpoline_and_is_told() {
    let mut engine = engine(SITES - 10);
    let figure = |engine: &mut Engine<Simulated>, name: &str| {
        engine.figures().iter().find(|(known, _)| *known == name).map(|(_, value)| *value).expect("a figure")
    };
    assert_eq!(figure(&mut engine, "sites_without_number"), 0);
    // A module of thirty sites, for which there is room for ten.
    engine.machine_mut().text = text(30);
    let module = Text { start: TEXT, end: TEXT + 30 * FUNCTION, barred: [(0, 0); 2], owner: 7 };
    assert_eq!(engine.text_comes(&module), 10);
    assert_eq!(figure(&mut engine, "sites_modules"), 10);
    assert_eq!(figure(&mut engine, "sites_without_number"), 20);
    engine.text_goes(7, MODULE, MODULE);
    assert_eq!(engine.text_comes(&module), 0, "a number is used again only after a grace period");
    assert_eq!(figure(&mut engine, "sites_without_number"), 50);
    engine.text_goes(7, MODULE, MODULE);
    engine.grace_begins();
    engine.grace_ended();
    assert_eq!(engine.text_comes(&module), 10, "what has gone makes room");
}

#[test]
fn a_full_table_of_sites_is_enabled_and_disabled_whole() {
    let mut engine = engine(SITES);
    engine.enable();
    // One is barred by name, and its branch stays.
    let led = (0..SITES).filter(|&id| leads(&mut engine, id) == COLD + id as u64 * COLD_STUB).count();
    assert_eq!(led, SITES - 1);
    // When little happens it looks at an eighth of them, at most every 0.64 s: all have had their turn after
    // some seconds.
    for _ in 0..5 {
        drive(&mut engine, SITES - 2, |_| A);
    }
    assert_eq!(targets(&engine, SITES - 2), [A], "the last ones are looked at, too");
    assert!(engine.disable());
    assert!((0..SITES).all(|id| leads(&mut engine, id) == site(&engine, id).thunk));
}
