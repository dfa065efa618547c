/* Sites of every kind that C has, and their callees. Compiled several times (thunks, inline thunks, unoptimised, as a
 * library, by clang), each time with another BUILD, which names its table of kinds. */
#include "torture.h"
#include <stdarg.h>
#include <stdlib.h>

#define CALLEES 64
#define EIGHT(m, a) m(0##a##0) m(0##a##1) m(0##a##2) m(0##a##3) m(0##a##4) m(0##a##5) m(0##a##6) m(0##a##7)
#define FOR_64(m) EIGHT(m, 0) EIGHT(m, 1) EIGHT(m, 2) EIGHT(m, 3) EIGHT(m, 4) EIGHT(m, 5) EIGHT(m, 6) EIGHT(m, 7)
#define CALLEE(n) static OPAQUE word callee_##n(word x) { entered++; return ANSWER(n, x); }
#define CALLEE_NAME(n) callee_##n,
FOR_64(CALLEE)
/* Volatile: what is in it is not known to the compiler. */
static callee_t *volatile callees[CALLEES] = { FOR_64(CALLEE_NAME) };

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

static OPAQUE void misled(const char *site, word n, word x, word got, word times) {
    wrong("%s in build %s: callee %lu was called with %lu and %lu answered, having been entered %lu times", site, TEXT(BUILD),
          n, x, (got - x * 31), times);
}

/* One call site per function, so that each learns for itself. `call` is how callee n is called with i. */
#define SITE(name, call, argument)                                                                 \
    static OPAQUE word name(const unsigned char *pattern, word base, word calls) {                 \
        for (word i = 0; i < calls; i++) {                                                         \
            word n = (pattern[i % PATTERN] + base) % CALLEES, before = entered, got = call;        \
            if (UNLIKELY(got != ANSWER(n, argument) || entered != before + 1))                     \
                misled(#name, n, argument, got, entered - before);                                 \
        }                                                                                          \
        return calls;                                                                              \
    }

SITE(call_0, callees[n](i), i)
SITE(call_1, callees[n](i), i)
SITE(call_2, callees[n](i + 1), (i + 1))
SITE(call_3, callees[n](~i), (~i))

/* Optimised, these are jumps through the thunk. */
static OPAQUE word jump_0(callee_t *callee, word x) { return callee(x + 5); }
static OPAQUE word jump_1(word x, word y, callee_t *callee) { return y ? callee(x ^ y) : x; }
SITE(tail_0, jump_0(callees[n], i), (i + 5))
SITE(tail_1, jump_1(i, 3, callees[n]), (i ^ 3))

/* Functions of other libraries. Compiled with -fno-plt, these calls go through a thunk too. */
static OPAQUE word library_0(const unsigned char *pattern, word base, word calls) {
    for (word i = 0; i < calls; i++) {
        long x = (long)(i + base + pattern[i % PATTERN]);
        ldiv_t parts = ldiv(x, 7);
        if (UNLIKELY(labs(-x) != x || parts.quot * 7 + parts.rem != x))
            wrong("labs or ldiv in build %s, called with %ld", TEXT(BUILD), x);
    }
    return calls * 2;
}

/* Each operation checks that it was meant. Where gcc sees fit there is one jump for all of them, else one each. */
#define OPERATION(n)                                                                               \
    operation_##n:                                                                                 \
    if (UNLIKELY(operation != n)) wrong("goto in build %s: %d for %lu", TEXT(BUILD), n, operation); \
    sum = sum * 3 + n;                                                                             \
    NEXT
#define NEXT                                                                                       \
    if (i == calls) goto end;                                                                      \
    operation = (code[i % PATTERN] + base) % 16;                                                   \
    i++;                                                                                           \
    goto *operations[operation];

#define LABEL(n) &&operation_##n,
#define SIXTEEN(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define INTERPRETER(name)                                                                          \
    static OPAQUE word name(const unsigned char *code, word base, word calls) {                    \
        static const void *const operations[16] = { SIXTEEN(LABEL) };                              \
        word sum = 0, i = 0, operation, expected = 0;                                              \
        NEXT                                                                                       \
        SIXTEEN(OPERATION)                                                                         \
    end:                                                                                           \
        for (i = 0; i < calls; i++) expected = expected * 3 + (code[i % PATTERN] + base) % 16;     \
        if (UNLIKELY(sum != expected)) wrong("gotos in build %s: %lx for %lx", TEXT(BUILD), sum, expected); \
        return calls;                                                                              \
    }
INTERPRETER(goto_0)
INTERPRETER(goto_1)

/* Enough arguments of each kind to overflow the registers; results in memory, in vectors, on the x87 stack. */
struct pair { long a; double b; };
struct large { long values[7]; };

#define ARGUMENT_CALLEES(k)                                                                        \
    static OPAQUE long ints_##k(long a, long b, long c, long d, long e, long f, long g, char h) {  \
        return k + a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h;                       \
    }                                                                                              \
    static OPAQUE double doubles_##k(double a, double b, double c, double d, double e, double f, double g, double h, float i) { \
        return k + a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i;               \
    }                                                                                              \
    static OPAQUE struct pair pair_##k(struct pair s, long x) { return (struct pair){ s.a + x + k, s.b - x }; } \
    static OPAQUE struct large large_##k(struct large s, long x) {                                 \
        for (int i = 0; i < 7; i++) s.values[i] += x * i + k;                                      \
        return s;                                                                                  \
    }                                                                                              \
    static OPAQUE double variadic_##k(int count, ...) {                                            \
        va_list list;                                                                              \
        double sum = k;                                                                            \
        va_start(list, count);                                                                     \
        for (int i = 0; i < count; i++) sum += i % 2 ? va_arg(list, double) : (double)va_arg(list, long); \
        va_end(list);                                                                              \
        return sum;                                                                                \
    }                                                                                              \
    static OPAQUE long double extended_##k(long double x, __int128 y) { return x * 2 + (long)(y >> 64) + k; }
