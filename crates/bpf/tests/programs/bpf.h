/* What the test programs need of eBPF: sections, map definitions, a few helpers. Written for these tests. */
#ifndef BPF_H
#define BPF_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define NOINLINE __attribute__((noinline))
#define NUMBER(name, value) int(*name)[value]
#define TYPE(name, type) type *name
#define HASH 1
#define ARRAY 2
#define PROG_ARRAY 3
#define PERCPU_ARRAY 6
#define LRU_HASH 9
#define RINGBUF 27

#define PROGS(name, count)                                                                                             \
    struct {                                                                                                           \
        NUMBER(type, PROG_ARRAY);                                                                                      \
        NUMBER(max_entries, count);                                                                                    \
        NUMBER(key_size, sizeof(u32));                                                                                 \
        NUMBER(value_size, sizeof(u32));                                                                               \
    } name SEC(".maps")

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const map_delete)(void *map, const void *key) = (void *)3;
static long (*const printk)(const char *format, u32 size, ...) = (void *)6;
static long (*const tail_call)(void *ctx, void *map, u32 index) = (void *)12;
static long (*const load_bytes)(void *ctx, u32 offset, void *to, u32 len) = (void *)26;
static void *(*const ring_reserve)(void *map, u64 size, u64 flags) = (void *)131;
static void (*const ring_submit)(void *record, u64 flags) = (void *)132;

/* Keeps a call from becoming the compiler's own tail call, and a value from being forgotten. */
#define BARRIER __asm__ volatile("" ::: "memory")

#endif
