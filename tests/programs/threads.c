/* Many threads in the same sites while these learn, are promoted, linked, and learn again. */
#include "check.h"
#include <pthread.h>

#define THREADS 8

DISPATCHER(shared_site)
DISPATCHER(contended_site)
DISPATCHER(short_lived_site)

static volatile word phase;

/* All threads change targets together: every phase makes the trees of the one before worthless. */
static void *through_phases(void *number) {
    word mine = (word)number;
    for (word now = 0; now < 40; now++) {
        if (mine == 0) phase = now * 11 % 80;
        shared_site(phase, 1 + now % 4, 20000);
    }
    return NULL;
}

/* Each thread has targets of its own, so the threads' trees are never right for all. */
static void *against_each_other(void *number) {
    for (word round = 0; round < 20; round++) contended_site((word)number * 8 + round, 2, 20000);
    return NULL;
}

static void *short_life(void *number) {
    short_lived_site((word)number % 4, 4, 300);
    return NULL;
}

static void run(void *(*work)(void *)) {
    pthread_t threads[THREADS];
    for (word i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0, "thread %lu", i);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

int main(void) {
    run(through_phases);
    run(against_each_other);
    for (int i = 0; i < 400; i++) run(short_life);
    /* Afterwards all of it still learns. */
    shared_site(3, 2, 500000);
    contended_site(5, 2, 500000);
    puts("threads done");
    return 0;
}
