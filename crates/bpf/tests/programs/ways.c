/* Where packets go, and maps within maps. */
#include "bpf.h"

#define ENTRIES(name, kind, entries)                                                                                   \
    struct {                                                                                                           \
        NUMBER(type, kind);                                                                                            \
        NUMBER(max_entries, entries);                                                                                  \
        NUMBER(key_size, sizeof(u32));                                                                                 \
        NUMBER(value_size, sizeof(u32));                                                                               \
    } name SEC(".maps")
ENTRIES(devices, 14, 4);
ENTRIES(by_name, 25, 4);
ENTRIES(cpus, 16, 4);
ENTRIES(sockets, 17, 4);
ENTRIES(counts, ARRAY, 1);

struct counter {
    NUMBER(type, ARRAY);
    NUMBER(max_entries, 2);
    TYPE(key, u32);
    TYPE(value, u64);
} first SEC(".maps"), second SEC(".maps");

struct {
    NUMBER(type, 12);
    NUMBER(max_entries, 4);
    TYPE(key, u32);
    struct counter *values[];
} outer SEC(".maps") = {
    .values = {[0] = &first, [2] = &second},
};

struct {
    NUMBER(type, 13);
    NUMBER(max_entries, 4);
    TYPE(key, u64);
    struct counter *values[];
} by_key SEC(".maps");

struct {
    NUMBER(type, HASH);
    NUMBER(max_entries, 4);
    NUMBER(pinning, 1);
    TYPE(key, u32);
    TYPE(value, u64);
} kept SEC(".maps");

static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*const clone_redirect)(void *skb, u32 ifindex, u64 flags) = (void *)13;
static long (*const redirect_map)(void *map, u64 key, u64 flags) = (void *)51;
static long (*const adjust_head)(void *ctx, int by) = (void *)44;
static long (*const adjust_tail)(void *ctx, int by) = (void *)65;

struct xdp_md {
    u32 data, data_end, data_meta, rest[3];
};

SEC("xdp") int to_device(void *ctx) { return redirect(7, 0); }
SEC("xdp") int changes_its_mind(void *ctx) { return redirect(7, 0) == 4 ? 2 : 0; }
SEC("tc") int to_device_in(void *ctx) { return redirect(8, 1); }
SEC("tc") int copies(void *ctx) { return clone_redirect(ctx, 9, 0); }
SEC("xdp") int through_devices(void *ctx) { return redirect_map(&devices, 1, 2); }
SEC("xdp") int through_names(void *ctx) { return redirect_map(&by_name, 1000, 2); }
SEC("xdp") int to_all(void *ctx) { return redirect_map(&devices, 0, 8 | 16); }
SEC("xdp") int to_cpu(void *ctx) { return redirect_map(&cpus, 1, 1); }
SEC("xdp") int to_socket(void *ctx) { return redirect_map(&sockets, 1, 2); }
SEC("xdp") int sees_device(void *ctx) {
    u32 key = 1, *device = map_lookup(&devices, &key);
    return device ? *device : 0;
}
SEC("xdp") int sets_device(void *ctx) {
    u32 key = 1, *device = map_lookup(&devices, &key);
    if (device)
        *device = 5;
    return 0;
}
SEC("xdp") int through_counts(void *ctx) { return redirect_map(&counts, 0, 0); }

/* Puts eight bytes before the packet, and cuts four at its end. */
SEC("xdp") int wraps(struct xdp_md *ctx) {
    if (adjust_head(ctx, -8) || adjust_tail(ctx, -4))
        return 0;
    u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    if (data + 8 > end)
        return 0;
    for (int i = 0; i < 8; i++)
        data[i] = 0xee;
    return end - data;
}
/* Goes on with the end that was. */
SEC("xdp") int keeps_its_end(struct xdp_md *ctx) {
    u8 *end = (void *)(long)ctx->data_end;
    adjust_tail(ctx, -10);
    return end[-1];
}
SEC("tc") int wrong_context(void *ctx) { return adjust_head(ctx, -8); }

SEC("xdp") int counts_within(struct xdp_md *ctx) {
    u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    if (data + 1 > end)
        return 0;
    u32 key = data[0], one = 1;
    u64 wide = data[0], *value;
    void *map = map_lookup(&outer, &key);
    if (!map)
        map = map_lookup(&by_key, &wide);
    if (!map)
        return 1;
    value = map_lookup(map, &one);
    if (value)
        *value += 1;
    return 2;
}
struct {
    NUMBER(type, 30);
    NUMBER(max_entries, 100);
    NUMBER(value_size, sizeof(u64));
    NUMBER(map_extra, 3);
} seen SEC(".maps");
static long (*const push)(void *map, void *value, u64 flags) = (void *)87;
static long (*const peek)(void *map, void *value) = (void *)89;
SEC("xdp") int remembers(struct xdp_md *ctx) {
    u64 value = 7, other = 8;
    push(&seen, &value, 0);
    return (peek(&seen, &value) == 0) + 2 * (peek(&seen, &other) == 0);
}

SEC("xdp") int replaces_within(void *ctx) {
    u32 key = 1, value = 2;
    return map_update(&outer, &key, &value, 0);
}
