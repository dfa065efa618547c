//! Which registers hold a sum.
//!
//! Labels can be enumerated only where their addresses appear whole: in data, or in a `lea`. A table of
//! offsets relative to something (`&&label - &&base`, or a switch's `.long label - table`) shows itself at
//! the jump: the register that is jumped through was added to last. [`Sums`] follows that through the
//! instructions before a jump, forgetting it at every unconditional branch.
//!
//! Only plain moves and additions are known. Anything else leaves a register's bit as it was, which at
//! worst refuses a tail call that could have been promoted.

use crate::arch::Reg;

/// The registers whose last known writer was an addition.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums(u16);

impl Sums {
    /// Whether `reg` holds a sum.
    pub(super) fn holds(self, reg: Reg) -> bool {
        self.0 >> reg.number() & 1 != 0
    }

    /// Takes one more instruction into account.
    pub(super) fn follow(&mut self, insn: &[u8]) {
        let Some(form) = Form::read(insn) else { return };
        match form.opcode {
            // add to r/m, to a register, of an immediate; sub likewise
            0x01 | 0x29 if form.is_register => self.set(form.rm, true),
            0x03 | 0x2b => self.set(form.reg, true),
            0x81 | 0x83 if form.is_register && matches!(form.reg & 7, 0 | 5) => self.set(form.rm, true),
            // lea of a sum; a rip-relative one is a whole address
            0x8d => self.set(form.reg, !form.is_rip),
            0x89 if form.is_register => self.set(form.rm, self.bit(form.reg)),
            0x8b if form.is_register => self.set(form.reg, self.bit(form.rm)),
            0x8b => self.set(form.reg, false),
            _ => {}
        }
        // pop and mov of a constant have their register in the opcode.
        if matches!(form.opcode, 0x58..=0x5f | 0xb8..=0xbf) {
            self.set(form.opcode & 7 | (form.rex & 1) << 3, false);
        }
    }

    fn bit(self, register: u8) -> bool {
        self.0 >> register & 1 != 0
    }

    fn set(&mut self, register: u8, sum: bool) {
        self.0 = self.0 & !(1 << register) | u16::from(sum) << register;
    }
}

/// The few fields of an instruction that are looked at here.
struct Form {
    rex: u8,
    opcode: u8,
    reg: u8,
    rm: u8,
    is_register: bool,
    is_rip: bool,
}

impl Form {
    fn read(insn: &[u8]) -> Option<Form> {
        let (rex, rest) = match *insn.first()? {
            rex @ 0x40..=0x4f => (rex, insn.get(1..)?),
            _ => (0, insn),
        };
        let opcode = *rest.first()?;
        let modrm = rest.get(1).copied().unwrap_or(0);
        let is_register = modrm >= 0xc0;
        Some(Form {
            rex,
            opcode,
            reg: modrm >> 3 & 7 | (rex & 4) << 1,
            rm: modrm & 7 | (rex & 1) << 3,
            is_register,
            is_rip: modrm & 0xc7 == 5,
        })
    }
}
