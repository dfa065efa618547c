/* A chain of promoted calls and tail calls; at its end a trace of the stack, by backtrace(3) or by a debugger. */
#include "check.h"
#include <dlfcn.h>
#include <execinfo.h>

typedef word link_t(word depth, word round);

static int print_trace;

/* For breakpoints. */
__attribute__((noipa)) word stop_here(word x) { return x + 1; }

__attribute__((noipa)) word last_link(word depth, word round) {
    if (print_trace) {
        void *frames[64];
        int count = backtrace(frames, 64);
        for (int i = 0; i < count; i++) {
            Dl_info info;
            int known = dladdr(frames[i], &info) && info.dli_sname;
            printf("%s+%lx\n", known ? info.dli_sname : "?", known ? (word)frames[i] - (word)info.dli_saddr : 0);
        }
        stop_here(depth);
    }
    return depth * 1000 + round % 1000;
}

word even_link(word depth, word round), odd_link(word depth, word round), tail_link(word depth, word round);
static link_t *volatile links[4] = { even_link, odd_link, tail_link, last_link };

__attribute__((noipa)) word even_link(word depth, word round) { return links[depth < 6 ? 1 : 3](depth + 1, round) + 2; }
__attribute__((noipa)) word odd_link(word depth, word round) { return links[round % 2 ? 2 : 0](depth + 1, round) + 3; }
__attribute__((noipa)) word tail_link(word depth, word round) { return links[0](depth + 1, round); }

int main(void) {
    word sum = 0;
    for (word round = 0; round < 200000; round++) sum += links[0](0, round);
    for (word round = 0; round < 2; round++) {
        print_trace = 1;
        sum += links[0](0, round);
    }
    printf("%lu\n", sum);
    return 0;
}
