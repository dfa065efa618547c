//! Reading off compiled code where in a vtable a method lies.

/// The offset in `jmp *offset(register)`, or in `mov offset(register),%scratch; jmp *%scratch`, if that is
/// all the code at `call`; never 0.
///
/// The instructions are `FF /4` with an 8-bit or 32-bit displacement (Intel SDM vol. 2, JMP), with a REX
/// prefix for r8 and r9; and `REX.W 8B /r`, then `FF /4` with a register. Which of them compilers choose is a
/// matter of tuning: newer ones prefer to load first.
pub fn vtable_offset(call: *const (), register: u8) -> Option<u32> {
    // SAFETY: the code of a function, which is never the last bytes of its module's text: others follow, or
    // padding up to the page.
    let code = unsafe { call.cast::<[u8; 16]>().read_unaligned() };
    decode(&code, register)
}

fn decode(code: &[u8], register: u8) -> Option<u32> {
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    let code = code.strip_prefix(&ENDBR64).unwrap_or(code);
    let offset = jump_through(code, register).or_else(|| load_and_jump(code, register))?;
    // Negative and unaligned offsets are no vtable's; the first words are drop, size and alignment.
    (offset >= 24 && offset % 8 == 0 && offset < 1 << 16).then_some(offset)
}

/// `jmp *offset(register)`.
fn jump_through(code: &[u8], register: u8) -> Option<u32> {
    let code = if register >= 8 { code.strip_prefix(&[0x41])? } else { code };
    let code = code.strip_prefix(&[0xff])?;
    let (&modrm, code) = code.split_first()?;
    if modrm & 0x38 != 0x20 {
        return None;
    }
    displacement(modrm, code, register).map(|(offset, _)| offset)
}

/// `mov offset(register),%scratch; jmp *%scratch`.
fn load_and_jump(code: &[u8], register: u8) -> Option<u32> {
    let (&rex, code) = code.split_first()?;
    let extended = rex & 4 != 0;
    if rex & !4 != 0x48 | (register >> 3) {
        return None;
    }
    let code = code.strip_prefix(&[0x8b])?;
    let (&modrm, code) = code.split_first()?;
    let (offset, code) = displacement(modrm, code, register)?;
    let code = if extended { code.strip_prefix(&[0x41])? } else { code };
    let scratch = modrm >> 3 & 7;
    (code.first_chunk()? == &[0xff, 0xe0 | scratch]).then_some(offset)
}

/// The displacement of an operand `offset(register)`, and the code behind it.
fn displacement(modrm: u8, code: &[u8], register: u8) -> Option<(u32, &[u8])> {
    let based = modrm & 7 == register & 7;
    match modrm >> 6 {
        1 if based => code.split_first().filter(|(byte, _)| **byte < 0x80).map(|(&byte, code)| (u32::from(byte), code)),
        2 if based => code.split_first_chunk().map(|(&bytes, code)| (u32::from_le_bytes(bytes), code)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn a_jump_through_the_vtable_is_understood() {
        assert_eq!(decode(&[0xff, 0x62, 0x18, 0xcc], 2), Some(24)); // jmp *24(%rdx)
        assert_eq!(decode(&[0x41, 0xff, 0x60, 0x20], 8), Some(32)); // jmp *32(%r8)
        assert_eq!(decode(&[0xff, 0xa6, 0x80, 0, 0, 0], 6), Some(128)); // jmp *128(%rsi)
        assert_eq!(decode(&[0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x66, 0x18], 6), Some(24));
    }

    #[test]
    fn a_load_and_a_jump_are_understood() {
        assert_eq!(decode(&[0x48, 0x8b, 0x42, 0x18, 0xff, 0xe0], 2), Some(24)); // mov 24(%rdx),%rax; jmp *%rax
        assert_eq!(decode(&[0x49, 0x8b, 0x81, 0x80, 0, 0, 0, 0xff, 0xe0], 9), Some(128)); // from 128(%r9)
        assert_eq!(decode(&[0x4c, 0x8b, 0x56, 0x20, 0x41, 0xff, 0xe2], 6), Some(32)); // through %r10
        assert_eq!(decode(&[0x48, 0x8b, 0x42, 0x18, 0xff, 0xe1], 2), None, "another register is jumped to");
        assert_eq!(decode(&[0x48, 0x8b, 0x42, 0x18, 0xff, 0xd0], 2), None, "a call");
        assert_eq!(decode(&[0x48, 0x8b, 0x43, 0x18, 0xff, 0xe0], 2), None, "another object");
        assert_eq!(decode(&[0x4c, 0x8b, 0x56, 0x20, 0xff, 0xe2], 6), None, "%r10 is loaded, %rdx jumped to");
    }

    #[test]
    fn anything_else_is_not() {
        assert_eq!(decode(&[0xff, 0x62, 0x18], 1), None, "another register");
        assert_eq!(decode(&[0xff, 0x62, 0x10], 2), None, "the alignment's place");
        assert_eq!(decode(&[0x50, 0xff, 0x52, 0x18], 2), None, "a call");
        assert_eq!(decode(&[0xff, 0x62], 2), None, "cut off");
    }
}
