/* Signals at every instant of a call: handlers that call, that jump away, on small stacks; blocked signals. */
#include "arena.h"
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

#define ENOUGH 500000
#define STACK 8192

DISPATCHER(main_site)
DISPATCHER(later_site)

static volatile word handled;

/* Calls from within the handler: the sites it interrupted, and one of its own. */
static OPAQUE void handler_site(word first, word calls) {
    for (word i = 0; i < calls; i++) {
        word n = (first + i) % CALLEES, got = callees[n](i);
        CHECK(got == ANSWER(n, i), "in the handler callee %lu said %lu", n, got);
    }
}

static void on_alarm(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    int before = errno;
    word count = entered; /* the interrupted call counts its own */
    handler_site(handled / 64, 20);
    main_site(handled / 128 % 90, 2, 10);
    entered = count;
    handled++;
    errno = before;
}

/* A signal stack of the least size that is used, with a page below that must not be touched. */
static void small_stack(void) {
    char *memory = mmap(NULL, STACK + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mprotect(memory, 4096, PROT_NONE) == 0, "guard page");
    stack_t stack = { .ss_sp = memory + 4096, .ss_size = STACK };
    CHECK(sigaltstack(&stack, NULL) == 0, "sigaltstack");
}

static void every(int microseconds) {
    struct itimerval timer = { { 0, microseconds }, { 0, microseconds } };
    setitimer(ITIMER_REAL, &timer, NULL);
}

static void install(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | flags };
    sigemptyset(&action.sa_mask);
    CHECK(sigaction(signal, &action, NULL) == 0, "sigaction");
}

static int seconds_since(time_t start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec - start;
}

static time_t seconds(void) { return seconds_since(0); }

static void storm(void) {
    small_stack();
    install(SIGALRM, on_alarm, SA_RESTART);
    every(50);
    time_t start = seconds();
    for (word phase = 0; seconds_since(start) < 3; phase++) main_site(phase % 80, 1 + phase % 5, 5000);
    every(0);
    CHECK(handled > 1000, "only %lu signals", handled);
}

static sigjmp_buf away;
static volatile word jumps;

static void jump_away(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    jumps++;
    siglongjmp(away, 1);
}

/* Leaves calls, stubs and the slow path at random instants. */
static void jumps_out(void) {
    small_stack();
    install(SIGALRM, jump_away, 0);
    volatile word phase = 0, state = 0x9e3779b97f4a7c15;
    time_t start = seconds();
    sigsetjmp(away, 1);
    while (seconds_since(start) < 4) {
        word r = state;
        struct itimerval soon = { { 0, 0 }, { 0, 1 + next_random(&r) % 120 } };
        state = r;
        phase++;
        setitimer(ITIMER_REAL, &soon, NULL);
        for (word i = 0; i < 200; i++) main_site((phase / 4 + i / 8) % 80, 1 + i % 5, 300);
    }
    every(0);
    CHECK(jumps > 1000, "only %lu jumps", jumps);
}

static void *blocked(void *unused) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (word phase = 0; phase < 40; phase++) main_site(phase * 2, 1 + phase % 4, 10000);
    return unused;
}

/* int3 or a fault of ours would kill a thread that blocks the signal. */
static void blocked_signals(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, blocked, NULL);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    blocked(NULL);
}

static volatile int traps, faults;
static volatile int *volatile nowhere = (int *)16;
static sigjmp_buf after_fault;

static void on_trap(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    traps++;
}

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    faults++;
    siglongjmp(after_fault, 1);
}

/* The program's own handlers see its own traps and faults, and no others. */
static void own_handlers(void) {
    small_stack();
    install(SIGTRAP, on_trap, 0);
    install(SIGSEGV, on_fault, 0);
    install(SIGBUS, on_fault, 0);
    install(SIGILL, on_fault, 0);
    for (volatile int i = 0; i < 60; i++) {
        main_site(i, 1 + i % 4, 10000);
        raise(SIGTRAP);
        if (sigsetjmp(after_fault, 1) == 0) *nowhere = 1;
    }
    CHECK(traps == 60 && faults == 60, "%d traps, %d faults", traps, faults);
}

/* Whatever happened: what is called now is learned, and what was learned is learned anew; once that may be paid for,
 * which is after a while. */
static void learns_still(void) {
    const unsigned char *sites[2];
    for (int i = 0; i < 3000; i++) {
        later_site(5, 2, ENOUGH / 10);
        main_site(i / 50, 2, ENOUGH / 10);
        int known = find_sites(later_site, 200, sites, 1) + find_sites(main_site, 200, sites + 1, 1);
        if (known < 2 || (i > 10 && is_promoted(sites[0]) && is_promoted(sites[1]))) break;
    }
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "storm") == 0) storm();
    else if (strcmp(mode, "jumps") == 0) jumps_out();
    else if (strcmp(mode, "blocked") == 0) blocked_signals();
    else if (strcmp(mode, "own") == 0) own_handlers();
    else CHECK(0, "no such mode: %s", mode);
    learns_still();
    printf("%s done\n", mode);
    return 0;
}
