/* Calls that must leave every register as the caller set it, and gotos that must leave every flag. In assembly, with
 * thunks in gcc's shape, so that the register that holds the target is known. */
#include "torture.h"
#include <string.h>

struct registers {
    word want[16], got[16]; /* by number; rsp and the target's register are not compared */
    word want_vectors[16][2], got_vectors[16][2];
    word target, number;
};

#define THUNK(name)                                                                                \
    ".type thunk_" #name ", @function\nthunk_" #name ": .cfi_startproc\n call 2f\n1: pause\n lfence\n jmp 1b\n" \
    "2: mov %" #name ", (%rsp)\n ret\n .cfi_endproc\n .size thunk_" #name ", . - thunk_" #name "\n"
#define VECTORS(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define LOAD_VECTOR(n) " movups 256+16*" #n "(%rdi), %xmm" #n "\n"
#define STORE_VECTOR(n) " movups %xmm" #n ", 512+16*" #n "(%rax)\n"
/* All but rax, rsp and rdi. */
#define GENERAL(m) m(rcx, 1) m(rdx, 2) m(rbx, 3) m(rbp, 5) m(rsi, 6) m(r8, 8) m(r9, 9) m(r10, 10) m(r11, 11) \
    m(r12, 12) m(r13, 13) m(r14, 14) m(r15, 15)
#define LOAD(name, n) " mov 8*" #n "(%rdi), %" #name "\n"
#define STORE(name, n) " mov %" #name ", 128+8*" #n "(%rax)\n"
#define KEPT(m) m(rbx) m(rbp) m(r12) m(r13) m(r14) m(r15)
#define PUSH(name) " push %" #name "\n"

/* Called with the registers in rdi. Its callee finds them on the stack. */
#define CALLER(name)                                                                               \
    ".type call_by_" #name ", @function\n.globl call_by_" #name "\ncall_by_" #name ": .cfi_startproc\n" \
    KEPT(PUSH) " .cfi_adjust_cfa_offset 48\n push %rdi\n .cfi_adjust_cfa_offset 8\n"               \
    VECTORS(LOAD_VECTOR) GENERAL(LOAD) " mov (%rdi), %rax\n"                                       \
    " mov 768(%rdi), %" #name "\n .ifnc " #name ",rdi\n mov 56(%rdi), %rdi\n .endif\n"             \
    " call thunk_" #name "\n"                                                                      \
    " add $8, %rsp\n .cfi_adjust_cfa_offset -8\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n" \
    " .cfi_adjust_cfa_offset -48\n ret\n .cfi_endproc\n .size call_by_" #name ", . - call_by_" #name "\n"

#define WITNESS(n)                                                                                 \
    ".type witness_" #n ", @function\n.globl witness_" #n "\nwitness_" #n ": .cfi_startproc\n push %rax\n" \
    " .cfi_adjust_cfa_offset 8\n mov 16(%rsp), %rax\n" GENERAL(STORE) " mov %rdi, 128+8*7(%rax)\n"  \
    " pop %rcx\n .cfi_adjust_cfa_offset -8\n mov %rcx, 128(%rax)\n" VECTORS(STORE_VECTOR)          \
    " movq $" #n ", 776(%rax)\n ret\n .cfi_endproc\n .size witness_" #n ", . - witness_" #n "\n"

#define FOR_TARGETS(m) m(rax, 0) m(rcx, 1) m(rdx, 2) m(rbx, 3) m(rbp, 5) m(rsi, 6) m(rdi, 7) m(r8, 8) m(r9, 9) m(r10, 10) \
    m(r11, 11) m(r13, 13)
#define THUNK_OF(name, n) THUNK(name)
#define CALLER_BY(name, n) CALLER(name)

/* The flags are set, and read again behind the label. So is a word deep in the red zone: rdx holds the same, and
 * what they differ in gets into the number. */
#define FLAG_LABEL(n) "flag_label_" #n ": mov -72(%rsp), %rcx\n pushfq\n pop %rax\n xor %rcx, %rdx\n shl $8, %rdx\n" \
    " or $" #n ", %rdx\n ret\n"
#define FLAG_ENTRY(n) " .quad flag_label_" #n "\n"

