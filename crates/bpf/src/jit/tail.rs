//! Tail calls: two patch sites where the index is constant; a table lookup and a gate where it is not.
//!
//! ```text
//!          align 8                                      index in r3:
//! bypass:  jmp out | nop                                cmp  r3, entries ; jae out
//!          cmp tails, 33 ; jae out                      cmp  tails, 33   ; jae out
//!          inc tails                                    mov  tmp, table[r3] ; test ; je out
//!          pop …                what the prologue       inc  tails
//!          align 8              pushed, no more         pop  …
//! target:  nop | jmp program                            mov  addr, entry of tmp
//!          → "lost target"      never executed          align 8
//! out:     mov r0, -2                             gate: jmp retpoline | counting | recording | tree
//! ```
//!
//! The bypass comes first, so a call of an empty slot does not count. The protocol is
//! [`relpoline_patch::bypass`]'s. What a gate may lead to is in [`crate::learn`].

use super::asm::{ADDR, Asm, CMP, Label, RAX, TAILS, TMP, reg};
use super::{Compiler, GateAt, SiteAt};
use crate::branches::IndirectBranches;
use crate::op::{R, Width};
use crate::semantics;
use crate::stack::LIMIT;
use relpoline_patch::word::nop_word;

const EQUAL: u8 = 4;
const ABOVE_EQUAL: u8 = 3;

/// A site whose way out is not placed yet.
pub struct Pending {
    site: SiteAt,
    out: Label,
}

impl Pending {
    pub(super) fn placed(&self, asm: &Asm) -> SiteAt {
        SiteAt { out: asm.offset(self.out), ..self.site }
    }
}

impl Compiler<'_> {
    pub(super) fn tail_call(&mut self) {
        let out = self.asm.label();
        if let Some(call) = self.body.tails.get(&self.slot).copied() {
            let entries = self.body.maps[call.map as usize].entries();
            match call.index {
                // Beyond the array: never taken.
                Some(index) if index >= entries => {}
                Some(index) => self.direct(call.map, index, out),
                None => self.indirect(call.map, entries, out),
            }
        }
        self.asm.place(out);
        self.asm.mov_imm(RAX, semantics::immediate(crate::interp::NOT_TAKEN));
    }

    fn site_word(&mut self) -> usize {
        self.asm.align8();
        let at = self.asm.at();
        self.asm.raw(&nop_word().to_le_bytes());
        at
    }

    fn below_limit(&mut self, out: Label) {
        self.asm.binary_imm(Width::W32, CMP, TAILS, LIMIT as i32);
        self.asm.jcc(ABOVE_EQUAL, out);
    }

    fn count(&mut self) {
        self.asm.rr(Width::W32, &[0xff], 0, TAILS);
    }

    fn direct(&mut self, map: u32, index: u32, out: Label) {
        let bypass = self.site_word();
        self.below_limit(out);
        self.count();
        self.restore_saved();
        let target = self.site_word();
        self.note_instruction();
        self.asm.jmp_outside(self.stubs.lost_target);
        let site = SiteAt { slot: self.slot, map, index, bypass, target, out: 0 };
        self.sites.push(Pending { site, out });
    }

    fn indirect(&mut self, map: u32, entries: u32, out: Label) {
        self.asm.mov(Width::W32, ADDR, reg(R::R3));
        self.asm.binary_imm(Width::W64, CMP, ADDR, entries as i32);
        self.asm.jcc(ABOVE_EQUAL, out);
        self.below_limit(out);
        self.asm.mov_imm(TMP, self.tables[map as usize]);
        // mov ADDR, [TMP + 8 * ADDR]
        self.asm.raw(&[0x4f, 0x8b, 0x14, 0xd3]);
        self.asm.rr(Width::W64, &[0x85], ADDR, ADDR);
        self.asm.jcc(EQUAL, out);
        self.count();
        self.restore_saved();
        // The entry's address is the first field of the slot's code.
        self.asm.load(ADDR, ADDR, 0);
        match self.body.shared.branches {
            // jmp *ADDR; int3
            IndirectBranches::Plain => self.asm.raw(&[0x41, 0xff, 0xe2, 0xcc]),
            IndirectBranches::Retpoline => self.asm.jmp_outside(self.stubs.jump),
            IndirectBranches::Promoted => {
                self.asm.align8();
                self.gates.push(GateAt { slot: self.slot, map, at: self.asm.at() });
                // A gate's word: jmp; int3 ×3.
                self.asm.jmp_outside(self.stubs.jump);
                self.asm.raw(&[0xcc; 2]);
            }
        }
    }
}
