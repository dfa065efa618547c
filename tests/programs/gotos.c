/* Computed gotos of all kinds: whoever reads labels from data, from code or from nowhere, and flags that are live at them.
 * Each runs until it is promoted and long after, and its result is known. */
#include "check.h"

#define ROUNDS 60000
/* Bytecode: numbers of operations, the last of them ends a round. */
static const unsigned char code[] = { 0, 1, 2, 0, 2, 2, 1, 0, 3 };

/* What the operations do, as a switch that the compiler resolves. */
static word expected(word a, word rounds) {
    while (rounds-- > 0)
        for (unsigned i = 0; i < sizeof code; i++)
            a = code[i] == 0 ? a + 3 : code[i] == 1 ? a ^ 5 : code[i] == 2 ? a * 7 : a;
    return a;
}
#define OPERATIONS(next)                                                                           \
    add: a += 3; next;                                                                             \
    xor: a ^= 5; next;                                                                             \
    mul: a *= 7; next;                                                                             \
    end: if (--rounds == 0) return a;                                                              \
    at = code; next;

/* A table, and one label that is taken in code, as PHP's halt is. */
struct handled { const void *handler; };
static struct handled halt;
OPAQUE word table_and_a_label(word a, word rounds) {
    static const void *const labels[] = { &&add, &&xor, &&mul, &&end };
    struct handled program[sizeof code + 1];
    for (unsigned i = 0; i < sizeof code; i++) program[i].handler = labels[code[i]];
    halt.handler = &&stop;
    const struct handled *at = program;
    goto *at++->handler;
    add: a += 3; goto *at++->handler;
    xor: a ^= 5; goto *at++->handler;
    mul: a *= 7; goto *at++->handler;
    end: at = --rounds ? program : &halt; goto *at++->handler;
    stop: return a;
}

/* Distances from one label, as in OCaml's interpreter. */
OPAQUE word distances(word a, word rounds) {
    static const int to[] = { &&add - &&add, &&xor - &&add, &&mul - &&add, &&end - &&add };
    const char *base = &&add;
    const unsigned char *at = code;
#define NEXT goto *(void *)(base + to[*at++])
    NEXT;
    OPERATIONS(NEXT)
#undef NEXT
}

/* The same in 16 bits, from a label in the middle. */
OPAQUE word short_distances(word a, word rounds) {
    static const short to[] = { &&add - &&mul, &&xor - &&mul, &&mul - &&mul, &&end - &&mul };
    const unsigned char *at = code;
#define NEXT goto *(void *)((char *)&&mul + to[*at++])
    NEXT;
    OPERATIONS(NEXT)
#undef NEXT
}

/* Labels that are nowhere in data: written at run time, and never as they are. */
OPAQUE word encoded(word a, word rounds) {
    static word key = 0x5a5a5a5a5a5a5a5a, labels[4];
    labels[0] = (word)&&add ^ key;
    labels[1] = (word)&&xor ^ key;
    labels[2] = (word)&&mul ^ key;
    labels[3] = (word)&&end ^ key;
    const unsigned char *at = code;
#define NEXT goto *(void *)(*(volatile word *)&labels[*at++] ^ key)
    NEXT;
    OPERATIONS(NEXT)
#undef NEXT
}

/* Flags that gcc carries over a goto from plain C: each label asks again how a compares with b. Without `seen` it tells where
 * its labels are. */
OPAQUE word kept_by_the_compiler(long a, long b, void *const *to, int *seen) {
    static void *const labels[] = { &&below, &&store, &&above, &&equal };
    if (!seen) return (word)labels;
    *seen = a < b ? 3 : 9;
    goto **to;
    below: return a < b ? 11 : 5;
    store: if (a < b) *seen = 5; return 7;
    above: return a > b ? (word)a * 3 : (word)a;
    equal: return a == b;
}
static void keeps(void) {
    void *const *labels = (void *const *)kept_by_the_compiler(0, 0, NULL, NULL);
    for (word i = 0; i < 8 * ROUNDS; i++) {
        int seen = 0;
        word which = i < 4 * ROUNDS ? i & 3 : i * 5 / 7 & 3;
        long a = i % 7, b = i % 5;
        word right[] = { a < b ? 11 : 5, 7, a > b ? (word)a * 3 : (word)a, a == b };
        word got = kept_by_the_compiler(a, b, labels + which, &seen);
        CHECK(got == right[which], "%lu of %ld and %ld is %lu", which, a, b, got);
        CHECK(seen == (a >= b ? 9 : which == 1 ? 5 : 3), "%lu of %ld and %ld: %d is seen", which, a, b, seen);
    }
}

#ifndef INLINE
/* No table at all: operations at equal distances, 16 bytes each, reached by arithmetic; and flags that are set before the
 * jump and read behind it, in distances of 32 bits from the table itself, as a switch has them. The last one jumps on a
 * condition, and lands in the middle of a function next to it. */
