/* One hot site under loads of different size. Prints the calls made and the processor time they took [ns].
 *
 *   scaling threads N      N threads call through it at once
 *   scaling phases MS      its targets change every MS milliseconds
 *   scaling forks CALLS    one child after the other makes CALLS calls, as a server with a process per connection
 *   scaling loads FILE     a library is loaded, called and unloaded again and again
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long word;
typedef word callee_t(word);
#define OPAQUE __attribute__((noipa))

OPAQUE static word add(word x) { return x + 1; }
OPAQUE static word twice(word x) { return x * 2 + 1; }
OPAQUE static word mix(word x) { return x ^ x >> 3; }
OPAQUE static word turn(word x) { return x << 7 | x >> 57; }
static callee_t *const callees[4] = { add, twice, mix, turn };

/* The site: calls each of `count` targets in turn. */
OPAQUE static word site(callee_t *const *targets, word count, word calls) {
    word x = calls;
    for (word i = 0, at = 0; i < calls; i++) {
        x = targets[at](x);
        at = at + 1 == count ? 0 : at + 1;
    }
    return x;
}

static word processor_time(void) {
    struct rusage own, children;
    getrusage(RUSAGE_SELF, &own);
    getrusage(RUSAGE_CHILDREN, &children);
    struct timeval *parts[4] = { &own.ru_utime, &own.ru_stime, &children.ru_utime, &children.ru_stime };
    word total = 0;
    for (int i = 0; i < 4; i++) total += parts[i]->tv_sec * 1000000000ul + parts[i]->tv_usec * 1000ul;
    return total;
}

static word milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000ul + now.tv_nsec / 1000000ul;
}

static word share;
static void *caller(void *unused) {
    (void)unused;
    return (void *)site(callees, 2, share);
}

static word threads(word count) {
    pthread_t ids[256];
    word total = 60000000;
    if (count > 256) exit(2);
    share = total / count;
    for (word i = 0; i < count; i++)
        if (pthread_create(&ids[i], NULL, caller, NULL)) exit(1);
    for (word i = 0; i < count; i++) pthread_join(ids[i], NULL);
    return share * count;
}

static word phases(word length) {
    word calls = 0, begun = milliseconds(), now;
    while ((now = milliseconds() - begun) < 4000) {
        site(callees + now / length % 3, 1 + now / length % 2, 10000);
        calls += 10000;
    }
    return calls;
}

static word forks(word calls) {
    word children = 30000000 / (calls + 30000);
    for (word i = 0; i < children; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            site(callees, 2, calls);
            _exit(0);
        }
        waitpid(pid, NULL, 0);
    }
    return children * calls;
}

static word loads(const char *file) {
    word calls = 0;
    for (int i = 0; i < 300; i++) {
        void *library = dlopen(file, RTLD_NOW);
        word (*run)(word) = library ? (word (*)(word))dlsym(library, "run") : NULL;
        if (!run) exit(1);
        run(50000);
        calls += 50000;
        dlclose(library);
    }
    return calls;
}

#ifdef LIBRARY
word run(word calls) { return site(callees, 2, calls); }
#else
int main(int argc, char **argv) {
    if (argc < 3) return 2;
    word before = processor_time(), number = strtoul(argv[2], NULL, 10), calls = 0;
    if (!strcmp(argv[1], "threads")) calls = threads(number);
    else if (!strcmp(argv[1], "phases")) calls = phases(number);
    else if (!strcmp(argv[1], "forks")) calls = forks(number);
    else if (!strcmp(argv[1], "loads")) calls = loads(argv[2]);
    else return 2;
    printf("%lu %lu\n", calls, processor_time() - before);
    return 0;
}
#endif
