/* A program that switches promotion off and on, from one thread while others run. */
#include "arena.h"
#include <fcntl.h>
#include <pthread.h>

#define THREADS 3
#define ENOUGH 400000

extern int relpoline_disable(void) __attribute__((weak));
extern int relpoline_enable(void) __attribute__((weak));

DISPATCHER(quiet_site)
DISPATCHER(running_site)

static volatile int stop;

static void *run(void *number) {
    for (word round = 0; !stop; round++) running_site((word)number * 4 + round / 40 % 60, 2, 2000);
    return NULL;
}

/* Where all sites of both functions are found, while they still lead into the arena. */
static const unsigned char *sites[4];
static int count;

static void all_back(void) {
    for (int i = 0; i < count; i++) CHECK(is_at_thunk(sites[i]), "site %d does not lead to a copy of the thunk", i);
}

static void switch_off_and_on(void) {
    CHECK(relpoline_disable() == 0, "disable");
    all_back();
    quiet_site(50, 3, 20000);
    all_back();
    CHECK(relpoline_disable() == 0, "disabling twice");
    all_back();
    CHECK(relpoline_enable() == 0, "enable");
    /* The other threads may have spent what learning may cost for now. */
    for (int i = 0; i < 500 && !is_promoted(sites[0]); i++) quiet_site(60, 2, ENOUGH / 4);
    CHECK(is_promoted(sites[0]), "not promoted again");
}

static int displacement(const unsigned char *site) {
    int leads_to;
    CHECK(*site == 0xe8, "%02x is no call", *site);
    memcpy(&leads_to, site + 1, sizeof leads_to);
    return leads_to;
}

/* A link that the engine does not know of, as one is that a thread wrote but never noted: leaving by longjmp from a handler that
 * came right behind it. */
static void a_link_that_nobody_noted(const unsigned char *site) {
    int linked = 0, gate = 0;
    for (int i = 0; i < 200 && linked == gate; i++) {
        quiet_site(1, 2, ENOUGH);
        linked = displacement(site);
        CHECK(relpoline_disable() == 0, "disable");
        gate = displacement(site);
        CHECK(relpoline_enable() == 0, "enable");
    }
    CHECK(linked != gate, "it is never linked");
    int memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    CHECK(memory >= 0 && pwrite(memory, &linked, sizeof linked, (off_t)(site + 1)) == sizeof linked, "no writing");
    close(memory);
    CHECK(displacement(site) == linked, "it is not there");
    CHECK(relpoline_disable() == 0, "disable");
    CHECK(displacement(site) == gate, "the link is still there");
    all_back();
    quiet_site(50, 3, 20000);
    CHECK(relpoline_enable() == 0, "enable");
}

int main(int argc, char **argv) {
    int links = argc > 1 && strcmp(argv[1], "links") == 0;
    int wanted = links || (argc > 1 && strcmp(argv[1], "engine") == 0);
    CHECK(!wanted == !relpoline_disable, "the engine's functions are%s there", wanted ? " not" : "");
    quiet_site(1, 2, ENOUGH);
    if (wanted) {
        count = find_sites(quiet_site, 200, sites, 1);
        count += find_sites(running_site, 200, sites + count, 1);
        CHECK(count == 2, "%d sites", count);
        CHECK(is_promoted(sites[0]), "not promoted");
        if (links) a_link_that_nobody_noted(sites[0]);
        pthread_t threads[THREADS];
        for (word i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, run, (void *)i);
        for (int i = 0; i < 30; i++) switch_off_and_on();
        stop = 1;
        for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
        running_site(3, 2, ENOUGH);
    }
    puts("control done");
    return 0;
}
