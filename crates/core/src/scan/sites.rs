//! The search for sites.
//!
//! Any branch opcode, wherever it stands, behind which four bytes lead to a thunk when read as a
//! displacement, is a candidate. Finding them is a search for opcodes, which costs the same however far
//! apart a linker has put the thunks. Real code has next to no candidates that are not branches, but next to
//! none is not none: so the function around a candidate is decoded from its start. The decoder's place is
//! kept, and a function with many sites is read once.

use super::{Function, Functions, Refusal, Region};
use crate::arch::decode::{Flow, decode, length};
use crate::arch::thunk::Shape;

/// What kind of instruction a site is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum SiteKind {
    /// `call thunk`.
    Call,
    /// `jmp thunk`: a tail call, a computed goto or a switch.
    Jump,
    /// `jcc thunk`: mostly a conditional tail call.
    Cond,
}

/// A call or jump whose displacement names a thunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// The instruction's first byte, its prefix included.
    pub address: u64,
    /// The four bytes of its displacement.
    pub field: u64,
    /// What it is.
    pub kind: SiteKind,
    /// Whether a `cs` prefix (2e) pads it.
    pub cs_prefix: bool,
    /// Which of the given thunks it names.
    pub thunk: usize,
    /// The function it stands in.
    pub function: Function,
}

impl Site {
    /// Why it is left alone if its thunk has this shape. Flags may be live at a jump, and to keep them one
    /// word below the stack is needed. The thunk's own call overwrites it; without a call it may hold the
    /// program's data.
    #[must_use]
    pub fn refusal(&self, shape: Shape) -> Option<Refusal> {
        (self.kind != SiteKind::Call && !shape.begins_with_call()).then_some(Refusal::PlainThunk)
    }
}

/// A candidate that is not a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The address of its opcode.
    pub address: u64,
    /// Which of the given thunks it names.
    pub thunk: usize,
    /// Why not.
    pub reason: Refusal,
}

/// The sites in a text, ascending by address.
#[derive(Clone, Debug)]
pub struct Sites<'a, F> {
    text: Region<'a>,
    thunks: &'a [u64],
    functions: F,
    filter: Filter,
    /// The block that is being looked at, and which of its bytes may end an opcode and were not looked at
    /// yet.
    block: usize,
    ends: u64,
    /// The next block.
    next: usize,
    place: Option<Place>,
}

/// How far a function has been decoded.
#[derive(Clone, Copy, Debug)]
struct Place {
    function: Function,
    /// The start of an instruction, or `None` once one could not be read.
    at: Option<u64>,
}

/// A branch opcode whose displacement names a thunk.
#[derive(Clone, Copy)]
struct Candidate {
    opcode: u64,
    field: u64,
    kind: SiteKind,
    thunk: usize,
}

const CS: u8 = 0x2e;
const CALL: u8 = 0xe8;
const JUMP: u8 = 0xe9;
const _: () = assert!(CALL | 1 == JUMP);
/// The first byte of the conditional jumps' opcodes.
const ESCAPE: u8 = 0x0f;

