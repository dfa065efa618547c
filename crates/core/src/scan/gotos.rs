//! Tail calls and computed gotos.
//!
//! `jmp thunk` is either a tail call, where the calling convention makes the flags dead, or a computed goto
//! (`goto *table[i]`), where nothing does. The two look alike, and symbols that could tell are stripped. So
//! every address of code that appears anywhere as data is looked at: one that points *into* a function,
//! rather than at its start, is a **label**. A function without labels has no gotos. In a function with
//! labels every thunked jump is taken for a goto, and promoted only if the flags are dead at every label.
//!
//! ```text
//! data word     → inside F          label of F
//!               → start of a part   label: nothing calls a part (gcc's F.cold)
//!               → start of F        a function pointer
//! lea, constant → inside F          label, and offsets may be added to it: F is refused
//! F jumps to    → inside G          G's labels are F's as well (F.cold, again)
//!               → start of G        a tail call, or a cold part that unwind rules do not give away:
//!                                   in a function with labels it is checked like one
//! ```
//!
//! Labels in parts count for every function with labels, since a part may be entered by a goto alone. A
//! part shows itself in its unwind rules, which begin with a frame that stands already, or by a jump out of
//! it into the middle of a function ([`Gotos::mark_parts`]); then its first byte counts as a label too.
//!
//! A label whose address is only ever computed is invisible to this. Two signs of it are refused: code that
//! takes the address of a label, as the base of such a computation, and a jump through a register that was
//! added to last (module `sources`).
//!
//! Everything is kept in scratch memory that the caller brings, one word per function with thunked jumps and
//! one per label.

use super::{Function, Functions, Refusal, Region, Site, SiteKind, flags, sources::Sums};
use crate::arch::{
    Reg,
    decode::{Flow, Insn, decode},
};

/// What is looked at: one object's code.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a, F> {
    /// The whole executable segment.
    pub text: Region<'a>,
    /// The addresses of the thunks, sorted.
    pub thunks: &'a [u64],
    /// Their registers, in the same order.
    pub registers: &'a [Reg],
    /// The functions in the text.
    pub functions: F,
    /// Whether the code may hold addresses as constants: it is linked to a fixed place.
    pub is_position_dependent: bool,
}

/// Collects what the verdicts need: first the sites, then the labels.
#[derive(Debug)]
pub struct Gotos<'a, F> {
    object: Object<'a, F>,
    /// First the functions with thunked jumps, packed and sorted, then the labels.
    scratch: &'a mut [u64],
    functions: usize,
    labels: usize,
    overflow: bool,
}

/// A label in one word: its offset in the text, and whether code takes its address, whether it lies in a
/// part. Sorted as numbers they are sorted by offset.
#[derive(Clone, Copy)]
struct Label(u64);

impl Label {
    const TAKEN: u64 = 1;
    const IN_PART: u64 = 2;

    fn new(offset: u64, is_taken: bool, in_part: bool) -> Label {
        Label(offset << 2 | if is_taken { Label::TAKEN } else { 0 } | if in_part { Label::IN_PART } else { 0 })
    }

    fn offset(self) -> u64 {
        self.0 >> 2
    }

    fn address(self, text: Region<'_>) -> u64 {
        text.address.wrapping_add(self.offset())
    }

    fn is_taken(self) -> bool {
        self.0 & Label::TAKEN != 0
    }

    fn in_part(self) -> bool {
        self.0 & Label::IN_PART != 0
    }
}

