/* Tail calls from functions: the program that comes in their place returns to their caller. */
#include "bpf.h"

PROGS(jumps, 4);

int count = 0;
u32 noise = 0;

struct {
    NUMBER(type, ARRAY);
    NUMBER(max_entries, 1);
    TYPE(key, u32);
    TYPE(value, u32);
} values SEC(".maps");

#define LENGTH(ctx) (*(u32 *)(ctx))

/* 1: a function per slot; what it returns is added up. */
NOINLINE static int tail_0(void *ctx) {
    int result = LENGTH(ctx) * 2;
    tail_call(ctx, &jumps, 0);
    BARRIER;
    return result;
}

NOINLINE static int tail_1(void *ctx) {
    int result = LENGTH(ctx) * 3;
    tail_call(ctx, &jumps, 1);
    BARRIER;
    return result;
}

SEC("tc")
int step_0(void *ctx) { return 10; }

SEC("tc")
int step_1(void *ctx) { return 200; }

SEC("tc")
int returns(void *ctx) {
    int first = tail_0(ctx);
    BARRIER;
    return first + tail_1(ctx);
}

/* 2: the limit, when each tail call is made by a function. */
NOINLINE static int tail_2(void *ctx) {
    BARRIER;
    tail_call(ctx, &jumps, 2);
    BARRIER;
    return 1;
}

SEC("tc")
int limited_step(void *ctx) {
    count++;
    return tail_2(ctx);
}

SEC("tc")
int limited(void *ctx) { return tail_2(ctx); }

/* 3: stack use in caller and function, which must not disturb each other. */
NOINLINE static int tail_stack(void *ctx) {
    volatile u64 mine[8];
    for (int i = 0; i < 8; i++)
        mine[i] = i * 7;
    tail_call(ctx, &jumps, 3);
    u64 sum = 0;
    for (int i = 0; i < 8; i++)
        sum += mine[i];
    return (int)sum;
}

SEC("tc")
int stack_step(void *ctx) {
    volatile u64 mine[16];
    for (int i = 0; i < 16; i++)
        mine[i] = 0xffffffff;
    return (int)(mine[3] & 0xff);
}

SEC("tc")
int stack_main(void *ctx) {
    volatile u64 mine[8];
    for (int i = 0; i < 8; i++)
        mine[i] = i + 1;
    int inner = tail_stack(ctx);
    u64 sum = 0;
    for (int i = 0; i < 8; i++)
        sum += mine[i];
    return inner * 1000 + (int)sum;
}

/* 4 and 5: functions in functions, between tail calls; with `noise`, map helpers in between. */
NOINLINE static int make_noise(void) {
    if (noise) {
        u32 key = 0, value = 0;
        u32 *seen = map_lookup(&values, &key);
        if (seen)
            value = *seen + 1;
        map_update(&values, &key, &value, 0);
    }
    return 0;
}

NOINLINE static int deep_tail(void *ctx) {
    make_noise();
    tail_call(ctx, &jumps, 1);
    BARRIER;
    return LENGTH(ctx);
}

NOINLINE static int deep_2(void *ctx) {
    volatile u8 mine[64];
    mine[10] = 1;
    int result = deep_tail(ctx);
    return result + mine[10] - 1;
}

SEC("tc")
int deep_step(void *ctx) {
    count++;
    make_noise();
    return deep_2(ctx);
}

SEC("tc")
int deep(void *ctx) { return deep_2(ctx); }

/* 6: what r6 to r9 held must be there after the function whose place another program took. */
NOINLINE static int keep_tail(void *ctx) {
    u64 a = LENGTH(ctx);
    make_noise();
    tail_call(ctx, &jumps, 0);
    make_noise();
    return (int)a;
}

SEC("tc")
int keep_step(void *ctx) {
    u64 a = LENGTH(ctx) * 5, b = a * 3, c = b + 7;
    make_noise();
    return (int)(a + b + c);
}

SEC("tc")
int keeps(void *ctx) {
    u64 a = LENGTH(ctx) + 1, b = a * 2 + 1;
    u64 got = keep_tail(ctx);
    make_noise();
    return (int)(got * 10000 + a * 100 + b);
}
