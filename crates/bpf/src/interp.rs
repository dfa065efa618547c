//! The interpreter: the reference that compiled code is held against, and the way to run where code cannot be
//! generated.
//!
//! It does what compiled code does in every respect that a program or its host can see: the same checks of
//! memory, the same budget, the same registers preserved across calls, the same tail-call limit.

use crate::check::FRAME;
use crate::code::{Code, MapRef};
use crate::helper::{self, TAIL_CALL};
use crate::op::{Atomic, Op, R, Size, Width};
use crate::proof::Field;
use crate::run::{FUNCTION, Run};
use crate::semantics::{self as sem, value};
use crate::stack::LIMIT;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, fence};

/// What a tail call that is not taken returns: no such entry.
pub const NOT_TAKEN: i32 = -2;

struct Frame<'a> {
    /// Where the caller goes on, in which program.
    back: Option<(&'a Code, usize)>,
    by_register: bool,
    /// r6 to r9 at entry.
    saved: [u64; 4],
}

struct Machine<'a> {
    regs: [u64; 11],
    code: &'a Code,
    at: usize,
    frames: Vec<Frame<'a>>,
    tail_calls: u32,
    /// Whether no instruction of this program was executed yet.
    begins: bool,
}

/// What an instruction decided.
enum Flow {
    Next,
    Stop,
}

/// Runs `code` with `input` in r1 and `len` in r2; `None` when the run failed, which it then says itself.
///
/// # Safety
/// `run` must describe memory that is valid, inside a read section that lasts as long as the run.
pub unsafe fn run(code: &Code, input: u64, len: u64, run: &mut Run) -> Option<u64> {
    let mut regs = [0; 11];
    (regs[1], regs[2], regs[10]) = (input, len, run.stack_end);
    let frames = vec![Frame { back: None, by_register: false, saved: [0; 4] }];
    let mut machine = Machine { regs, code, at: 0, frames, tail_calls: 0, begins: true };
    loop {
        let slot = machine.at as u32;
        let begun = !std::mem::take(&mut machine.begins) || machine.begin(run).is_some();
        match if begun { machine.step(run) } else { None } {
            Some(Flow::Next) => {}
            Some(Flow::Stop) => return Some(machine.regs[0]),
            None => {
                run.instruction = slot;
                run.program = machine.code.body.id;
                return None;
            }
        }
    }
}

