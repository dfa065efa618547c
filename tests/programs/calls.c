/* Every way in which C calls through a pointer, with every kind of argument. */
#include "check.h"
#include <stdarg.h>

#define CALLS 300000

DISPATCHER(one_target)
DISPATCHER(two_targets)
DISPATCHER(four_targets)
DISPATCHER(eight_targets)
DISPATCHER(many_targets)

/* Any order: whatever the policy makes of it, every call must be right. */
DISPATCHER(phases)
static OPAQUE void random_targets(void) {
    word state = 88172645463325252UL;
    for (word i = 0; i < CALLS; i++) {
        word n = next_random(&state) % CALLEES, got = callees[n](i);
        CHECK(got == ANSWER(n, i), "callee %lu said %lu", n, got);
    }
}

/* Tail calls are jumps through the thunk (when optimised). */
static OPAQUE word tail(callee_t *f, word x) { return f(x + 1); }
static OPAQUE void tail_calls(void) {
    for (word i = 0; i < CALLS; i++) {
        word n = i & 1, got = tail(callees[n], i);
        CHECK(got == ANSWER(n, i + 1), "tail callee %lu said %lu", n, got);
    }
}

/* A computed-goto interpreter: every operation ends in a jump of its own or in a shared one. */
static OPAQUE word interpret(const unsigned char *code, word rounds) {
    static const void *const operations[] = { &&add, &&sub, &&mul, &&xor, &&not, &&swap, &&loop, &&end };
    word a = 1, b = 2, t;
#define NEXT goto *operations[*code++]
    const unsigned char *start = code;
    NEXT;
add: a += b; NEXT;
sub: a -= 7; NEXT;
mul: a *= 5; NEXT;
xor: a ^= b; NEXT;
not: b = ~b; NEXT;
swap: t = a; a = b; b = t; NEXT;
loop:
    if (--rounds) code = start;
    NEXT;
end:
    return a ^ b;
}

static OPAQUE word interpret_by_switch(const unsigned char *code, word rounds) {
    word a = 1, b = 2, t;
    for (const unsigned char *at = code;;) switch (*at++) {
        case 0: a += b; break;
        case 1: a -= 7; break;
        case 2: a *= 5; break;
        case 3: a ^= b; break;
        case 4: b = ~b; break;
        case 5: t = a; a = b; b = t; break;
        case 6: if (--rounds) at = code; break;
        default: return a ^ b;
    }
}

static void interpreter(void) {
    static const unsigned char code[] = { 0, 1, 2, 5, 3, 0, 4, 2, 1, 5, 0, 3, 6, 7 };
    word ours = interpret(code, CALLS / 8), theirs = interpret_by_switch(code, CALLS / 8);
    CHECK(ours == theirs, "%lx for %lx", ours, theirs);
}

/* Arguments of all kinds, enough of each to overflow the registers. */
struct small { long a; double b; };
struct large { long values[9]; };

static OPAQUE long many_ints(long a, long b, long c, long d, long e, long f, long g, long h, long i, char j) {
    return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i + 10 * j;
}
static OPAQUE double many_doubles(double a, double b, double c, double d, double e, double f, double g, double h, double i, float j) {
    return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i + 10 * j;
}
static OPAQUE struct small small_by_value(struct small s, long x) { return (struct small){ s.a + x, s.b - x }; }
static OPAQUE struct large large_by_value(struct large s, long x) {
    for (int i = 0; i < 9; i++) s.values[i] += x * i;
    return s;
}
static OPAQUE double variadic(int count, ...) {
    va_list list;
    va_start(list, count);
    double sum = 0;
    for (int i = 0; i < count; i++) sum += i % 2 ? va_arg(list, double) : va_arg(list, long);
    va_end(list);
    return sum;
}
static OPAQUE long double extended(long double x, __int128 y) { return x * 2 + (long)(y >> 64); }
static OPAQUE _Complex double complex_value(_Complex double x) { return x * x; }

static long (*volatile ints_pointer)(long, long, long, long, long, long, long, long, long, char) = many_ints;
static double (*volatile doubles_pointer)(double, double, double, double, double, double, double, double, double, float) = many_doubles;
static struct small (*volatile small_pointer)(struct small, long) = small_by_value;
static struct large (*volatile large_pointer)(struct large, long) = large_by_value;
static double (*volatile variadic_pointer)(int, ...) = variadic;
static long double (*volatile extended_pointer)(long double, __int128) = extended;
static _Complex double (*volatile complex_pointer)(_Complex double) = complex_value;

static OPAQUE void arguments(void) {
    for (long i = 0; i < CALLS / 3; i++) {
        CHECK(ints_pointer(i, 1, 2, 3, 4, 5, 6, 7, i, 9) == 10 * i + 2 + 6 + 12 + 20 + 30 + 42 + 56 + 90, "ints at %ld", i);
        CHECK(doubles_pointer(i, 1, 2, 3, 4, 5, 6, 7, i, 9) == 10. * i + 258, "doubles at %ld", i);
        struct small s = small_pointer((struct small){ i, 0.5 }, 3);
        CHECK(s.a == i + 3 && s.b == -2.5, "small struct at %ld", i);
        struct large l = large_pointer((struct large){ { i, i, i } }, 2);
        CHECK(l.values[0] == i && l.values[2] == i + 4 && l.values[8] == 16, "large struct at %ld", i);
        CHECK(variadic_pointer(10, i, 0.5, 1L, 0.5, 1L, 0.5, 1L, 0.5, i, 0.5) == 2. * i + 5.5, "variadic at %ld", i);
        CHECK(variadic_pointer(1, i) == i, "variadic without vectors at %ld", i);
        CHECK(extended_pointer(i, (__int128)i << 64) == 3 * i, "extended at %ld", i);
        _Complex double z = complex_pointer(__builtin_complex((double)i, 1.0));
        CHECK(__real__ z == (double)i * i - 1 && __imag__ z == 2. * i, "complex at %ld", i);
    }
}

/* The static chain travels in r10, the number of vector arguments in al. */
extern word takes_chain(word x), takes_count(word x, ...);
__asm__(".pushsection .text\n"
        "takes_chain: .cfi_startproc\n lea (%rdi,%r10), %rax\n ret\n .cfi_endproc\n"
        "takes_count: .cfi_startproc\n movzbl %al, %eax\n ret\n .cfi_endproc\n"
        ".popsection");
static word (*volatile chain_pointer)(word) = takes_chain;
static word (*volatile count_pointer)(word, ...) = takes_count;

static OPAQUE void hidden_arguments(void) {
    for (word i = 0; i < CALLS; i++) {
        word got = __builtin_call_with_static_chain(chain_pointer(i), (void *)(2 * i));
        CHECK(got == 3 * i, "chain gave %lu at %lu", got, i);
        CHECK(count_pointer(i, 1.0, 2.0, 3.0) == 3, "vectors of 3 at %lu", i);
        CHECK(count_pointer(i) == 0, "vectors of 0 at %lu", i);
    }
}

int main(int argc, char **argv) {
    word rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 1;
    for (word round = 0; round < rounds; round++) {
        one_target(round, 1, CALLS);
        two_targets(0, 2, CALLS);
        four_targets(0, 4, CALLS);
        eight_targets(0, 8, CALLS);
        for (word phase = 0; phase < 12; phase++) phases(phase * 8, 1 + phase % 5, CALLS / 4);
        random_targets();
        tail_calls();
        interpreter();
        arguments();
        hidden_arguments();
        many_targets(0, 83, CALLS);
    }
    printf("%lu calls counted, all right\n", entered);
    return 0;
}
