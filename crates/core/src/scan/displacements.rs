//! The search for direct branches into a range, by their displacements alone.
//!
//! Any four bytes of a text may be the displacement of a branch that ends behind them, and so lead
//! somewhere. Those that lead into a given range are few. Finding them needs no decoding: a load, an
//! addition and a compare per byte, which the compiler turns into vector code, since the four alignments of
//! a block are looked at one after the other. What is found is for the caller to judge.

/// Positions looked at in one go.
const BLOCK: usize = 32;
/// The bytes that these positions read.
const READ: usize = BLOCK + 3;

/// The offsets in `bytes` of all four-byte displacements into a range, ascending.
#[derive(Clone, Debug)]
pub(super) struct Displacements<'a> {
    bytes: &'a [u8],
    first: u32,
    span: u32,
    /// Where the search goes on.
    next: usize,
    /// Up to here, something may be found.
    block_end: usize,
}

impl<'a> Displacements<'a> {
    /// Searches for what leads to `first` to `first + span` inclusive, counted from the start of `bytes`
    /// modulo 2^32: in texts of more than 4 GiB, some of what is found leads elsewhere.
    pub(super) fn new(bytes: &'a [u8], first: u32, span: u32) -> Displacements<'a> {
        Displacements { bytes, first, span, next: 0, block_end: 0 }
    }

    /// What must be added to the displacement at `at` to count from the range's start.
    fn origin(&self, at: usize) -> u32 {
        (at as u32).wrapping_add(4).wrapping_sub(self.first)
    }

    /// Whether the displacement at `at` leads into the range; `None` past the end.
    fn is_inside(&self, at: usize) -> Option<bool> {
        let rel = u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?);
        Some(self.origin(at).wrapping_add(rel) <= self.span)
    }

    /// Goes on to the next block in which something is, or to the last bytes.
    fn next_block(&mut self) {
        while let Some(block) = self.bytes.get(self.next..).and_then(<[u8]>::first_chunk::<READ>) {
            if is_any_inside(block, self.origin(self.next), self.span) {
                self.block_end = self.next + BLOCK;
                return;
            }
            self.next += BLOCK;
        }
        self.block_end = self.bytes.len();
    }
}

/// Whether any position of a block leads into the range.
#[inline]
fn is_any_inside(block: &[u8; READ], origin: u32, span: u32) -> bool {
    let mut any = false;
    for alignment in 0..4 {
        let words = block.get(alignment..).unwrap_or_default().chunks_exact(4).take(BLOCK / 4);
        let origin = origin.wrapping_add(alignment as u32);
        for (i, word) in words.enumerate() {
            let rel = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            any |= origin.wrapping_add(4 * i as u32).wrapping_add(rel) <= span;
        }
    }
    any
}

impl Iterator for Displacements<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            if self.next >= self.block_end {
                self.next_block();
            }
            let at = self.next;
            let is_inside = self.is_inside(at)?;
            self.next += 1;
            if is_inside {
                return Some(at);
            }
        }
    }
}
