/* Children of every kind. Each one checks its own calls; the parent checks that nothing of it was changed. */
#include "arena.h"
#include <dlfcn.h>
#include <glob.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

#define ENOUGH 400000

DISPATCHER(worker_site)
DISPATCHER(parent_site)
DISPATCHER(storm_site)

extern char **environ;
static char *self;

static pid_t checked_fork(void) {
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    return pid;
}

/* The work of a worker process, with phases of its own. */
static void work(word number) {
    worker_site(number * 3, 2, ENOUGH);
    worker_site(40 + number, 4, ENOUGH);
    parent_site(60 - number, 1 + number, ENOUGH);
}

static void start_workers(pid_t *pids, int count) {
    for (int i = 0; i < count; i++)
        if ((pids[i] = checked_fork()) == 0) {
            work(i);
            exit(0);
        }
}

/* A pre-forking server: the parent has learned nothing, its workers do it all. */
static void prefork(void) {
    pid_t pids[4];
    start_workers(pids, 4);
    for (int i = 0; i < 4; i++) reap(pids[i], "worker");
}

/* The parent knows something, which is wrong for the workers, and goes on meanwhile. */
static void learned(void) {
    worker_site(1, 2, ENOUGH);
    parent_site(10, 2, ENOUGH);
    pid_t pids[4];
    start_workers(pids, 4);
    for (word phase = 0; phase < 20; phase++) {
        parent_site(phase * 4, 2, ENOUGH / 10);
        worker_site(phase * 3, 3, ENOUGH / 10);
    }
    for (int i = 0; i < 4; i++) reap(pids[i], "worker");
    parent_site(7, 2, ENOUGH);
}

/* Children of children, the generations all learning at one time. */
static void generations(int depth) {
    parent_site(depth, 2, ENOUGH / 2);
    if (depth < 5) {
        pid_t pid = checked_fork();
        if (pid == 0) {
            worker_site(depth * 8, 2, ENOUGH / 2);
            generations(depth + 1);
            exit(0);
        }
        for (word phase = 0; phase < 5; phase++) worker_site(phase * 9, 2, ENOUGH / 10);
        reap(pid, "a generation");
    }
    worker_site(depth + 30, 3, ENOUGH / 2);
}

static const unsigned char *first_site(void *function) {
    const unsigned char *site;
    return find_sites(function, 256, &site, 1) ? site : NULL;
}

/* A worker that gives up its rights and learns all the same. */
static void unprivileged(void) {
    worker_site(1, 2, ENOUGH);
    pid_t pid = checked_fork();
    if (pid == 0) {
        worker_site(20, 2, 100);
        CHECK(setgid(65534) == 0 && setuid(65534) == 0, "setuid");
        const unsigned char *site = first_site(parent_site), *old = first_site(worker_site);
        parent_site(50, 2, ENOUGH);
        worker_site(50, 2, ENOUGH);
        CHECK(!site || is_promoted(site), "an unprivileged child does not learn");
        CHECK(!old || is_promoted(old), "an unprivileged child does not learn anew");
        exit(0);
    }
    reap(pid, "the unprivileged child");
    worker_site(2, 2, ENOUGH);
}

/* Children that hardly live: they exec or leave at once, some after a few calls. */
static void storm(void) {
    for (int i = 0; i < 300; i++) {
        storm_site(i % 50, 2, 3000);
        pid_t pid = checked_fork();
        if (pid == 0) {
            if (i % 3 == 0) {
                execl(self, self, "nothing", NULL);
                _exit(1);
            }
            if (i % 3 == 1) storm_site(i % 40, 3, i);
            _exit(0);
        }
        reap(pid, "a child of the storm");
    }
    storm_site(1, 2, ENOUGH);
}

static volatile int stop;

static void *keep_calling(void *number) {
    for (word round = 0; !stop; round++) worker_site((word)number * 8 + round / 20 % 6, 2, 5000);
    return NULL;
}

/* Forks while other threads are anywhere: in trees, in stubs, holding the engine's lock. */
static void from_threads(void) {
    pthread_t threads[3];
    for (word i = 0; i < 3; i++) pthread_create(&threads[i], NULL, keep_calling, (void *)i);
    for (volatile int i = 0; i < 60; i++) {
        parent_site(i, 2, 2000);
        pid_t pid = checked_fork();
        if (pid == 0) {
            worker_site(i % 30, 2, 50000);
            parent_site(i % 30 + 30, 3, 50000);
            _exit(0);
        }
        reap(pid, "a child of a thread");
    }
    stop = 1;
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
}

