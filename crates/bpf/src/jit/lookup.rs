//! Look-ups in maps (`bpf_map_lookup_elem`), which packets' programs do more often than all else.
//!
//! Where the map is an array that is known when the program is compiled, the value's address is reckoned in place:
//!
//! ```text
//! sub  budget, 16 ; js ends
//! lea, sub, cmp, jae …             the key's four bytes, unless they lie in the frame
//! mov  addr, [key]
//! xor  r0, r0
//! cmp  addr, entries ; jae out
//! imul addr, stride                bytes of a value
//! mov  r0, values
//! add  r0, addr
//! mov  tmp, slot ; imul ; add      of per-CPU arrays; a thread that does not know its slot yet asks the helper
//! out: r1 to r5 = 0                as after every call of a helper
//! ```
//!
//! All other look-ups call the helper, by a way of its own: [`crate::helper::look_up`]. What a look-up takes from the
//! budget, and what traps it, is the same on each way.

use super::Compiler;
use super::asm::{ADD, ADDR, CMP, RAX, RCX, RDX, RUN, Reg, TMP, XOR, reg};
use crate::helper::{self, LOOKUP};
use crate::map::Layout;
use crate::op::{R, Size, Width};
use crate::run::Run;
use crate::slot::UNKNOWN;
use std::mem::offset_of;

const EQUAL: u8 = 4;
const ABOVE_EQUAL: u8 = 3;
/// What holds r5.
const R5: Reg = 8;
/// Bytes of an array's key.
const KEY: i32 = 4;

impl Compiler<'_> {
    pub(super) fn look_up(&mut self) {
        if !self.body.shared.helpers.is_built_in(LOOKUP) {
            return self.call_helper(LOOKUP);
        }
        let known = self.body.lookups.get(&self.slot).copied();
        let layout = known.and_then(|known| self.body.maps.get(known.map as usize)?.layout());
        // What does not fit an instruction is left to the helper.
        let fits = |n: u64| i32::try_from(n).is_ok();
        let simple = |layout: &Layout| {
            fits(layout.stride) && fits(layout.entries.into()) && layout.apart.is_none_or(fits)
        };
        match (known, layout.filter(simple)) {
            (Some(known), Some(layout)) => {
                let own = known.key.is_some_and(|at| (-(crate::check::FRAME as i32)..=-KEY).contains(&at));
                self.look_up_here(layout, own);
            }
            _ => self.look_up_there(),
        }
    }

    /// By the helper.
    fn look_up_there(&mut self) {
        self.note_instruction();
        self.asm.call_outside(self.stubs.look_up);
    }

    /// In an array; `own` says that the key lies in the function's frame.
    fn look_up_here(&mut self, layout: Layout, own: bool) {
        let (done, out) = (self.asm.label(), self.asm.label());
        if let Some(_apart) = layout.apart {
            let known = self.asm.label();
            self.asm.rm(&[], false, false, &[0x83], 7, RUN, offset_of!(Run, slot) as i32);
            self.asm.raw(&[UNKNOWN as u8]);
            self.asm.jcc(EQUAL ^ 1, known);
            self.look_up_there();
            self.asm.jmp(done);
            self.asm.place(known);
        }
        if !cfg!(relpoline_broken = "helpers-are-free") {
            self.charge_anyhow(helper::CALL);
        }
        if !own {
            self.check(R::R2, 0, Size::W, 0);
        }
        // mov ADDR, dword [r2]
        self.asm.rm(&[], false, false, &[0x8b], ADDR, reg(R::R2), 0);
        self.asm.binary(Width::W32, XOR, RAX, RAX);
        // The broken variant that the tests must catch: one more than there is.
        let entries = layout.entries + u32::from(cfg!(relpoline_broken = "lookups-run-over"));
        self.asm.binary_imm(Width::W32, CMP, ADDR, entries as i32);
        self.asm.jcc(ABOVE_EQUAL, out);
        self.times(ADDR, layout.stride);
        self.asm.mov_imm(RAX, layout.start);
        self.asm.binary(Width::W64, ADD, RAX, ADDR);
        if let Some(apart) = layout.apart {
            // mov TMP, dword [RUN + slot]
            self.asm.rm(&[], false, false, &[0x8b], TMP, RUN, offset_of!(Run, slot) as i32);
            self.times(TMP, apart);
            self.asm.binary(Width::W64, ADD, RAX, TMP);
        }
        self.asm.place(out);
        for r in [reg(R::R1), reg(R::R2), RDX, RCX, R5] {
            self.asm.binary(Width::W32, XOR, r, r);
        }
        self.asm.place(done);
    }

    /// `r *= by`.
    fn times(&mut self, r: Reg, by: u64) {
        if by.is_power_of_two() {
            // shl r, log2(by)
            self.asm.rr(Width::W64, &[0xc1], 4, r);
            self.asm.raw(&[by.trailing_zeros() as u8]);
        } else {
            self.asm.rr(Width::W64, &[0x69], r, r);
            self.asm.raw(&(by as u32).to_le_bytes());
        }
    }
}
