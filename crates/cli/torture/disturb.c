/* What is done to the callers: promotion is switched, libraries come and go, children, signals, exceptions, coroutines. */
#include "torture.h"
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

extern char **environ;
/* The engine's, when it is there. */
extern int relpoline_disable(void) __attribute__((weak));
extern int relpoline_enable(void) __attribute__((weak));

void pause_for(long microseconds) {
    struct timespec time = { microseconds / 1000000, microseconds % 1000000 * 1000 };
    nanosleep(&time, NULL);
}

/* Everybody goes back to the retpolines, and learns anew. */
void *switch_off_and_on(void *unused) {
    for (word round = 0; !stop && relpoline_disable; round++) {
        pause_for(round % 16 ? 60000 : 900000);
        relpoline_disable();
        pause_for(round % 4 * 1000);
        relpoline_enable();
        count(EVENT_SWITCH, 1);
    }
    return unused;
}

static OPAQUE void call_plugin(callee_t *target, word variant, word calls) {
    for (word i = 0; i < calls; i++) {
        word got = target(i);
        if (UNLIKELY(got != ANSWER(variant, i))) wrong("library %lu was called, and %lu answered", variant, got - i * 31);
    }
    count(PLUGIN, calls);
}

static void use_library(int number) {
    void *library = dlopen(plugins[number], number % 2 ? RTLD_NOW : RTLD_LAZY);
    if (!library) {
        wrong("a library cannot be loaded: %s", dlerror());
        return;
    }
    callee_t *target = (callee_t *)dlsym(library, "plugin_target"), *calls = (callee_t *)dlsym(library, "plugin_calls");
    word variant = calls(3000);
    call_plugin(target, variant, 8000);
    dlclose(library);
    count(EVENT_LOAD, 1);
}

static OPAQUE word first_choice(word x) { return 11 + 0 * x; }
static OPAQUE word second_choice(word x) { return 12 + 0 * x; }

/* One of two libraries that differ in one byte of their thunk, and mostly come to lie at the same place; now and then in a
 * namespace of its own. */
static void use_exchanged(int number, int is_apart) {
    void *library = is_apart ? dlmopen(LM_ID_NEWLM, exchanged[number], RTLD_NOW) : dlopen(exchanged[number], RTLD_NOW);
    if (!library) {
        wrong("a library cannot be loaded: %s", dlerror());
        return;
    }
    word (*choose)(callee_t *, callee_t *) = (word (*)(callee_t *, callee_t *))dlsym(library, "choose");
    for (word i = 0; i < 8000; i++) {
        word got = choose(first_choice, second_choice);
        if (UNLIKELY(got != 11 + (word)number)) wrong("build %d of a library chose %lu", number, got);
    }
    count(PLUGIN, 8000);
    dlclose(library);
    count(EVENT_LOAD, 1);
}

void *load_libraries(void *unused) {
    for (word round = 0; !stop && plugin_count; round++) {
        use_library((int)(round * 7 / 3 % (word)plugin_count));
        use_exchanged(round * 5 / 3 % 2, round % 7 == 0);
        pause_for(3000);
    }
    return unused;
}

/* Waits for a child, which must have ended well. */
static void reap(pid_t child, const char *what) {
    int status = 0;
    if (child < 0) return; /* the system has no more processes to give */
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) { }
    if (status) wrong("%s ended with status %x", what, status);
}

static int live_as_child(word seed, int generations) {
    word calls = seed % 8 ? 400 : 6000; /* few live long enough to learn */
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a broken child may never end by itself */
    for (word n = 0; n < 24; n++) torment(seed + n * 5, seed / 3 + n, calls, CHILD);
    if (generations) {
        pid_t child = fork();
        if (child == 0) _exit(live_as_child(seed + 1, generations - 1));
        count(EVENT_FORK, child > 0);
        reap(child, "a grandchild");
    }
    return 0;
}

static void fork_one(word round) {
    pid_t child = fork();
    if (child == 0) _exit(live_as_child(round, round % 5 == 0));
    count(EVENT_FORK, child > 0);
    reap(child, "a child");
}

/* Shares its parent's memory while it lives. */
static OPAQUE void vfork_one(word round) {
    word before = entered;
    pid_t child = vfork();
    if (child == 0) {
        torment(round, round, 200, CHILD);
        _exit(0);
    }
    entered = before;
    count(EVENT_VFORK, child > 0);
    reap(child, "a vforked child");
}

