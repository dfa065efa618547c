/* seccomp filters that refuse or kill, installed while the program runs; afterwards its calls take other ways. */
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define ENOUGH 400000

DISPATCHER(before_site)
DISPATCHER(after_site)

#define ALLOW(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* Only what this program itself still does. `otherwise` happens for everything else. */
static void install(int by_syscall, unsigned otherwise) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(SYS_write), ALLOW(SYS_exit), ALLOW(SYS_exit_group), ALLOW(SYS_rt_sigreturn),
        BPF_STMT(BPF_RET | BPF_K, otherwise),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, "no_new_privs is not set");
    int failed = by_syscall ? syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)
                            : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
    CHECK(failed == 0, "seccomp");
}

/* What goes wrong must be reported as libc does. */
static void errors(void) {
    errno = 0;
    CHECK(prctl(-1, 0, 0, 0, 0) == -1 && errno == EINVAL, "prctl: %d", errno);
    errno = 0;
    CHECK(syscall(100000) == -1 && errno == ENOSYS, "syscall: %d", errno);
    CHECK(syscall(SYS_getpid) == getpid(), "getpid");
    char name[16] = "", *here;
    CHECK(prctl(PR_SET_NAME, "a name") == 0 && prctl(PR_GET_NAME, name) == 0 && strcmp(name, "a name") == 0, "%s", name);
    here = (char *)syscall(SYS_mmap, NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(here != MAP_FAILED && here[8191] == 0, "a call with six arguments");
}

static void phases(void) {
    after_site(10, 2, ENOUGH);
    for (word phase = 0; phase < 40; phase++) before_site(phase * 2, 1 + phase % 5, ENOUGH / 40);
    after_site(20, 3, ENOUGH);
    before_site(3, 2, ENOUGH);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "", *how = argc > 2 ? argv[2] : "";
    int by_syscall = strcmp(how, "syscall") == 0;
    if (strcmp(how, "early")) before_site(1, 2, ENOUGH);
    errors();
    CHECK(write(1, "into the sandbox\n", 17) == 17, "write");
    if (strcmp(mode, "errno") == 0) install(by_syscall, SECCOMP_RET_ERRNO | EPERM);
    else if (strcmp(mode, "kill") == 0) install(by_syscall, SECCOMP_RET_KILL_PROCESS);
    else if (strcmp(mode, "strict") == 0) CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0, "strict");
    else if (strcmp(mode, "clock") == 0) CHECK(prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0) == 0, "PR_SET_TSC");
    else if (strcmp(mode, "speculation") == 0) prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE, 0, 0);
    else CHECK(strcmp(mode, "none") == 0, "no such mode: %s", mode);
    phases();
    CHECK(write(1, "still alive\n", 12) == 12, "write");
    /* exit_group is a death sentence in strict mode. */
    if (strcmp(mode, "strict") == 0) syscall(SYS_exit, 0);
    return 0;
}
