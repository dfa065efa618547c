//! The jitdump file (`tools/perf/Documentation/jitdump-specification.txt` of the kernel's source), version 1:
//! code that no file holds, with names, for `perf inject --jit`.

use std::time::Duration;

const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
const HEADER_BYTES: u32 = 40;
const EM_X86_64: u32 = 62;
/// `JIT_CODE_LOAD`, and the bytes of such a record before the name.
const LOAD: u32 = 0;
const LOAD_BYTES: usize = 56;

/// A piece of code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Code {
    /// What perf is to call it.
    pub name: String,
    /// Where it lies.
    pub address: u64,
    /// Its instructions.
    pub bytes: Vec<u8>,
    /// Since when, by the clock `CLOCK_MONOTONIC`.
    pub since: Duration,
}

/// Whether a file that begins like this is one.
#[must_use]
pub fn is_start(bytes: [u8; 4]) -> bool {
    u32::from_le_bytes(bytes) == MAGIC
}

/// The file for a process.
#[must_use]
pub fn file(pid: u32, codes: &[Code]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [MAGIC, VERSION, HEADER_BYTES, EM_X86_64, 0, pid] {
        file.extend(word.to_le_bytes());
    }
    // A time, which nobody reads, and no flags: times are the monotonic clock's.
    file.extend([0; 16]);
    for (index, code) in codes.iter().enumerate() {
        load(&mut file, pid, index as u64, code);
    }
    file
}

fn load(file: &mut Vec<u8>, pid: u32, index: u64, code: &Code) {
    let size = LOAD_BYTES + code.name.len() + 1 + code.bytes.len();
    file.extend(LOAD.to_le_bytes());
    file.extend(u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
    file.extend(u64::try_from(code.since.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
    file.extend(pid.to_le_bytes());
    file.extend(pid.to_le_bytes());
    for word in [code.address, code.address, code.bytes.len() as u64, index] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code.name.as_bytes());
    file.push(0);
    file.extend(&code.bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_follow_each_other_at_the_sizes_they_name() {
        let code = |name: &str| Code {
            name: name.into(),
            address: 0x1000,
            bytes: vec![0xcc; 5],
            since: Duration::from_nanos(7),
        };
        let file = file(4711, &[code("tree of f"), code("g")]);
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(8), word(20)), (MAGIC, 40, 4711));
        let first = word(44) as usize;
        assert_eq!((first, file[48], &file[96..106]), (56 + 10 + 5, 7, &b"tree of f\0"[..]));
        assert_eq!(file.len(), 40 + first + word(40 + first + 4) as usize);
    }
}
