//! Look-ups in maps (`bpf_map_lookup_elem`), which packets' programs do more often than all else.
//!
//! Where the map is an array that is known when the program is compiled, the value's address is reckoned in
//! place:
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
//! Look-ups in other maps that are known, for keys in the frame, call [`crate::helper::look_up_known`], which
//! has nothing to check; all others [`crate::helper::look_up`]. What a look-up takes from the budget, and
//! what traps it, is the same on each way.

use super::Compiler;
use super::asm::{ADD, ADDR, CMP, RAX, RCX, RDX, RUN, Reg, TMP, XOR, reg};
use crate::check::FRAME;
use crate::helper::{self, LOOKUP};
use crate::map::{Layout, MapBody};
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
        let body = self.body;
        let known = body.lookups.get(&self.slot).copied();
        let Some((known, map)) = known.and_then(|known| Some((known, body.maps.get(known.map as usize)?.body()?)))
        else {
            return self.look_up_there();
        };
        let key_size = map.spec.key_size;
        let own = known.key.is_some_and(|at| {
            let end = i64::from(at) + i64::from(key_size);
            (-(FRAME as i64)..=0).contains(&at.into()) && end <= 0
        });
        // What does not fit an instruction is left to the helper.
        let fits = |n: u64| i32::try_from(n).is_ok();
        let simple =
            |layout: &Layout| fits(layout.stride) && fits(layout.entries.into()) && layout.apart.is_none_or(fits);
        match map.layout().filter(simple) {
            Some(layout) => self.look_up_here(layout, own),
            None if own => self.look_up_known(map),
            None => self.look_up_there(),
        }
    }

    /// In a map that is known, for a key in the function's frame.
    fn look_up_known(&mut self, map: &MapBody) {
        self.charge_anyhow(helper::cost_of_look_up(map.spec.key_size));
        self.note_instruction();
        self.asm.mov_imm(reg(R::R1), std::ptr::from_ref(map) as u64);
        self.asm.call_outside(self.stubs.look_up_known);
    }

    /// By the helper.
    fn look_up_there(&mut self) {
        self.note_instruction();
        self.asm.call_outside(self.stubs.look_up);
    }

    /// In an array; `own` says that the key lies in the function's frame.
    fn look_up_here(&mut self, layout: Layout, own: bool) {
        let (done, out) = (self.asm.label(), self.asm.label());
        if layout.apart.is_some() {
            let known = self.asm.label();
            self.asm.rm(&[], false, false, &[0x83], 7, RUN, offset_of!(Run, slot) as i32);
            self.asm.raw(&[UNKNOWN as u8]);
            self.asm.jcc(EQUAL ^ 1, known);
            self.look_up_there();
            self.asm.jmp(done);
            self.asm.place(known);
        }
        self.charge_anyhow(helper::cost_of_look_up(KEY as u32));
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
