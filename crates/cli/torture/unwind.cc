/* Threads that are interrupted at any instant, and unwound from there: by a profiler, which must find every caller; by a
 * handler that throws, and by cancellation, both of which must run every destructor. Part of the torture program. */
#include "torture.h"
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define LEVELS 6
#define SPINNING __attribute__((noipa, section("spinning")))
#define CLIMBING __attribute__((noipa, section("climbing")))
#define CALLED __attribute__((noipa, section("called")))

extern "C" char __executable_start[], etext[];
extern "C" char __start_spinning[], __stop_spinning[], __start_climbing[], __stop_climbing[], __start_called[], __stop_called[];

namespace {

enum Mode { PROFILED_ONLY, THROWN_OUT_OF, CANCELLED };

/* Between the first and the last instruction that may be unwound from. */
__thread volatile int is_spinning;
__thread word destroyed;

struct Guard {
    ~Guard() { destroyed++; }
};

#define CALLEES(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define CALLEE(n) CALLED word callee##n(word x) { return ANSWER(n, x); }
CALLEES(CALLEE)
#define NAME_OF(n) callee##n,
callee_t *const volatile callees[] = { CALLEES(NAME_OF) };

/* gcc's thunk says that it was called, which is wrong behind a goto: gotos are for the profiler, which knows. */
SPINNING void spin(Mode mode, word seed, word calls) {
    static void *const labels[] = { &&one, &&two, &&three, &&four };
    word sum = 0, expected = 0;
    if (mode == CANCELLED) {
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr);
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, nullptr);
    }
    is_spinning = 1;
    for (word i = 0; i < calls || mode == CANCELLED; i++) {
        word n = patterns[seed % MODES][i % PATTERN] % 16;
        sum += callees[n](i);
        expected += ANSWER(n, i);
        if (mode != PROFILED_ONLY) continue;
        goto *labels[n % 4];
    one:
        sum += 1 + n % 4, expected++;
        continue;
    two:
        sum += 2 + n % 4, expected += 3;
        continue;
    three:
        sum += 3 + n % 4, expected += 5;
        continue;
    four:
        sum += 4 + n % 4, expected += 7;
    }
    is_spinning = 0;
    if (sum != expected) wrong("calls that were interrupted came to %lu instead of %lu", sum, expected);
    count(PROFILED, calls);
}

CLIMBING void climb(int levels, Mode mode, word seed, word calls) {
    Guard guard;
    if (levels > 1) climb(levels - 1, mode, seed, calls);
    else spin(mode, seed, calls);
    asm volatile("");
}

bool is_in(word at, const char *start, const char *end) { return at - (word)start < (word)end - (word)start; }

/* Whether the program's own thunk runs, as it does while the engine is detached. */
bool is_in_thunk(word at) {
    return is_in(at, __executable_start, etext) && !is_in(at, __start_spinning, __stop_spinning)
        && !is_in(at, __start_climbing, __stop_climbing) && !is_in(at, __start_called, __stop_called);
}

void on_sample(int, siginfo_t *, void *context) {
    word at = (word)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    if (!is_spinning || is_in_thunk(at)) return;
    void *frames[64];
    int seen = 0, length = backtrace(frames, 64);
    for (int n = 0; n < length; n++) seen += is_in((word)frames[n], __start_climbing, __stop_climbing);
    if (seen != LEVELS) wrong("interrupted at %lx, a profiler saw %d of %d callers in %d frames", at, seen, LEVELS, length);
    count(EVENT_SAMPLE, 1);
}

struct Thrown {};

void on_throw(int signal, siginfo_t *, void *) {
    if (!is_spinning) return;
    is_spinning = 0;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    throw Thrown();
}

/* A signal for this thread, every so many nanoseconds. */
timer_t interrupt_every(long nanoseconds, int signal, void (*handler)(int, siginfo_t *, void *)) {
    struct sigaction action = {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaction(signal, &action, nullptr);
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = signal;
    event._sigev_un._tid = gettid();
    itimerspec when = { { 0, nanoseconds }, { 0, nanoseconds } };
    timer_t timer;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &when, nullptr)) wrong("no timer");
    return timer;
}

void check_destructors(const char *who) {
    if (destroyed != LEVELS) wrong("%s: %lu of %d destructors ran", who, destroyed, LEVELS);
    destroyed = 0;
}

volatile int is_ready;

void *be_cancelled(void *destroyed_there) {
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, nullptr);
    struct Tells {
        word *to;
        ~Tells() { *to = destroyed; }
    } tells = { static_cast<word *>(destroyed_there) };
    is_ready = 1;
    climb(LEVELS, CANCELLED, (word)time(nullptr), 0);
    return nullptr;
}

} // namespace

void *be_profiled(void *unused) {
    void *some[2];
    backtrace(some, 2); /* loads what it needs */
    timer_t timer = interrupt_every(400000, SIGPROF, on_sample);
    for (word round = 0; !stop; round++) {
        climb(LEVELS, PROFILED_ONLY, round / 16, 20000);
        check_destructors("a profiled thread");
        if (round % 32 == 0) pause_for(1000);
    }
    timer_delete(timer);
    return unused;
}

void *throw_out_of_handlers(void *unused) {
    timer_t timer = interrupt_every(900000, SIGALRM, on_throw);
    for (word round = 0; !stop; round++) {
        try {
            climb(LEVELS, THROWN_OUT_OF, round / 16, 20000);
        } catch (Thrown &) {
            count(EVENT_HANDLER_THREW, 1);
        }
        check_destructors("a handler that throws");
        if (round % 32 == 0) pause_for(1000);
    }
    timer_delete(timer);
    return unused;
}

void *cancel_threads(void *unused) {
    word state = 88172645463325252;
    while (!stop) {
        pthread_t thread;
        is_ready = 0;
        word ran = 0;
        if (pthread_create(&thread, nullptr, be_cancelled, &ran)) {
            pause_for(10000);
            continue;
        }
        while (!is_ready) pause_for(50);
        pause_for((long)(next_random(&state) >> 20) % 3000);
        pthread_cancel(thread);
        pthread_join(thread, nullptr);
        if (ran != LEVELS) wrong("of a cancelled thread %lu of %d destructors ran", ran, LEVELS);
        count(EVENT_CANCEL, 1);
    }
    return unused;
}
