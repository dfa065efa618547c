// Steps through its own calls, one instruction after the other (the trap flag), and unwinds at each, by two unwinders: libgcc's,
// by backtrace(3), and libunwind's, from the signal's context, if it is installed. Functions of the program must be there as
// without an engine: the function with the call, and all that called it, and nothing else of it.
//
//   steps call|jump|goto|system [ROUNDS [WAIT]]      system: calls of libc's functions that are led to the engine; with WAIT it says "ready" and waits for a line after a third of the rounds
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include "check.h"

#define SITE __attribute__((noinline, section("sites")))
#define OUTER __attribute__((noinline, section("outer")))
#define TARGET __attribute__((noinline, section("targets")))
#define PLAIN __attribute__((noinline, indirect_branch("keep"), section("watchers")))

extern char __start_sites[], __stop_sites[], __start_outer[], __stop_outer[], __start_targets[], __stop_targets[];
extern char __executable_start[], etext[];
extern char __start_watchers[], __stop_watchers[];

typedef long (*fn)(long);
static fn volatile table[16];

enum { CALL, JUMP, GOTO, SYSTEM };
static int kind;
static volatile int stepping;
static long steps, checked, in_arena, in_engine;

// Addresses of frames that called the function with the site, as seen from there.
static void *above[64];
static int above_count;

// How often an address was looked at: calibration runs through some of its instructions a hundred thousand times.
#define SEEN 65536
static struct { uintptr_t at; unsigned times; } seen[SEEN];
enum { OFTEN = 40 };

static struct { uintptr_t start, end; } arena[4], engine[8];
static int arenas, engines;

static int (*unw_init)(void *, void *, int), (*unw_step)(void *), (*unw_get)(void *, int, uintptr_t *);
// LLVM's, if STEPS_LLVM says where it is.
static int (*llvm_init)(void *, void *), (*llvm_step)(void *), (*llvm_get)(void *, int, uintptr_t *);

static int is_in(uintptr_t at, const char *start, const char *end) {
    return at >= (uintptr_t)start && at < (uintptr_t)end;
}

PLAIN static void find_engine(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    CHECK(maps, "no maps");
    arenas = engines = 0;
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        char access[8];
        if (sscanf(line, "%lx-%lx %7s", &start, &end, access) != 3 || access[2] != 'x') continue;
        // An attached engine has no file.
        int nameless = !strchr(line, '/') && !strchr(line, '[');
        if (strstr(line, "memfd:relpoline") && arenas < 4) {
            if (arenas && arena[arenas - 1].end == start) arena[arenas - 1].end = end;
            else arena[arenas].start = start, arena[arenas++].end = end;
        } else if ((strstr(line, "librelpoline_engine") || nameless) && engines < 8)
            engine[engines].start = start, engine[engines++].end = end;
    }
    fclose(maps);
}

PLAIN static int is_ours(uintptr_t at) {
    for (int n = 0; n < arenas; n++)
        if (at >= arena[n].start && at < arena[n].end) return 1;
    return 0;
}

PLAIN static int often(uintptr_t at) {
    for (unsigned n = (at * 0x9e3779b97f4a7c15u) >> 48;; n = (n + 1) % SEEN) {
        if (seen[n].at == 0) seen[n].at = at;
        if (seen[n].at == at) return seen[n].times++ >= OFTEN;
    }
}

PLAIN static void tell(const char *who, void **frames, int count) {
    fprintf(stderr, "%s:", who);
    for (int n = 0; n < count; n++) fprintf(stderr, " %p", frames[n]);
    fprintf(stderr, "\nabove:");
    for (int n = 0; n < above_count; n++) fprintf(stderr, " %p", above[n]);
    fprintf(stderr, "\nsites %p-%p arena %lx\n", (void *)__start_sites, (void *)__stop_sites, arena[0].start);
}