extern word by_arithmetic(word which, word a, word b), by_distance(word which, word a, word b), by_condition(word which, word a, word b);
#define ANSWER_IF(name, condition) name ": set" condition " %al\n movzbl %al, %eax\n ret\n .p2align 4\n"
#define ANSWERS(prefix) ANSWER_IF(prefix "0", "b") ANSWER_IF(prefix "1", "a") ANSWER_IF(prefix "2", "e") ANSWER_IF(prefix "3", "l")
#define THUNK(name)                                                                                \
    ".type thunk_" #name ", @function\nthunk_" #name ": .cfi_startproc\n call 2f\n1: pause\n lfence\n jmp 1b\n" \
    "2: mov %" #name ", (%rsp)\n ret\n .cfi_endproc\n .size thunk_" #name ", . - thunk_" #name "\n"
/* Far enough that no jump to them is a short one, which would be no site. */
__asm__(".pushsection .text\n" THUNK(rax) THUNK(rcx) " .skip 256, 0xcc\n"
        ".p2align 4\n.type by_arithmetic, @function\n.globl by_arithmetic\nby_arithmetic: .cfi_startproc\n"
        " shl $4, %rdi\n lea arithmetic_0(%rip), %rcx\n add %rdi, %rcx\n cmp %rdx, %rsi\n jmp thunk_rcx\n .p2align 4\n"
        ANSWERS("arithmetic_") " .cfi_endproc\n .size by_arithmetic, . - by_arithmetic\n"
        ".type by_distance, @function\n.globl by_distance\nby_distance: .cfi_startproc\n"
        " lea distances_of_labels(%rip), %r8\n movslq (%r8,%rdi,4), %rax\n add %r8, %rax\n cmp %rdx, %rsi\n"
        " jmp thunk_rax\n .p2align 4\n"
        ANSWERS("distance_") " .cfi_endproc\n .size by_distance, . - by_distance\n"
        ".type by_condition, @function\n.globl by_condition\nby_condition: .cfi_startproc\n"
        " lea neighbour_0(%rip), %rcx\n shl $4, %rdi\n add %rdi, %rcx\n cmp %rdx, %rsi\n jne thunk_rcx\n"
        " jmp thunk_rcx\n .cfi_endproc\n .size by_condition, . - by_condition\n"
        ".type neighbour, @function\nneighbour: .cfi_startproc\n ud2\n .p2align 4\n"
        ANSWERS("neighbour_") " .cfi_endproc\n .size neighbour, . - neighbour\n"
        ".popsection\n.pushsection .rodata\n .p2align 2\ndistances_of_labels:\n"
        " .long distance_0 - distances_of_labels, distance_1 - distances_of_labels\n"
        " .long distance_2 - distances_of_labels, distance_3 - distances_of_labels\n.popsection");
#ifndef __PIE__
/* Labels as words of 32 bits, where addresses are small. */
extern word by_small_words(word which, word a, word b);
__asm__(".pushsection .text\n.type by_small_words, @function\n.globl by_small_words\nby_small_words: .cfi_startproc\n"
        " mov small_words(,%rdi,4), %eax\n cmp %rdx, %rsi\n jmp thunk_rax\n .p2align 4\n"
        ANSWERS("small_") " .cfi_endproc\n .size by_small_words, . - by_small_words\n"
        ".popsection\n.pushsection .rodata\n .p2align 2\nsmall_words: .long small_0, small_1, small_2, small_3\n.popsection");
#endif

static void asks(const char *name, word (*ask)(word, word, word)) {
    word state = 88172645463325252;
    for (word i = 0; i < 8 * ROUNDS; i++) {
        word a = next_random(&state) % 7, b = next_random(&state) % 5;
        /* In turn, then one of them, then anyhow. */
        word which = i < 2 * ROUNDS ? i & 1 : i < 4 * ROUNDS ? 3 : i < 6 * ROUNDS ? i & 3 : next_random(&state) & 3;
        word got = ask(which, a, b), right = which == 0 ? a < b : which == 1 ? a > b : which == 2 ? a == b : (long)a < (long)b;
        CHECK(got == right, "%s: %lu of %lu and %lu is %lu at %lu", name, which, a, b, got, i);
    }
}

#endif

int main(void) {
    static const struct { const char *name; word (*run)(word, word); } loops[] = {
        { "table_and_a_label", table_and_a_label }, { "distances", distances },
        { "short_distances", short_distances }, { "encoded", encoded },
    };
    word right = expected(1, ROUNDS);
    for (unsigned i = 0; i < sizeof loops / sizeof *loops; i++) {
        word got = loops[i].run(1, ROUNDS);
        CHECK(got == right, "%s gives %lu, not %lu", loops[i].name, got, right);
    }
    keeps();
#ifndef INLINE
    asks("by_arithmetic", by_arithmetic);
    asks("by_distance", by_distance);
    asks("by_condition", by_condition);
#ifndef __PIE__
    asks("by_small_words", by_small_words);
#endif
#endif
    printf("%lu\n", right);
    return 0;
}
