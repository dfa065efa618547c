//! The processor that runs the program's and the engine's generated code: one instruction after the other,
//! each of them a step of the model, so a thread can be stopped in front of any.
//!
//! It reads the very bytes that lie in the text and in the arena's executable mapping, at the moment at which
//! the instruction is executed. An instruction is fetched whole, as on x86-64 where a change is one byte or
//! one aligned word. `dec` and `inc` of memory are two steps, as they are between processors. What it does
//! not know is a fault: only code that the engine generates, and the program's own, may be executed.
//!
//! A site that jumps must find flags and red zone as they were, but for the word that its thunk writes.

use crate::program::Program;
use crate::world;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use relpoline_core::arch::Reg;
use relpoline_engine::judge;
use relpoline_text::gate::number_behind;

const STACK: usize = 64;

/// A thread in the middle of a call.
struct Call<'a> {
    program: &'a Program,
    at: u64,
    /// By hardware number; rsp is an index into the stack below, plus `stack_at`.
    registers: [u64; 16],
    stack: [u64; STACK],
    stack_at: u64,
    flags: Flags,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Flags {
    zero: bool,
    below: bool,
    /// Sign unlike overflow.
    less: bool,
}

impl Flags {
    fn from_bits(bits: u64) -> Flags {
        Flags { zero: bits & 1 != 0, below: bits & 2 != 0, less: bits & 4 != 0 }
    }

    fn bits(self) -> u64 {
        u64::from(self.zero) | u64::from(self.below) << 1 | u64::from(self.less) << 2
    }
}

/// Words of the red zone.
const RED_ZONE: usize = 16;

const RSP: usize = 4;

/// Calls `target` through the site number `site` of `program`, on a stack of the thread's number.
///
/// # Panics
/// When the call ends elsewhere, or something is executed that is no code.
pub fn call(program: &Program, site: usize, target: u64, thread: u64) {
    let place = &program.sites[site];
    let stack_at = (thread + 1) << 20;
    let mut call = Call {
        program,
        at: place.address,
        registers: [0x5a5a_5a5a; 16],
        stack: std::array::from_fn(|n| n as u64 * 0x0101_0101),
        stack_at,
        flags: Flags::from_bits(target >> 4 ^ thread),
    };
    call.registers[RSP] = stack_at + 8 * STACK as u64;
    call.registers[usize::from(place.reg.number())] = target;
    let (before, flags, stack) = (call.registers, call.flags, call.stack);
    for _ in 0..400 {
        if program.is_target(call.at) {
            assert_eq!(call.at, target, "a call through site {site} ended at another target");
            if place.jumps {
                assert_eq!(call.flags, flags, "a jump at site {site} changed flags");
                let kept = STACK - RED_ZONE..STACK - 1;
                assert_eq!(call.stack[kept.clone()], stack[kept], "a jump at site {site} changed the red zone");
            } else {
                call.registers[RSP] += 8;
            }
            assert_eq!(call.registers, before, "a call through site {site} changed registers");
            return;
        }
        world::step();
        call.instruction(site, place.reg);
    }
    panic!("a call through site {site} goes round and round at {:#x}: {}", call.at, program.tell(site));
}

