/* The types of a kernel, as core.c finds them. */
#include "bpf.h"

struct inner {
    u64 before;
    u32 y;
    u32 x;
};
struct state {
    u32 list[8];
    struct {
        union {
            u32 other;
            u32 number;
        };
    };
    u16 wide;
    unsigned : 7;
    int high : 9;
    int low : 5;
    struct inner inner;
};
enum mode { FIRST, SECOND = 300 };
typedef u32 named_t;

struct state state SEC(".data");
enum mode mode SEC(".data");
named_t named SEC(".data");
