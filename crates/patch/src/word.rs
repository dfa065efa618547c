//! Words: eight aligned bytes that change at once.
//!
//! An aligned store of eight bytes is whole for every processor, and so is an instruction that is fetched
//! from within them: it is the old one or the new one. Two kinds of words are in use.
//!
//! ```text
//! gate      e9 d0 d1 d2 d3 cc cc cc     jmp target; int3 ×3                 is jumped or called to; leads on
//! site      e9 d0 d1 d2 d3 0f 1f 00     jmp target; nop of three            lies on the way; leads away
//!           0f 1f 44 00 00 0f 1f 00     nop of five; nop of three           or is passed through
//! ```
//!
//! A site's second instruction is the same in both, so a thread that has executed a nop of five, and then
//! sees the word become a jump, goes on with what it was about to execute.

/// Bytes of a word; it is aligned to as many.
pub const WORD: usize = 8;

/// `nop` of five bytes, `nop` of three.
const NOP: [u8; WORD] = [0x0f, 0x1f, 0x44, 0x00, 0x00, 0x0f, 0x1f, 0x00];
/// A direct jump's first byte.
const JMP: u8 = 0xe9;
/// What runs into a trap behind a jump that is always taken.
const INT3: u8 = 0xcc;

/// The displacement that makes a branch which ends at `next` reach `target`, or `None` beyond ±2 GiB.
#[must_use]
pub fn rel32(next: u64, target: u64) -> Option<i32> {
    i32::try_from(target.wrapping_sub(next).cast_signed()).ok()
}

fn jump(at: u64, to: u64, rest: [u8; 3]) -> Option<u64> {
    let rel = rel32(at.wrapping_add(5), to)?.to_le_bytes();
    Some(u64::from_le_bytes([JMP, rel[0], rel[1], rel[2], rel[3], rest[0], rest[1], rest[2]]))
}

/// The word of a gate at `at` that leads to `to`, or `None` beyond ±2 GiB.
#[must_use]
pub fn gate_word(at: u64, to: u64) -> Option<u64> {
    jump(at, to, [INT3; 3])
}

/// The word of a site that is passed through.
#[must_use]
pub const fn nop_word() -> u64 {
    u64::from_le_bytes(NOP)
}

/// The word of a site at `at` that jumps to `to`, or `None` beyond ±2 GiB.
#[must_use]
pub fn jump_word(at: u64, to: u64) -> Option<u64> {
    jump(at, to, [NOP[5], NOP[6], NOP[7]])
}

/// Where a word at `at` jumps; `None` if it is none that jumps.
#[must_use]
pub fn target_of(at: u64, word: u64) -> Option<u64> {
    let [JMP, a, b, c, d, ..] = word.to_le_bytes() else { return None };
    Some(at.wrapping_add(5).wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_site_differ_in_the_first_instruction_alone() {
        let jump = jump_word(0x1000, 0x2000).unwrap();
        assert_eq!(jump.to_le_bytes(), [0xe9, 0xfb, 0x0f, 0, 0, 0x0f, 0x1f, 0x00]);
        assert_eq!(nop_word() >> 40, jump >> 40);
        assert_eq!(jump_word(0, 1 << 40), None);
    }

    #[test]
    fn a_gate_leads_where_it_says() {
        for (at, to) in [(0x1000, 0x1008), (0x7fff_0000, 0x1000), (1 << 40, (1 << 40) - (1 << 31) + 5)] {
            let word = gate_word(at, to).unwrap();
            assert_eq!((target_of(at, word), word >> 40), (Some(to), 0xcc_cccc));
        }
        assert_eq!(gate_word(1 << 40, (1 << 40) - (1 << 31) + 4), None);
        assert_eq!(target_of(0, nop_word()), None);
    }
}
