//! The search for direct branches into a range, by their displacements alone.
//!
//! Any four bytes of a text may be the displacement of a branch that ends behind them, and so lead
//! somewhere. Those that lead into a given range are few. Finding them costs a load, an addition and a
//! compare per byte, and no decoding; what they are is for the caller to find out.

/// The offsets in `bytes` of all four-byte displacements into a range, ascending.
#[derive(Clone, Debug)]
pub(super) struct Displacements<'a> {
    bytes: &'a [u8],
    first: u32,
    span: u32,
    /// The offset where the search goes on.
    next: usize,
}

impl<'a> Displacements<'a> {
    /// Searches for what leads to `first` to `first + span` inclusive, counted from the start of `bytes`
    /// modulo 2^32: in texts of more than 4 GiB, some of what is found leads elsewhere.
    pub(super) fn new(bytes: &'a [u8], first: u32, span: u32) -> Displacements<'a> {
        Displacements { bytes, first, span, next: 0 }
    }
}

impl Iterator for Displacements<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let from = self.next;
        let rest = self.bytes.get(from..)?;
        let mut end = (from as u32).wrapping_add(4).wrapping_sub(self.first);
        for (i, window) in rest.windows(4).enumerate() {
            let rel = u32::from_le_bytes([window[0], window[1], window[2], window[3]]);
            if end.wrapping_add(rel) <= self.span {
                self.next = from + i + 1;
                return Some(from + i);
            }
            end = end.wrapping_add(1);
        }
        self.next = self.bytes.len();
        None
    }
}
