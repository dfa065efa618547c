//! Any bytes as a file that is about to be executed: whether it can take the preload is told, by few reads, and a script's
//! interpreter lies in its first line. The engine asks this in other people's processes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_stats::program::{SCRIPT_LINE, examine, interpreter, is_marked_for_shadow_stacks};

fuzz_target!(|bytes: &[u8]| {
    let mut reads = 0;
    let mut read_at = |offset: u64, buffer: &mut [u8]| {
        reads += 1;
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        length
    };
    let _ = examine(&mut read_at);
    let _ = is_marked_for_shadow_stacks(&mut read_at);
    let mut line = [0; SCRIPT_LINE + 1];
    if let Some(name) = interpreter(&mut read_at, &mut line) {
        let name = name.to_bytes();
        assert!(name.is_empty() || bytes.windows(name.len()).any(|part| part == name));
    }
    assert!(reads < 20_000, "{reads} reads");
});
