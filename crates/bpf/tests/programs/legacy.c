/* Maps as they were defined before there was BTF: a structure each, in the section "maps", longer or shorter. */
#include "bpf.h"

struct short_map {
    u32 type, key_size, value_size, max_entries;
};
struct long_map {
    u32 type, key_size, value_size, max_entries, flags;
};

struct short_map SEC("maps") counts = {ARRAY, sizeof(u32), sizeof(u64), 4};
struct long_map SEC("maps") rules = {HASH, sizeof(u32), sizeof(u32), 2, 1 << 7};
struct long_map SEC("maps") steps = {PROG_ARRAY, sizeof(u32), sizeof(u32), 3, 0};
struct long_map SEC("maps") traces = {7, sizeof(u32), 1016, 100, 0};

static long (*const get_stackid)(void *ctx, void *map, u64 flags) = (void *)27;

SEC("xdp") int counts_up(void *ctx) {
    u32 key = 3;
    u64 *value = map_lookup(&counts, &key);
    if (value)
        *value += 1;
    key = 4;
    return map_lookup(&counts, &key) ? 1 : 2;
}
SEC("xdp") int reads_rule(void *ctx) {
    u32 key = 7;
    u32 *value = map_lookup(&rules, &key);
    return value ? *value : 0;
}
SEC("xdp") int writes_rule(void *ctx) {
    u32 key = 7;
    return map_update(&rules, &key, &key, 0);
}
SEC("xdp") int steps_on(void *ctx) {
    tail_call(ctx, &steps, 2);
    return 9;
}
SEC("xdp") int traced(void *ctx) { return get_stackid(ctx, &traces, 0); }
