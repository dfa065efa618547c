//! Reading off compiled code where in a vtable a method lies.

/// The offset in `jmp *offset(register)`, if that is all the code at `call`; never 0.
///
/// The instruction is `FF /4` with an 8-bit or 32-bit displacement (Intel SDM vol. 2, JMP), with a REX
/// prefix for r8 and r9.
pub fn vtable_offset(call: *const (), register: u8) -> Option<u32> {
    // SAFETY: the code of a function, which is never the last bytes of its module's text: others follow, or
    // padding up to the page.
    let code = unsafe { call.cast::<[u8; 16]>().read_unaligned() };
    decode(&code, register)
}

fn decode(code: &[u8], register: u8) -> Option<u32> {
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    let code = code.strip_prefix(&ENDBR64).unwrap_or(code);
    let code = if register >= 8 { code.strip_prefix(&[0x41])? } else { code };
    let code = code.strip_prefix(&[0xff])?;
    let (&modrm, code) = code.split_first()?;
    let offset = match modrm.checked_sub(register & 7)? {
        0x60 => u32::from(*code.first()?),
        0xa0 => u32::from_le_bytes(*code.first_chunk()?),
        _ => return None,
    };
    // Negative and unaligned offsets are no vtable's; the first words are drop, size and alignment.
    (offset >= 24 && offset % 8 == 0 && (modrm >= 0xa0 || offset < 0x80) && offset < 1 << 16).then_some(offset)
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
    fn anything_else_is_not() {
        assert_eq!(decode(&[0xff, 0x62, 0x18], 1), None, "another register");
        assert_eq!(decode(&[0xff, 0x62, 0x10], 2), None, "the alignment's place");
        assert_eq!(decode(&[0x50, 0xff, 0x52, 0x18], 2), None, "a call");
        assert_eq!(decode(&[0xff, 0x62], 2), None, "cut off");
    }
}
