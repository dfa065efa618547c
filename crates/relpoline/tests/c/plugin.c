/* A library for check.c to load and unload. It has a key of the same name as the program's. */
#include "relpoline.h"

RELPOLINE_STATIC_KEY(off, false);

static int one(int x) { return x + 1; }
static int two(int x) { return x + 2; }
RELPOLINE_STATIC_CALL(stepped, int, (int x), (x), one);
RELPOLINE_DYNAMIC_CALL(chosen, int, (int x), (x), 1);

#ifdef __cplusplus
extern "C"
#endif
__attribute__((visibility("default"))) int plugin_run(int x) {
    if (relpoline_unlikely(off) || stepped(x) != x + 1) return 1;
    if (relpoline_key_set(&off, true) || relpoline_update(stepped, two)) return 2;
    if (!relpoline_unlikely(off) || stepped(x) != x + 2) return 3;
    relpoline_dynamic_always_promote(&chosen_state, true);
    for (int i = 0; i < 5000; i++)
        if (chosen(one, i) != i + 1 || chosen(two, i) != i + 2) return 4;
#ifndef RELPOLINE_NO_PATCH
    relpoline_stats stats;
    relpoline_dynamic_stats(&chosen_state, &stats);
    /* Trees are not given back: after a thousand loads there is no room for another one. The place is always there. */
    if (stats.state == RELPOLINE_PLAIN) return 5;
    if (x < 500 && (stats.state != RELPOLINE_PROMOTED || stats.target_count != 2)) return 6;
#endif
    return 0;
}
