/* A library that is loaded and unloaded: VARIANT tells its builds apart, PADDING moves its functions. */
#include "check.h"

static OPAQUE word first(word x) { return ANSWER(VARIANT, x); }
static OPAQUE word second(word x) { return ANSWER(VARIANT + 1, x); }
static callee_t *volatile own[2] = { first, second };

char plugin_padding[PADDING] = { 1 };

/* A hot target of the program's sites. */
word plugin_target(word x) { return ANSWER(VARIANT, x); }

/* A site of its own. */
word plugin_calls(word calls) {
    word sum = 0;
    for (word i = 0; i < calls; i++) {
        word got = own[i & 1](i);
        CHECK(got == ANSWER(VARIANT + (i & 1), i), "variant %d said %lu", VARIANT, got);
        sum += got;
    }
    return sum;
}

/* A site that calls into other libraries, which lie near enough for a direct jump. */
OPAQUE void plugin_dispatch(callee_t *target, word variant, word calls) {
    for (word i = 0; i < calls; i++) {
        word got = target(i);
        CHECK(got == ANSWER(variant, i), "variant %lu said %lu to variant %d", variant, got, VARIANT);
    }
}

/* Runs while the loader is still at work. */
__attribute__((constructor)) static void loaded(void) { plugin_calls(3000); }
__attribute__((destructor)) static void unloaded(void) { plugin_calls(300); }
