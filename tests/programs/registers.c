/* A call through a retpoline must leave every register as the caller set it. Written in assembly: the caller fills
 * all of them, the callee stores them. The thunks are written out too, in gcc's shape, so that the registers that
 * hold the target are known. */
#include "check.h"
#include <cpuid.h>

#define CALLS 400000

struct registers {
    word general[16];    /* by number; the target's register and rsp are not compared */
    word vectors[16][4]; /* the upper halves only with AVX */
};

struct registers want, got;
word has_avx, target_of_call;

#define THUNK(name, move)                                                                          \
    ".type thunk_" #name ", @function\nthunk_" #name ": .cfi_startproc\n call 2f\n1: pause\n lfence\n jmp 1b\n" \
    "2: " move "\n ret\n .cfi_endproc\n .size thunk_" #name ", . - thunk_" #name "\n"

#define VECTORS(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define LOAD_X(n) " movups want+128+32*" #n "(%rip), %xmm" #n "\n"
#define LOAD_Y(n) " vmovups want+128+32*" #n "(%rip), %ymm" #n "\n"
#define STORE_X(n) " movups %xmm" #n ", got+128+32*" #n "(%rip)\n"
#define STORE_Y(n) " vmovups %ymm" #n ", got+128+32*" #n "(%rip)\n"
#define GENERAL(m) m(rax, 0) m(rcx, 1) m(rdx, 2) m(rbx, 3) m(rbp, 5) m(rsi, 6) m(rdi, 7) m(r8, 8) m(r9, 9) \
    m(r10, 10) m(r11, 11) m(r12, 12) m(r13, 13) m(r14, 14) m(r15, 15)
#define LOAD(name, n) " mov want+8*" #n "(%rip), %" #name "\n"
#define STORE(name, n) " mov %" #name ", got+8*" #n "(%rip)\n"
#define SAVED(m) m(rbx) m(rbp) m(r12) m(r13) m(r14) m(r15)
#define PUSH(name) " push %" #name "\n"

/* The caller: everything filled, the target in `reg`, the call, back. The stack's top is filled too. */
#define CALLER(reg)                                                                                \
    ".type call_by_" #reg ", @function\n.globl call_by_" #reg "\ncall_by_" #reg ": .cfi_startproc\n" \
    SAVED(PUSH) " .cfi_adjust_cfa_offset 48\n push $0x5a5a\n .cfi_adjust_cfa_offset 8\n"           \
    " cmpq $0, has_avx(%rip)\n je 3f\n" VECTORS(LOAD_Y) " jmp 4f\n3:\n" VECTORS(LOAD_X) "4:\n"      \
    GENERAL(LOAD) " mov target_of_call(%rip), %" #reg "\n call thunk_" #reg "\n"                   \
    " pop %rax\n .cfi_adjust_cfa_offset -8\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n" \
    " .cfi_adjust_cfa_offset -48\n ret\n .cfi_endproc\n .size call_by_" #reg ", . - call_by_" #reg "\n"

__asm__(".pushsection .text\n"
        THUNK(rax, "mov %rax, (%rsp)") THUNK(rcx, "mov %rcx, (%rsp)") THUNK(rdx, "mov %rdx, (%rsp)")
        THUNK(r10, "mov %r10, (%rsp)") THUNK(r11, "mov %r11, (%rsp)") THUNK(rbp, "mov %rbp, (%rsp)")
        THUNK(rsi, "mov %rsi, (%rsp)") THUNK(rdi, "mov %rdi, (%rsp)") THUNK(r13, "mov %r13, (%rsp)")
        CALLER(rax) CALLER(rcx) CALLER(rdx) CALLER(r10) CALLER(r11) CALLER(rbp) CALLER(rsi) CALLER(rdi) CALLER(r13)
        "witness_0: .cfi_startproc\n nop\n" GENERAL(STORE) " jmp 5f\n .cfi_endproc\n"
        "witness_1: .cfi_startproc\n" GENERAL(STORE)
        "5: cmpq $0, has_avx(%rip)\n je 6f\n" VECTORS(STORE_Y) " vzeroupper\n ret\n6:\n" VECTORS(STORE_X)
        " ret\n .cfi_endproc\n"
        ".popsection");

extern void witness_0(void), witness_1(void);
#define FOR_CALLERS(m) m(rax, 0) m(rcx, 1) m(rdx, 2) m(r10, 10) m(r11, 11) m(rbp, 5) m(rsi, 6) m(rdi, 7) m(r13, 13)
#define DECLARE(name, n) extern word call_by_##name(void);
FOR_CALLERS(DECLARE)

static void compare(int target_register, word at) {
    for (int n = 0; n < 16; n++)
        CHECK(n == 4 || n == target_register || got.general[n] == want.general[n],
              "register %d is %lx, not %lx, called through %d at %lu", n, got.general[n], want.general[n], target_register, at);
    int words = has_avx ? 4 : 2;
    for (int n = 0; n < 16; n++)
        for (int i = 0; i < words; i++)
            CHECK(got.vectors[n][i] == want.vectors[n][i], "vector %d, word %d, called through %d at %lu", n, i, target_register, at);
}

#define ROUND(name, n)                                                                             \
    for (word i = 0; i < CALLS; i++) {                                                             \
        /* One target at first, then two, then the other one: learn, promote, miss, learn again. */ \
        int other = i < CALLS / 2 ? 0 : i < CALLS * 3 / 4 ? i & 1 : 1;                             \
        target_of_call = (word)(other ? witness_1 : witness_0);                                    \
        memset(&got, 0, sizeof got);                                                               \
        word top = call_by_##name();                                                               \
        CHECK(top == 0x5a5a, "the stack's top is %lx", top);                                       \
        compare(n, i);                                                                             \
    }

int main(void) {
    unsigned a, b, c, d;
    has_avx = __builtin_cpu_supports("avx") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE);
    word state = 2463534242UL;
    for (int n = 0; n < 16; n++) want.general[n] = next_random(&state);
    for (int n = 0; n < 16; n++)
        for (int i = 0; i < 4; i++) want.vectors[n][i] = next_random(&state);
    FOR_CALLERS(ROUND)
    puts("all registers kept");
    return 0;
}