static void start_one(void) {
    char *const arguments[] = { (char *)program_path, (char *)board_path, NULL };
    pid_t child = -1;
    if (posix_spawn(&child, program_path, NULL, NULL, arguments, environ)) return;
    count(EVENT_START, 1);
    reap(child, "a program");
}

void *fork_children(void *unused) {
    for (word round = 0; !stop; round++) {
        fork_one(round);
        if (round % 8 == 3) vfork_one(round);
        if (round % 64 == 9) start_one();
        pause_for(2000);
    }
    return unused;
}

/* A stack hardly larger than what the kernel needs for a signal, with a page below that must not be touched. */
void small_signal_stack(void) {
    size_t size = getauxval(AT_MINSIGSTKSZ) + 5120;
    size = (size < 8192 ? 8192 : size + 4095) / 4096 * 4096;
    char *memory = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t stack = { .ss_sp = memory + 4096, .ss_size = size };
    if (memory == MAP_FAILED || mprotect(memory, 4096, PROT_NONE) || sigaltstack(&stack, NULL)) abort();
}

static void on_signal(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    static volatile word handled;
    int error = errno;
    word before = entered, number = ++handled; /* the interrupted call counts its own */
    torment(number, number / 64, 30, HANDLER);
    entered = before;
    errno = error;
    count(EVENT_SIGNAL, 1);
}

static sigjmp_buf away;
static volatile int may_jump;

static void on_jump(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    if (!may_jump) return;
    may_jump = 0;
    count(EVENT_JUMP, 1);
    siglongjmp(away, 1);
}

void catch_signals(void) {
    struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
    sigaction(SIGUSR1, &action, NULL);
    action.sa_sigaction = on_jump;
    sigaction(SIGUSR2, &action, NULL);
}

#define MOST_TARGETS 64
static pthread_t targets[MOST_TARGETS];
static volatile int is_there[MOST_TARGETS];
static pthread_t jumper;
static volatile int jumper_is_there;

void is_target_of_signals(int slot) {
    if (slot >= MOST_TARGETS) return;
    targets[slot] = pthread_self();
    is_there[slot] = 1;
}

/* Callers are joined after `stop`, so they are alive as long as this runs, or at least not forgotten. */
void *send_signals(void *unused) {
    for (word round = 0; !stop; round++) {
        int slot = (int)(round % MOST_TARGETS);
        if (is_there[slot]) {
            pthread_kill(targets[slot], SIGUSR1);
            pause_for(150);
        }
        if (jumper_is_there && round % (MOST_TARGETS * 2) == 0) {
            pthread_kill(jumper, SIGUSR2);
            pause_for(1000);
        }
    }
    return unused;
}

/* Its calls are left at every instant. */
void *be_jumped_out_of(void *unused) {
    static volatile word n;
    small_signal_stack();
    jumper = pthread_self();
    jumper_is_there = 1;
    sigsetjmp(away, 1);
    while (!stop) {
        word now = n++;
        may_jump = 1;
        /* Not the kinds that call libc: one of its locks might be left behind. */
        torment(now % 4 + now / 4 % 2 * 4, now / 16, 2000, WRONG);
        may_jump = 0;
        if (now % 16 == 0) pause_for(1000);
    }
    jumper_is_there = 0;
    return unused;
}

void *throw_exceptions(void *unused) {
    for (word round = 0; !stop; round++) {
#ifdef WITH_CPP
        throw_through_sites(round * 11);
        count(VIRTUAL, call_objects(patterns[round / 8 % MODES], round / 64, 3000));
#endif
        pause_for(2000);
    }
    return unused;
}

#define COROUTINES 8
#define COROUTINE_STACK 16384
static ucontext_t scheduler, coroutines[COROUTINES];

/* A callee that gives way while it is being called. */
static OPAQUE word give_way(word number) {
    swapcontext(&coroutines[number], &scheduler);
    return ANSWER(7, number);
}
static callee_t *volatile way = give_way;

static void coroutine(int number) {
    for (word round = 0;; round++) {
        torment(round * 3 + (word)number, round / 8 + (word)number, 100, COROUTINE);
        word got = way((word)number);
        if (got != ANSWER(7, (word)number)) wrong("coroutine %d came back as %lu", number, got / 31);
        count(COROUTINE, 1);
    }
}

