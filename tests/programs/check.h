/* What the test programs share: callees that say who they are, and a loud end when something is wrong. */
#ifndef CHECK_H
#define CHECK_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef unsigned long word;
typedef word callee_t(word);

/* Neither inlined nor cloned nor seen through: the compiler must call it as written. */
#define OPAQUE __attribute__((noipa, unused))

/* Ends the process at once: also right in a forked child, a signal handler or a sandbox. */
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0)) {                                                   \
            char text_[256];                                                                       \
            int length_ = snprintf(text_, sizeof text_, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            length_ += snprintf(text_ + length_, sizeof text_ - length_, __VA_ARGS__);             \
            text_[length_ < 255 ? length_++ : 255] = '\n';                                         \
            if (write(2, text_, length_) < 0) { }                                                  \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

/* How many callees this thread has entered: a lost or a doubled call shows. */
static __thread word entered __attribute__((unused));

/* Callee n gives argument * 31 + n: a wrong callee and a wrong argument show. */
#define ANSWER(n, x) ((x) * 31 + (n))
#define CALLEE_(n) static OPAQUE word callee_##n(word x) { entered++; return ANSWER(n, x); }
#define CALLEE_NAME_(n) callee_##n,

/* Numbers 0 to 95, written in octal so that they can be put together from two parts. */
#define EIGHT_(m, a) m(0##a##0) m(0##a##1) m(0##a##2) m(0##a##3) m(0##a##4) m(0##a##5) m(0##a##6) m(0##a##7)
#define FOR_96(m)                                                                                  \
    EIGHT_(m, 0) EIGHT_(m, 1) EIGHT_(m, 2) EIGHT_(m, 3) EIGHT_(m, 4) EIGHT_(m, 5)                   \
    EIGHT_(m, 6) EIGHT_(m, 7) EIGHT_(m, 10) EIGHT_(m, 11) EIGHT_(m, 12) EIGHT_(m, 13)

#define CALLEES 96
FOR_96(CALLEE_)
/* Volatile: what is in it is not known to the compiler. */
static callee_t *volatile callees[CALLEES] __attribute__((unused)) = { FOR_96(CALLEE_NAME_) };

/* A small generator, seeded per use: the same sequence in every run. */
static inline word next_random(word *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Waits for a child, which must have ended with status 0. */
static inline void reap(pid_t pid, const char *what) {
    int status = 0;
    pid_t got;
    do got = waitpid(pid, &status, __WALL); while (got < 0);
    CHECK(status == 0, "%s ended with status %x", what, status);
}

/* A function with one call site that takes the first k callees in turn, checking every call. */
#define DISPATCHER(name)                                                                           \
    static OPAQUE void name(word first, word k, word calls) {                                      \
        for (word i = 0; i < calls; i++) {                                                         \
            word n = first + i % k, before = entered, got = callees[n](i);                         \
            CHECK(got == ANSWER(n, i), "callee %lu said %lu for %lu", n, got, i);                  \
            CHECK(entered == before + 1, "callee %lu entered %lu times", n, entered - before);     \
        }                                                                                          \
    }
#endif
