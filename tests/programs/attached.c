/* A program that an engine is attached to while it runs: threads that call, sleep, wait, get signals on small stacks, load
 * libraries, and fork. Every call is checked, and no system call may notice that its thread was stopped. It ends when
 * its standard input does. */
#include "check.h"
#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

DISPATCHER(steady_site)
DISPATCHER(changing_site)
DISPATCHER(handler_site)
DISPATCHER(child_site)

static volatile int stop;
static const char *plugin;

static void *steady(void *number) {
    while (!stop) steady_site((word)number, 1, 1000);
    return NULL;
}

static void *changing(void *number) {
    for (word round = 0; !stop; round++) changing_site((word)number * 8 + round % 40, 1 + round % 3, 500);
    return NULL;
}

/* Calls a site between system calls, and waits in ways that are restarted when a thread is stopped and goes on. */
static void *waiting(void *unused) {
    while (!stop) {
        struct timespec shortly = { 0, 700000 };
        CHECK(nanosleep(&shortly, NULL) == 0, "nanosleep: %s", strerror(errno));
        CHECK(poll(NULL, 0, 1) == 0, "poll: %s", strerror(errno));
        int word_ = 0;
        long answer = syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, 0, &shortly, NULL, 0);
        CHECK(answer == -1 && errno == ETIMEDOUT, "futex: %s", strerror(errno));
        steady_site(70, 2, 50);
    }
    return unused;
}

static void on_alarm(int number) {
    int saved = errno;
    handler_site((word)number % 8, 1, 20);
    errno = saved;
}

/* Signals for this thread alone, on 8 KiB of stack. */
static void *signalled(void *unused) {
    static char small[8192] __attribute__((aligned(64)));
    stack_t stack = { .ss_sp = small, .ss_size = sizeof small };
    CHECK(sigaltstack(&stack, NULL) == 0, "sigaltstack");
    while (!stop) {
        pthread_kill(pthread_self(), SIGUSR1);
        handler_site(3, 2, 100);
    }
    return unused;
}

static void *loading(void *unused) {
    while (!stop) {
        void *library = dlopen(plugin, RTLD_NOW);
        CHECK(library, "%s", dlerror());
        word (*work)(word) = (word (*)(word))dlsym(library, "plugin_calls");
        CHECK(work, "%s", dlerror());
        work(300);
        CHECK(dlclose(library) == 0, "dlclose");
        usleep(300);
    }
    return unused;
}

static void *forking(void *unused) {
    while (!stop) {
        pid_t child = fork();
        if (child == 0) {
            child_site(5, 2, 3000);
            _exit(0);
        }
        CHECK(child > 0, "fork");
        reap(child, "a child");
        usleep(2000);
    }
    return unused;
}

/* From now on whoever opens a file dies, in all threads. */
static void shut_the_sandbox(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof code / sizeof *code, code };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no new privileges");
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0, "seccomp");
}

/* Programs that are started, and what they start, have the engine, and do not see it in the environment. */
static void start_programs(void) {
    const char *script = "test \"$LD_PRELOAD$RELPOLINE_OPTS\" && exit 4; grep -q relpoline_engine /proc/$$/maps || exit 6;"
                         "grep -q relpoline_engine /proc/self/maps && exit 7; exit 5";
    CHECK(WEXITSTATUS(system(script)) == 7, "system: without the engine");
    pid_t child = fork();
    if (child == 0) {
        execlp("sh", "sh", "-c", script, (char *)NULL);
        _exit(5);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7, "execlp: without the engine");
}

extern int relpoline_disable(void) __attribute__((weak));
extern int relpoline_enable(void) __attribute__((weak));

/* An engine that was detached does not hear of libraries that go: it must not touch any. */
static void switch_what_sleeps(void) {
    CHECK(relpoline_enable && relpoline_enable() == -1 && relpoline_disable() == -1, "an engine that sleeps was switched");
}

/* Reads that no signal interrupts, until the very end; f, s and x come in between. */
static void await_the_end(void) {
    char byte;
    for (ssize_t got; (got = read(0, &byte, 1)) != 0;) {
        CHECK(got == 1, "read: %s", strerror(errno));
        if (byte == 'f') shut_the_sandbox();
        if (byte == 's') switch_what_sleeps();
        if (byte == 'x') start_programs();
        if (write(1, "done\n", 5) != 5) _exit(1);
    }
}

int main(int argc, char **argv) {
    int all = argc > 1;
    plugin = argc > 2 ? argv[2] : NULL;
    struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK };
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
    void *(*work[])(void *) = { steady, changing, waiting, signalled, plugin ? loading : steady, all ? forking : steady };
    enum { KINDS = sizeof work / sizeof *work };
    pthread_t threads[KINDS];
    for (word i = 0; i < KINDS; i++) CHECK(pthread_create(&threads[i], NULL, work[i], (void *)i) == 0, "thread");
    if (write(1, "ready\n", 6) != 6) return 1;
    await_the_end();
    stop = 1;
    for (int i = 0; i < KINDS; i++) pthread_join(threads[i], NULL);
    puts("attached done");
    return 0;
}
