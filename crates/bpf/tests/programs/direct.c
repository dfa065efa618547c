/* Constant indexes: one after the other, in a chain, for ever. */
#include "bpf.h"

PROGS(jumps, 3);
PROGS(chain, 3);
PROGS(loop, 1);

int count = 0;

#define STEP(n)                                                                                                        \
    SEC("tc")                                                                                                          \
    int step_##n(void *ctx) { return n; }
STEP(0)
STEP(1)
STEP(2)

/* Tries slot 0, 1, 2; what is there ends it. */
SEC("tc")
int one_by_one(void *ctx) {
    tail_call(ctx, &jumps, 0);
    tail_call(ctx, &jumps, 1);
    tail_call(ctx, &jumps, 2);
    return 3;
}

/* Each leads to the next. */
SEC("tc")
int link_0(void *ctx) {
    tail_call(ctx, &chain, 1);
    return 0;
}

SEC("tc")
int link_1(void *ctx) {
    tail_call(ctx, &chain, 2);
    return 1;
}

SEC("tc")
int link_2(void *ctx) { return 2; }

SEC("tc")
int chained(void *ctx) {
    tail_call(ctx, &chain, 0);
    return 3;
}

/* Calls itself until the limit. */
SEC("tc")
int again(void *ctx) {
    count++;
    tail_call(ctx, &loop, 0);
    return 1;
}

SEC("tc")
int looping(void *ctx) {
    tail_call(ctx, &loop, 0);
    return 0;
}
