/* A program that crashes: in one thread or among several, in a child that was forked, by abort or by a fault. */
#include "check.h"
#include <pthread.h>
#include <signal.h>

static volatile int crash, faults;
#define STAGE(n)                                                                                   \
    OPAQUE word stage_##n(word x) {                                                                \
        if (__builtin_expect(crash, 0)) {                                                          \
            if (faults) *(volatile int *)0 = 1;                                                    \
            abort();                                                                               \
        }                                                                                          \
        return x * 3 + n;                                                                          \
    }
STAGE(0) STAGE(1) STAGE(2)
static callee_t *volatile stages[3] = { stage_0, stage_1, stage_2 };

OPAQUE word core_site(word x, word calls) {
    for (word i = 0; i < calls; i++) x = stages[i % 3](x);
    return x + 1;
}

OPAQUE word stage(word calls) { return core_site(1, calls) + 1; }

static void *work(void *ready) {
    stage(300000);
    pthread_barrier_wait(ready);
    pause();
    return NULL;
}

int main(int count, char **arguments) {
    CHECK(count == 3, "two arguments");
    faults = !strcmp(arguments[2], "fault");
    word x = stage(300000);
    if (!strcmp(arguments[1], "threads")) {
        pthread_barrier_t ready;
        pthread_barrier_init(&ready, NULL, 4);
        pthread_t thread;
        for (int i = 0; i < 3; i++) CHECK(pthread_create(&thread, NULL, work, &ready) == 0, "no thread");
        pthread_barrier_wait(&ready);
    }
    if (!strcmp(arguments[1], "forked") && fork()) {
        wait(NULL);
        return 1;
    }
    x += stage(300000);
    crash = 1;
    return (int)(x + stage(3)) & 0;
}
