//! What keys and calls look like in memory, before and after: the listing of the crate's page.
//!
//! `cargo run --release -p relpoline --example disassembly`
//!
//! Reads the running program's own code and disassembles it with iced-x86. Where nothing is patched, and without
//! optimisation, there is little to see.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter, GasFormatter, Instruction};
use relpoline::{dynamic_call, static_call, static_key, unlikely};
use std::collections::BTreeMap;

static_key!(static TRACING: bool = false);
static_call!(fn checksum(data: &[u8]) -> u32 = portable);
dynamic_call!(fn deliver(packet: &mut [u8], port: u16) -> bool);

fn portable(data: &[u8]) -> u32 {
    data.iter().map(|&b| u32::from(b)).sum()
}
fn in_fours(data: &[u8]) -> u32 {
    data.chunks(4).map(|four| four.iter().map(|&b| u32::from(b)).sum::<u32>()).sum()
}
#[inline(never)]
fn echo(packet: &mut [u8], _port: u16) -> bool {
    packet.reverse();
    true
}
#[inline(never)]
fn refuse(_packet: &mut [u8], port: u16) -> bool {
    port == 0
}
#[cold]
#[inline(never)]
fn trace(packet: &[u8]) {
    println!("{} bytes", packet.len());
}

#[inline(never)]
fn traced(packet: &[u8]) -> usize {
    if unlikely!(TRACING) {
        trace(packet);
    }
    packet.len()
}
#[inline(never)]
fn summed(packet: &[u8]) -> u32 {
    checksum(packet) + 1
}
#[inline(never)]
fn delivered(handler: fn(&mut [u8], u16) -> bool, packet: &mut [u8]) -> bool {
    !deliver(handler, packet, 7)
}

/// The instructions from `at` on, up to one that leads away for good.
fn instructions(at: u64, most: usize) -> Vec<Instruction> {
    // SAFETY: code of this program or of relpoline's arena, which is followed by more mapped memory.
    let bytes = unsafe { std::slice::from_raw_parts(at as *const u8, most * 15) };
    let mut all = Vec::new();
    for instruction in Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).iter().take(most) {
        all.push(instruction);
        let flow = instruction.flow_control();
        if matches!(flow, FlowControl::Return | FlowControl::IndirectBranch | FlowControl::UnconditionalBranch) {
            break;
        }
    }
    all
}

fn show(title: &str, at: u64, most: usize, names: &BTreeMap<u64, &str>) {
    println!("{title}:");
    let mut formatter = GasFormatter::new();
    for instruction in instructions(at, most) {
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        let target = instruction.near_branch_target();
        match names.get(&target) {
            Some(name) if target != 0 => println!("    {} {name}", text.split(' ').next().unwrap_or_default()),
            _ => println!("    {}", text.replace(&format!("{at:#x}"), title)),
        }
    }
}

/// Where the first call in a function leads.
fn gate_of(function: u64) -> Option<u64> {
    let calls = |i: &Instruction| i.flow_control() == FlowControl::Call;
    instructions(function, 20).iter().find(|i| calls(i)).map(Instruction::near_branch_target)
}

fn main() -> Result<(), relpoline::UpdateError> {
    let [traced_at, summed_at, delivered_at] =
        [traced as *const () as u64, summed as *const () as u64, delivered as *const () as u64];
    // Not what `summed` calls: calls are led past it.
    let checksum_gate = checksum::__parts().1 as u64;
    let Some(deliver_gate) = gate_of(delivered_at) else {
        println!("without optimisation there is nothing to see here");
        return Ok(());
    };
    let names = BTreeMap::from([
        (checksum_gate, "gate of checksum"),
        (deliver_gate, "gate of deliver"),
        (portable as *const () as u64, "portable"),
        (in_fours as *const () as u64, "in_fours"),
        (echo as *const () as u64, "echo"),
        (refuse as *const () as u64, "refuse"),
    ]);
    let all = |when: &str| {
        println!("== {when}");
        show("traced", traced_at, 5, &names);
        show("summed", summed_at, 4, &names);
        show("gate of checksum", checksum_gate, 3, &names);
        show("delivered", delivered_at, 8, &names);
        show("gate of deliver", deliver_gate, 2, &names);
        // While a jump leads into the arena, what is there.
        if let [jump] = instructions(deliver_gate, 1)[..]
            && jump.flow_control() == FlowControl::UnconditionalBranch
        {
            show("where it leads", jump.near_branch_target(), 6, &names);
        }
    };
    let mut packet = [1, 2, 3, 4];
    all("as the program starts");
    assert_eq!((traced(&packet), summed(&packet)), (4, 11));
    TRACING.enable()?;
    checksum::update(in_fours)?;
    deliver::state().always_promote(true);
    for i in 0..100_000 {
        assert_eq!(delivered(if i % 8 == 0 { refuse } else { echo }, &mut packet), i % 8 == 0);
    }
    all("later: TRACING is on, checksum was updated, deliver has learned");
    assert_eq!((traced(&packet), summed(&packet)), (4, 11));
    Ok(())
}
