/* A filter as people have them: rules from outside, counters, records of what went by. */
#include "bpf.h"

struct xdp_md {
    u32 data, data_end, data_meta, rest[3];
};

struct {
    NUMBER(type, HASH);
    NUMBER(max_entries, 16);
    TYPE(key, u8);
    TYPE(value, u32);
} rules SEC(".maps");
struct {
    NUMBER(type, 6);
    NUMBER(max_entries, 256);
    TYPE(key, u32);
    TYPE(value, u64);
} counters SEC(".maps");
struct {
    NUMBER(type, RINGBUF);
    NUMBER(max_entries, 1000);
} seen SEC(".maps");
struct {
    NUMBER(type, 4);
    TYPE(key, u32);
    TYPE(value, u32);
} events SEC(".maps");

static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*const event)(void *ctx, void *map, u64 flags, void *data, u64 size) = (void *)25;
static long (*const adjust_head)(void *ctx, int by) = (void *)44;
static long (*const ring_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;

SEC("xdp") int logs(struct xdp_md *ctx) {
    u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    if (data + 14 > end)
        return 0;
    u8 byte = data[0];
    u32 key = byte, *rule = map_lookup(&rules, &byte);
    u64 *count = map_lookup(&counters, &key);
    if (count)
        *count += 1;
    if (!rule)
        return 2;
    ring_output(&seen, data, 6, 0);
    event(ctx, &events, 2ULL << 32 | 0xffffffff, &key, 4);
    if (*rule == 4)
        return redirect(7, 0);
    if (*rule == 3 && adjust_head(ctx, -2))
        return 0;
    return *rule;
}
