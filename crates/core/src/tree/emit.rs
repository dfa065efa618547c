//! Writing a tree down. See [`super`] for what it looks like.

use super::shape::{Fork, LEVELS, Walk, by_address};
use super::{CELL, Emitted, MAX_TARGETS, Target, TreeSpec, keeping};
use crate::arch::x86_64::Reg;
use crate::arch::x86_64::encode::{Code, CodeError, Cond, INT3, Label};
use crate::bounded::{at, put};

/// Targets that fit a head with their constants in the same cell.
const HEAD_CONSTANTS: usize = 2;
/// Offset of those constants.
const HEAD_POOL: usize = CELL - 8 * HEAD_CONSTANTS;
/// `cmp; je`, in either form.
const COMPARE_BYTES: usize = 13;
/// `ja` or `jb`.
const FORK_BYTES: usize = 6;
/// `jmp; int3`.
const JUMP_BYTES: usize = 6;
/// `decl; jle`.
const EXIT_BYTES: usize = 12;
/// Bytes of `incq` with a displacement, by which trees count.
const COUNT_BYTES: usize = 7;

/// How constants are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `cmp $imm32, %reg`.
    Immediate,
    /// `cmp constant(%rip), %reg`.
    Constant,
}

impl Form {
    fn of(targets: &[Target]) -> Form {
        if targets.iter().all(|t| immediate(t.address).is_some()) { Form::Immediate } else { Form::Constant }
    }

    /// Targets that fit the head.
    fn head_room(self, counted: bool) -> usize {
        match self {
            Form::Constant => HEAD_CONSTANTS,
            Form::Immediate => {
                let counting = if counted { COUNT_BYTES } else { 0 };
                (CELL - JUMP_BYTES - counting) / COMPARE_BYTES
            }
        }
    }
}

fn immediate(address: u64) -> Option<i32> {
    i32::try_from(address.cast_signed()).ok()
}

/// How a tree's targets are distributed over its parts.
struct Layout<'a> {
    form: Form,
    head: &'a [Target],
    chain: &'a [Target],
    search: &'a [Target],
    exits: Option<(u64, u64)>,
    /// Bytes of the body's code, without constants.
    code: usize,
}

impl<'a> Layout<'a> {
    fn of(spec: &TreeSpec<'a>) -> Layout<'a> {
        let form = Form::of(spec.targets);
        let (chain, search) = spec.targets.split_at(spec.chain.min(spec.targets.len()));
        let (head, chain) = chain.split_at(form.head_room(spec.hits_counter.is_some()).min(chain.len()));
        let exits = if search.is_empty() { None } else { spec.exits };
        let compares = (chain.len() + search.len()) * COMPARE_BYTES;
        let watch = if exits.is_some() { EXIT_BYTES } else { 0 };
        let code = compares + watch + fork_bytes(search);
        Layout { form, head, chain, search, exits, code }
    }

    fn has_body(&self) -> bool {
        !self.chain.is_empty() || !self.search.is_empty()
    }

    /// Offset and size of the body's constants.
    fn pool(&self) -> (usize, usize) {
        let constants = match self.form {
            Form::Immediate => 0,
            Form::Constant => (self.chain.len() + self.search.len()) * 8,
        };
        (self.code.next_multiple_of(8), constants)
    }

    fn body_bytes(&self) -> usize {
        if !self.has_body() {
            return 0;
        }
        let (at, bytes) = self.pool();
        (at + bytes).next_multiple_of(CELL)
    }
}

/// Bytes of a search tree's forks, and of the jumps to `miss` at its leaves.
fn fork_bytes(search: &[Target]) -> usize {
    let order = by_address(search);
    let forks = Walk::new(search.len(), |i| at(search, usize::from(at(&order, i))).share)
        .filter(|node| matches!(node.fork, Fork::AboveFirst | Fork::BelowFirst))
        .count();
    // `f` two-way forks make `f + 1` leaves; without a search tree the chain has one end.
    forks * FORK_BYTES + (forks + 1) * JUMP_BYTES
}

/// Bytes of body that the tree needs: a multiple of [`CELL`], 0 when the head holds everything.
#[must_use]
#[inline(never)]
pub fn body_size(spec: &TreeSpec<'_>) -> usize {
    if keeps_flags(spec) {
        return keeping::body_size(spec);
    }
    comparing_body_size(spec)
}

#[inline(never)]
fn comparing_body_size(spec: &TreeSpec<'_>) -> usize {
    Layout::of(spec).body_bytes()
}

fn keeps_flags(spec: &TreeSpec<'_>) -> bool {
    // The broken variant that the tests must catch: trees at jumps compare as those at calls do.
    spec.keeps_flags && !cfg!(relpoline_broken = "flags-at-goto")
}

/// Writes the tree to `head_buf`, which will run at `head_at`, and `body_buf`, which will run at `body_at`.
///
/// The first [`CELL`] bytes of `head_buf` and the first [`body_size`] bytes of `body_buf` are written, to
/// the last byte. Addresses must be multiples of 8, and should be of [`CELL`].
///
/// # Errors
/// [`CodeError::Overflow`] when a buffer is too small or there are more than [`MAX_TARGETS`] targets;
/// [`CodeError::OutOfReach`] when a target, a counter or the other part is more than 2 GiB away;
/// [`CodeError::Register`] when flags are to be kept and the target is in rsp. The buffers then hold
/// unfinished code.
#[inline(never)]
pub fn emit(
    spec: &TreeSpec<'_>,
    head_buf: &mut [u8],
    head_at: u64,
    body_buf: &mut [u8],
    body_at: u64,
) -> Result<Emitted, CodeError> {
    if spec.targets.len() > MAX_TARGETS {
        return Err(CodeError::Overflow);
    }
    if keeps_flags(spec) {
        return keeping::emit(spec, head_buf, head_at, body_buf, body_at);
    }
    emit_comparing(spec, head_buf, head_at, body_buf, body_at)
}

#[inline(never)]
fn emit_comparing(
    spec: &TreeSpec<'_>,
    head_buf: &mut [u8],
    head_at: u64,
    body_buf: &mut [u8],
    body_at: u64,
) -> Result<Emitted, CodeError> {
    let layout = Layout::of(spec);
    let body = layout.body_bytes();
    let onward = if layout.has_body() { body_at } else { spec.miss };
    emit_head(spec, &layout, onward, head_buf.get_mut(..CELL).ok_or(CodeError::Overflow)?, head_at)?;
    if body > 0 {
        emit_body(spec, &layout, body_buf.get_mut(..body).ok_or(CodeError::Overflow)?, body_at)?;
    }
    Ok(Emitted { head: CELL, body })
}

/// Code in front, the constants it compares with behind.
struct Writer<'a> {
    reg: Reg,
    form: Form,
    code: Code<'a>,
    pool: Code<'a>,
}

