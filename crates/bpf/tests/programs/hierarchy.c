/* Tail calls of programs that call functions which tail-call: the limit holds for the whole tree of a run. */
#include "bpf.h"

PROGS(jumps, 2);

int count = 0;
int count_0 = 0;
int count_1 = 0;

NOINLINE static int to_0(void *ctx) {
    tail_call(ctx, &jumps, 0);
    BARRIER;
    return 0;
}

NOINLINE static int to_1(void *ctx) {
    tail_call(ctx, &jumps, 1);
    BARRIER;
    return 0;
}

/* Twice itself. */
SEC("tc")
int twice(void *ctx) {
    count++;
    to_0(ctx);
    BARRIER;
    to_0(ctx);
    return 1;
}

/* Two programs, each twice itself. */
SEC("tc")
int left(void *ctx) {
    count_0++;
    to_0(ctx);
    BARRIER;
    to_0(ctx);
    return 1;
}

SEC("tc")
int right(void *ctx) {
    count_1++;
    to_1(ctx);
    BARRIER;
    to_1(ctx);
    return 1;
}

SEC("tc")
int both(void *ctx) {
    volatile int result = to_0(ctx);
    BARRIER;
    result = to_1(ctx);
    return result;
}

/* Alternately. */
SEC("tc")
int alternating(void *ctx) {
    count++;
    to_0(ctx);
    BARRIER;
    to_1(ctx);
    return 1;
}
