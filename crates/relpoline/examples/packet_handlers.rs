//! A packet handler table: each packet goes to the handler of its protocol, through one dynamic call.
//!
//! `cargo run --release -p relpoline --example packet_handlers`. Traffic comes in phases, as it does: first it
//! is TCP and ICMP, then UDP and SCTP. What the call has learned is printed after each phase, and counts of
//! hits and misses show that it follows.

use relpoline::dynamic_call;
use std::collections::HashMap;

struct Packet {
    protocol: u8,
    payload: [u8; 15],
}

/// What a handler keeps.
#[derive(Default)]
struct Totals {
    packets: [u64; 4],
    bytes: u64,
}

type Handler = fn(&Packet, &mut Totals) -> bool;

dynamic_call! {
    /// Gives a packet to its protocol's handler.
    fn deliver(packet: &Packet, totals: &mut Totals) -> bool;
}

/// A handler of the protocol with this number. They differ, as handlers do: no two may share their code.
#[inline(never)]
fn handle<const PROTOCOL: usize>(packet: &Packet, totals: &mut Totals) -> bool {
    totals.packets[PROTOCOL] += 1;
    totals.bytes += packet.payload.iter().map(|&b| u64::from(b)).sum::<u64>() % (PROTOCOL as u64 + 2);
    usize::from(packet.protocol) == PROTOCOL
}
const HANDLERS: [(&str, Handler); 4] =
    [("tcp", handle::<0>), ("udp", handle::<1>), ("icmp", handle::<2>), ("sctp", handle::<3>)];

/// Packets of which `share` in 16 belong to protocol `main`, and the others to its companion.
fn traffic(main: u8, share: u64, count: u64) -> impl Iterator<Item = Packet> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let protocol = if state >> 60 < share { main } else { main + 2 };
        Packet { protocol, payload: [state as u8; 15] }
    })
}

fn main() {
    let names: HashMap<usize, &str> = HANDLERS.iter().map(|&(name, handler)| (handler as usize, name)).collect();
    // For show: exact counts, and no contest of the clock, whose outcome depends on the machine.
    deliver::count_calls(true);
    deliver::state().always_promote(true);
    let mut expected = [0; 4];
    let mut totals = Totals::default();
    for (main, name) in [(0, "tcp, icmp"), (1, "udp, sctp")] {
        let before = deliver::stats().hits;
        let count = 500_000;
        for packet in traffic(main, 15, count) {
            let (_, handler) = HANDLERS[usize::from(packet.protocol)];
            expected[usize::from(packet.protocol)] += 1;
            assert!(deliver(handler, &packet, &mut totals), "the wrong handler");
        }
        let stats = deliver::stats();
        let targets: Vec<_> = stats
            .targets
            .iter()
            .map(|t| format!("{} {:.0} %", names.get(&t.address).copied().unwrap_or("?"), t.share * 100.0))
            .collect();
        println!("{name:10}  {:?}: {}", stats.state, targets.join(", "));
        println!(
            "            {} of {count} calls through a tree, {} misses so far, learned {} times",
            stats.hits - before,
            stats.misses,
            stats.relearnings + 1
        );
    }
    assert_eq!(totals.packets, expected);
    println!("packets by protocol: {:?}, {} bytes' worth", totals.packets, totals.bytes);
}