impl Machine<'_> {
    fn count_start(&self, run: &Run) {
        if let Some(id) = self.code.body.hits {
            // SAFETY: `hits` is this thread's table, which has a place for every number given out.
            unsafe { *run.hits.add(id) += 1 };
        }
    }

    /// The beginning of a program: what it relies on.
    fn begin(&mut self, run: &mut Run) -> Option<()> {
        if let Some(kind) = self.code.body.context {
            self.regs[1] = run.context(kind);
            if self.regs[1] == 0 {
                run.fail(crate::trap::TrapKind::WrongContext);
                return None;
            }
        }
        self.count_start(run);
        Some(())
    }

    fn set(&mut self, r: R, value: u64) {
        self.regs[r.index()] = value;
    }

    fn get(&self, r: R) -> u64 {
        self.regs[r.index()]
    }

    /// Goes to `target`; a step back is paid for by the instructions that it repeats.
    fn jump(&mut self, target: u32, run: &mut Run) -> Option<()> {
        let target = target as usize;
        if target <= self.at && self.code.body.options.budget.is_some() {
            run.charge((self.at - target + 1) as i64).then_some(())?;
        }
        self.at = target;
        Some(())
    }

    fn step(&mut self, run: &mut Run) -> Option<Flow> {
        let op = self.code.body.checked.ops[self.at];
        match op {
            Op::Pad => {}
            Op::Alu { width, op, dst, src } => {
                let result = sem::alu(width, op, self.get(dst), value(&self.regs, src));
                self.set(dst, result);
            }
            Op::MovSx { width, from, dst, src } => self.set(dst, sem::sign_extend(width, from, self.get(src))),
            Op::Neg { width, dst } => self.set(dst, sem::truncate(width, self.get(dst).wrapping_neg())),
            Op::Swap { order, bits, dst } => self.set(dst, sem::swap(order, bits, self.get(dst))),
            Op::LoadImm { dst, value } => self.set(dst, value),
            Op::LoadMap { dst, map } => self.set(dst, self.code.body.maps[map as usize].handle()),
            Op::LoadMapValue { dst, map, offset } => {
                let address = self.code.body.maps[map as usize].value_address(offset);
                self.set(dst, address.unwrap_or(0));
            }
            Op::Load { size, signed, dst, src, offset } => {
                let address = self.address(src, offset, size, false, run)?;
                let raw = match self.code.body.proof.field(self.at as u32) {
                    Some(Field::Data) => run.data,
                    Some(Field::End) => run.data_end,
                    None => load(address, size),
                };
                self.set(dst, if signed { sem::sign_extend(Width::W64, size, raw) } else { raw });
            }
            Op::Store { size, dst, offset, src } => {
                let address = self.address(dst, offset, size, true, run)?;
                store(address, size, value(&self.regs, src));
            }
            Op::Atomic { size, op, dst, offset, src } => self.atomic(size, op, dst, offset, src, run)?,
            Op::LoadAcquire { size, dst, src, offset } => {
                let address = self.address(src, offset, size, false, run)?;
                self.set(dst, load(address, size));
                fence(Acquire);
            }
            Op::StoreRelease { size, dst, offset, src } => {
                let address = self.address(dst, offset, size, true, run)?;
                fence(Release);
                store(address, size, self.get(src));
            }
            Op::LoadPacket { size, index, offset } => {
                let at = index.map_or(0, |index| self.get(index)).wrapping_add(sem::immediate(offset));
                (self.regs[2], self.regs[3]) = (at, size.bytes() as u64);
                self.call_helper(helper::LOAD_PACKET, run)?;
                if self.get(R::R0).cast_signed() < 0 {
                    self.set(R::R0, 0);
                    return Some(self.exit(run));
                }
            }
            Op::LoadFunction { dst, target } => self.set(dst, FUNCTION | u64::from(target)),
            Op::MayGoto { target } => {
                run.patience -= 1;
                if run.patience < 0 {
                    return self.jump(target, run).map(|()| Flow::Next);
                }
            }
            Op::CallReg { dst } => return self.call_register(dst, run),
            Op::Jump { target } => return self.jump(target, run).map(|()| Flow::Next),
            Op::Branch { width, cond, dst, src, target } => {
                if sem::holds(width, cond, self.get(dst), value(&self.regs, src)) {
                    return self.jump(target, run).map(|()| Flow::Next);
                }
            }
            Op::Call { helper: TAIL_CALL } => {
                if self.tail_call() {
                    return Some(Flow::Next);
                }
                self.set(R::R0, sem::immediate(NOT_TAKEN));
            }
            Op::Call { helper } => self.call_helper(helper, run)?,
            Op::CallLocal { target } => return self.call_local(target, run),
            Op::Exit => return Some(self.exit(run)),
        }
        self.at += 1;
        Some(Flow::Next)
    }

    fn address(&self, base: R, offset: i16, size: Size, write: bool, run: &mut Run) -> Option<u64> {
        let address = self.get(base).wrapping_add_signed(offset.into());
        // Accesses through r10 were checked when the program was loaded.
        let unchecked = base == R::FP || self.code.body.options.checks.are_off();
        (unchecked || run.check(address, size, write, false)).then_some(address)
    }

    fn atomic(&mut self, size: Size, op: Atomic, dst: R, offset: i16, src: R, run: &mut Run) -> Option<()> {
        let address = self.get(dst).wrapping_add_signed(offset.into());
        if !self.code.body.options.checks.are_off() && !run.check(address, size, true, true) {
            return None;
        }
        let (operand, expected) = (self.get(src), self.get(R::R0));
        let old = if size == Size::D {
            // SAFETY: checked above, alignment included (or the host vouches for the program).
            update64(unsafe { &*(address as *const AtomicU64) }, op, operand, expected)
        } else {
            // SAFETY: as above.
            update32(unsafe { &*(address as *const AtomicU32) }, op, operand as u32, expected as u32).into()
        };
        match op {
            Atomic::Cmpxchg => self.set(R::R0, old),
            Atomic::Xchg
            | Atomic::Add { fetch: true }
            | Atomic::Or { fetch: true }
            | Atomic::And { fetch: true }
            | Atomic::Xor { fetch: true } => self.set(src, old),
            _ => {}
        }
        Some(())
    }

    fn call_helper(&mut self, number: u32, run: &mut Run) -> Option<()> {
        run.helper = self.code.body.shared.helpers.index(number)?;
        self.call_out(run)
    }

    /// Calls the helper that the run names.
    fn call_out(&mut self, run: &mut Run) -> Option<()> {
        let [_, r1, r2, r3, r4, r5, ..] = self.regs;
        self.regs[0] = helper::call(r1, r2, r3, r4, r5, run);
        // Compiled code must not show what the host's calling convention leaves in these.
        self.regs[1..6].fill(0);
        (run.failed == 0).then_some(())
    }

    fn call_local(&mut self, target: u32, run: &mut Run) -> Option<Flow> {
        let body = &self.code.body;
        if body.options.budget.is_some() {
            run.charge(body.call_cost(target)).then_some(())?;
        }
        self.enter(target, false);
        Some(Flow::Next)
    }

    fn call_register(&mut self, r: R, run: &mut Run) -> Option<Flow> {
        let body = &self.code.body;
        if body.options.budget.is_some() {
            run.charge(body.reference_cost()).then_some(())?;
        }
        let value = self.get(r);
        let target = value.wrapping_sub(FUNCTION);
        if !body.checked.taken.iter().any(|taken| u64::from(*taken) == target) {
            (run.callee, run.helper) = (value, helper::BY_REGISTER);
            self.call_out(run)?;
            self.at += 1;
            return Some(Flow::Next);
        }
        if !run.nest() {
            return None;
        }
        self.enter(target as u32, true);
        Some(Flow::Next)
    }

    fn enter(&mut self, target: u32, by_register: bool) {
        let [_, _, _, _, _, _, r6, r7, r8, r9, _] = self.regs;
        self.frames.push(Frame { back: Some((self.code, self.at + 1)), by_register, saved: [r6, r7, r8, r9] });
        self.regs[10] -= FRAME as u64;
        self.at = target as usize;
    }

    fn exit(&mut self, run: &mut Run) -> Flow {
        let Some(frame) = self.frames.pop() else {
            return Flow::Stop;
        };
        let Some((code, at)) = frame.back else {
            return Flow::Stop;
        };
        self.regs[6..10].copy_from_slice(&frame.saved);
        self.regs[10] += FRAME as u64;
        run.nested -= u32::from(frame.by_register);
        (self.code, self.at) = (code, at);
        Flow::Next
    }

    /// Whether the tail call was taken.
    fn tail_call(&mut self) -> bool {
        let Some(call) = self.code.body.tails.get(&(self.at as u32)) else {
            return false;
        };
        let index = call.index.unwrap_or(self.regs[3] as u32);
        let Some(MapRef::Array(_)) = self.code.body.maps.get(call.map as usize) else {
            return false;
        };
        let Some(table) = &self.code.tables[call.map as usize] else {
            return false;
        };
        let Some(slot) = table.slots.get(index as usize) else {
            return false;
        };
        if self.tail_calls >= LIMIT {
            return false;
        }
        // SAFETY: the run is in a read section, and code is freed a grace period after it left its slot.
        let Some(code) = (unsafe { slot.load(std::sync::atomic::Ordering::Acquire).as_ref() }) else {
            return false;
        };
        self.tail_calls += 1;
        if let Some(frame) = self.frames.last() {
            self.regs[6..10].copy_from_slice(&frame.saved);
        }
        (self.code, self.at, self.begins) = (code, 0, true);
        true
    }
}