// `frames` begin with the address at which the program was interrupted.
PLAIN static void check_frames(const char *who, void **frames, int count) {
    uintptr_t rip = (uintptr_t)frames[0];
    // Whoever asks for a whole arena's table, as libunwind does, does not know the function's frame between a computed goto and
    // its label: the stack may end there, but not be wrong.
    if (kind == GOTO && who[3] == 'u' && !is_in(rip, __start_sites, __stop_sites)) {
        int last = 0;
        for (int n = 0; n < count; n++) last = is_ours((uintptr_t)frames[n]);
        if (last) return;
    }
    int own = count - above_count, of_site = 0;
    int wrong = own < 1 || memcmp(frames + own, above, above_count * sizeof *above) != 0;
    for (int n = 0; n < own && !wrong; n++) {
        uintptr_t at = (uintptr_t)frames[n];
        of_site += is_in(at, __start_sites, __stop_sites);
        wrong |= is_in(at, __start_outer, __stop_outer);
        // Behind the function with the site there is nobody but those above.
        wrong |= of_site && n != own - 1;
    }
    // The function with a goto is seen by its caller's address only, while code of ours runs for it.
    int expected = kind == CALL || kind == SYSTEM || is_in(rip, __start_sites, __stop_sites);
    if (wrong || of_site != expected) {
        tell(who, frames, count);
        CHECK(0, "frames differ at %#lx", (unsigned long)rip);
    }
}

// Its context is a list of registers.
PLAIN static void look_with_llvm(ucontext_t *context) {
    static const int order[] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RDI, REG_RSI, REG_RBP, REG_RSP, REG_R8,
                                REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP, REG_EFL};
    static uintptr_t cursor[1024], registers[64];
    void *frames[96];
    int count = 0;
    for (unsigned n = 0; n < sizeof order / sizeof *order; n++) registers[n] = context->uc_mcontext.gregs[order[n]];
    CHECK(llvm_init(cursor, registers) == 0, "LLVM's libunwind");
    do {
        uintptr_t ip = 0;
        llvm_get(cursor, -1, &ip);
        if (!ip) break;
        frames[count++] = (void *)ip;
    } while (count < 96 && llvm_step(cursor) > 0);
    check_frames("libunwind of LLVM", frames, count);
}

PLAIN static void look(ucontext_t *context) {
    uintptr_t rip = context->uc_mcontext.gregs[REG_RIP];
    void *frames[96];
    int count = backtrace(frames, 96), first = 0;
    while (first < count && (uintptr_t)frames[first] != rip) first++;
    if (first == count) {
        tell("backtrace without the interrupted address", frames, count);
        CHECK(0, "frames differ at %#lx", (unsigned long)rip);
    }
    check_frames("libgcc", frames + first, count - first);
    // It takes every address for that of a return, and errs where a compiler's rule has just changed; ours change earlier.
    if (llvm_init && is_ours(rip)) look_with_llvm(context);
    if (!unw_init) return;
    static uintptr_t cursor[1024];
    CHECK(unw_init(cursor, context, 1) == 0, "libunwind");
    count = 0;
    do {
        uintptr_t ip = 0;
        unw_get(cursor, 16, &ip);
        if (!ip) break;
        frames[count++] = (void *)ip;
    } while (count < 96 && unw_step(cursor) > 0);
    check_frames("libunwind", frames, count);
}

// What was seen often, and nothing else for so many steps, goes on at its own speed for a moment: calibration runs through the
// same instructions half a million times.
enum { LONG = 400 };
static timer_t moment;

PLAIN static void on_alarm(int signal, siginfo_t *info, void *argument) {
    (void)signal, (void)info;
    if (stepping) ((ucontext_t *)argument)->uc_mcontext.gregs[REG_EFL] |= 0x100;
}

PLAIN static void let_run(ucontext_t *context) {
    struct itimerspec soon = {.it_value = {0, 60000}};
    context->uc_mcontext.gregs[REG_EFL] &= ~0x100l;
    timer_settime(moment, 0, &soon, 0);
}