/* What this process executes, word by word: its own text, and the engine's pages if asked for. */
static word sum_of_text(int with_engine) {
    static struct range maps[1024];
    word sum = 0;
    int count = read_maps(maps, 1024);
    for (int i = 0; i < count; i++)
        if (maps[i].permissions[2] == 'x' && (strcmp(maps[i].path, self) == 0 || (with_engine && is_arena(&maps[i]))))
            for (word *at = (word *)maps[i].start; at < (word *)maps[i].end; at++) sum = sum * 1099511628211UL + *at;
    return sum;
}

/* Children that share our memory, and must not be taken for children that do not. */
static void shared_memory(void) {
    for (volatile int i = 0; i < 200; i++) {
        storm_site(i % 60, 2, 2000);
        pid_t pid = vfork();
        if (pid == 0) {
            if (i % 2) storm_site(i % 30, 2, 2000);
            if (i % 4 == 3) _exit(0);
            execl(self, self, "nothing", NULL);
            _exit(1);
        }
        reap(pid, "a vfork child");
        char *arguments[] = { self, "nothing", NULL };
        CHECK(posix_spawn(&pid, self, NULL, NULL, arguments, environ) == 0, "posix_spawn");
        reap(pid, "a spawned child");
    }
    storm_site(4, 2, ENOUGH);
}

/* Children that share our memory learn there, but change no byte of our text: killed in the middle of it, they would leave the
   engine's lock pinned. Between them the same calls are made here, which does change it. */
static void visitors(void) {
    for (volatile word i = 0; i < 10; i++) {
        storm_site(i * 6 + 3, 1, ENOUGH / 4);
        word before = sum_of_text(0);
        pid_t pid = vfork();
        if (pid == 0) {
            storm_site(i * 6, 1, ENOUGH);
            _exit(0);
        }
        reap(pid, "a visitor");
        CHECK(sum_of_text(0) == before, "visitor %lu changed its parent's text", i);
        storm_site(i * 6, 1, ENOUGH / 4);
    }
}

/* A vfork child that is killed while it may hold the engine's lock. */
static void killed_vfork(void) {
    storm_site(1, 2, ENOUGH);
    for (volatile int i = 0; i < 60; i++) {
        pid_t pid = vfork();
        if (pid == 0) {
            struct timespec soon = { 0, 200000 + i * 10000 };
            struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL };
            timer_t timer;
            if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &(struct itimerspec){ { 0, 0 }, soon }, NULL)) _exit(1);
            for (word round = 0;; round++) storm_site(round % 90, 1 + round % 5, 500);
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "status %x", status);
    }
    /* A lock that nobody gives back is broken after a tenth of a second, however fast calls are. */
    struct timespec begun, now;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    do {
        storm_site(1, 2, ENOUGH);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1000000 < 1000);
    worker_site(1, 2, ENOUGH);
}

/* fork without libc's knowledge. */
static void raw_clone(void) {
    worker_site(1, 2, ENOUGH);
    fflush(stdout);
    pid_t pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    CHECK(pid >= 0, "clone");
    if (pid == 0) {
        work(2);
        _exit(0);
    }
    worker_site(30, 3, ENOUGH);
    reap(pid, "a cloned child");
    worker_site(20, 3, ENOUGH);
}

/* No child changes one byte of what its parent executes, which stands still meanwhile. */
static void bytes(void) {
    worker_site(1, 2, ENOUGH);
    parent_site(10, 4, ENOUGH);
    word before = sum_of_text(1);
    for (word i = 0; i < 3; i++) {
        pid_t pid = checked_fork();
        if (pid == 0) {
            work(i);
            for (word phase = 0; phase < 20; phase++) worker_site(phase * 4, 3, ENOUGH / 10);
            generations(4);
            exit(0);
        }
        reap(pid, "a child");
        CHECK(sum_of_text(1) == before, "child %lu changed what its parent executes", i);
    }
    worker_site(1, 2, ENOUGH);
}

