/* More call sites than an arena has gates for: those that are left over stay with their thunk, and say why. */
#include "check.h"

#define SITES "260000"
#define ROUNDS 40

/* rbx is the callee, which counts in r12 and checks in r13 that it was called in order. */
extern void crowd(word *counted);
extern word in_disorder;
word in_disorder;
__asm__(".pushsection .text\n"
        "thunk_rbx: .cfi_startproc\n call 2f\n1: pause\n lfence\n jmp 1b\n2: mov %rbx, (%rsp)\n ret\n .cfi_endproc\n"
        "callee: .cfi_startproc\n inc %r12\n cmp %r12, %r13\n je 1f\n incq in_disorder(%rip)\n1: ret\n .cfi_endproc\n"
        ".globl crowd\n.type crowd, @function\ncrowd: .cfi_startproc\n push %rbx\n .cfi_adjust_cfa_offset 8\n push %r12\n"
        " .cfi_adjust_cfa_offset 8\n push %r13\n .cfi_adjust_cfa_offset 8\n mov (%rdi), %r12\n mov %r12, %r13\n"
        " lea callee(%rip), %rbx\n"
        " .rept " SITES "\n inc %r13\n call thunk_rbx\n .endr\n"
        " mov %r12, (%rdi)\n pop %r13\n .cfi_adjust_cfa_offset -8\n pop %r12\n .cfi_adjust_cfa_offset -8\n pop %rbx\n"
        " .cfi_adjust_cfa_offset -8\n ret\n .cfi_endproc\n .size crowd, . - crowd\n.popsection");

int main(void) {
    word counted = 0;
    for (word round = 1; round <= ROUNDS; round++) {
        crowd(&counted);
        CHECK(counted == round * strtoul(SITES, NULL, 10), "%lu calls after round %lu", counted, round);
    }
    CHECK(in_disorder == 0, "%lu calls in disorder", in_disorder);
    puts("crowded done");
    return 0;
}