impl<'a, F: Functions> Gotos<'a, F> {
    /// Starts with nothing known. Scratch memory of one word per jump site and one per label is enough;
    /// with less, what does not fit is refused.
    pub fn new(object: Object<'a, F>, scratch: &'a mut [u64]) -> Gotos<'a, F> {
        // Ranges are packed into halves of words.
        let overflow = u32::try_from(object.text.bytes.len()).is_err();
        Gotos { object, scratch, functions: 0, labels: 0, overflow }
    }

    /// Adds a site. To be called for all sites, in their order, before any label; calls are ignored.
    pub fn add_site(&mut self, site: &Site) {
        let packed = self.pack(site.function);
        let is_known = self.functions > 0 && self.scratch.get(self.functions - 1) == Some(&packed);
        if site.kind == SiteKind::Call || is_known || self.overflow {
            return;
        }
        match self.scratch.get_mut(self.functions) {
            Some(slot) => {
                *slot = packed;
                self.functions += 1;
            }
            None => self.overflow = true,
        }
    }

    /// Whether no jump site was added: then labels need not be collected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions == 0
    }

    /// Adds a word of data that may be an address: a relocation's result, or an aligned word.
    pub fn add_data_word(&mut self, value: u64) {
        if !self.object.text.contains(value) {
            return;
        }
        if let Some(function) = self.object.functions.containing(value)
            && function.is_interior(value)
        {
            self.push(value, false, function);
        }
    }

    /// Searches the whole text for `lea label(%rip), %reg` into functions with jump sites.
    ///
    /// This is a search for bytes, which needs no instruction boundaries and so misses nothing.
    pub fn collect_leas(&mut self) {
        let Some((low, span)) = self.listed_span() else {
            return;
        };
        let bytes = self.object.text.bytes;
        for target in memchr::memchr_iter(LEA, bytes).filter_map(|at| lea(bytes, at)) {
            self.add_lea(target, low, span);
        }
    }

    fn add_lea(&mut self, offset: u64, low: u64, span: u64) {
        if offset.wrapping_sub(low) >= span {
            return;
        }
        let address = self.object.text.address.wrapping_add(offset);
        if self.listed(offset).is_some()
            && let Some(function) = self.object.functions.containing(address)
            && function.is_interior(address)
        {
            self.push(address, true, function);
        }
    }

    /// Ends collecting.
    #[must_use]
    pub fn finish(mut self) -> Verdicts<'a, F> {
        if self.labels > 0 {
            self.mark_parts();
        }
        let Gotos { object, scratch, functions, labels, overflow } = self;
        Verdicts { object, labels: &scratch[functions..functions + labels], overflow, last: None }
    }

    /// Finds the parts that unwind rules do not give away: something in them jumps into the middle of a
    /// function with jump sites. Their starts become labels, and the labels in them those of a part.
    fn mark_parts(&mut self) {
        self.collect_part_starts();
        let labels = &mut self.scratch[self.functions..self.functions + self.labels];
        labels.sort_unstable();
        let text = self.object.text;
        let mut part = Function::new(0, 0);
        for i in 0..labels.len() {
            let label = Label(labels[i]);
            if label.in_part() && !part.contains(label.address(text)) {
                part = self.object.functions.containing(label.address(text)).unwrap_or(part);
                // The start of a part sorts before the other labels in it.
                for other in &mut labels[i..] {
                    let is_inside = part.contains(Label(*other).address(text));
                    *other |= if is_inside { Label::IN_PART } else { 0 };
                }
            }
        }
    }

    fn collect_part_starts(&mut self) {
        let Some((low, span)) = self.labelled_span() else {
            return;
        };
        let text = self.object.text;
        let mut here = Stretch::default();
        for (opcode, target) in memchr::memchr2_iter(JUMP, ESCAPE, text.bytes).filter_map(|at| jump(text.bytes, at)) {
            if target.wrapping_sub(low) > span {
                continue;
            }
            // Nearly all jumps stay in their function, and leave what surrounds them as it is.
            here.move_to(opcode, &self.scratch[..self.functions]);
            if here.contains(target) {
                continue;
            }
            let Some(packed) = self.listed(target) else {
                continue;
            };
            let is_crossing = target > packed >> 32 && !is_in(packed, opcode);
            let source = text.address.wrapping_add(opcode);
            if is_crossing && let Some(function) = self.object.functions.containing(source) {
                self.push(function.start, false, Function { is_part: true, ..function });
            }
        }
    }

    /// The lowest offset of a function with jump sites, and how far it is from there to the highest.
    fn listed_span(&self) -> Option<(u64, u64)> {
        let listed = &self.scratch[..self.functions];
        let low = listed.first()? >> 32;
        Some((low, (listed.last()? & 0xffff_ffff).saturating_sub(low)))
    }

    /// The same for those that hold labels.
    fn labelled_span(&self) -> Option<(u64, u64)> {
        let labels = &self.scratch[self.functions..self.functions + self.labels];
        let ranges = || labels.iter().filter_map(|&word| self.listed(Label(word).offset()));
        let low = ranges().min()? >> 32;
        Some((low, (ranges().max()? & 0xffff_ffff).saturating_sub(low)))
    }

    /// The function with jump sites that holds the byte at `offset`, packed.
    fn listed(&self, offset: u64) -> Option<u64> {
        let listed = &self.scratch[..self.functions];
        let before = listed.partition_point(|packed| packed >> 32 <= offset);
        let packed = *listed.get(before.checked_sub(1)?)?;
        is_in(packed, offset).then_some(packed)
    }

    fn push(&mut self, address: u64, is_taken: bool, function: Function) {
        let offset = address.wrapping_sub(self.object.text.address);
        let label = Label::new(offset, is_taken, function.is_part).0;
        // The same word often comes several times in a row.
        let end = self.functions + self.labels;
        if self.labels > 0 && self.scratch[end - 1] == label {
            return;
        }
        match self.scratch.get_mut(end) {
            Some(slot) => {
                *slot = label;
                self.labels += 1;
            }
            None => self.overflow = true,
        }
    }

    /// A function's range as two offsets in one word.
    fn pack(&self, function: Function) -> u64 {
        let text = self.object.text;
        let offset = |address: u64| address.wrapping_sub(text.address).min(text.bytes.len() as u64);
        offset(function.start) << 32 | offset(function.end)
    }
}