/* Writes noise into what this process shares with its parent: the statistics, at first. Most of it where the header is. */
static void forge(void) {
    static struct range maps[1024];
    word state = 0x2545f4914f6cdd1d;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int count = read_maps(maps, 1024);
    for (int found = 0;;) {
        for (int i = 0; i < count; i++) {
            if (maps[i].permissions[1] != 'w' || !strstr(maps[i].path, ".stats")) continue;
            word *records = (word *)maps[i].start, length = (maps[i].end - maps[i].start) / sizeof(word);
            found = 1;
            for (int n = 0; n < 10000; n++) {
                word reach = n % 4 == 0 ? length : n % 4 == 1 ? 8192 : 64, noise = next_random(&state);
                records[next_random(&state) % (reach < length ? reach : length)] = n % 3 ? noise : noise % 1024;
            }
        }
        CHECK(found, "nothing is shared");
    }
}

/* A child that does so, while its parent learns, learns anew and looks at libraries. What is told of the parent may be nonsense
   then, but its calls go where they should. */
static void forger(const char *library) {
    worker_site(1, 2, ENOUGH);
    pid_t pid = checked_fork();
    if (pid == 0) forge();
    for (word phase = 0; phase < 100; phase++) {
        worker_site(phase % 30 * 3, 3, ENOUGH / 10);
        parent_site(phase % 40 * 2, 2, ENOUGH / 10);
        void *handle = dlopen(library, RTLD_NOW);
        CHECK(handle, "%s", dlerror());
        if (phase % 2) dlclose(handle);
    }
    int status;
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "status %x", status);
}

extern int relpoline_disable(void) __attribute__((weak));
extern int relpoline_enable(void) __attribute__((weak));
static volatile int storm_is_over;

/* Links come and go: each opens this process' memory for a moment. */
static void *links(void *unused) {
    (void)unused;
    while (!storm_is_over) {
        worker_site(1, 1, ENOUGH / 100);
        parent_site(2, 1, ENOUGH / 100);
        storm_site(3, 1, ENOUGH / 100);
        if (relpoline_disable) relpoline_disable();
        if (relpoline_enable) relpoline_enable();
    }
    return NULL;
}

/* The descriptor of some process' memory, if there is one. */
static const char *memory_among_descriptors(void) {
    static char target[256];
    for (int number = 3; number < 64; number++) {
        char name[64];
        snprintf(name, sizeof name, "/proc/self/fd/%d", number);
        ssize_t length = readlink(name, target, sizeof target - 1);
        if (length < 0) continue;
        target[length] = 0;
        if (length >= 4 && strcmp(target + length - 4, "/mem") == 0) return target;
    }
    return NULL;
}

/* A child looks for its parent's memory among its descriptors. */
static void look_for_memory(void) {
    const char *found = memory_among_descriptors();
    CHECK(!found, "a child has inherited %s", found);
    _exit(0);
}

/* The child of a clone that libc does not know of may inherit it, and loses it when it calls exec. */
static void cloned(void) {
    pthread_t thread;
    int inherited = 0;
    CHECK(!pthread_create(&thread, NULL, links, NULL), "thread");
    for (int i = 0; i < 2000 && inherited < 3; i++) {
        pid_t pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        CHECK(pid >= 0, "clone");
        if (pid == 0) {
            if (!memory_among_descriptors()) _exit(0);
            execl(self, self, "after-exec", NULL);
            _exit(1);
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status), "child %d: %x", i, status);
        CHECK(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3, "what exec started has its parent's memory");
        inherited += WEXITSTATUS(status) == 3;
        usleep(2000);
    }
    storm_is_over = 1;
    pthread_join(thread, NULL);
    printf("%d inherited\n", inherited);
}

static void descriptors(int children) {
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, links, NULL), "thread");
    for (int i = 0; i < children; i++) {
        pid_t pid = checked_fork();
        if (pid == 0) look_for_memory();
        reap(pid, "child");
    }
    storm_is_over = 1;
    pthread_join(thread, NULL);
}

static struct range engine_text;
static volatile int forks_left, is_child;

/* Forks when it has interrupted the engine; the child goes back into what was interrupted. */
static void fork_in_engine(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    word at = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    if (is_child || forks_left <= 0 || at < engine_text.start || at >= engine_text.end) return;
    pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        is_child = 1;
        return;
    }
    reap(pid, "a child that a handler made inside the engine");
    forks_left--;
}

static void set_timer(int microseconds) {
    setitimer(ITIMER_REAL, &(struct itimerval){ { 0, microseconds }, { 0, microseconds } }, NULL);
}

/* Learns, links, has all of it undone and done again, and a library looked at. */
static void be_busy(word phase) {
    worker_site(phase * 4 % 50, 1 + phase % 5, 2000);
    parent_site(phase * 7 % 50, 1 + phase % 3, 2000);
    if (phase % 8) return;
    if (relpoline_disable) relpoline_disable();
    if (relpoline_enable) relpoline_enable();
    void *library = dlopen("libanl.so.1", RTLD_NOW);
    if (library) dlclose(library);
}