ARGUMENT_CALLEES(0)
ARGUMENT_CALLEES(1)
ARGUMENT_CALLEES(2)

static __typeof__(ints_0) *volatile ints[] = { ints_0, ints_1, ints_2 };
static __typeof__(doubles_0) *volatile doubles[] = { doubles_0, doubles_1, doubles_2 };
static __typeof__(pair_0) *volatile pairs[] = { pair_0, pair_1, pair_2 };
static __typeof__(large_0) *volatile larges[] = { large_0, large_1, large_2 };
static __typeof__(variadic_0) *volatile variadics[] = { variadic_0, variadic_1, variadic_2 };
static __typeof__(extended_0) *volatile extendeds[] = { extended_0, extended_1, extended_2 };

#define EXPECT(condition, what)                                                                    \
    if (UNLIKELY(!(condition))) wrong("%s of callee %ld in build %s, called with %ld", what, k, TEXT(BUILD), x)

static OPAQUE word arguments_0(const unsigned char *pattern, word base, word calls) {
    for (word i = 0; i < calls; i++) {
        long k = (pattern[i % PATTERN] + base) % 3, x = (long)(i % 1000);
        EXPECT(ints[k](x, 1, 2, 3, 4, 5, 6, 7) == k + x + 2 + 6 + 12 + 20 + 30 + 42 + 56, "integers");
        EXPECT(doubles[k](x, 1, 2, 3, 4, 5, 6, 7, 8) == k + x + 2. + 6 + 12 + 20 + 30 + 42 + 56 + 72, "doubles");
        struct pair p = pairs[k]((struct pair){ x, 0.5 }, 3);
        EXPECT(p.a == x + 3 + k && p.b == -2.5, "pair");
        struct large l = larges[k]((struct large){ { x, x, x, 0, 0, 0, x } }, 2);
        EXPECT(l.values[0] == x + k && l.values[6] == x + 12 + k, "large struct");
        EXPECT(variadics[k](5, x, 0.5, 1L, 0.25, 2L) == k + x + 3.75, "variadic doubles");
        EXPECT(variadics[k](1, x) == k + x, "variadic integer");
        EXPECT(extendeds[k](x, (__int128)x << 64) == 3 * x + k, "extended");
    }
    return calls * 7;
}

const struct kind JOIN(BUILD, _kinds)[] = {
    { "call", CALL, call_0 },      { "call", CALL, call_1 },           { "call", CALL, call_2 },
    { "call", CALL, call_3 },      { "tail", TAIL, tail_0 },           { "tail", TAIL, tail_1 },
    { "goto", GOTO, goto_0 },      { "goto", GOTO, goto_1 },           { "library", LIBRARY, library_0 },
    { "arguments", ARGUMENTS, arguments_0 },
    { 0, WRONG, 0 },
};
