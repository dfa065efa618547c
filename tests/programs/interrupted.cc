// Programs that are interrupted at random places of their calls, and unwind from there.
//   profile, deep: a profiler at 20 kHz, from the first call on: every sample has its caller, and all that called it.
//   throw: a handler that throws. cancel: asynchronous cancellation. exit: a handler that ends its thread.
//   goto, goto-throw: the profiler and the throwing handler, at computed gotos. (Checked with an engine only: a thunk of gcc's
//   says that it was called.)
//   crash: a callee that is not there; the handler, on a stack of its own, finds the caller.
#include <dlfcn.h>
#include <pthread.h>
#include <execinfo.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include "check.h"

typedef unsigned long (*function)(unsigned long);
static __attribute__((noipa)) unsigned long first(unsigned long x) { return x * 3 + 1; }
static __attribute__((noipa)) unsigned long second(unsigned long x) { return x ^ 0x55; }
static __attribute__((noipa)) unsigned long third(unsigned long x) { return x + 7; }
static function volatile table[4] = {first, second, third, first};

#define HOT __attribute__((noipa, section("hot")))
extern "C" char __start_hot[], __stop_hot[], __start_levels[], __stop_levels[];

static volatile int is_hot;

static HOT unsigned long hot(unsigned long rounds) {
    unsigned long x = 1;
    is_hot = 1;
    for (unsigned long n = 0; n < rounds; n++) x = table[n >> 4 & 3](x);
    is_hot = 0;
    return x;
}

// Interprets a few instructions; saves registers of its caller's and has a frame.
static HOT unsigned long interpret(unsigned long rounds) {
    static void *const labels[] = {&&a, &&b, &&c, &&d};
    volatile unsigned long room[3] = {1, 2, 3};
    unsigned long x = 1, y = 2, z = 3, n = 0;
    is_hot = 1;
next:
    asm volatile("" : "+r"(x), "+r"(y), "+r"(z) : : "rbx", "r12", "r13");
    if (n++ == rounds) {
        is_hot = 0;
        return x ^ y ^ z;
    }
    goto *labels[n >> 4 & 3];
a: x += room[0]; goto next;
b: y += room[1] ^ x; goto next;
c: z += room[2] ^ y; goto next;
d: x ^= z; goto next;
}

static int has_gotos;

static __attribute__((noipa, section("levels"))) unsigned long level(int depth, unsigned long rounds) {
    unsigned long x = depth ? level(depth - 1, rounds) : has_gotos ? interpret(rounds) : hot(rounds);
    asm volatile("");
    return x + 1;
}

static timer_t every(int signal, long nanoseconds) {
    timer_t timer;
    struct sigevent event = {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = signal;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer_create");
    struct itimerspec when = {{0, nanoseconds}, {0, nanoseconds}};
    CHECK(timer_settime(timer, 0, &when, 0) == 0, "timer_settime");
    return timer;
}

static void handle(int signal, void (*handler)(int), int flags) {
    struct sigaction action = {};
    action.sa_handler = handler;
    action.sa_flags = flags;
    CHECK(sigaction(signal, &action, 0) == 0, "sigaction");
}

static int is_in(void *at, char *start, char *end) { return (char *)at >= start && (char *)at < end; }

// Frames of `levels` in a stack that has the hot function; -1 when that is missing.
static int levels_above(void **frames, int count) {
    int n = 0, levels = 0;
    while (n < count && !is_in(frames[n], __start_hot, __stop_hot)) n++;
    // Code that runs for a function with gotos stands in for it.
    if (n == count && has_gotos) n = 0;
    if (n == count) return -1;
    for (; n < count; n++) levels += is_in(frames[n], __start_levels, __stop_levels);
    return levels;
}

static volatile long samples, wrong;
static volatile int depth;

static void on_sample(int) {
    void *frames[64];
    int count = backtrace(frames, 64);
    if (!is_hot) return;
    samples++;
    wrong += levels_above(frames, count) != depth;
}

static void profile(int levels, long nanoseconds) {
    depth = levels;
    handle(SIGPROF, on_sample, SA_RESTART);
    timer_t timer = every(SIGPROF, nanoseconds);
    for (int n = 0; n < 4000 && (samples < 3000 || n < 20); n++) level(levels - 1, 50000);
    timer_delete(timer);
    CHECK(samples >= 1000, "only %ld samples", samples);
    CHECK(wrong == 0, "%ld of %ld samples are wrong", wrong, samples);
}

struct Thrown {};
static volatile bool is_armed;

static void on_throw(int) {
    if (!is_armed) return;
    is_armed = false;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    sigprocmask(SIG_UNBLOCK, &set, 0);
    throw Thrown();
}

static void throws() {
    handle(SIGALRM, on_throw, 0);
    timer_t timer = every(SIGALRM, 300000);
    for (unsigned long caught = 0; caught < 500;) {
        // In registers that have to be given back.
        unsigned long a = caught * 3, b = caught ^ 0x5555, c = ~caught, d = caught << 7, e = caught + 99;
        asm volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e));
        try {
            is_armed = true;
            level(5, 1ul << 40);
        } catch (Thrown &) {
            unsigned long n = caught;
            CHECK(a == n * 3 && b == (n ^ 0x5555) && c == ~n && d == n << 7 && e == n + 99, "registers after %lu", n);
            caught++;
        }
    }
    timer_delete(timer);
}

