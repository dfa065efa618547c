//! Any bytes as the memory of a process in which there is said to be an engine: what it answers is refused, or read to the end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_cli::attach::read_engine;

fuzz_target!(|bytes: &[u8]| {
    let Some((head, memory)) = bytes.split_first_chunk::<16>() else { return };
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    let _ = read_engine(word(0), memory, word(0).wrapping_add(word(8) & 0xffff));
});
