/* Surroundings that change, or refuse something: processors, clocks, system calls. The first argument says which. */
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#define ENOUGH 400000
#define THREADS 4

DISPATCHER(changing_site)
DISPATCHER(settled_site)

static void work(word seed) {
    settled_site(1, 2, ENOUGH / 4);
    for (word phase = 0; phase < 40; phase++) changing_site((seed + phase) * 4 % 80, 1 + phase % 4, ENOUGH / 40);
    settled_site(1, 2, ENOUGH / 4);
}

static void *work_in_thread(void *seed) {
    work((word)seed);
    return NULL;
}

static pthread_t threads[THREADS];
static void start_threads(void) {
    for (word i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, work_in_thread, (void *)i) == 0, "thread %lu", i);
}
static void join_threads(void) {
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

static cpu_set_t only(int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    return set;
}

/* As when processors go: threads are pushed from one to the other while they call. */
static void change_processors(void) {
    cpu_set_t all;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0, "affinity: %d", errno);
    int processors[2] = { -1, -1 };
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &all)) processors[processors[0] < 0 ? 0 : 1] = i;
    if (processors[1] < 0) processors[1] = processors[0];
    start_threads();
    for (int round = 0; round < 3000; round++) {
        cpu_set_t set = only(processors[round % 2]);
        CHECK(pthread_setaffinity_np(threads[round / 2 % THREADS], sizeof set, &set) == 0, "affinity");
    }
    for (int i = 0; i < THREADS; i++) pthread_setaffinity_np(threads[i], sizeof all, &all);
    join_threads();
}

static void one_processor(void) {
    cpu_set_t set = only(sched_getcpu());
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0, "affinity");
    start_threads();
    join_threads();
}

static time_t uptime(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0, "clock");
    return now.tv_sec;
}

/* In the child the clock has jumped by a month. */
static void jump_of_the_clock(long by) {
    char text[64];
    int length = snprintf(text, sizeof text, "monotonic %ld 0\nboottime %ld 0\n", by, by);
    settled_site(1, 2, ENOUGH);
    time_t before = uptime();
    int file = unshare(CLONE_NEWTIME) ? -1 : open("/proc/self/timens_offsets", O_WRONLY);
    if (file < 0 || write(file, text, length) != length) {
        puts("skipped: no right to change the clock");
        exit(0);
    }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CHECK(labs(uptime() - before - by) < 100, "the clock did not jump");
        work(3);
        _exit(0);
    }
    reap(child, "the child with another clock");
    work(5);
}

/* prctl by hand, which the engine does not see: as if somebody else had put the filter in place before the start. */
static long install_unseen(const struct sock_fprog *program) {
    long answer;
    register long r10 __asm__("r10") = 0, r8 __asm__("r8") = 0;
    __asm__ volatile("syscall" : "=a"(answer) : "0"(SYS_prctl), "D"(PR_SET_SECCOMP), "S"(SECCOMP_MODE_FILTER), "d"(program),
                     "r"(r10), "r"(r8) : "rcx", "r11", "memory");
    return answer;
}

/* From now on these system calls are refused, or kill. Of mprotect only what makes memory executable or writable text. */
static void refuse(const int *numbers, int count, unsigned how) {
    struct sock_filter filter[32] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)) };
    int length = 1;
    for (int i = 0; i < count; i++) {
        filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)numbers[i], 0, 1);
        filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, how);
    }
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = { (unsigned short)length, filter };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && install_unseen(&program) == 0, "seccomp");
}

/* mprotect is refused where it would give the right to execute: libraries are mapped without it. */
static void refuse_executable(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pwrite64, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 4, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && install_unseen(&program) == 0, "seccomp");
}

/* For the program that takes this one's place. */
static void take_away(const char *what) {
    static const int membarrier[] = { SYS_membarrier }, memory[] = { SYS_memfd_create }, clock[] = { SYS_clock_gettime, SYS_getcpu };
    if (strcmp(what, "membarrier") == 0) refuse(membarrier, 1, SECCOMP_RET_ERRNO | EPERM);
    else if (strcmp(what, "membarrier-kill") == 0) refuse(membarrier, 1, SECCOMP_RET_KILL_PROCESS);
    else if (strcmp(what, "memfd-kill") == 0) refuse(memory, 1, SECCOMP_RET_KILL_PROCESS);
    else if (strcmp(what, "clock-kill") == 0) refuse(clock, 2, SECCOMP_RET_KILL_PROCESS);
    else if (strcmp(what, "mprotect") == 0) refuse_executable();
    else CHECK(0, "no such thing: %s", what);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "work";
    if (strcmp(mode, "work") == 0) work(argc > 2 ? strtoul(argv[2], NULL, 10) : 0);
    else if (strcmp(mode, "processors") == 0) change_processors();
    else if (strcmp(mode, "one-processor") == 0) one_processor();
    else if (strcmp(mode, "clock") == 0) jump_of_the_clock(argc > 2 ? atol(argv[2]) : 2592000);
    else if (strcmp(mode, "without") == 0 && argc > 2) {
        take_away(argv[2]);
        execl(argv[0], argv[0], "work", NULL);
        CHECK(0, "exec: %d", errno);
    } else CHECK(0, "no such mode: %s", mode);
    puts("surroundings done");
    return argc > 3 ? atoi(argv[3]) : 0;
}
