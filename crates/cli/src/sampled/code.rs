//! Where in its code a sample found a thread: in which retpoline, and called from which site.
//!
//! A thunk's first instruction is a call, so behind it one word more lies on the stack; below that is the
//! address to which the thunk's *caller* wants to be returned to. Before that address stands the site, if it
//! is a call: it is read, and it is the site only if it leads to that very thunk.
//!
//! Mostly, though, the thread is found one step later: a retpoline ends in a return that the processor has
//! foretold wrong, and while it begins anew, the instruction that is next is the *target's first one*. There
//! the address on top of the stack is the one to which the site wants to be returned to. Whether an
//! instruction is a function's first one is for others to say, so these places are kept with it. Whoever
//! jumps to a thunk leaves no trace.

use std::collections::HashMap;

use relpoline_core::arch::thunk;

use super::event::Sample;
use crate::live::memory;

/// No thunk is longer.
const LONGEST: u64 = 64;
const PAGE: u64 = 4096;
/// A call of a thunk.
const CALL: u8 = 0xe8;
const CALL_BYTES: u64 = 5;
/// Places that are remembered; then it begins anew.
const MOST: usize = 1 << 14;

/// Stands for whatever thunk it is.
const ANY: u64 = 0;

/// Where a thread waited for a retpoline.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// The call at this address.
    Site(u64),
    /// The thunk at this address, for somebody.
    Thunk(u64),
    /// Behind the retpoline of a call: at this instruction, before anything was put onto the stack.
    Behind {
        /// The call.
        site: u64,
        /// The instruction.
        at: u64,
    },
}

/// What is known of a process' code.
#[derive(Default, Debug)]
pub struct Code {
    /// The thunk in which an instruction lies.
    thunks: HashMap<u64, Option<u64>>,
    /// The call that a thunk returns behind.
    sites: HashMap<(u64, u64), Option<u64>>,
}

impl Code {
    /// The place of a sample; nothing when it is in no retpoline. `read` reads the process' memory.
    pub fn place(&mut self, sample: &Sample, read: &impl Fn(u64, &mut [u8]) -> bool) -> Option<Place> {
        if self.thunks.len() + self.sites.len() > MOST {
            *self = Self::default();
        }
        let Some(thunk) = *self.thunks.entry(sample.at).or_insert_with(|| thunk_around(sample.at, read)) else {
            let behind = sample.stack[0];
            let site = self.sites.entry((ANY, behind)).or_insert_with(|| site_of_any(behind, read));
            return site.map(|site| Place::Behind { site, at: sample.at });
        };
        let behind = if sample.at == thunk { sample.stack[0] } else { sample.stack[1] };
        let site = *self.sites.entry((thunk, behind)).or_insert_with(|| site_before(behind, thunk, read));
        Some(site.map_or(Place::Thunk(thunk), Place::Site))
    }
}

/// Reads the memory of a process.
pub fn of_process(pid: u32) -> impl Fn(u64, &mut [u8]) -> bool {
    move |address, buffer| memory::read(pid, address, buffer).is_ok()
}

/// The first instruction of the thunk in which an instruction lies.
fn thunk_around(at: u64, read: &impl Fn(u64, &mut [u8]) -> bool) -> Option<u64> {
    let page = at & !(PAGE - 1);
    // Nothing may be mapped on the pages beside its own.
    let whole = (at.checked_sub(LONGEST)?, at.checked_add(LONGEST)?);
    let within = (whole.0.max(page), whole.1.min(page + PAGE));
    for (from, to) in [whole, within] {
        let mut bytes = vec![0; usize::try_from(to - from).ok()?];
        if read(from, &mut bytes) {
            let starts = thunk::find(&bytes).filter(|(_, thunk)| thunk.shape.begins_with_call());
            let found = starts.map(|(offset, thunk)| (from + offset as u64, u64::from(thunk.len)));
            return found.filter(|(start, len)| (*start..start + len).contains(&at)).map(|(start, _)| start).next();
        }
    }
    None
}

/// The call before `behind`, if it is one of that thunk.
fn site_before(behind: u64, thunk: u64, read: &impl Fn(u64, &mut [u8]) -> bool) -> Option<u64> {
    call_before(behind, read).filter(|(_, leads_to)| *leads_to == thunk).map(|(at, _)| at)
}

/// The call before `behind`, if it is one of a thunk.
fn site_of_any(behind: u64, read: &impl Fn(u64, &mut [u8]) -> bool) -> Option<u64> {
    let (at, leads_to) = call_before(behind, read)?;
    (thunk_around(leads_to, read)? == leads_to).then_some(at)
}

/// The direct call before `behind`, and where it leads to.
fn call_before(behind: u64, read: &impl Fn(u64, &mut [u8]) -> bool) -> Option<(u64, u64)> {
    let at = behind.checked_sub(CALL_BYTES)?;
    let mut bytes = [0; CALL_BYTES as usize];
    if !read(at, &mut bytes) {
        return None;
    }
    let [CALL, distance @ ..] = bytes else { return None };
    Some((at, behind.wrapping_add_signed(i32::from_le_bytes(distance).into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// gcc's thunk for rax.
    const THUNK: [u8; 17] = [0xe8, 7, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0x48, 0x89, 0x04, 0x24, 0xc3];
    /// Where the code lies, a call of the thunk in it, and the thunk.
    const CODE: u64 = 0x40_1000;
    const SITE: u64 = CODE + 0x20;
    const AT: u64 = CODE + 0x100;

    fn code() -> Vec<u8> {
        let mut code = vec![0x90; 0x200];
        code[0x20] = CALL;
        code[0x21..0x25].copy_from_slice(&0xdb_u32.to_le_bytes());
        code[0x100..0x111].copy_from_slice(&THUNK);
        code
    }

    fn read(address: u64, buffer: &mut [u8]) -> bool {
        let code = code();
        let Ok(from) = usize::try_from(address.wrapping_sub(CODE)) else { return false };
        let found = code.get(from..from.saturating_add(buffer.len()));
        found.map(|found| buffer.copy_from_slice(found)).is_some()
    }

    #[test]
    fn a_call_is_known_by_where_it_returns() {
        let mut known = Code::default();
        let mut place = |at, stack| known.place(&Sample { at, stack }, &read);
        assert_eq!(place(AT, [SITE + 5, 7]), Some(Place::Site(SITE)));
        for inside in [12, 16] {
            assert_eq!(place(AT + inside, [AT + 5, SITE + 5]), Some(Place::Site(SITE)));
        }
        // Somebody jumped there: what lies on the stack is anything.
        for anything in [0, 4, SITE + 6, AT + 5, u64::MAX] {
            assert_eq!(place(AT, [anything, SITE + 5]), Some(Place::Thunk(AT)));
        }
        for at in [AT + 17, SITE, CODE + 0x180] {
            assert_eq!(place(at, [SITE + 5, SITE + 5]), Some(Place::Behind { site: SITE, at }));
            assert_eq!(place(at, [SITE + 6, SITE + 5]), None, "no call stands before that");
        }
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut known = Code::default();
        for at in 0..3 * MOST as u64 {
            known.place(&Sample { at, stack: [0, 0] }, &|_, _| false);
        }
        assert!(known.thunks.len() <= MOST + 1);
    }
}
