/* All kinds of maps and data, a static program array, and helpers: a small packet pipeline. */
#include "bpf.h"

struct flow {
    u32 src;
    u32 dst;
    u16 sport;
    u16 dport;
};

struct event {
    u32 kind;
    u32 len;
};

struct {
    NUMBER(type, HASH);
    NUMBER(max_entries, 64);
    TYPE(key, struct flow);
    TYPE(value, u64);
} flows SEC(".maps");

struct {
    NUMBER(type, LRU_HASH);
    NUMBER(max_entries, 4);
    TYPE(key, u32);
    TYPE(value, u32);
} recent SEC(".maps");

struct {
    NUMBER(type, PERCPU_ARRAY);
    NUMBER(max_entries, 2);
    TYPE(key, u32);
    TYPE(value, u64);
} totals SEC(".maps");

struct {
    NUMBER(type, RINGBUF);
    NUMBER(max_entries, 4096);
} events SEC(".maps");

int parse_ip(u8 *packet);
int parse_udp(u8 *packet);

struct {
    NUMBER(type, PROG_ARRAY);
    NUMBER(max_entries, 4);
    NUMBER(key_size, sizeof(u32));
    int (*values[])(u8 *);
} parsers SEC(".maps") = {
    .values = {[1] = (void *)&parse_ip, [2] = (void *)&parse_udp},
};

const u32 limits[4] = {60, 1500, 9000, 65535};
u64 seen = 0;
u32 mode = 7;
static const char format[] = "%d bytes to %x";

NOINLINE static u32 word(u8 *at) { return at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3]; }

NOINLINE static u32 half(u8 *at) { return at[0] << 8 | at[1]; }

SEC("xdp")
int parse_ethernet(u8 *packet) {
    u16 kind;
    seen++;
    if (load_bytes(packet, 12, &kind, 2))
        return -1;
    if (kind == 0x0008)
        tail_call(packet, &parsers, 1);
    return 0;
}

SEC("xdp")
int parse_ip(u8 *packet) {
    u32 key = 0, src = word(packet + 26), one = 1;
    u64 *total = map_lookup(&totals, &key);
    if (total)
        *total += half(packet + 16);
    map_update(&recent, &src, &one, 0);
    if (half(packet + 16) > limits[mode & 3])
        return 2;
    if (packet[23] == 17)
        tail_call(packet, &parsers, 2);
    return 1;
}

SEC("xdp")
int parse_udp(u8 *packet) {
    struct flow flow = {word(packet + 26), word(packet + 30), half(packet + 34), half(packet + 36)};
    u64 one = 1, *count = map_lookup(&flows, &flow);
    if (count)
        __sync_fetch_and_add(count, 1);
    else
        map_update(&flows, &flow, &one, 1);
    struct event *event = ring_reserve(&events, sizeof(*event), 0);
    if (event) {
        event->kind = flow.dport;
        event->len = half(packet + 16);
        ring_submit(event, 0);
    }
    printk(format, sizeof(format), half(packet + 16), flow.dst);
    return 17;
}
