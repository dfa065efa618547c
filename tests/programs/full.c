/* So many sites with so many targets that their trees do not fit into an arena: those that come too late stay with their thunk,
   and say why. */
#include "check.h"

#define SITES "2001"

/* Site number r13, counted over all rounds, calls callee number r13 % TARGETS, which counts in r12 and leaves its number in r15. */
extern void crowd(word *counted, word *table);
extern word wrong;
word wrong;
#define CALLEE(n) "callee_" #n ": .cfi_startproc\n inc %r12\n mov $" #n ", %r15d\n ret\n .cfi_endproc\n.balign 16\n"
#define ADDRESS(n) ".quad callee_" #n "\n"
#define ALL(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define MASK "15"
__asm__(".pushsection .text\n"
        "thunk_rbx: .cfi_startproc\n call 2f\n1: pause\n lfence\n jmp 1b\n2: mov %rbx, (%rsp)\n ret\n .cfi_endproc\n"
        ".balign 16\n" ALL(CALLEE)
        ".globl crowd\n.type crowd, @function\ncrowd: .cfi_startproc\n"
        " push %rbx\n .cfi_adjust_cfa_offset 8\n push %r12\n .cfi_adjust_cfa_offset 8\n push %r13\n .cfi_adjust_cfa_offset 8\n"
        " push %r14\n .cfi_adjust_cfa_offset 8\n push %r15\n .cfi_adjust_cfa_offset 8\n"
        " mov (%rdi), %r12\n mov %r12, %r13\n mov %rsi, %r14\n"
        " .rept " SITES "\n inc %r13\n mov %r13d, %eax\n and $" MASK ", %eax\n mov (%r14,%rax,8), %rbx\n call thunk_rbx\n"
        " mov %r13d, %eax\n and $" MASK ", %eax\n cmp %eax, %r15d\n je 1f\n incq wrong(%rip)\n1: cmp %r12, %r13\n je 1f\n"
        " incq wrong(%rip)\n1:\n .endr\n"
        " mov %r12, (%rdi)\n"
        " pop %r15\n .cfi_adjust_cfa_offset -8\n pop %r14\n .cfi_adjust_cfa_offset -8\n pop %r13\n .cfi_adjust_cfa_offset -8\n"
        " pop %r12\n .cfi_adjust_cfa_offset -8\n pop %rbx\n .cfi_adjust_cfa_offset -8\n"
        " ret\n .cfi_endproc\n .size crowd, . - crowd\n.popsection\n"
        ".pushsection .data.rel.ro, \"aw\"\n.balign 8\ntable: " ALL(ADDRESS) ".popsection");
extern word table[];

int main(int argc, char **argv) {
    word counted = 0, rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 1;
    for (word round = 1; round <= rounds; round++) {
        crowd(&counted, table);
        CHECK(counted == round * strtoul(SITES, NULL, 10), "%lu calls after round %lu", counted, round);
    }
    CHECK(wrong == 0, "%lu calls went wrong", wrong);
    puts("full done");
    return 0;
}
