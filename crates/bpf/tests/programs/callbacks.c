/* Helpers that call functions of the program. */
#include "bpf.h"

struct {
    NUMBER(type, ARRAY);
    NUMBER(max_entries, 5);
    TYPE(key, u32);
    TYPE(value, u64);
} numbers SEC(".maps");
struct {
    NUMBER(type, HASH);
    NUMBER(max_entries, 8);
    TYPE(key, u64);
    TYPE(value, u64);
} table SEC(".maps");
struct {
    NUMBER(type, LRU_HASH);
    NUMBER(max_entries, 8);
    TYPE(key, u32);
    TYPE(value, u64);
} recent SEC(".maps");

static long (*const loop)(u32 count, void *function, void *context, u64 flags) = (void *)181;
static long (*const for_each)(void *map, void *function, void *context, u64 flags) = (void *)164;

struct sum {
    u64 value, most;
};

static long add(u32 i, struct sum *sum) {
    sum->value += i;
    return sum->value >= sum->most;
}
static long add_many(u32 i, struct sum *sum) {
    loop(i, add, sum, 0);
    return 0;
}
static long count(u32 i, u64 *n) {
    *n += 1;
    return 0;
}
static long add_entry(void *map, u64 *key, u64 *value, struct sum *sum) {
    sum->value += *value * 100 + *(u32 *)key;
    *value += 1;
    return sum->value >= sum->most;
}

#define X(name, ...)                                                                                                   \
    SEC("xdp") int name(void *ctx) { __VA_ARGS__; }

X(loops, struct sum s = {0, 1000}; return loop(10, add, &s, 0) * 1000 + s.value)
X(loops_until, struct sum s = {0, 20}; return loop(10, add, &s, 0) * 1000 + s.value)
X(loops_never, struct sum s = {0, 20}; return loop(0, add, &s, 0) * 1000 + s.value)
X(loops_within, struct sum s = {0, 100000}; return loop(6, add_many, &s, 0) * 1000 + s.value)
X(loop_flags, struct sum s = {0, 20}; return loop(10, add, &s, 1) * 1000 + s.value)
X(loop_most, u64 n = 0; return loop(1 << 23, count, &n, 0) == n)
X(loop_more, u64 n = 0; return loop((1 << 23) + 1, count, &n, 0) * 1000 + n)

#define FILL(map, type, n)                                                                                             \
    for (int i = 1; i <= n; i++) {                                                                                     \
        type key = i;                                                                                                  \
        u64 value = i;                                                                                                 \
        map_update(&map, &key, &value, 0);                                                                             \
    }
X(array, FILL(numbers, u32, 4); struct sum s = {0, 100000}; return for_each(&numbers, add_entry, &s, 0) * 10000 + s.value)
X(array_until, FILL(numbers, u32, 4); struct sum s = {0, 150};
  return for_each(&numbers, add_entry, &s, 0) * 10000 + s.value)
X(array_flags, struct sum s = {0, 150}; return for_each(&numbers, add_entry, &s, 1) * 10000 + s.value)
X(hash, FILL(table, u64, 3); struct sum s = {0, 100000}; return for_each(&table, add_entry, &s, 0) * 10000 + s.value)
X(hash_empty, struct sum s = {0, 100000}; return for_each(&table, add_entry, &s, 0) * 10000 + s.value)
X(lru, FILL(recent, u32, 3); struct sum s = {0, 100000}; return for_each(&recent, add_entry, &s, 0) * 10000 + s.value)

char gpl[] SEC("license") = "GPL";
