//! Any bytes as a file of packets: refused in a sentence, or packets that are no more than the file; written out, they are
//! read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_cli::bpf::packets::{ETHERNET, by_ethernet, parse, write};

fuzz_target!(|bytes: &[u8]| {
    let packets = match parse(bytes) {
        Ok(packets) => packets,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(packets.iter().map(|(_, packet)| packet.len() + 16).sum::<usize>() <= bytes.len());
    for (link, packet) in &packets {
        if let Err(error) = by_ethernet(*link, packet) {
            assert!(!error.to_string().is_empty());
        }
    }
    let plain: Vec<Vec<u8>> = packets.into_iter().map(|(_, packet)| packet).collect();
    let again = parse(&write(ETHERNET, &plain)).expect("what was written is read");
    assert!(again.iter().map(|(_, packet)| packet).eq(&plain));
});
