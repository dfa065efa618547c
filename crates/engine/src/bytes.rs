//! Copying, filling and comparing bytes, for this library alone.
//!
//! The compiler calls `memcpy` and its like wherever it sees fit. Libc's use AVX and clear the upper halves
//! of all vector registers, but the slow path runs between a caller and its callee, where these hold
//! arguments. So the library has its own, which use nothing beyond SSE2, whose registers the slow path saves.
//! They are hidden: the program goes on using libc's.

/// Defines the functions under their names, with `$prefix` in front.
macro_rules! functions {
    ($prefix:literal) => {
        core::arch::global_asm!(
            ".macro function name",
            ".globl \\name",
            ".hidden \\name",
            ".type \\name, @function",
            "\\name:",
            ".endm",
            ".pushsection .text.relpoline_bytes, \"ax\", @progbits",
            ".p2align 4",
            // One for all: none of them moves the stack.
            ".cfi_startproc",
            concat!("function ", $prefix, "memmove"),
            "mov rax, rdi",
            "sub rax, rsi",
            "cmp rax, rdx", // the destination begins inside the source: from the end
            "jb 2f",
            concat!("function ", $prefix, "memcpy"), // 16 bytes at a time; the last ones are read first and may overlap those before
            "mov rax, rdi",
            "cmp rdx, 16",
            "jb 7f",
            "movups xmm0, [rsi + rdx - 16]",
            "lea r8, [rdi + rdx - 16]",
            "8:",
            "cmp rdi, r8",
            "jae 9f",
            "movups xmm1, [rsi]",
            "movups [rdi], xmm1",
            "add rsi, 16",
            "add rdi, 16",
            "jmp 8b",
            "9:",
            "movups [r8], xmm0",
            "ret",
            "7:", // forwards, as a memmove to a lower address needs it
            "xor r8d, r8d",
            "8:",
            "cmp r8, rdx",
            "je 9f",
            "mov cl, byte ptr [rsi + r8]",
            "mov byte ptr [rdi + r8], cl",
            "inc r8",
            "jmp 8b",
            "9:",
            "ret",
            "2:",
            "mov rax, rdi",
            "lea rdi, [rdi + rdx - 1]",
            "lea rsi, [rsi + rdx - 1]",
            "mov rcx, rdx",
            "std",
            "rep movsb",
            "cld",
            "ret",
            concat!("function ", $prefix, "memset"),
            "mov rax, rdi",
            "movzx ecx, sil",
            "mov r8, 0x0101010101010101",
            "imul rcx, r8",
            "cmp rdx, 16",
            "jb 7f",
            "movq xmm0, rcx",
            "punpcklqdq xmm0, xmm0",
            "lea r8, [rdi + rdx - 16]",
            "8:",
            "cmp rdi, r8",
            "jae 9f",
            "movups [rdi], xmm0",
            "add rdi, 16",
            "jmp 8b",
            "9:",
            "movups [r8], xmm0",
            "ret",
            "7:",
            "test rdx, rdx",
            "je 9f",
            "8:",
            "mov byte ptr [rdi + rdx - 1], cl",
            "dec rdx",
            "jne 8b",
            "9:",
            "ret",
            concat!("function ", $prefix, "bcmp"),
            concat!("function ", $prefix, "memcmp"),
            "xor ecx, ecx",
            "3:",
            "cmp rcx, rdx",
            "je 4f",
            "movzx eax, byte ptr [rdi + rcx]",
            "movzx r8d, byte ptr [rsi + rcx]",
            "inc rcx",
            "sub eax, r8d",
            "je 3b",
            "ret",
            "4:",
            "xor eax, eax",
            "ret",
            concat!("function ", $prefix, "strlen"),
            "xor eax, eax",
            "5:",
            "cmp byte ptr [rdi + rax], 0",
            "je 6f",
            "inc rax",
            "jmp 5b",
            "6:",
            "ret",
            ".cfi_endproc",
            ".popsection",
            ".purgem function",
        );
    };
}

#[cfg(not(test))]
functions!("");
#[cfg(test)]
functions!("relpoline_");

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    unsafe extern "C" {
        fn relpoline_memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
        fn relpoline_memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
        fn relpoline_memset(to: *mut u8, byte: i32, len: usize) -> *mut u8;
        fn relpoline_memcmp(a: *const u8, b: *const u8, len: usize) -> i32;
        fn relpoline_strlen(text: *const u8) -> usize;
    }

    const SIZE: usize = 96;

    fn pattern() -> Vec<u8> {
        (0..SIZE).map(|i| (i * 37 + 11) as u8).collect()
    }

    #[test]
    fn bytes_are_moved_copied_and_filled_as_libc_does() {
        for len in 0..=40 {
            for (to, from) in (0..SIZE - 40).flat_map(|to| (0..SIZE - 40).map(move |from| (to, from))) {
                let (mut moved, mut copied, mut filled) = (pattern(), [0u8; SIZE], pattern());
                // SAFETY: all ranges lie inside the buffers.
                unsafe {
                    relpoline_memmove(moved.as_mut_ptr().add(to), moved.as_ptr().add(from), len);
                    relpoline_memcpy(copied.as_mut_ptr().add(to), pattern().as_ptr().add(from), len);
                    relpoline_memset(filled.as_mut_ptr().add(to), 0x1a5, len);
                }
                let mut expected = pattern();
                expected.copy_within(from..from + len, to);
                assert_eq!(moved, expected, "move {len} from {from} to {to}");
                assert_eq!(copied[to..to + len], pattern()[from..from + len]);
                assert!(copied[..to].iter().chain(&copied[to + len..]).all(|&b| b == 0), "copy {len} to {to}");
                let mut expected = pattern();
                expected[to..to + len].fill(0xa5);
                assert_eq!(filled, expected, "fill {len} at {to}");
            }
        }
    }

    #[test]
    fn bytes_are_compared_and_counted_as_libc_does() {
        let (a, mut b) = (pattern(), pattern());
        for at in 0..SIZE {
            b[at] ^= 0x80;
            // SAFETY: both buffers hold `SIZE` bytes.
            let order = unsafe { relpoline_memcmp(a.as_ptr(), b.as_ptr(), SIZE) };
            assert_eq!(order.signum(), if a[at] < b[at] { -1 } else { 1 });
            b[at] ^= 0x80;
        }
        // SAFETY: as above; the text has its zero.
        unsafe {
            assert_eq!(relpoline_memcmp(a.as_ptr(), b.as_ptr(), SIZE), 0);
            assert_eq!(relpoline_strlen(c"gate".as_ptr().cast()), 4);
        }
    }
}
