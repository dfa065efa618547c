/* Sites in functions of all kinds of visibility, for builds whose functions and segments are described in unusual ways. */
#include "check.h"

DISPATCHER(static_site)

#ifdef APART
#define PLACE __attribute__((section(".apart"), noipa))
#else
#define PLACE OPAQUE
#endif

/* Exported, for builds in which only such are named. */
PLACE word exported_site(callee_t *target, word x) { return target(x) + 1; }

/* A word beside code that threads write to, in builds where code is writable. */
static volatile word written;

int main(void) {
    for (word i = 0; i < 300000; i++) {
        word got = exported_site(callees[i % 3], i);
        CHECK(got == ANSWER(i % 3, i) + 1, "callee %lu said %lu", i % 3, got);
        written = i;
    }
    static_site(4, 2, 300000);
    puts("placed done");
    return 0;
}
