/* A preload that interrupts its process a thousand times per second of processor time and looks at the stack: what the programs'
 * own tests must not notice (`cargo xtask suites --profiled`).
 *
 * A timer of timer_create(2), not of setitimer(2): that one would go on after an exec, and end a program that has no handler yet. */
#define _GNU_SOURCE
#include <execinfo.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

enum { EVERY_NS = 1000000, DEEPEST = 64 };

static void look(int signal) {
    (void)signal;
    int error = errno;
    void *frames[DEEPEST];
    backtrace(frames, DEEPEST);
    errno = error;
}

/* A forked child has no timer yet. */
static void begin(void) {
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF };
    struct itimerspec every = { { 0, EVERY_NS }, { 0, EVERY_NS } };
    timer_t timer;
    if (timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer) == 0) timer_settime(timer, 0, &every, NULL);
}

__attribute__((constructor)) static void start(void) {
    /* The first time it loads a library, which no handler may do. */
    look(0);
    struct sigaction action = { .sa_handler = look, .sa_flags = SA_RESTART };
    if (sigaction(SIGPROF, &action, NULL) != 0) return;
    pthread_atfork(NULL, NULL, begin);
    begin();
}