__asm__(".pushsection .text\n" FOR_TARGETS(THUNK_OF) FOR_TARGETS(CALLER_BY)
        WITNESS(0) WITNESS(1) WITNESS(2) WITNESS(3) WITNESS(4)
        ".type goto_with_flags, @function\n.globl goto_with_flags\ngoto_with_flags: .cfi_startproc\n"
        " lea flag_labels(%rip), %rax\n mov (%rax,%rsi,8), %rcx\n mov %rdi, %rdx\n mov %rdi, -72(%rsp)\n"
        " push %rdi\n .cfi_adjust_cfa_offset 8\n popfq\n"
        " .cfi_adjust_cfa_offset -8\n jmp thunk_rcx\n"
        FLAG_LABEL(0) FLAG_LABEL(1) FLAG_LABEL(2) FLAG_LABEL(3)
        " .cfi_endproc\n .size goto_with_flags, . - goto_with_flags\n.popsection\n"
        ".pushsection .data.rel.ro, \"aw\"\n .p2align 3\nflag_labels:\n"
        FLAG_ENTRY(0) FLAG_ENTRY(1) FLAG_ENTRY(2) FLAG_ENTRY(3) ".popsection");

extern void witness_0(void), witness_1(void), witness_2(void), witness_3(void), witness_4(void);
static void (*const witnesses[])(void) = { witness_0, witness_1, witness_2, witness_3, witness_4 };
#define WITNESSES (sizeof witnesses / sizeof *witnesses)

typedef void caller_t(struct registers *);
#define DECLARE(name, n) extern caller_t call_by_##name;
FOR_TARGETS(DECLARE)
#define ENTRY(name, n) { call_by_##name, n },
static const struct { caller_t *call; int target; } callers[] = { FOR_TARGETS(ENTRY) };
#define CALLERS (sizeof callers / sizeof *callers)

static OPAQUE void say_what_differs(const struct registers *r, int target, word witness) {
    if (r->number != witness) wrong("witness %lu was called through register %d, and %lu came", witness, target, r->number);
    for (int n = 0; n < 16; n++) {
        if (n != 4 && n != target && r->got[n] != r->want[n])
            wrong("register %d is %lx, not %lx, in a call through register %d", n, r->got[n], r->want[n], target);
        if (memcmp(r->got_vectors[n], r->want_vectors[n], 16))
            wrong("vector register %d was changed in a call through register %d", n, target);
    }
}

word compare_registers(const unsigned char *pattern, word base, word calls) {
    struct registers r;
    word state = base * 2654435761 + 88172645463325252;
    for (int n = 0; n < 16; n++) {
        r.want[n] = next_random(&state);
        r.want_vectors[n][0] = next_random(&state);
        r.want_vectors[n][1] = next_random(&state);
    }
    for (word i = 0; i < calls; i++) {
        int by = base % CALLERS, target = callers[by].target;
        word witness = (pattern[i % PATTERN] + base) % WITNESSES;
        r.target = (word)witnesses[witness];
        r.number = ~0UL;
        callers[by].call(&r);
        /* What is not compared may be anything. */
        r.got[4] = r.want[4];
        r.got[target] = r.want[target];
        if (UNLIKELY(r.number != witness || memcmp(r.want, r.got, sizeof r.want) ||
                     memcmp(r.want_vectors, r.got_vectors, sizeof r.want_vectors)))
            say_what_differs(&r, target, witness);
    }
    return calls;
}

struct flags_and_number { word flags, number; };
extern struct flags_and_number goto_with_flags(word flags, word number);
/* Carry, parity, adjust, zero, sign, overflow. */
#define STATUS 0x8d5

word compare_flags(const unsigned char *pattern, word base, word calls) {
    for (word i = 0; i < calls; i++) {
        word number = (pattern[i % PATTERN] + base) % 4, flags = (i * 0x9e3779b97f4a7c15 >> 20) & STATUS;
        struct flags_and_number got = goto_with_flags(flags | 0x202, number);
        if (UNLIKELY(got.number != number)) wrong("goto with flags: label and red zone are %lx for %lx", got.number, number);
        if (UNLIKELY((got.flags & STATUS) != flags)) wrong("a goto changed the flags from %lx to %lx", flags, got.flags & STATUS);
    }
    return calls;
}