impl<'a, F: Functions> Sites<'a, F> {
    /// Searches `text` for branches to `thunks`, a sorted list of addresses (not necessarily in the text).
    pub fn new(text: Region<'a>, thunks: &'a [u64], functions: F) -> Sites<'a, F> {
        let next = if thunks.is_empty() { text.bytes.len() } else { 0 };
        Sites { text, thunks, functions, filter: Filter::new(thunks), block: 0, ends: 0, next, place: None }
    }

    /// Holds a candidate against instruction boundaries.
    fn verify(&mut self, candidate: Candidate) -> Result<Site, Refusal> {
        let mut place = match self.place {
            Some(place) if place.function.contains(candidate.opcode) => place,
            _ => {
                let function = self.functions.containing(candidate.opcode).ok_or(Refusal::NoFunction)?;
                // In a sorted table none begins before one that was met before. Others could have all of the
                // text read anew for each candidate.
                if self.place.is_some_and(|place| function.start < place.function.start) {
                    return Err(Refusal::NoFunction);
                }
                Place { function, at: Some(function.start) }
            }
        };
        place.at = place.at.and_then(|at| self.instruction_at(at, candidate.opcode));
        self.place = Some(place);
        let start = place.at.ok_or(Refusal::Unreadable)?;
        self.site(candidate, start, place.function)
    }

    /// The start of the instruction that holds the byte at `address`, read from `at` on.
    fn instruction_at(&self, mut at: u64, address: u64) -> Option<u64> {
        let mut bytes = self.text.from(at)?;
        loop {
            let len = length(bytes)?;
            let next = at.wrapping_add(u64::from(len));
            if next > address {
                return Some(at);
            }
            at = next;
            bytes = bytes.get(usize::from(len)..)?;
        }
    }

    fn site(&self, candidate: Candidate, start: u64, function: Function) -> Result<Site, Refusal> {
        let bytes = self.text.from(start).ok_or(Refusal::Unreadable)?;
        let insn = decode(bytes).ok_or(Refusal::Unreadable)?;
        let is_branch = match insn.flow {
            Flow::Call { .. } => candidate.kind == SiteKind::Call,
            Flow::Jump { .. } => candidate.kind == SiteKind::Jump,
            Flow::Cond { .. } => candidate.kind == SiteKind::Cond,
            _ => false,
        };
        let end = insn.next(start);
        if !is_branch || end != candidate.field.wrapping_add(4) {
            return Err(Refusal::NotBoundary);
        }
        if end > function.end {
            return Err(Refusal::CutOff);
        }
        let cs_prefix = match candidate.opcode.wrapping_sub(start) {
            0 => false,
            1 if bytes.first() == Some(&CS) => true,
            _ => return Err(Refusal::Prefix),
        };
        let Candidate { field, kind, thunk, .. } = candidate;
        Ok(Site { address: start, field, kind, cs_prefix, thunk, function })
    }

    /// The next branch opcode whose displacement names a thunk.
    fn candidate(&mut self) -> Option<Candidate> {
        let bytes = self.text.bytes;
        loop {
            while self.ends != 0 {
                let at = self.block + self.ends.trailing_zeros() as usize;
                self.ends &= self.ends - 1;
                if let Some(candidate) = self.candidate_at(at) {
                    return Some(candidate);
                }
            }
            if self.next >= bytes.len() {
                return None;
            }
            let before = self.next.checked_sub(1);
            self.ends = match before.and_then(|at| bytes.get(at..)?.first_chunk()) {
                Some(block) => opcodes(block),
                // At the beginning, and at the end.
                None => opcodes(&core::array::from_fn(|at| {
                    (self.next + at).checked_sub(1).and_then(|at| bytes.get(at)).copied().unwrap_or(0)
                })),
            };
            self.block = self.next;
            self.next += BLOCK;
        }
    }

    /// The candidate whose opcode ends with the byte at this offset.
    fn candidate_at(&self, last: usize) -> Option<Candidate> {
        let bytes = self.text.bytes;
        let rel = i32::from_le_bytes(*bytes.get(last + 1..)?.first_chunk()?);
        let field = self.text.address.wrapping_add(last as u64 + 1);
        let target = field.wrapping_add(4).wrapping_add_signed(i64::from(rel));
        if !self.filter.may_hold(target) {
            return None;
        }
        let thunk = self.thunks.binary_search(&target).ok()?;
        let (kind, len) = match *bytes.get(last)? {
            CALL => (SiteKind::Call, 1),
            JUMP => (SiteKind::Jump, 1),
            _ => (SiteKind::Cond, 2),
        };
        Some(Candidate { opcode: field.wrapping_sub(len), field, kind, thunk })
    }
}

/// Answers for most addresses that they are no thunk's: a bit for each place that a thunk may have in a few
/// KiB.
#[derive(Clone, Copy, Debug)]
struct Filter([u64; 16]);

impl Filter {
    fn new(thunks: &[u64]) -> Filter {
        let mut filter = Filter([0; 16]);
        for &thunk in thunks {
            let (word, bit) = Filter::place(thunk);
            filter.0[word] |= 1 << bit;
        }
        filter
    }

    /// Thunks are aligned to 16 mostly.
    fn place(address: u64) -> (usize, u64) {
        ((address >> 10) as usize % 16, (address >> 4) % 64)
    }

    fn may_hold(&self, address: u64) -> bool {
        let (word, bit) = Filter::place(address);
        self.0[word] >> bit & 1 != 0
    }
}

/// Bytes looked at in one go. There is no branch in what is done for a whole block, so it becomes vector
/// code.
const BLOCK: usize = 64;

/// A bit for each byte but the first, set where the opcode of a direct branch may end.
#[inline]
fn opcodes(block: &[u8; BLOCK + 1]) -> u64 {
    let marks: [u8; BLOCK] = core::array::from_fn(|at| {
        let (before, byte) = (block[at], block[at + 1]);
        u8::from(byte & !1 == CALL) | u8::from(byte & 0xf0 == 0x80) & u8::from(before == ESCAPE)
    });
    let words = marks.as_chunks::<8>().0.iter();
    words.enumerate().fold(0, |bits, (n, word)| bits | bits_of(u64::from_le_bytes(*word)) << (8 * n))
}

/// Eight bytes that are 0 or 1 as eight bits. Byte *k* times 2 to the power of 56 - 7*k* comes to stand in
/// bit 56 + *k*; no two products meet.
const fn bits_of(word: u64) -> u64 {
    word.wrapping_mul(0x0102_0408_1020_4080) >> 56
}

impl<F: Functions> Iterator for Sites<'_, F> {
    type Item = Result<Site, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        let candidate = self.candidate()?;
        let Candidate { opcode: address, thunk, .. } = candidate;
        Some(self.verify(candidate).map_err(|reason| Refused { address, thunk, reason }))
    }
}