PLAIN static void on_trap(int signal, siginfo_t *info, void *argument) {
    (void)signal, (void)info;
    ucontext_t *context = argument;
    if (!stepping) {
        context->uc_mcontext.gregs[REG_EFL] &= ~0x100l;
        return;
    }
    uintptr_t rip = context->uc_mcontext.gregs[REG_RIP];
    // `begin` has moved the stack, which nothing says: the alarm came there.
    if (!memcmp((void *)rip, "\x48\x8d\xa4\x24\x80\0\0", 8)) return;
    steps++;
    for (int n = 0; n < arenas; n++) in_arena += rip >= arena[n].start && rip < arena[n].end;
    for (int n = 0; n < engines; n++) in_engine += rip >= engine[n].start && rip < engine[n].end;
    // A jump's callee has returned past the function that stops.
    if (is_in(rip, __start_outer, __stop_outer)) stepping = 0;
    if (!stepping || is_in(rip, __start_watchers, __stop_watchers)) return;
    // The program's own thunk does not say how it unwinds when it was jumped to in the middle of a function.
    int is_thunk = is_in(rip, __executable_start, etext) && !is_in(rip, __start_sites, __stop_sites) &&
                   !is_in(rip, __start_targets, __stop_targets);
    if (kind == GOTO && is_thunk) return;
    static int known;
    if (often(rip)) {
        if (++known >= LONG) known = 0, let_run(context);
        return;
    }
    known = 0;
    checked++;
    look(context);
}

static inline __attribute__((always_inline)) void begin(void) {
    stepping = 1;
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; orq $0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::: "memory", "cc");
}

static inline __attribute__((always_inline)) void end(void) { stepping = 0; }

// Notes who called the function in which this stands.
PLAIN static void note(void) {
    void *frames[96];
    int count = backtrace(frames, 96), n = 0;
    while (n < count && !is_in((uintptr_t)frames[n], __start_sites, __stop_sites)) n++;
    CHECK(n < count, "%d frames", count);
    above_count = count - n - 1;
    CHECK(above_count > 4 && above_count < 64, "%d frames", above_count);
    memcpy(above, frames + n + 1, above_count * sizeof *above);
}

SITE static long call_site(fn f, long x, int is_watched) {
    if (is_watched) {
        note();
        begin();
    }
    long y = f(x);
    end();
    return y + 1;
}

SITE static long jump_site(fn f, long x, int is_watched) {
    if (is_watched) {
        note();
        begin();
    }
    return f(x);
}

// Some registers of the caller's are in use, and a frame.
SITE static long goto_site(long which, long x, int is_watched) {
    static void *const labels[] = {&&a, &&b, &&c, &&d, &&e, &&f, &&g, &&h};
    volatile long room[5] = {x, 2, 3, 4, 5};
    if (is_watched) {
        note();
        begin();
    }
    goto *labels[which & 7];
a: x += room[0]; goto out;
b: x ^= room[1]; goto out;
c: x += 3 * room[2]; goto out;
d: x -= room[3]; goto out;
e: x += 5 + room[4]; goto out;
f: x ^= 6 + room[0]; goto out;
g: x += 7; goto out;
h: x += 8;
out:
    end();
    return x;
}

// There is no such program.
SITE static long system_site(long which, long x, int is_watched) {
    char *const nothing[] = {0};
    long y;
    if (is_watched) {
        note();
        begin();
    }
    if (which % 3 == 0) y = syscall(SYS_getuid);
    else if (which % 3 == 1) y = prctl(PR_GET_DUMPABLE);
    else y = execve("/none/such", nothing, nothing);
    end();
    return x + y;
}

#define TARGETS X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define X(n) TARGET static long target##n(long x) { __asm__ volatile("" : "+r"(x)); return x + n; }
TARGETS
#undef X