/// The opcode of `lea`.
const LEA: u8 = 0x8d;

/// The target's offset of the rip-relative `lea` whose opcode stands at `at`.
fn lea(bytes: &[u8], at: usize) -> Option<u64> {
    let [LEA, modrm, disp @ ..] = *bytes.get(at..)?.first_chunk::<6>()? else {
        return None;
    };
    let next = at as u64 + 6;
    (modrm & 0xc7 == 0x05).then(|| next.wrapping_add_signed(i64::from(i32::from_le_bytes(disp))))
}

/// A listed function, or the stretch between two of them, that a search has come to.
#[derive(Default)]
struct Stretch {
    start: u64,
    end: u64,
    /// The number of the first listed function that does not end before it.
    next: usize,
}

impl Stretch {
    /// Goes on to the stretch that holds `offset`, which must not lie before the current one.
    fn move_to(&mut self, offset: u64, listed: &[u64]) {
        while offset >= self.end {
            let Some(&packed) = listed.get(self.next) else {
                (self.start, self.end) = (self.end, u64::MAX);
                return;
            };
            let (start, end) = (packed >> 32, packed & 0xffff_ffff);
            if self.end < start {
                (self.start, self.end) = (self.end, start);
            } else {
                (self.start, self.end) = (start, end.max(self.end));
                self.next += 1;
            }
        }
    }

    fn contains(&self, offset: u64) -> bool {
        self.start <= offset && offset < self.end
    }
}

/// Whether `offset` lies in a packed range.
fn is_in(packed: u64, offset: u64) -> bool {
    packed >> 32 <= offset && offset < packed & 0xffff_ffff
}

/// The opcode of a direct jump.
const JUMP: u8 = 0xe9;
/// The first byte of the conditional jumps' opcodes.
const ESCAPE: u8 = 0x0f;

/// The offset of the direct jump whose opcode begins at `at`, and its target's.
fn jump(bytes: &[u8], at: usize) -> Option<(u64, u64)> {
    let field = match *bytes.get(at..at + 2)? {
        [JUMP, _] => at + 1,
        [_, 0x80..=0x8f] => at + 2,
        _ => return None,
    };
    let rel = i32::from_le_bytes(*bytes.get(field..)?.first_chunk()?);
    Some((at as u64, (field as u64 + 4).checked_add_signed(i64::from(rel))?))
}

/// Tells what a jump site is.
#[derive(Debug)]
pub struct Verdicts<'a, F> {
    object: Object<'a, F>,
    labels: &'a [u64],
    overflow: bool,
    /// The function asked about last: its sites come one after the other.
    last: Option<(Function, Result<Role, Refusal>)>,
}

/// What the thunked jumps of a function are.
#[derive(Clone, Copy, Debug)]
enum Role {
    TailCalls,
    Gotos,
}