impl<'a> Writer<'a> {
    fn new(reg: Reg, form: Form, buf: &'a mut [u8], at: u64, pool_at: usize) -> Writer<'a> {
        buf.fill(INT3);
        let (code, pool) = buf.split_at_mut(pool_at);
        Writer { reg, form, code: Code::new(code, at), pool: Code::new(pool, at.wrapping_add(pool_at as u64)) }
    }

    /// `if reg == address, jump to address`. The one place where a target is compared: both mentions of it
    /// come from the same value.
    fn compare(&mut self, address: u64) {
        // The deliberate fault that the tests must notice: comparing with a neighbour of what is jumped to.
        let compared = if cfg!(relpoline_broken = "tree-compare") { address ^ 1 } else { address };
        match (self.form, immediate(compared)) {
            (Form::Immediate, Some(imm)) => self.code.cmp_imm32(self.reg, imm),
            _ => {
                self.code.cmp_mem(self.reg, self.pool.here());
                self.pool.bytes(&compared.to_le_bytes());
            }
        }
        self.code.jcc(Cond::E, address);
    }

    fn finish(self) -> Result<(), CodeError> {
        self.code.finish()?;
        self.pool.finish()?;
        Ok(())
    }
}

fn emit_head(spec: &TreeSpec<'_>, layout: &Layout<'_>, onward: u64, buf: &mut [u8], at: u64) -> Result<(), CodeError> {
    let pool_at = match layout.form {
        Form::Immediate => CELL,
        Form::Constant => HEAD_POOL,
    };
    let mut w = Writer::new(spec.reg, layout.form, buf, at, pool_at);
    if let Some(counter) = spec.hits_counter {
        w.code.inc_u64(counter);
    }
    for target in layout.head {
        w.compare(target.address);
    }
    w.code.jmp(onward);
    w.finish()
}

fn emit_body(spec: &TreeSpec<'_>, layout: &Layout<'_>, buf: &mut [u8], at: u64) -> Result<(), CodeError> {
    let mut w = Writer::new(spec.reg, layout.form, buf, at, layout.pool().0);
    for target in layout.chain {
        w.compare(target.address);
    }
    if let Some((counter, slow)) = layout.exits {
        w.code.dec_u32(counter);
        w.code.jcc(Cond::Le, slow);
    }
    if layout.search.is_empty() {
        w.code.jmp(spec.miss);
    } else {
        emit_search(spec.miss, layout.search, &mut w);
    }
    w.finish()
}

fn emit_search(miss: u64, targets: &[Target], w: &mut Writer<'_>) {
    let order = by_address(targets);
    let target = |i: usize| at(targets, usize::from(at(&order, i)));
    let mut labels: [Option<Label>; LEVELS] = [None; LEVELS];
    let mut postponed = 0;
    for node in Walk::new(targets.len(), |i| target(i).share) {
        w.compare(target(node.root).address);
        match node.fork {
            Fork::One => {}
            Fork::AboveFirst | Fork::BelowFirst => {
                let away = if node.fork == Fork::AboveFirst { Cond::B } else { Cond::A };
                let label = w.code.jcc_forward(away);
                put(&mut labels, postponed, Some(label));
                postponed += 1;
            }
            Fork::Leaf => {
                w.code.jmp(miss);
                postponed = postponed.saturating_sub(1);
                if let Some(label) = labels.get_mut(postponed).and_then(Option::take) {
                    w.code.bind(label);
                }
            }
        }
    }
}

/// A number that equal trees share: same register, same chain in the same order, same set behind it.
///
/// Shares, addresses of counters and where misses go are left out: an earlier tree of the same site with
/// this fingerprint does the same job, perhaps differently balanced. Not cryptographic; never 0, so that 0
/// can stand for "no tree".
#[must_use]
pub fn fingerprint(spec: &TreeSpec<'_>) -> u64 {
    let (chain, search) = spec.targets.split_at(spec.chain.min(spec.targets.len()));
    let seed = u64::from(spec.reg.number())
        | (u64::from(spec.keeps_flags) << 24)
        | ((chain.len() as u64) << 8)
        | ((search.len() as u64) << 16);
    let ordered = chain.iter().fold(mix(seed), |h, t| mix(h ^ t.address));
    // A sum does not depend on the order of its terms.
    let set = search.iter().fold(0u64, |h, t| h.wrapping_add(mix(t.address)));
    mix(ordered ^ set.rotate_left(32)).max(1)
}

/// A bijective mix of 64 bits (two rounds of xor-shift and multiply).
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}
