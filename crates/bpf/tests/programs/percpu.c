/* Per-CPU maps of all kinds, and a scratch value that nobody else may write meanwhile. */
#include "bpf.h"

#define PERCPU_HASH 5
#define LRU_PERCPU_HASH 10
#define MAP(name, kind, entries)                                                                                       \
    struct {                                                                                                           \
        NUMBER(type, kind);                                                                                            \
        NUMBER(max_entries, entries);                                                                                  \
        TYPE(key, u32);                                                                                                \
        TYPE(value, u64);                                                                                              \
    } name SEC(".maps")

MAP(scratch, PERCPU_ARRAY, 1);
MAP(by_key, PERCPU_HASH, 4);
MAP(recent, LRU_PERCPU_HASH, 2);

static u32 (*const cpu)(void) = (void *)8;

static int add(void *map, u32 key) {
    u64 one = 1, *value = map_lookup(map, &key);
    if (value) {
        *value += 1;
        return 2;
    }
    return map_update(map, &key, &one, 0) ? 1 : 2;
}

SEC("xdp") int counts(u8 *packet) { return add(&by_key, packet[0]); }
SEC("xdp") int counts_recent(u8 *packet) { return add(&recent, packet[0]); }
SEC("xdp") int slot(u8 *packet) { return cpu(); }
SEC("xdp") int exclusive(u8 *packet) {
    u32 key = 0;
    volatile u64 *mine = map_lookup(&scratch, &key);
    if (!mine)
        return 0;
    u64 me = packet[0];
    *mine = me;
    for (int i = 0; i < 30000; i++)
        if (*mine != me)
            return 1;
    return 2;
}
