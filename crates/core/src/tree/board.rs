//! A tree whose targets can be exchanged while threads run through it, though its code never changes.
//!
//! ```text
//! head:   incq  hits(%rip)            only while exact counting is on
//!         cmp   keys(%rip), %reg      keys are data
//!         je    word 0                jmp leaf: a gate's word, which changes as a whole
//!         cmp   keys+8(%rip), %reg
//!         je    word 1
//!         …                           the rest in the body
//!         jmp   miss
//! ```
//!
//! Where flags are live ([`super`]), keys are negative, and none of the code changes a flag: `mov key(%rip),
//! %rcx; lea (%rcx,%reg), %rcx; jrcxz hit`, all of it in the body.
//!
//! Keys and words are exchanged one by one, and a thread may stand anywhere between them. So what is found
//! here is a hint: each word leads to a *leaf*, a tree of one target ([`super::emit()`]) that never changes
//! and compares again. Whatever mixture of old and new a thread sees, it ends at the target that it asked
//! for, or at its retpoline.

use super::{CELL, Emitted};
use crate::arch::keep;
use crate::arch::x86_64::Reg;
use crate::arch::x86_64::encode::{Code, CodeError, Cond, INT3, ShortLabel};

/// Targets of a board.
pub const SLOTS: usize = 16;
/// Slots in the head: with counting, they fill it.
const HEAD_SLOTS: usize = 3;
/// Slots whose hits stand behind the last of them: `jrcxz` reaches no farther.
const GROUP: usize = 4;

/// Bytes of a board's body.
#[must_use]
pub const fn body_size(keeps_flags: bool) -> usize {
    if keeps_flags { 8 * CELL } else { 3 * CELL }
}

/// What a board should look like.
#[derive(Clone, Copy, Debug)]
pub struct BoardSpec {
    /// The register that holds the call's target.
    pub reg: Reg,
    /// Address of the first of [`SLOTS`] words of data, the keys.
    pub keys: u64,
    /// Addresses of the words that hits lead to.
    pub words: [u64; SLOTS],
    /// Where calls to anything else continue.
    pub miss: u64,
    /// Address of a 64-bit counter of all calls, or `None` for no counting.
    pub hits_counter: Option<u64>,
    /// As for trees.
    pub keeps_flags: bool,
}

/// Writes the board to `head_buf`, which will run at `head_at`, and `body_buf`, which will run at `body_at`:
/// the first [`CELL`] and the first [`body_size`] bytes, to the last.
///
/// # Errors
/// As for [`super::emit()`].
#[inline(never)]
pub fn emit(
    spec: &BoardSpec,
    head_buf: &mut [u8],
    head_at: u64,
    body_buf: &mut [u8],
    body_at: u64,
) -> Result<Emitted, CodeError> {
    let head_buf = head_buf.get_mut(..CELL).ok_or(CodeError::Overflow)?;
    let size = body_size(spec.keeps_flags);
    let body_buf = body_buf.get_mut(..size).ok_or(CodeError::Overflow)?;
    head_buf.fill(INT3);
    body_buf.fill(INT3);
    let (mut head, mut body) = (Code::new(head_buf, head_at), Code::new(body_buf, body_at));
    if spec.keeps_flags {
        write_keeping(spec, &mut head, &mut body);
    } else {
        write(spec, &mut head, &mut body);
    }
    head.finish()?;
    body.finish()?;
    Ok(Emitted { head: CELL, body: size })
}

fn write(spec: &BoardSpec, head: &mut Code<'_>, body: &mut Code<'_>) {
    if let Some(counter) = spec.hits_counter {
        head.inc_u64(counter);
    }
    let slots = spec.words.iter().zip((spec.keys..).step_by(8));
    slots.clone().take(HEAD_SLOTS).for_each(|(word, key)| slot(head, spec.reg, key, *word));
    head.jmp(body.here());
    slots.skip(HEAD_SLOTS).for_each(|(word, key)| slot(body, spec.reg, key, *word));
    body.jmp(spec.miss);
}

fn write_keeping(spec: &BoardSpec, head: &mut Code<'_>, body: &mut Code<'_>) {
    let target = keep::save(head, spec.reg);
    if let Some(counter) = spec.hits_counter {
        keep::count_up(head, counter);
    }
    head.jmp(body.here());
    let mut key = spec.keys;
    for words in spec.words.chunks(GROUP) {
        let mut hits = [ShortLabel::default(); GROUP];
        for (hit, _) in hits.iter_mut().zip(words) {
            body.load_u64(Reg::RCX, key);
            body.add_to_rcx(target);
            *hit = body.jrcxz_forward();
            key = key.wrapping_add(8);
        }
        let over = body.jmp_short_forward();
        for (hit, word) in hits.into_iter().zip(words) {
            body.bind_short(hit);
            keep::restore(body, spec.reg);
            body.jmp(*word);
        }
        body.bind_short(over);
    }
    keep::restore(body, spec.reg);
    body.jmp(spec.miss);
}

fn slot(code: &mut Code<'_>, reg: Reg, key: u64, word: u64) {
    code.cmp_mem(reg, key);
    code.jcc(Cond::E, word);
}

/// The key by which a slot is found that leads to `target`.
#[must_use]
pub fn key(target: u64, keeps_flags: bool) -> u64 {
    if keeps_flags { 0u64.wrapping_sub(target) } else { target }
}
