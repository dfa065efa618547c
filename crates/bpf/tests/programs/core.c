/* CO-RE: programs that were compiled against types which the kernel (core_target.c) lays out otherwise. Each reads its
 * input as what its kernel has. */
#include "bpf.h"

#define PRESERVE __attribute__((preserve_access_index))
#define FIELD(field, what) __builtin_preserve_field_info(field, what)

struct inner {
    u32 x;
    u32 y;
} PRESERVE;
struct state___mine {
    u32 number;
    u64 wide;
    struct inner inner;
    u32 list[4];
    u32 gone;
    int low : 5;
    unsigned high : 9;
} PRESERVE;
struct absent {
    u32 x;
} PRESERVE;
enum mode___mine { FIRST, SECOND = 7, THIRD = 9 };
typedef u32 named_t;

SEC("raw") int number(struct state___mine *s) { return s->number; }
SEC("raw") int wide(struct state___mine *s) { return s->wide; }
SEC("raw") int nested(struct state___mine *s) { return s->inner.y; }
SEC("raw") int element(struct state___mine *s) { return s->list[3]; }
SEC("raw") int second(struct state___mine *s) { return FIELD(s[1].number, 0); }
SEC("raw") int exists(struct state___mine *s) { return FIELD(s->number, 2) | FIELD(s->gone, 2) << 1; }
SEC("raw") int gone(struct state___mine *s) { return FIELD(s->gone, 2) ? s->gone : 5; }
SEC("raw") int reads_gone(struct state___mine *s) { return s->gone; }
SEC("raw") int sizes(struct state___mine *s) {
    return FIELD(s->wide, 1) | FIELD(s->list, 1) << 8 | FIELD(s->number, 3) << 16;
}
/* BPF_CORE_READ_BITFIELD. */
SEC("raw") int bits(struct state___mine *s) {
    u64 value = 0;
    const void *at = (const void *)s + FIELD(s->high, 0);
    switch (FIELD(s->high, 1)) {
    case 1: value = *(const u8 *)at; break;
    case 2: value = *(const u16 *)at; break;
    case 4: value = *(const u32 *)at; break;
    case 8: value = *(const u64 *)at; break;
    }
    value <<= FIELD(s->high, 4);
    return FIELD(s->high, 3) ? (long long)value >> FIELD(s->high, 5) : value >> FIELD(s->high, 5);
}
SEC("raw") int types(void *in) {
    return __builtin_preserve_type_info(*(struct state___mine *)0, 0) |
           __builtin_preserve_type_info(*(struct absent *)0, 0) << 1 |
           __builtin_preserve_type_info(*(named_t *)0, 0) << 2 |
           __builtin_preserve_type_info(*(struct inner *)0, 1) << 8;
}
SEC("raw") int values(void *in) {
    return __builtin_preserve_enum_value(*(enum mode___mine *)SECOND, 1) |
           __builtin_preserve_enum_value(*(enum mode___mine *)SECOND, 0) << 16 |
           __builtin_preserve_enum_value(*(enum mode___mine *)THIRD, 0) << 17;
}
SEC("raw") int no_value(void *in) { return __builtin_preserve_enum_value(*(enum mode___mine *)THIRD, 1); }
SEC("raw") int no_type(void *in) { return __builtin_preserve_type_info(*(struct absent *)0, 1); }
