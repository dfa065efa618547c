/* A helper by its name, and maps, for the C interface. */
#include "bpf.h"

u64 twice(u64 number);

struct {
    NUMBER(type, ARRAY);
    NUMBER(max_entries, 2);
    TYPE(key, u32);
    TYPE(value, u64);
} values SEC(".maps");
PROGS(steps, 2);

SEC("raw") u64 doubles(unsigned char *in) { return twice(in[0]); }
SEC("raw") u64 adds(unsigned char *in) {
    u32 key = 1;
    u64 *value = map_lookup(&values, &key);
    if (value)
        *value += in[0];
    return value ? *value : 0;
}
SEC("raw") u64 steps_on(void *in) {
    tail_call(in, &steps, 1);
    return 99;
}
SEC("raw") u64 careless(unsigned char *in) { return in[1000]; }
