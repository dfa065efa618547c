/* Counters, whose values are wider in a later version: -DWIDE. */
#include "bpf.h"

#ifdef WIDE
struct counter {
    u64 packets, bytes;
};
#else
struct counter {
    u64 packets;
};
#endif

struct {
    NUMBER(type, ARRAY);
    NUMBER(max_entries, 4);
    TYPE(key, u32);
    TYPE(value, struct counter);
} counters SEC(".maps");

SEC("xdp") int count(void *ctx) {
    u32 key = 0;
    struct counter *counter = map_lookup(&counters, &key);
    if (!counter)
        return 0;
    counter->packets++;
    return 2;
}
