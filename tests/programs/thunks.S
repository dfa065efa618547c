/* External thunks of an unusual shape, one for each register: without a pause or without an lfence, padded. */
.macro thunk register
    .globl __x86_indirect_thunk_\register
    .hidden __x86_indirect_thunk_\register
    .type __x86_indirect_thunk_\register, @function
__x86_indirect_thunk_\register:
    call 2f
1:
#ifdef LFENCE_ONLY
    lfence
    jmp 1b
    nop
    nop
#else
    pause
    jmp 1b
#endif
2:
    mov %\register, (%rsp)
    ret
.endm
.text
.irp register, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
thunk \register
.endr
.section .note.GNU-stack, "", @progbits
