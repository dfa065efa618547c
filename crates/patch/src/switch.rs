//! Switches: one byte that makes an instruction a jump, or lets it be passed over.
//!
//! ```text
//!            jumping                     falling through
//! long       e9 d0 d1 d2 d3   jmp        a9 d0 d1 d2 d3   test $d,%eax
//! short      eb d0            jmp        a8 d0            test $d,%al
//! ```
//!
//! The displacement of the jump is the operand of the test, so that the length is the same and only the first
//! byte differs. Whatever its alignment, a thread fetches that byte as it was or as it is. The falling form
//! writes flags and no register: they must be dead where a switch is.
//!
//! # Why not a form that writes no flags
//! A pair is made of two instructions of one length that differ in one byte: then one store is whole wherever
//! it lies. One must be a direct jump, and the other do nothing, with *any* displacement behind it.
//! `tests/switches.rs` tries all of them: in each direct jump (`e9`, `eb`, with and without prefixes) each
//! byte before the displacement is changed to each other value, and a decoder says what comes of it. Of
//! instructions that write no register and no memory, and do not branch, there remain `test` (`a8`, `a9`) and
//! `cmp` (`3c`, `3d`) with the accumulator. Both write flags. Nops with operands begin with two bytes
//! (`0f 1f`), so no single byte leads from a jump to one, and what follows a `90` would be executed.
//! Conditional jumps depend on flags or on `rcx`, which would have to be set before. A jump to the next
//! instruction (`eb 00`) writes none, but is a taken branch.
//!
//! So the `nop` of static-keys becomes a `jmp` in five bytes at once, which is why other threads must stand
//! still there; and an aligned [word](crate::word), which can hold either, costs padding and a nop of three
//! bytes more.

/// First byte of the long jumping form.
pub const JMP_LONG: u8 = 0xe9;
/// First byte of the long falling form.
pub const TEST_LONG: u8 = 0xa9;
/// First byte of the short jumping form.
pub const JMP_SHORT: u8 = 0xeb;
/// First byte of the short falling form.
pub const TEST_SHORT: u8 = 0xa8;

/// The two forms of a switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// It jumps.
    Jumping,
    /// It is passed over.
    FallingThrough,
}

/// The form of a switch by its first byte; `None` if that is no switch's.
#[must_use]
pub const fn form(opcode: u8) -> Option<Form> {
    match opcode {
        JMP_LONG | JMP_SHORT => Some(Form::Jumping),
        TEST_LONG | TEST_SHORT => Some(Form::FallingThrough),
        _ => None,
    }
}

/// What the first byte of a switch is in the other form.
#[must_use]
pub const fn toggled(opcode: u8) -> Option<u8> {
    match opcode {
        JMP_LONG => Some(TEST_LONG),
        TEST_LONG => Some(JMP_LONG),
        JMP_SHORT => Some(TEST_SHORT),
        TEST_SHORT => Some(JMP_SHORT),
        _ => None,
    }
}

/// What the first byte of a switch is in a form, from what it is now.
#[must_use]
pub fn opcode_in(opcode: u8, wanted: Form) -> Option<u8> {
    if form(opcode)? == wanted { Some(opcode) } else { toggled(opcode) }
}
