/* Processes that cannot be attached to. Says which one it is about, and waits for the end of its standard input. */
#include "check.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

static pid_t child(const char *mode) {
    pid_t pid = fork();
    if (pid == 0) {
        if (strcmp(mode, "zombie") == 0) _exit(0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) pause();
    }
    return pid;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "plain";
    pid_t about = getpid();
    if (strcmp(mode, "filter") == 0) {
        struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        struct sock_fprog program = { 1, &allow };
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no new privileges");
        CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "seccomp");
    } else if (strcmp(mode, "plain") != 0) {
        about = child(mode);
        CHECK(about > 0, "fork");
        if (strcmp(mode, "traced") == 0) CHECK(ptrace(PTRACE_SEIZE, about, 0, 0) == 0, "seize");
        if (strcmp(mode, "stopped") == 0) kill(about, SIGSTOP);
        siginfo_t seen;
        if (strcmp(mode, "traced") != 0)
            CHECK(waitid(P_PID, about, &seen, WEXITED | WSTOPPED | WNOWAIT) == 0, "it has ended, or stopped");
    }
    char line[32], byte;
    int length = snprintf(line, sizeof line, "%d\n", about);
    if (write(1, line, length) != length) return 1;
    while (read(0, &byte, 1) > 0) { }
    if (about != getpid()) kill(about, SIGKILL);
    return 0;
}