impl Call<'_> {
    fn instruction(&mut self, site: usize, reg: Reg) {
        if self.program.is_slow_path(self.at) {
            return self.slow_path(site, reg);
        }
        let bytes = self.program.fetch(self.at);
        let mut decoder = Decoder::with_ip(64, &bytes, self.at, DecoderOptions::NONE);
        let instruction = decoder.decode();
        self.at = instruction.next_ip();
        self.execute(&instruction);
    }

    /// The slow path's assembly keeps every register, as `tests/tests/calls.rs` shows; what it calls is
    /// called here.
    fn slow_path(&mut self, site: usize, reg: Reg) {
        self.at = self.pop();
        let jumps = self.program.sites[site].jumps;
        let number = self.read(self.at + u64::from(number_behind(jumps)), 4) as u32;
        let place = &self.program.sites[site];
        let is_head = relpoline_engine::head::told(number).is_some();
        assert!(number == place.id || is_head && !jumps, "the slow path was told another site: {number}");
        // Above what its entry has pushed. At a jump nobody asks.
        let top = if jumps { 0 } else { self.read(self.registers[RSP] + 8, 8) };
        // SAFETY: the number is a site's, or a head's.
        unsafe { judge::slow(number, self.registers[usize::from(reg.number())], top) };
    }

    fn push(&mut self, value: u64) {
        self.registers[RSP] -= 8;
        self.write(self.registers[RSP], 8, value);
    }

    fn pop(&mut self) -> u64 {
        let value = self.read(self.registers[RSP], 8);
        self.registers[RSP] += 8;
        value
    }

    fn stack_slot(&self, at: u64) -> Option<usize> {
        let slot = at.checked_sub(self.stack_at)? / 8;
        (slot < STACK as u64).then_some(slot as usize)
    }

    fn read(&self, at: u64, size: usize) -> u64 {
        match self.stack_slot(at) {
            Some(slot) => self.stack[slot],
            // SAFETY: generated code reads counters, rings and constants of the engine's.
            None => unsafe {
                match size {
                    8 => (at as *const u64).read_volatile(),
                    4 => u64::from((at as *const u32).read_volatile()),
                    _ => panic!("{size} bytes are read"),
                }
            },
        }
    }

    fn write(&mut self, at: u64, size: usize, value: u64) {
        match self.stack_slot(at) {
            Some(slot) => self.stack[slot] = value,
            None => {
                assert!(self.program.may_be_written(at), "generated code writes to {at:#x}");
                // SAFETY: counters and rings of the engine's.
                unsafe {
                    match size {
                        8 => (at as *mut u64).write_volatile(value),
                        4 => (at as *mut u32).write_volatile(value as u32),
                        2 => (at as *mut u16).write_volatile(value as u16),
                        _ => panic!("{size} bytes are written"),
                    }
                }
            }
        }
    }

    fn register(&self, register: Register) -> u64 {
        let whole = self.registers[register.number()];
        match register.size() {
            8 => whole,
            4 => whole & 0xffff_ffff,
            2 => whole & 0xffff,
            1 => whole & 0xff,
            size => panic!("a register of {size} bytes"),
        }
    }

    fn set_register(&mut self, register: Register, value: u64) {
        let whole = &mut self.registers[register.number()];
        *whole = match register.size() {
            8 => value,
            4 => value & 0xffff_ffff,
            2 => *whole & !0xffff | value & 0xffff,
            size => panic!("a register of {size} bytes"),
        };
    }

    fn address(&self, instruction: &Instruction) -> u64 {
        let index = match instruction.memory_index() {
            Register::None => 0,
            index => self.register(index),
        };
        match instruction.memory_base() {
            Register::RIP => instruction.memory_displacement64(),
            Register::None => instruction.memory_displacement64(),
            base => self.register(base).wrapping_add(index).wrapping_add(instruction.memory_displacement64()),
        }
    }

    fn operand(&self, instruction: &Instruction, n: u32) -> u64 {
        match instruction.op_kind(n) {
            OpKind::Register => self.register(instruction.op_register(n)),
            OpKind::Memory => self.read(self.address(instruction), instruction.memory_size().size()),
            _ => instruction.immediate(n),
        }
    }

    fn set_operand(&mut self, instruction: &Instruction, n: u32, value: u64) {
        match instruction.op_kind(n) {
            OpKind::Register => self.set_register(instruction.op_register(n), value),
            OpKind::Memory => self.write(self.address(instruction), instruction.memory_size().size(), value),
            kind => panic!("a result goes to {kind:?}"),
        }
    }

    fn execute(&mut self, instruction: &Instruction) {
        match instruction.mnemonic() {
            Mnemonic::Jmp if instruction.is_jmp_short_or_near() => self.at = instruction.near_branch_target(),
            Mnemonic::Call if instruction.is_call_near() => {
                self.push(instruction.next_ip());
                self.at = instruction.near_branch_target();
            }
            Mnemonic::Ret => self.at = self.pop(),
            Mnemonic::Je => self.jump_if(instruction, self.flags.zero),
            Mnemonic::Jb => self.jump_if(instruction, self.flags.below),
            Mnemonic::Ja => self.jump_if(instruction, !self.flags.below && !self.flags.zero),
            Mnemonic::Jle => self.jump_if(instruction, self.flags.zero || self.flags.less),
            Mnemonic::Jrcxz => self.jump_if(instruction, self.register(Register::RCX) == 0),
            Mnemonic::Pushfq => self.push(self.flags.bits()),
            Mnemonic::Popfq => self.flags = Flags::from_bits(self.pop()),
            Mnemonic::Lea => self.set_operand(instruction, 0, self.address(instruction)),
            Mnemonic::Bswap => {
                let swapped = self.operand(instruction, 0).swap_bytes();
                let size = instruction.op_register(0).size();
                self.set_operand(instruction, 0, if size == 8 { swapped } else { swapped >> 32 });
            }
            Mnemonic::Push => self.push(self.operand(instruction, 0)),
            Mnemonic::Pop => {
                let value = self.pop();
                self.set_operand(instruction, 0, value);
            }
            Mnemonic::Mov | Mnemonic::Movzx => {
                let value = self.operand(instruction, 1);
                self.set_operand(instruction, 0, value);
            }
            Mnemonic::Shr => {
                let value = self.operand(instruction, 0) >> self.operand(instruction, 1);
                self.computed(value);
                self.set_operand(instruction, 0, value);
            }
            Mnemonic::Add => {
                let value = self.operand(instruction, 0).wrapping_add(self.operand(instruction, 1));
                self.computed(value);
                self.set_operand(instruction, 0, value);
            }
            Mnemonic::Test => {
                let value = self.operand(instruction, 0) & self.operand(instruction, 1);
                self.computed(value);
            }
            Mnemonic::Cmp => {
                let (a, b) = (self.operand(instruction, 0), self.operand(instruction, 1));
                self.flags = Flags { zero: a == b, below: a < b, less: a.cast_signed() < b.cast_signed() };
            }
            Mnemonic::Dec | Mnemonic::Inc => self.count(instruction),
            _ => panic!("{:?} is executed at {:#x}, which is no code", instruction.mnemonic(), instruction.ip()),
        }
    }

    /// What arithmetic leaves of the flags; the rest is lost.
    fn computed(&mut self, value: u64) {
        self.flags = Flags { zero: value as u32 == 0, below: false, less: (value as i32) < 0 };
    }

    fn jump_if(&mut self, instruction: &Instruction, taken: bool) {
        if taken {
            self.at = instruction.near_branch_target();
        }
    }

    /// Another processor may count between the two halves.
    fn count(&mut self, instruction: &Instruction) {
        let value = self.operand(instruction, 0);
        let counted = if instruction.code() == Code::Dec_rm32 { value.wrapping_sub(1) } else { value.wrapping_add(1) };
        world::step();
        self.set_operand(instruction, 0, counted);
        self.flags.zero = counted as u32 == 0;
        self.flags.less = (counted as i32) < 0 && value as u32 != 1 << 31;
    }
}