impl<F: Functions> Verdicts<'_, F> {
    /// What the site is: for a jump, whether it is a tail call or a goto.
    ///
    /// # Errors
    /// Why the jump must be left as it is.
    pub fn verdict(&mut self, site: &Site) -> Result<SiteKind, Refusal> {
        if site.kind == SiteKind::Call {
            return Ok(SiteKind::Call);
        }
        let role = match self.last {
            Some((function, role)) if function == site.function => role,
            _ => self.role(site.function),
        };
        self.last = Some((site.function, role));
        role.map(|role| match role {
            Role::TailCalls => site.kind,
            Role::Gotos => SiteKind::Goto,
        })
    }

    /// How many labels were found in the object.
    #[must_use]
    pub fn label_count(&self) -> usize {
        self.labels.len()
    }

    fn role(&self, function: Function) -> Result<Role, Refusal> {
        if self.overflow {
            return Err(Refusal::TooManyLabels);
        }
        let found = self.read(function)?;
        if !found.has_labels && self.labels_in(function).is_empty() {
            return Ok(Role::TailCalls);
        }
        self.check_labels(function)?;
        Ok(Role::Gotos)
    }

    /// Reads a function through: refuses what hides labels, and looks for labels where it branches to.
    fn read(&self, function: Function) -> Result<Found, Refusal> {
        let mut found = Found { has_labels: false };
        let mut sums = Sums::default();
        for (at, bytes, insn) in self.instructions(function) {
            if let Some(label) = self.taken_label(at, &insn) {
                return Err(Refusal::LabelTaken { label });
            }
            if let Some(target) = insn.branch_target(at) {
                if self.jumps_to_sum(&insn, target, sums) {
                    return Err(Refusal::ComputedTarget);
                }
                found.has_labels |=
                    self.neighbour(function, &insn, target).is_some_and(|g| !self.labels_in(g).is_empty());
            }
            sums.follow(bytes);
            if insn.ends_block() {
                sums = Sums::default();
            }
        }
        Ok(found)
    }

    /// All labels that a goto in `function` may go to.
    fn check_labels(&self, function: Function) -> Result<(), Refusal> {
        self.check_all(function, self.labels_in(function))?;
        for (at, _, insn) in self.instructions(function) {
            let target = insn.branch_target(at);
            let Some(target) = target else { continue };
            let Some(neighbour) = self.neighbour(function, &insn, target) else {
                continue;
            };
            self.check_all(function, self.labels_in(neighbour))?;
            if target == neighbour.start {
                self.check(function, target)?;
            }
        }
        for &word in self.labels.iter().filter(|&&word| Label(word).in_part()) {
            self.check(function, Label(word).address(self.object.text))?;
        }
        Ok(())
    }

    fn check_all(&self, function: Function, labels: &[u64]) -> Result<(), Refusal> {
        for &word in labels {
            let label = Label(word).address(self.object.text);
            if Label(word).is_taken() {
                return Err(Refusal::LabelTaken { label });
            }
            self.check(function, label)?;
        }
        Ok(())
    }

    fn check(&self, function: Function, label: u64) -> Result<(), Refusal> {
        let is_checked_goto = |at, target| function.contains(at) && self.object.thunks.binary_search(&target).is_ok();
        if flags::are_dead(self.object.text, label, is_checked_goto) {
            Ok(())
        } else {
            Err(Refusal::FlagsLive { label })
        }
    }

    /// The labels in `function`'s range.
    fn labels_in(&self, function: Function) -> &[u64] {
        let text = self.object.text;
        let first = |address: u64| self.labels.partition_point(|&word| Label(word).address(text) < address);
        self.labels.get(first(function.start)..first(function.end)).unwrap_or(&[])
    }

    /// The other function that a jump leads into.
    fn neighbour(&self, function: Function, insn: &Insn, target: u64) -> Option<Function> {
        let is_jump = matches!(insn.flow, Flow::Jump { .. } | Flow::Cond { .. });
        if !is_jump || function.contains(target) || self.object.thunks.binary_search(&target).is_ok() {
            return None;
        }
        self.object.functions.containing(target)
    }

    /// The label whose address an instruction takes, as a `lea` or as a constant.
    fn taken_label(&self, at: u64, insn: &Insn) -> Option<u64> {
        let lea = insn.rip_operand.filter(|operand| operand.is_lea).and_then(|_| insn.rip_target(at));
        let constants = [insn.immediate, insn.disp32.map(i64::from)];
        let constants = constants.into_iter().flatten().map(i64::cast_unsigned);
        let constants = constants.filter(|_| self.object.is_position_dependent);
        lea.into_iter().chain(constants).find(|&value| self.is_label(value))
    }

    fn is_label(&self, value: u64) -> bool {
        let function = || self.object.functions.containing(value);
        self.object.text.contains(value) && function().is_some_and(|function| function.is_interior(value))
    }

    /// Whether this is a thunked jump through a register that holds a sum.
    fn jumps_to_sum(&self, insn: &Insn, target: u64, sums: Sums) -> bool {
        let is_jump = matches!(insn.flow, Flow::Jump { .. } | Flow::Cond { .. });
        let thunk = || self.object.thunks.binary_search(&target).ok();
        is_jump && thunk().and_then(|i| self.object.registers.get(i)).is_some_and(|&reg| sums.holds(reg))
    }

    /// A function's instructions with their addresses and bytes, up to one that cannot be read.
    fn instructions(&self, function: Function) -> impl Iterator<Item = (u64, &[u8], Insn)> {
        let text = self.object.text;
        let mut at = function.start;
        core::iter::from_fn(move || {
            let bytes = text.from(at).filter(|_| function.contains(at))?;
            let insn = decode(bytes)?;
            let found = (at, &bytes[..usize::from(insn.len)], insn);
            at = insn.next(at);
            Some(found)
        })
    }
}

/// What reading a function showed.
struct Found {
    has_labels: bool,
}
