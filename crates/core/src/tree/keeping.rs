//! Writing down a tree that changes no flag. See [`super`] for what it looks like, and [`keep`] for what it
//! is made of.
//!
//! `jrcxz` reaches 127 bytes. So the code behind a hit stands close by: behind the end of its way, or, in a
//! long chain, behind a group of [`GROUP`] compares. How long the code gets depends on the distances between
//! targets; it is measured by writing it nowhere.

use super::shape::{Fork, LEVELS, Walk, by_address};
use super::{CELL, Emitted, Target, TreeSpec};
use crate::arch::Reg;
use crate::arch::encode::{Code, CodeError, INT3, Label, ShortLabel};
use crate::arch::keep;
use crate::bounded::{after, at, first, put};

/// Compares whose hits stand behind the last of them. Each is at most 16 bytes long, a hit at most 14, and
/// the way out between them 20: less than 127 for any of the hits.
const GROUP: usize = 6;
/// Most targets that may fit a head.
const HEAD_MOST: usize = 3;

/// The targets of a tree's parts.
struct Parts<'a> {
    head: &'a [Target],
    chain: &'a [Target],
    search: &'a [Target],
}

impl<'a> Parts<'a> {
    fn of(spec: &TreeSpec<'a>) -> Parts<'a> {
        let chain = first(spec.targets, spec.chain);
        let search = after(spec.targets, chain.len());
        let mut room = HEAD_MOST.min(chain.len());
        loop {
            let parts = Parts { head: first(chain, room), chain: after(chain, room), search };
            if room == 0 || parts.head_len(spec) <= CELL {
                return parts;
            }
            room -= 1;
        }
    }

    fn has_body(&self) -> bool {
        !self.chain.is_empty() || !self.search.is_empty()
    }

    #[inline(never)]
    fn head_len(&self, spec: &TreeSpec<'_>) -> usize {
        let mut w = Writer::new(spec.reg, Code::measuring());
        self.write_head(spec, 0, &mut w);
        w.code.len()
    }

    fn write_head(&self, spec: &TreeSpec<'_>, body_at: u64, w: &mut Writer<'_>) {
        keep::save(&mut w.code, spec.reg);
        if let Some(counter) = spec.hits_counter {
            keep::count_up(&mut w.code, counter);
        }
        self.head.iter().for_each(|target| w.compare(target.address));
        if self.has_body() {
            w.code.jmp(body_at);
            w.write_hits();
        } else {
            w.leave(spec.miss);
        }
    }

    #[inline(never)]
    fn write_body(&self, spec: &TreeSpec<'_>, w: &mut Writer<'_>) {
        w.distance_from = self.head.last().map(|target| target.address);
        self.chain.iter().for_each(|target| w.compare(target.address));
        if self.search.is_empty() {
            return w.leave(spec.miss);
        }
        if let Some((counter, slow)) = spec.exits {
            w.watch(counter, slow);
        }
        write_search(spec.miss, self.search, w);
    }

    #[inline(never)]
    fn body_len(&self, spec: &TreeSpec<'_>) -> usize {
        if !self.has_body() {
            return 0;
        }
        let mut w = Writer::new(spec.reg, Code::measuring());
        self.write_body(spec, &mut w);
        w.code.len().next_multiple_of(CELL)
    }
}

#[inline(never)]
pub(super) fn body_size(spec: &TreeSpec<'_>) -> usize {
    Parts::of(spec).body_len(spec)
}

#[inline(never)]
pub(super) fn emit(
    spec: &TreeSpec<'_>,
    head_buf: &mut [u8],
    head_at: u64,
    body_buf: &mut [u8],
    body_at: u64,
) -> Result<Emitted, CodeError> {
    let parts = Parts::of(spec);
    let body = parts.body_len(spec);
    let head_buf = head_buf.get_mut(..CELL).ok_or(CodeError::Overflow)?;
    let body_buf = body_buf.get_mut(..body).ok_or(CodeError::Overflow)?;
    head_buf.fill(INT3);
    body_buf.fill(INT3);
    written(spec, Code::new(head_buf, head_at), |w| parts.write_head(spec, body_at, w))?;
    if body > 0 {
        written(spec, Code::new(body_buf, body_at), |w| parts.write_body(spec, w))?;
    }
    Ok(Emitted { head: CELL, body })
}

#[inline(never)]
fn written(spec: &TreeSpec<'_>, code: Code<'_>, write: impl FnOnce(&mut Writer<'_>)) -> Result<(), CodeError> {
    let mut w = Writer::new(spec.reg, code);
    write(&mut w);
    w.code.finish().map(|_| ())
}

/// The code between [`keep::save`] and the ways out of it.
struct Writer<'a> {
    reg: Reg,
    /// Where the target is meanwhile.
    key: Reg,
    code: Code<'a>,
    /// rcx holds the key's distance from this.
    distance_from: Option<u64>,
    /// Hits that are still to be written.
    hits: [u64; GROUP],
    labels: [ShortLabel; GROUP],
    waiting: usize,
}

impl<'a> Writer<'a> {
    fn new(reg: Reg, code: Code<'a>) -> Writer<'a> {
        let key = if reg == Reg::RCX { Reg::RAX } else { reg };
        Writer {
            reg,
            key,
            code,
            distance_from: None,
            hits: [0; GROUP],
            labels: [ShortLabel::default(); GROUP],
            waiting: 0,
        }
    }

    /// `if key == address, jump to address`. The one place where a target is compared: both mentions of it
    /// come from the same value.
    fn compare(&mut self, address: u64) {
        if self.waiting == GROUP {
            self.skip_hits();
        }
        // The deliberate fault that the tests must notice: comparing with a neighbour of what is jumped to.
        let compared = if cfg!(relpoline_broken = "tree-compare") { address ^ 1 } else { address };
        keep::distance(&mut self.code, self.key, self.distance_from, compared);
        self.distance_from = Some(compared);
        let label = self.code.jrcxz_forward();
        put(&mut self.labels, self.waiting, label);
        put(&mut self.hits, self.waiting, address);
        self.waiting += 1;
    }

    /// Writes what hits lead to. Nobody comes from above.
    fn write_hits(&mut self) {
        for n in 0..self.waiting {
            self.code.bind_short(at(&self.labels, n));
            keep::restore(&mut self.code, self.reg);
            self.code.jmp(at(&self.hits, n));
        }
        self.waiting = 0;
    }

    fn skip_hits(&mut self) {
        if self.waiting > 0 {
            let over = self.code.jmp_short_forward();
            self.write_hits();
            self.code.bind_short(over);
        }
    }

    /// The end of a way.
    fn leave(&mut self, to: u64) {
        keep::restore(&mut self.code, self.reg);
        self.code.jmp(to);
        self.write_hits();
    }

    /// Counts down, and leaves for `slow` when that is over.
    fn watch(&mut self, counter: u64, slow: u64) {
        self.skip_hits();
        let goes_on = keep::count_down(&mut self.code, counter);
        self.leave(slow);
        self.code.bind_short(goes_on);
        self.distance_from = None;
    }

    /// Parts the keys above the address that was compared last from those below. The side that the fork says
    /// comes next; the other is to be bound.
    fn fork(&mut self, fork: Fork) -> Label {
        let above = keep::jump_if_above(&mut self.code);
        self.distance_from = None;
        if fork == Fork::AboveFirst {
            let below = self.code.jmp_forward();
            self.write_hits();
            self.code.bind_short(above);
            return below;
        }
        let below = self.code.jmp_short_forward();
        self.code.bind_short(above);
        let above = self.code.jmp_forward();
        self.write_hits();
        self.code.bind_short(below);
        above
    }
}

fn write_search(miss: u64, targets: &[Target], w: &mut Writer<'_>) {
    let order = by_address(targets);
    let target = |i: usize| at(targets, usize::from(at(&order, i)));
    let mut labels: [Option<Label>; LEVELS] = [None; LEVELS];
    let mut postponed = 0usize;
    for node in Walk::new(targets.len(), |i| target(i).share) {
        w.compare(target(node.root).address);
        match node.fork {
            Fork::One => {}
            Fork::AboveFirst | Fork::BelowFirst => {
                put(&mut labels, postponed, Some(w.fork(node.fork)));
                postponed += 1;
            }
            Fork::Leaf => {
                w.leave(miss);
                w.distance_from = None;
                postponed = postponed.saturating_sub(1);
                if let Some(label) = labels.get_mut(postponed).and_then(Option::take) {
                    w.code.bind(label);
                }
            }
        }
    }
}
