# A library in builds that differ in one byte of their thunk: choose(f, g) calls f if built with -DFIRST, else g. Everything
# lies at the same place in both.
    .text
    .globl choose
    .type choose, @function
choose:
    .cfi_startproc
    sub $8, %rsp
    .cfi_adjust_cfa_offset 8
    mov %rdi, %rax
    mov %rsi, %rdx
    call thunk
    add $8, %rsp
    .cfi_adjust_cfa_offset -8
    ret
    .cfi_endproc
    .size choose, . - choose
    .balign 16
thunk:
    call 2f
1:  pause
    lfence
    jmp 1b
    .globl thunk_register
thunk_register:
2:
#ifdef FIRST
    mov %rax, (%rsp)
#else
    mov %rdx, (%rsp)
#endif
    ret
    .section .note.GNU-stack, "", @progbits
