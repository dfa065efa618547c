/* One hot site under loads of different size. Prints the calls made and the processor time they took [ns].
 *
 *   scaling threads N      N threads call through it at once
 *   scaling misses N       likewise, and a fifth of their calls goes to any of 256 targets
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

static word in_threads(word count, void *(*work)(void *)) {
    pthread_t ids[256];
    word total = 60000000;
    if (count > 256) exit(2);
    share = total / count;
    for (word i = 0; i < count; i++)
        if (pthread_create(&ids[i], NULL, work, NULL)) exit(1);
    for (word i = 0; i < count; i++) pthread_join(ids[i], NULL);
    return share * count;
}

#define RARE(n) OPAQUE static word rare_##n(word x) { return x + 0x##n; }
#define NAME(n) rare_##n,
#define SIXTEEN(m, h) m(h##0) m(h##1) m(h##2) m(h##3) m(h##4) m(h##5) m(h##6) m(h##7) m(h##8) m(h##9) m(h##a) m(h##b) m(h##c) \
    m(h##d) m(h##e) m(h##f)
#define ALL(m) SIXTEEN(m, 0) SIXTEEN(m, 1) SIXTEEN(m, 2) SIXTEEN(m, 3) SIXTEEN(m, 4) SIXTEEN(m, 5) SIXTEEN(m, 6) SIXTEEN(m, 7) \
    SIXTEEN(m, 8) SIXTEEN(m, 9) SIXTEEN(m, a) SIXTEEN(m, b) SIXTEEN(m, c) SIXTEEN(m, d) SIXTEEN(m, e) SIXTEEN(m, f)
ALL(RARE)
static callee_t *const rare[256] = { ALL(NAME) };

enum { ORDER = 1 << 16 };
static callee_t *order[ORDER];

static void *misser(void *unused) {
    (void)unused;
    return (void *)site(order, ORDER, share);
}

/* The same order for all, and nobody can foresee it. */
static word misses(word count) {
    word random = 88172645463325252;
    for (int i = 0; i < ORDER; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        order[i] = (random >> 20) % 5 ? add : rare[random >> 40 & 255];
    }
    return in_threads(count, misser);
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
    if (!strcmp(argv[1], "threads")) calls = in_threads(number, caller);
    else if (!strcmp(argv[1], "misses")) calls = misses(number);
    else if (!strcmp(argv[1], "phases")) calls = phases(number);
    else if (!strcmp(argv[1], "forks")) calls = forks(number);
    else if (!strcmp(argv[1], "loads")) calls = loads(argv[2]);
    else return 2;
    printf("%lu %lu\n", calls, processor_time() - before);
    return 0;
}
#endif
