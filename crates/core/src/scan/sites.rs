//! The search for sites.
//!
//! Any branch opcode, wherever it stands, behind which four bytes lead to a thunk when read as a
//! displacement, is a candidate. Finding them is a search for three bytes, which costs the same however far
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
    /// Where to go on: every branch opcode that begins before it has been looked at.
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
/// The first byte of the conditional jumps' opcodes.
const ESCAPE: u8 = 0x0f;

impl<'a, F: Functions> Sites<'a, F> {
    /// Searches `text` for branches to `thunks`, a sorted list of addresses (not necessarily in the text).
    pub fn new(text: Region<'a>, thunks: &'a [u64], functions: F) -> Sites<'a, F> {
        let next = if thunks.is_empty() { text.bytes.len() } else { 0 };
        Sites { text, thunks, functions, next, place: None }
    }

    /// Holds a candidate against instruction boundaries.
    fn verify(&mut self, candidate: Candidate) -> Result<Site, Refusal> {
        let mut place = match self.place {
            Some(place) if place.function.contains(candidate.opcode) => place,
            _ => {
                let function = self.functions.containing(candidate.opcode).ok_or(Refusal::NoFunction)?;
                // In a sorted table none begins before one that was met before. Others could have all of the text read
                // anew for each candidate.
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
        let (bytes, begun) = (self.text.bytes, self.next);
        for opcode in opcodes(bytes.get(begun..)?).map(|at| begun + at) {
            if let Some(candidate) = self.candidate_at(opcode) {
                self.next = opcode + 1;
                return Some(candidate);
            }
        }
        self.next = bytes.len();
        None
    }

    fn candidate_at(&self, opcode: usize) -> Option<Candidate> {
        let bytes = self.text.bytes;
        let (kind, field) = match *bytes.get(opcode..)?.first_chunk::<2>()? {
            [CALL, _] => (SiteKind::Call, opcode + 1),
            [JUMP, _] => (SiteKind::Jump, opcode + 1),
            [ESCAPE, 0x80..=0x8f] => (SiteKind::Cond, opcode + 2),
            _ => return None,
        };
        let rel = i32::from_le_bytes(*bytes.get(field..)?.first_chunk()?);
        let field = self.text.address.wrapping_add(field as u64);
        let target = field.wrapping_add(4).wrapping_add_signed(i64::from(rel));
        // Most branches lead to no thunk, and most of them to nowhere near one.
        if target < *self.thunks.first()? || target > *self.thunks.last()? {
            return None;
        }
        let thunk = self.thunks.binary_search(&target).ok()?;
        Some(Candidate { opcode: self.text.address.wrapping_add(opcode as u64), field, kind, thunk })
    }
}

/// The places of all bytes that a direct branch may begin with.
#[cfg(not(relpoline_kernel))]
fn opcodes(bytes: &[u8]) -> impl Iterator<Item = usize> {
    memchr::memchr3_iter(CALL, JUMP, ESCAPE, bytes)
}

/// The same where there are no vector registers to search with.
#[cfg(relpoline_kernel)]
fn opcodes(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.iter().enumerate().filter(|(_, byte)| matches!(**byte, CALL | JUMP | ESCAPE)).map(|(at, _)| at)
}

impl<F: Functions> Iterator for Sites<'_, F> {
    type Item = Result<Site, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        let candidate = self.candidate()?;
        let Candidate { opcode: address, thunk, .. } = candidate;
        Some(self.verify(candidate).map_err(|reason| Refused { address, thunk, reason }))
    }
}
