/* What relpoline.h promises, checked by a program that is C11 and C++11 alike; see tests/c.rs.
 *
 *   check [PLUGIN.so]
 *
 * Every callee returns a number that identifies it. Threads use everything while the main thread changes it.
 */
#include "relpoline.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);           \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)
#define MADE(change)                                                                  \
    do {                                                                              \
        relpoline_error error_ = (change);                                            \
        if (error_ != RELPOLINE_OK) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, relpoline_error_text(error_)); \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

RELPOLINE_STATIC_KEY(off, false);
RELPOLINE_STATIC_KEY(on, true);

static int branches(void) {
    return relpoline_unlikely(off) + 2 * relpoline_likely(off) + 4 * relpoline_unlikely(on) + 8 * relpoline_likely(on);
}

static void keys(void) {
    CHECK(branches() == 12);
    MADE(relpoline_key_set(&off, true));
    MADE(relpoline_key_set(&on, false));
    CHECK(branches() == 3);
    relpoline_key_change both[2] = {{&off, false}, {&on, true}};
    MADE(relpoline_keys_set(both, 2));
    CHECK(branches() == 12);
    MADE(relpoline_key_inc(&off));
    MADE(relpoline_key_inc(&off));
    MADE(relpoline_key_dec(&off));
    CHECK(branches() == 15 && relpoline_key_is_enabled(&off));
    MADE(relpoline_key_dec(&off));
    CHECK(branches() == 12);
    size_t through = 9;
    size_t all = relpoline_key_sites(&off, &through);
#ifdef RELPOLINE_NO_PATCH
    CHECK(all == 0 && through == 0);
#else
    CHECK(all >= 2 && through >= 1 && through < all);
#endif
}

static uint64_t plain(const unsigned char *bytes, size_t n, double scale) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += bytes[i];
    return (uint64_t)((double)sum * scale);
}
static uint64_t last(const unsigned char *bytes, size_t n, double scale) {
    return (uint64_t)(bytes[n - 1] * scale);
}

RELPOLINE_STATIC_CALL(summed, uint64_t, (const unsigned char *bytes, size_t n, double scale), (bytes, n, scale), plain);
RELPOLINE_STATIC_CALL(nothing, void, (int *counter), (counter), NULL);
RELPOLINE_STATIC_CALL(zero, int64_t, (int a), (a), NULL);

static void increment(int *counter) { ++*counter; }
static int64_t twice(int a) { return 2 * (int64_t)a; }

static void static_calls(void) {
    const unsigned char bytes[3] = {1, 2, 4};
    int counter = 0;
    CHECK(summed(bytes, 3, 1.5) == 10);
    nothing(&counter);
    CHECK(counter == 0 && zero(7) == 0);
    MADE(relpoline_update(summed, last));
    MADE(relpoline_update(nothing, increment));
    MADE(relpoline_update(zero, twice));
    nothing(&counter);
    CHECK(summed(bytes, 3, 1.5) == 6 && counter == 1 && zero(7) == 14);
#ifndef RELPOLINE_NO_PATCH
    CHECK(relpoline_call_is_direct(&summed_state));
#endif
    MADE(relpoline_call_update(&summed_state, NULL));
    CHECK(summed(bytes, 3, 1.5) == 10);
}

struct wide {
    uint64_t words[4];
};
static uint64_t add(uint64_t a, int b) { return a + (uint64_t)b; }
static uint64_t multiply(uint64_t a, int b) { return a * (uint64_t)b; }
static uint64_t numbered(uint64_t a, int b) { return a * 1000 + (uint64_t)b; }
static double halved(double x) { return x / 2; }
static struct wide spread(uint64_t a, float b, const char *c, bool d) {
    struct wide w = {{a, (uint64_t)b, (uint64_t)c[0], d}};
    return w;
}

RELPOLINE_DYNAMIC_CALL(apply, uint64_t, (uint64_t a, int b), (a, b), 2);
RELPOLINE_DYNAMIC_CALL(scale, double, (double x), (x), 0);
RELPOLINE_DYNAMIC_CALL(spreading, struct wide, (uint64_t a, float b, const char *c, bool d), (a, b, c, d), 4);

