//! Any bytes as a file of packets: refused in a sentence, or packets that are no more than the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_cli::bpf::packets::parse;

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(packets) => assert!(packets.iter().map(|packet| packet.len() + 16).sum::<usize>() <= bytes.len()),
    }
});
