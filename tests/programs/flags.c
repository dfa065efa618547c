/* A jump through a thunk must leave everything as the program set it: all registers, every flag, and what lies below the
 * stack pointer. The jump may be a computed goto, and the label may read any of it. Written in assembly, for each register
 * that can hold the target, with thunks of gcc's shape or, with -DLONG_LOOP, of clang's. */
#include "check.h"

#define CALLS 24000
#define LABELS 12
/* Words below the stack pointer: the red zone. The first is the thunk's. */
#define BELOW 16
/* Carry, parity, adjust, zero, sign, direction, overflow. */
#define FLAGS 0xcd5

struct state {
    word general[16]; /* by number; the target's register and rsp are not compared */
    word below[BELOW], flags;
};
struct state want, got;
word target_of_jump, number, stack_of_c;

#ifdef LONG_LOOP
#define PADDING " nopl 0(%rax)\n"
#else
#define PADDING
#endif
#define THUNK(name, n)                                                                             \
    ".type thunk_" #name ", @function\nthunk_" #name ": .cfi_startproc\n call 2f\n1: pause\n lfence\n jmp 1b\n" PADDING \
    "2: mov %" #name ", (%rsp)\n ret\n .cfi_endproc\n .size thunk_" #name ", . - thunk_" #name "\n"

#define GENERAL(m) m(rax, 0) m(rcx, 1) m(rdx, 2) m(rbx, 3) m(rbp, 5) m(rsi, 6) m(rdi, 7) m(r8, 8) m(r9, 9) \
    m(r10, 10) m(r11, 11) m(r12, 12) m(r13, 13) m(r14, 14) m(r15, 15)
/* The same once more: a macro cannot be used inside itself. */
#define FOR_TARGETS(m) m(rax, 0) m(rcx, 1) m(rdx, 2) m(rbx, 3) m(rbp, 5) m(rsi, 6) m(rdi, 7) m(r8, 8) m(r9, 9) \
    m(r10, 10) m(r11, 11) m(r12, 12) m(r13, 13) m(r14, 14) m(r15, 15)
#define WORDS(m) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define LOAD(name, n) " mov want+8*" #n "(%rip), %" #name "\n"
#define STORE(name, n) " mov %" #name ", got+8*" #n "(%rip)\n"
#define FILL(n) " mov want+128+8*" #n "(%rip), %rax\n mov %rax, -8-8*" #n "(%rsp)\n"
#define READ(n) " mov -8-8*" #n "(%rsp), %rax\n mov %rax, got+128+8*" #n "(%rip)\n"

/* Where all labels lead: rsp is noted before it is moved, and flags are read by what does not change them. */
#define LABEL(reg, n) "label_" #reg "_" #n ": movq $" #n ", number(%rip)\n jmp 9f\n"
#define ENTRY(reg, n) " .quad label_" #reg "_" #n "\n"
#define FOR_LABELS(m, reg) m(reg, 0) m(reg, 1) m(reg, 2) m(reg, 3) m(reg, 4) m(reg, 5) m(reg, 6) m(reg, 7) m(reg, 8) m(reg, 9) \
    m(reg, 10) m(reg, 11)

#define JUMPER(reg, jump)                                                                          \
    ".type jump_by_" #reg ", @function\n.globl jump_by_" #reg "\njump_by_" #reg ": .cfi_startproc\n" \
    " push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n .cfi_adjust_cfa_offset 48\n" \
    " mov %rsp, stack_of_c(%rip)\n sub $264, %rsp\n .cfi_adjust_cfa_offset 264\n" WORDS(FILL)      \
    " pushq want+256(%rip)\n popfq\n" GENERAL(LOAD) " mov target_of_jump(%rip), %" #reg "\n" jump  \
    FOR_LABELS(LABEL, reg)                                                                         \
    "9:\n" GENERAL(STORE) " mov %rsp, got+8*4(%rip)\n" WORDS(READ)                                 \
    " lea -128(%rsp), %rsp\n pushfq\n popq got+256(%rip)\n cld\n mov stack_of_c(%rip), %rsp\n"     \
    " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"                     \
    " .cfi_endproc\n .size jump_by_" #reg ", . - jump_by_" #reg "\n"                               \
    ".pushsection .data.rel.ro, \"aw\"\n .p2align 3\n.globl labels_" #reg "\nlabels_" #reg ":\n"   \
    FOR_LABELS(ENTRY, reg) ".popsection\n"
#define PLAIN(name, n) JUMPER(name, " jmp thunk_" #name "\n")

__asm__(".pushsection .text\n" FOR_TARGETS(THUNK) FOR_TARGETS(PLAIN) ".popsection");

#define DECLARE(name, n) extern void jump_by_##name(void); extern const word labels_##name[];
FOR_TARGETS(DECLARE)
#define EACH(name, n) { jump_by_##name, labels_##name, n, #name },
static const struct { void (*jump)(void); const word *labels; int number; const char *name; } jumpers[] = { FOR_TARGETS(EACH) };

static void compare(int by, word at) {
    for (int n = 0; n < 16; n++)
        CHECK(n == 4 || n == by || got.general[n] == want.general[n], "register %d is %lx, not %lx, in a jump through %d at %lu",
              n, got.general[n], want.general[n], by, at);
    CHECK(got.general[4] == stack_of_c - 264, "rsp moved by %ld in a jump through %d at %lu",
          (long)(got.general[4] - stack_of_c + 264), by, at);
    for (int n = 1; n < BELOW; n++)
        CHECK(got.below[n] == want.below[n], "-%d(%%rsp) is %lx, not %lx, in a jump through %d at %lu", 8 + 8 * n,
              got.below[n], want.below[n], by, at);
    CHECK((got.flags & FLAGS) == (want.flags & FLAGS), "flags are %lx, not %lx, in a jump through %d at %lu",
          got.flags & FLAGS, want.flags & FLAGS, by, at);
}

/* One target, few, all of them in a foreseeable order, then at random: learn, promote, link, miss, learn again. */
static word choose(word i, word random) {
    switch (i * 8 / CALLS) {
    case 0: return 3;
    case 1: return i % 2;
    case 2: return random % LABELS;
    case 3: case 4: return i % LABELS;
    case 5: return i % 16 ? 5 : random % LABELS;
    default: return i % LABELS / 2;
    }
}

extern int relpoline_disable(void) __attribute__((weak));
extern int relpoline_enable(void) __attribute__((weak));

int main(int argc, char **argv) {
    int may_switch = argc > 1 && !strcmp(argv[1], "switch") && relpoline_disable && relpoline_enable;
    word state = 88172645463325252, jumps = 0;
    for (unsigned by = 0; by < sizeof jumpers / sizeof *jumpers; by++) {
        for (word i = 0; i < CALLS; i++) {
            for (int n = 0; n < 16; n++) want.general[n] = next_random(&state) >> (state & 63);
            for (int n = 0; n < BELOW; n++) want.below[n] = next_random(&state);
            want.flags = (next_random(&state) & FLAGS) | 0x202;
            word label = choose(i, next_random(&state));
            target_of_jump = jumpers[by].labels[label];
            number = ~0ul;
            jumpers[by].jump();
            CHECK(number == label, "label %lu, not %lu, in a jump through %s at %lu", number, label, jumpers[by].name, i);
            compare(jumpers[by].number, i);
            jumps++;
            if (may_switch && i % 5000 == 4000) CHECK(relpoline_disable() == 0, "disable");
            if (may_switch && i % 5000 == 4600) CHECK(relpoline_enable() == 0, "enable");
        }
    }
    printf("%lu jumps compared\n", jumps);
    return 0;
}