OUTER static long level3(long which, long x, int is_watched) {
    volatile long room[7] = {x};
    long y = 0;
    if (kind == CALL) y = call_site(table[which & 15], x, is_watched);
    if (kind == JUMP) y = jump_site(table[which & 15], x, is_watched);
    if (kind == GOTO) y = goto_site(which, x, is_watched);
    if (kind == SYSTEM) y = system_site(x, x, is_watched);
    end();
    return y + room[0];
}

// Its frame is found by rbp, which is the caller's own only if functions below said where they saved it.
OUTER static long level2(long which, long x, int is_watched) {
    volatile char room[100 + (which & 1)];
    room[x & 63] = 1;
    long y = level3(which, x, is_watched);
    __asm__ volatile("" ::: "rbx", "r12", "r13", "r14", "r15", "memory");
    return y ^ room[x & 63];
}

OUTER static long level1(long which, long x, int is_watched) {
    long y = level2(which, x, is_watched);
    __asm__ volatile("" : "+r"(y));
    return y + 1;
}

// What is called: one target, then another, then a few in turn, then many at random.
static long choose(long round, long rounds) {
    static unsigned long state = 1;
    state = state * 0x5851f42d4c957f2d + 0x14057b7ef767814f;
    if (round < rounds / 2) return 3;
    if (round < rounds * 3 / 4) return 5 + round / 64 % 2;
    return state >> 60;
}

int main(int count, char **arguments) {
    const char *name = count > 1 ? arguments[1] : "call";
    long rounds = count > 2 ? atol(arguments[2]) : 12000, sum = 0;
    kind = !strcmp(name, "jump") ? JUMP : !strcmp(name, "goto") ? GOTO : !strcmp(name, "system") ? SYSTEM : CALL;
#define X(n) table[n] = target##n;
    TARGETS
#undef X
    void *library = dlopen("libunwind.so.8", RTLD_NOW);
    if (library) {
        unw_init = dlsym(library, "_ULx86_64_init_local2");
        unw_step = dlsym(library, "_ULx86_64_step");
        unw_get = dlsym(library, "_ULx86_64_get_reg");
        CHECK(unw_init && unw_step && unw_get, "libunwind");
    }
    const char *llvm = getenv("STEPS_LLVM");
    if (llvm) {
        library = dlopen(llvm, RTLD_NOW);
        CHECK(library, "%s", dlerror());
        llvm_init = dlsym(library, "unw_init_local");
        llvm_step = dlsym(library, "unw_step");
        llvm_get = dlsym(library, "unw_get_reg");
        CHECK(llvm_init && llvm_step && llvm_get, "LLVM's libunwind");
    }
    void *some[4];
    CHECK(backtrace(some, 4) > 1, "libgcc");
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaddset(&action.sa_mask, SIGALRM);
    CHECK(sigaction(SIGTRAP, &action, 0) == 0, "sigaction");
    action.sa_sigaction = on_alarm;
    CHECK(sigaction(SIGALRM, &action, 0) == 0, "sigaction");
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &moment) == 0, "timer_create");
    find_engine();
    // The loader has bound them then.
    if (kind == SYSTEM) system_site(0, 0, 0), system_site(1, 0, 0), system_site(2, 0, 0);
    for (long round = 0; round < rounds; round++) {
        if (count > 3 && round == rounds / 3) {
            char line[16];
            printf("ready\n"), fflush(stdout);
            CHECK(fgets(line, sizeof line, stdin), "stdin");
            find_engine();
        }
        if (round == rounds * 7 / 8) {
            int (*disable)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "relpoline_disable");
            if (disable) disable();
            memset(seen, 0, sizeof seen);
        }
        sum += level1(choose(round, rounds), round, 1);
    }
    const char *figures = getenv("STEPS_FIGURES");
    if (figures) {
        FILE *file = fopen(figures, "w");
        CHECK(file, "%s", figures);
        fprintf(file, "%ld %ld %ld %ld %d\n", steps, checked, in_arena, in_engine, unw_init != 0);
        fclose(file);
    }
    printf("%s %ld\n", name, sum);
    return 0;
}