static volatile int ran, is_ready, is_cancelled_at_once;
struct Counts {
    ~Counts() { __atomic_add_fetch(&ran, 1, __ATOMIC_SEQ_CST); }
};

static void on_exit_signal(int) { pthread_exit(0); }

static void *spins(void *) {
    Counts counts;
    int old;
    if (is_cancelled_at_once) pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old);
    is_ready = 1;
    level(3, 1ul << 40);
    return 0;
}

static void ends(bool by_cancelling) {
    is_cancelled_at_once = by_cancelling;
    handle(SIGUSR1, on_exit_signal, 0);
    for (int n = 0; n < 200; n++) {
        is_ready = 0;
        pthread_t thread;
        CHECK(pthread_create(&thread, 0, spins, 0) == 0, "pthread_create");
        while (!is_ready) usleep(50);
        usleep(200 + n % 97);
        CHECK((by_cancelling ? pthread_cancel(thread) : pthread_kill(thread, SIGUSR1)) == 0, "it has ended");
        CHECK(pthread_join(thread, 0) == 0, "pthread_join");
    }
    CHECK(ran == 200, "%d destructors ran", ran);
}

static void on_crash(int) {
    void *frames[64];
    int found = levels_above(frames, backtrace(frames, 64));
    if (found != 6) CHECK(0, "%d levels", found);
    if (write(1, "crashed\n", 8) < 0) { }
    _exit(0);
}

static void crash() {
    static char stack[1 << 16];
    stack_t alternate = {};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    CHECK(sigaltstack(&alternate, 0) == 0, "sigaltstack");
    handle(SIGSEGV, on_crash, SA_ONSTACK);
    level(5, 1000000);
    void *nobody = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(nobody != MAP_FAILED, "mmap");
    // A callee that reads where nothing can be read.
    mprotect(nobody, 4096, PROT_NONE);
    static void *place = nobody;
    struct Reads {
        static unsigned long it(unsigned long) { return *(volatile unsigned long *)place; }
    };
    table[3] = Reads::it;
    level(5, 1000000);
}

int main(int, char **arguments) {
    void *some[4];
    backtrace(some, 4);
    if (!strcmp(arguments[1], "profile")) profile(1, 50000);
    if (!strcmp(arguments[1], "deep")) profile(15, 50000);
    if (!strcmp(arguments[1], "throw")) throws();
    if (!strncmp(arguments[1], "goto", 4)) {
        has_gotos = 1;
        bool is_watched = dlsym(RTLD_DEFAULT, "relpoline_disable");
        if (!is_watched) level(5, 1000000);
        else if (arguments[1][4]) throws();
        else profile(9, 50000);
    }
    if (!strcmp(arguments[1], "cancel")) ends(true);
    if (!strcmp(arguments[1], "exit")) ends(false);
    if (!strcmp(arguments[1], "crash")) crash();
    printf("%s done\n", arguments[1]);
    return 0;
}
