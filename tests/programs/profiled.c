/* Calls through sites for profilers that are libraries, which unwind by themselves.
 *   cpu: calls for two seconds of processor time.
 *   heap: callees take memory, and keep it.
 * Prints where its text lies, and its nested callers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "check.h"

#define LEVELS 5
#define CALLED __attribute__((noipa))
#define NESTED __attribute__((noipa, section("nested")))

extern char __executable_start[], etext[], __start_nested[], __stop_nested[];

typedef unsigned long callee(unsigned long);

static CALLED unsigned long first(unsigned long x) { return x * 3 + 1; }
static CALLED unsigned long second(unsigned long x) { return x ^ 0x55; }
static CALLED unsigned long third(unsigned long x) { return x + 7; }

static void *kept[64];
/* Larger than what the program takes besides, so that it is found by its size. */
static unsigned long keep(unsigned long x, unsigned long bytes) {
    kept[x % 64] = malloc(bytes);
    CHECK(kept[x % 64], "malloc");
    return x + 1;
}
static CALLED unsigned long small(unsigned long x) { return keep(x, 10007) + 1; }
static CALLED unsigned long medium(unsigned long x) { return keep(x, 20011) + 2; }
static CALLED unsigned long large(unsigned long x) { return keep(x, 30011) + 3; }

static callee *volatile calls[] = { first, second, third, first };
static callee *volatile keepers[] = { small, medium, large };

/* By a call and by a tail jump, which the callee's stack does not show. */
static NESTED unsigned long jump(unsigned long n) { return calls[n >> 3 & 3](n); }
static NESTED unsigned long jump_to_keeper(unsigned long n) { return keepers[n % 3](n); }

static NESTED unsigned long spin(unsigned long rounds) {
    unsigned long x = 1;
    for (unsigned long n = 0; n < rounds; n++) x = calls[n >> 4 & 3](x) + jump(n);
    return x;
}

/* Every site is promoted before the first of these. */
static NESTED unsigned long take(unsigned long rounds) {
    unsigned long x = 0;
    for (unsigned long n = 0; n < rounds; n++) {
        x += keepers[n % 3](n);
        x += jump_to_keeper(n);
        free(kept[n % 64]);
    }
    return x;
}

static NESTED unsigned long level(int depth, callee *work, unsigned long rounds) {
    unsigned long x = depth > 2 ? level(depth - 1, work, rounds) : work(rounds);
    asm volatile("");
    return x + 1;
}

int main(int argc, char **argv) {
    CHECK(argc == 2, "profiled cpu|heap");
    printf("text %p %p nested %p %p levels %d\n", (void *)__executable_start, (void *)etext, (void *)__start_nested,
           (void *)__stop_nested, LEVELS);
    if (!strcmp(argv[1], "heap")) {
        printf("%lu\n", level(LEVELS, take, 20000));
        return 0;
    }
    unsigned long x = 0;
    while (clock() < 2 * CLOCKS_PER_SEC) x += level(LEVELS, spin, 200000);
    CHECK(x, "nothing was called");
    return 0;
}
