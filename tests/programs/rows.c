/* Loads and unloads a library with computed gotos, then another one with gates that are used again, and profiles it: every
 * sample must have its caller. Arguments: the two libraries. */
#include "check.h"
#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>
#include <signal.h>
#include <time.h>

#define CALLER __attribute__((noinline, section("callers")))
extern char __start_callers[], __stop_callers[];

static volatile int is_running;
static volatile long samples, wrong;

static void on_sample(int signal) {
    (void)signal;
    void *frames[32];
    int count = backtrace(frames, 32), seen = 0;
    if (!is_running) return;
    for (int n = 0; n < count; n++) seen |= (char *)frames[n] >= __start_callers && (char *)frames[n] < __stop_callers;
    samples++;
    wrong += !seen;
}

CALLER static void call(void (*run)(word), word rounds) {
    is_running = 1;
    run(rounds);
    is_running = 0;
}

static word load(const char *path, int is_watched) {
    struct link_map *library = dlopen(path, RTLD_NOW);
    CHECK(library, "%s", dlerror());
    void (*run)(word) = (void (*)(word))dlsym(library, "run");
    CHECK(run, "%s", dlerror());
    word base = library->l_addr;
    for (int n = 0; n < 4000 && (!is_watched || n < 20 || samples < 1000); n++) call(run, 50000);
    dlclose(library);
    return base;
}

int main(int argc, char **argv) {
    CHECK(argc == 3, "arguments");
    void *some[4];
    backtrace(some, 4);
    word first = load(argv[1], 0);
    struct sigaction action = {.sa_handler = on_sample, .sa_flags = SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF};
    struct itimerspec often = {{0, 50000}, {0, 50000}};
    timer_t timer;
    CHECK(sigaction(SIGPROF, &action, 0) == 0 && timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer");
    /* A thunk that was jumped to says that it was called: without an engine there is nothing to see. */
    int is_watched = dlsym(RTLD_DEFAULT, "relpoline_disable") != 0;
    if (is_watched) timer_settime(timer, 0, &often, 0);
    word second = load(argv[2], is_watched);
    timer_delete(timer);
    CHECK(wrong == 0, "%ld of %ld samples are wrong", wrong, samples);
    puts(first == second ? "rows done at one place" : "rows done");
    return 0;
}
