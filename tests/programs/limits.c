/* Little of everything: address space, descriptors, stack, no /proc, no memfd. The limit is set by the first image,
 * which then starts itself: so the engine starts under it too. */
#include "check.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define ENOUGH 400000

DISPATCHER(limited_site)

static void limit(int resource, word value) {
    struct rlimit wanted = { value, value };
    CHECK(setrlimit(resource, &wanted) == 0, "setrlimit");
}

static void hide_proc(void) {
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("none", "/proc", "tmpfs", 0, NULL)) {
        puts("skipped: no rights to hide /proc");
        exit(0);
    }
}

/* prctl by hand, which the engine does not see: as if somebody else had put the filter in place before the start. */
static long prctl_unseen(long option, long a, const void *b, long c, long d) {
    register long r10 __asm__("r10") = c, r8 __asm__("r8") = d;
    long answer;
    __asm__ volatile("syscall" : "=a"(answer) : "0"(SYS_prctl), "D"(option), "S"(a), "d"(b), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
    return answer;
}

/* One system call is refused with an error from now on. */
static void refuse(unsigned number) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl_unseen(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0, "seccomp");
}

static void take_away(const char *what, word value) {
    if (strcmp(what, "space") == 0) limit(RLIMIT_AS, value << 20);
    else if (strcmp(what, "files") == 0) limit(RLIMIT_NOFILE, value);
    else if (strcmp(what, "stack") == 0) limit(RLIMIT_STACK, value << 10);
    else if (strcmp(what, "size") == 0) limit(RLIMIT_FSIZE, value);
    else if (strcmp(what, "locked") == 0) limit(RLIMIT_MEMLOCK, value);
    else if (strcmp(what, "proc") == 0) hide_proc();
    else if (strcmp(what, "memfd") == 0) refuse(SYS_memfd_create);
    else if (strcmp(what, "pwrite") == 0) refuse(SYS_pwrite64);
    else if (strcmp(what, "nothing")) CHECK(0, "no such limit: %s", what);
}

/* All memory is held from now on, and all that comes: what the engine reserves has bounds. */
static void hold_memory(void) {
    CHECK(mlockall(MCL_CURRENT | MCL_FUTURE) == 0, "mlockall: %d", errno);
    limited_site(7, 2, ENOUGH);
    char line[256];
    long held = 0;
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file, "status");
    while (fgets(line, sizeof line, file)) sscanf(line, "VmLck: %ld", &held);
    fclose(file);
    fprintf(stderr, "%ld KiB held\n", held);
    CHECK(held < 256 << 10, "%ld KiB are held", held);
}

/* Locks by flock on the program's own file, and by fcntl on another one, go over exec; whoever is started sees them. */
static int take_locks(const char *program, const char *other) {
    int own = open(program, O_RDONLY), its = open(other, O_RDWR);
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    CHECK(own >= 0 && its >= 0 && flock(own, LOCK_SH) == 0 && fcntl(its, F_SETLK, &whole) == 0, "locks: %d", errno);
    execl(program, program, "locked", program, other, NULL);
    CHECK(0, "exec: %d", errno);
}

static void look_for_locks(const char *program, const char *other) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        int own = open(program, O_RDONLY), its = open(other, O_RDWR);
        struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
        CHECK(flock(own, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK, "the lock on the program is gone");
        CHECK(fcntl(its, F_GETLK, &whole) == 0 && whole.l_type == F_WRLCK, "the lock on the other file is gone");
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0, "%x", status);
}

int main(int argc, char **argv) {
    if (argc > 3 && strcmp(argv[1], "takes-locks") == 0) return take_locks(argv[2], argv[3]);
    if (argc > 3 && strcmp(argv[1], "locked") == 0) look_for_locks(argv[2], argv[3]);
    else if (argc > 1 && strcmp(argv[1], "holds-memory") == 0) hold_memory();
    else if (argc > 1 && strcmp(argv[1], "limited")) {
        take_away(argv[1], argc > 2 ? strtoul(argv[2], NULL, 10) : 0);
        execl(argc > 3 ? argv[3] : argv[0], "limits", "limited", NULL);
        CHECK(0, "exec: %d", errno);
    }
    limited_site(1, 2, ENOUGH);
    for (word phase = 0; phase < 20; phase++) limited_site(phase * 4, 1 + phase % 4, ENOUGH / 20);
    limited_site(5, 2, ENOUGH);
    puts("limits done");
    return 0;
}