static void apply_all(unsigned rounds) {
    for (unsigned i = 0; i < rounds; i++) {
        CHECK(apply(add, i, 3) == i + 3u);
        CHECK(apply(multiply, i, 3) == i * 3ull);
        if (i % 512 == 0) CHECK(apply(numbered, i, 7) == i * 1000ull + 7);
    }
}

static void dynamic_calls(void) {
    relpoline_stats stats;
    relpoline_dynamic_always_promote(&apply_state, true);
    apply_all(20000);
    relpoline_dynamic_stats(&apply_state, &stats);
#ifdef RELPOLINE_NO_PATCH
    CHECK(stats.state == RELPOLINE_PLAIN && stats.target_count == 0);
#else
    CHECK(stats.state == RELPOLINE_PROMOTED && stats.target_count >= 2);
    CHECK(stats.targets[0].address == (size_t)add || stats.targets[0].address == (size_t)multiply);
    const void *given[1] = {(const void *)numbered};
    CHECK(relpoline_dynamic_pin(&apply_state, given, 1));
    relpoline_dynamic_stats(&apply_state, &stats);
    CHECK(stats.state == RELPOLINE_PINNED && stats.targets[0].address == (size_t)numbered);
#endif
    apply_all(1000);
    relpoline_dynamic_pause(&apply_state);
    apply_all(1000);
    relpoline_dynamic_forget(&apply_state);
    relpoline_dynamic_count_calls(&apply_state, true);
    for (int i = 0; i < 5000; i++) {
        CHECK(scale(halved, 3.0) == 1.5);
        struct wide w = spreading(spread, 5, 2.0f, "x", true);
        CHECK(w.words[0] == 5 && w.words[1] == 2 && w.words[2] == 'x' && w.words[3] == 1);
    }
}

static int stop;

static void *user(void *unused) {
    const unsigned char bytes[3] = {1, 2, 4};
    (void)unused;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        int seen = relpoline_unlikely(off);
        CHECK(seen == 0 || seen == 1);
        uint64_t sum = summed(bytes, 3, 1.0);
        CHECK(sum == 7 || sum == 4);
        apply_all(20);
    }
    return NULL;
}

static void changes_under_threads(void) {
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, user, NULL) == 0);
    for (int i = 0; i < 500; i++) {
        const unsigned char bytes[3] = {1, 2, 4};
        MADE(relpoline_key_set(&off, i % 2 == 0));
        CHECK(relpoline_unlikely(off) == (i % 2 == 0));
        MADE(relpoline_update(summed, i % 2 == 0 ? last : plain));
        CHECK(summed(bytes, 3, 1.0) == (i % 2 == 0 ? 4u : 7u));
        if (i % 100 == 50) relpoline_dynamic_forget(&apply_state);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    MADE(relpoline_key_set(&off, false));
    MADE(relpoline_call_update(&summed_state, NULL));
}

/* A library of C that is loaded and unloaded, over and over, perhaps to another address. */
static void plugins(const char *path, int times) {
    for (int i = 0; i < times; i++) {
        void *plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!plugin) fprintf(stderr, "%s\n", dlerror());
        CHECK(plugin);
        int (*run)(int) = (int (*)(int))dlsym(plugin, "plugin_run");
        CHECK(run && run(i) == 0);
        dlclose(plugin);
    }
}

/* check [PLUGIN [TIMES]]: with TIMES, nothing but to load the plugin so often. */
int main(int argc, char **argv) {
    if (argc > 2) {
        plugins(argv[1], atoi(argv[2]));
        puts("all right");
        return 0;
    }
    keys();
    static_calls();
    dynamic_calls();
    changes_under_threads();
    if (argc > 1) plugins(argv[1], 20);
    MADE(relpoline_prepare_for_sandbox());
    MADE(relpoline_key_set(&off, true));
    CHECK(branches() == 15);
    MADE(relpoline_update(zero, twice));
    CHECK(zero(4) == 8);
    apply_all(5000);
    puts("all right");
    return 0;
}
