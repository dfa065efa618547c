# A library with an interpreter: run(rounds) goes from goto to goto. ROOM says how much stack its function has; else every build
# is the same. MORE jumps of other functions follow.
#ifndef ROOM
#define ROOM 24
#endif
#ifndef MORE
#define MORE 0
#endif
    .macro far
    .byte 0xe9
    .long thunk - . - 4
    .endm
    .text
    .globl run
    .type run, @function
run:
    .cfi_startproc
    push %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_offset rbx, -16
    sub $ROOM, %rsp
    .cfi_adjust_cfa_offset ROOM
    mov %rdi, %rbx
    # Whoever looks for the return address in here finds none.
    mov %rsp, %rdi
    mov $ROOM / 8, %ecx
    xor %eax, %eax
    rep stosq
next:
    dec %rbx
    jz over
    lea first(%rip), %rax
    lea second(%rip), %rcx
    test $64, %bl
    cmovz %rcx, %rax
    far
first:
    jmp next
second:
    nop
    jmp next
over:
    .cfi_remember_state
    add $ROOM, %rsp
    .cfi_adjust_cfa_offset -ROOM
    pop %rbx
    .cfi_adjust_cfa_offset -8
    ret
    .cfi_restore_state
    .rept MORE
    far
    .endr
    .cfi_endproc
    .size run, . - run
    .balign 16
thunk:
    call 2f
1:  pause
    lfence
    jmp 1b
2:  mov %rax, (%rsp)
    ret
    .section .note.GNU-stack, "", @progbits
