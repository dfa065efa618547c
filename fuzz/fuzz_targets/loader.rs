//! Any bytes as the memory of a process that is to be attached to: its program headers, its loader's lists, its objects'
//! symbols are refused, or read to the end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_cli::attach::read_objects;

fuzz_target!(|bytes: &[u8]| {
    let Some((head, memory)) = bytes.split_first_chunk::<16>() else { return };
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    let _ = read_objects(word(0), memory, (word(0).wrapping_add(word(8) >> 32), word(8) & 0xffff));
});
