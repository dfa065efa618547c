/* Indexes that are known when the program runs, or constant on each of several paths. */
#include "bpf.h"

PROGS(jumps, 3);

u32 selector = 0;
int count = 0;

#define STEP(n)                                                                                                        \
    SEC("tc")                                                                                                          \
    int step_##n(void *ctx) { return n; }
STEP(0)
STEP(1)
STEP(2)

SEC("tc")
int by_number(void *ctx) {
    tail_call(ctx, &jumps, selector);
    return 3;
}

/* A different constant on each path. */
SEC("tc")
int by_key(void *ctx) {
    u32 index = 0;
    if (selector == 1234)
        index = 1;
    else if (selector == 5678)
        index = 2;
    tail_call(ctx, &jumps, index);
    return 3;
}

/* One call per path. */
SEC("tc")
int by_branch(void *ctx) {
    switch (selector) {
    case 1111:
        tail_call(ctx, &jumps, 0);
        break;
    case 1234:
        tail_call(ctx, &jumps, 1);
        break;
    case 5678:
        tail_call(ctx, &jumps, 2);
        break;
    }
    return 3;
}

SEC("tc")
int counting(void *ctx) {
    count++;
    tail_call(ctx, &jumps, selector);
    return 4;
}