void *resume_coroutines(void *unused) {
    for (int i = 0; i < COROUTINES; i++) {
        char *memory = mmap(NULL, COROUTINE_STACK + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, 4096, PROT_NONE)) abort();
        getcontext(&coroutines[i]);
        coroutines[i].uc_stack.ss_sp = memory + 4096;
        coroutines[i].uc_stack.ss_size = COROUTINE_STACK;
        coroutines[i].uc_link = &scheduler;
        makecontext(&coroutines[i], (void (*)(void))coroutine, 1, i);
    }
    for (word round = 0; !stop; round++) {
        for (int i = 0; i < COROUTINES; i++) swapcontext(&scheduler, &coroutines[i]);
        count(EVENT_RESUME, COROUTINES);
        if (round % 8 == 0) pause_for(1000);
    }
    return unused;
}

typedef int visitor(struct dl_phdr_info *, size_t, void *);

struct walk {
    visitor *visit;
    void *data;
    word left;
};

static int visit_some(struct dl_phdr_info *info, size_t size, void *data) {
    struct walk *walk = data;
    return walk->left-- == 0 ? -1 : walk->visit(info, size, walk->data);
}

/* The program's own, which answers otherwise each time: nobody may take it for the loader's. (Unwinders ask it where they know no
 * better way, and shall find what they look for.) */
#if __GLIBC_PREREQ(2, 35)
int dl_iterate_phdr(visitor *visit, void *data) {
    static word state = 362436069;
    static int (*next)(visitor *, void *);
    if (!next) next = (int (*)(visitor *, void *))dlsym(RTLD_NEXT, "dl_iterate_phdr");
    struct walk walk = { visit, data, next_random(&state) % 12 };
    int result = next(visit_some, &walk);
    return result == -1 ? 0 : result;
}
#endif

/* What is said of an arena is what unwinders look for. */
static int check_arena(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size, (void)data;
    if (strcmp(info->dlpi_name, "[relpoline]")) return 0;
    if (info->dlpi_phnum != 2 || info->dlpi_phdr[1].p_type != PT_GNU_EH_FRAME) wrong("an arena with %d headers", info->dlpi_phnum);
    else if (*(unsigned char *)(info->dlpi_addr + info->dlpi_phdr[1].p_vaddr) != 1) wrong("an arena without unwind data");
    return 0;
}

void *walk_through_objects(void *unused) {
    int (*next)(visitor *, void *) = (int (*)(visitor *, void *))dlsym(RTLD_NEXT, "dl_iterate_phdr");
    while (!stop) {
        dl_iterate_phdr(check_arena, NULL);
        if (next) next(check_arena, NULL);
        count(EVENT_WALK, 1);
        pause_for(500);
    }
    return unused;
}

/* Each of the programs counts what it finds there: an engine that comes along leaves no trace. */
void *start_in_odd_environments(void *unused) {
    enum { MANY = 400, LONG = 100000 };
    static char *entries[MANY + 1], text[MANY][24], large[LONG];
    memset(large, 'x', sizeof large - 1);
    memcpy(large, "LARGE=", 6);
    for (word round = 0; !stop; round++) {
        word length = round % 4 == 0 ? 0 : round % 4 == 1 ? MANY : 1 + round % 7;
        for (word n = 0; n < length; n++) {
            /* Some twice, some without a value, some without a name. */
            snprintf(text[n], sizeof text[n], n % 3 == 0 ? "ODD%lu=%lu" : n % 3 == 1 ? "=%lu" : "LD_%lu", n / 2, round);
            entries[n] = round % 4 == 2 && n == 0 ? large : text[n];
        }
        entries[length] = NULL;
        char number[24];
        snprintf(number, sizeof number, "%lu", length);
        char *const arguments[] = { (char *)program_path, (char *)board_path, number, NULL };
        pid_t child = -1;
        if (posix_spawn(&child, program_path, NULL, NULL, arguments, round % 8 == 0 ? NULL : entries) == 0) {
            count(EVENT_STORM, 1);
            reap(child, "a program in an odd environment");
        }
        pause_for(20000);
    }
    return unused;
}