/* Until enough forks were made; in a child of one of them, for a while and to its end. */
static void fork_and_be_busy(int forks) {
    /* Without the engine there is nothing to interrupt, and only the calls are made. */
    forks_left = engine_text.start ? forks : 0;
    time_t end = time(NULL) + 120;
    for (word phase = 0; !is_child && (phase < 100 || forks_left) && time(NULL) < end; phase++) be_busy(phase);
    if (is_child) {
        for (word phase = 0; phase < 20; phase++) be_busy(phase);
        look_for_memory();
    }
    CHECK(!forks_left, "%d forks were to be made yet", forks_left);
}

static void handlers(void) {
    static struct range maps[1024];
    int count = read_maps(maps, 1024);
    for (int i = 0; i < count; i++)
        if ((word)relpoline_disable - maps[i].start < maps[i].end - maps[i].start) engine_text = maps[i];
    struct sigaction action = { .sa_sigaction = fork_in_engine, .sa_flags = SA_SIGINFO | SA_RESTART };
    CHECK(!sigaction(SIGALRM, &action, NULL), "sigaction");
    set_timer(60);
    fork_and_be_busy(200);
    set_timer(0);
    /* A child that is interrupted while it gets what it needs to learn, and then while it does. */
    for (int i = 0; i < 10; i++) {
        pid_t pid = checked_fork();
        if (pid == 0) {
            set_timer(60);
            fork_and_be_busy(20);
            _exit(0);
        }
        reap(pid, "a child that learns");
    }
    worker_site(1, 2, ENOUGH);
}

static int has_statistics(pid_t pid) {
    char path[64];
    glob_t found;
    snprintf(path, sizeof path, "/dev/shm/relpoline-%u/%d-*.stats", geteuid(), pid);
    int none = glob(path, GLOB_NOSORT, NULL, &found);
    globfree(&found);
    return !none;
}

/* Children that end without their destructors, one after the other: how many had a file, how many files are left. */
static void leftovers(void) {
    enum { CHILDREN = 12 };
    pid_t pids[CHILDREN];
    int had = 0, left = 0;
    for (word i = 0; i < CHILDREN; i++) {
        if ((pids[i] = checked_fork()) == 0) {
            worker_site(i, 1, ENOUGH);
            _exit(has_statistics(getpid()));
        }
        int status;
        CHECK(waitpid(pids[i], &status, 0) == pids[i] && WIFEXITED(status), "child %lu", i);
        had += WEXITSTATUS(status);
    }
    for (int i = 0; i < CHILDREN; i++) left += has_statistics(pids[i]);
    printf("%d had, %d left\n", had, left);
}

int main(int argc, char **argv) {
    self = realpath("/proc/self/exe", NULL);
    const char *mode = argc > 1 ? argv[1] : "nothing";
    if (strcmp(mode, "prefork") == 0) prefork();
    else if (strcmp(mode, "learned") == 0) learned();
    else if (strcmp(mode, "generations") == 0) generations(0);
    else if (strcmp(mode, "unprivileged") == 0) unprivileged();
    else if (strcmp(mode, "storm") == 0) storm();
    else if (strcmp(mode, "threads") == 0) from_threads();
    else if (strcmp(mode, "vfork") == 0) shared_memory();
    else if (strcmp(mode, "visitors") == 0) visitors();
    else if (strcmp(mode, "killed") == 0) killed_vfork();
    else if (strcmp(mode, "clone") == 0) raw_clone();
    else if (strcmp(mode, "bytes") == 0) bytes();
    else if (strcmp(mode, "descriptors") == 0) descriptors(argc > 2 ? atoi(argv[2]) : 1500);
    else if (strcmp(mode, "cloned") == 0) cloned();
    else if (strcmp(mode, "after-exec") == 0) return memory_among_descriptors() ? 1 : 3;
    else if (strcmp(mode, "handlers") == 0) handlers();
    else if (strcmp(mode, "forger") == 0) forger(argv[2]);
    else if (strcmp(mode, "leftovers") == 0) leftovers();
    else CHECK(strcmp(mode, "nothing") == 0, "no such mode: %s", mode);
    if (strcmp(mode, "nothing")) printf("%s done\n", mode);
    return 0;
}
