/* A library that is loaded and unloaded: VARIANT tells its builds apart, PADDING moves its functions. */
#include "torture.h"

static OPAQUE word first(word x) { return ANSWER(VARIANT, x); }
static OPAQUE word second(word x) { return ANSWER(VARIANT + 1, x); }
static callee_t *volatile own[2] = { first, second };

char plugin_padding[PADDING] = { 1 };

/* A target of the program's sites. */
word plugin_target(word x) { return ANSWER(VARIANT, x); }

/* A site of its own. */
word plugin_calls(word calls) {
    for (word i = 0; i < calls; i++) {
        word got = own[i & 1](i);
        if (UNLIKELY(got != ANSWER(VARIANT + (i & 1), i))) wrong("in library %d: %lu answered", VARIANT, got - i * 31);
    }
    count(PLUGIN, calls);
    return VARIANT;
}

/* Run while the loader is at work. */
__attribute__((constructor)) static void loaded(void) { plugin_calls(2000); }
__attribute__((destructor)) static void unloaded(void) { plugin_calls(300); }
