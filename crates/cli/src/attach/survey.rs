//! Whether there is anything to promote in a process, before it is touched: its memory is read, nothing
//! stops.
//!
//! What is mapped counts, not what lies on disk under the same name. The engine knows thunks by their bytes,
//! so what is not found here it would not find either.

use relpoline_core::arch::thunk;

use super::memory::{Mapping, Memory, Space as _};

/// Bytes read in one go.
const CHUNK: usize = 1 << 20;
/// A thunk may begin this far before the end of a piece, and go on in the next one.
const OVERLAP: usize = 64;
/// More code than this is not looked at.
const MOST: u64 = 1 << 31;

/// Whether the process has a retpoline in its code; nothing when that cannot be told.
pub fn has_thunks(memory: &Memory) -> Option<bool> {
    let mappings = memory.mappings().ok()?;
    let texts: Vec<&Mapping> = mappings.iter().filter(|mapping| is_text(mapping)).collect();
    let size = texts.iter().fold(0_u64, |sum, text| sum.saturating_add(text.end.saturating_sub(text.start)));
    if size > MOST || texts.is_empty() {
        return None;
    }
    for text in texts {
        if holds_thunk(memory, text)? {
            return Some(true);
        }
    }
    Some(false)
}

/// Code that comes from a file: the engine looks at nothing else.
fn is_text(mapping: &Mapping) -> bool {
    mapping.access.starts_with("r-x") && mapping.inode != 0
}

fn holds_thunk(memory: &Memory, text: &Mapping) -> Option<bool> {
    let mut at = text.start;
    let mut piece = Vec::new();
    while at < text.end {
        let length = usize::try_from(text.end - at).ok()?.min(CHUNK + OVERLAP);
        piece.resize(length, 0);
        memory.read(at, &mut piece).ok()?;
        if thunk::find(&piece).any(|(_, thunk)| thunk.shape.takes_sites()) {
            return Some(true);
        }
        at += CHUNK as u64;
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a thunk, in this program's code.
    #[inline(never)]
    fn never_called() {
        // SAFETY: never executed.
        unsafe {
            core::arch::asm!("call 3f", "2: pause", "lfence", "jmp 2b", "3: mov [rsp], rax", "ret", options(noreturn))
        }
    }

    #[test]
    fn this_process_has_one() {
        // Kept, so that it is linked.
        std::hint::black_box(never_called as fn());
        let memory = Memory::open(std::process::id().cast_signed()).unwrap();
        assert_eq!(has_thunks(&memory), Some(true));
    }
}