/// Reads memory that programs in other threads may write: whole where it is aligned, else byte by byte.
fn load(address: u64, size: Size) -> u64 {
    let bytes = |n: u64| {
        // SAFETY: the access was checked.
        (0..n)
            .fold(0, |sum, i| sum | u64::from(unsafe { &*((address + i) as *const AtomicU8) }.load(Relaxed)) << (8 * i))
    };
    // SAFETY: the access was checked, the alignment is looked at here.
    unsafe {
        match size {
            Size::H if address.is_multiple_of(2) => (*(address as *const AtomicU16)).load(Relaxed).into(),
            Size::W if address.is_multiple_of(4) => (*(address as *const AtomicU32)).load(Relaxed).into(),
            Size::D if address.is_multiple_of(8) => (*(address as *const AtomicU64)).load(Relaxed),
            _ => bytes(size.bytes() as u64),
        }
    }
}

fn store(address: u64, size: Size, value: u64) {
    // SAFETY: the access was checked, the alignment is looked at here.
    unsafe {
        match size {
            Size::H if address.is_multiple_of(2) => (*(address as *const AtomicU16)).store(value as u16, Relaxed),
            Size::W if address.is_multiple_of(4) => (*(address as *const AtomicU32)).store(value as u32, Relaxed),
            Size::D if address.is_multiple_of(8) => (*(address as *const AtomicU64)).store(value, Relaxed),
            _ => {
                for (i, byte) in value.to_le_bytes()[..size.bytes()].iter().enumerate() {
                    (*((address + i as u64) as *const AtomicU8)).store(*byte, Relaxed);
                }
            }
        }
    }
}

fn update64(at: &AtomicU64, op: Atomic, operand: u64, expected: u64) -> u64 {
    match op {
        Atomic::Add { .. } => at.fetch_add(operand, SeqCst),
        Atomic::Or { .. } => at.fetch_or(operand, SeqCst),
        Atomic::And { .. } => at.fetch_and(operand, SeqCst),
        Atomic::Xor { .. } => at.fetch_xor(operand, SeqCst),
        Atomic::Xchg => at.swap(operand, SeqCst),
        Atomic::Cmpxchg => at.compare_exchange(expected, operand, SeqCst, SeqCst).unwrap_or_else(|seen| seen),
    }
}

fn update32(at: &AtomicU32, op: Atomic, operand: u32, expected: u32) -> u32 {
    match op {
        Atomic::Add { .. } => at.fetch_add(operand, SeqCst),
        Atomic::Or { .. } => at.fetch_or(operand, SeqCst),
        Atomic::And { .. } => at.fetch_and(operand, SeqCst),
        Atomic::Xor { .. } => at.fetch_xor(operand, SeqCst),
        Atomic::Xchg => at.swap(operand, SeqCst),
        Atomic::Cmpxchg => at.compare_exchange(expected, operand, SeqCst, SeqCst).unwrap_or_else(|seen| seen),
    }
}
