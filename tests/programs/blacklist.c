/* A filter that kills for what programs seldom do and the engine does: then a library is loaded, or a program started. */
#include "check.h"
#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define KILL(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

DISPATCHER(site)

static void install(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        KILL(SYS_memfd_create), KILL(SYS_pwrite64), KILL(SYS_madvise), KILL(SYS_readlink), KILL(SYS_readlinkat),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "seccomp");
}

int main(int argc, char **argv) {
    CHECK(argc > 1, "arguments");
    site(1, 2, 100000);
    if (strcmp(argv[1], "child")) install();
    if (strcmp(argv[1], "library") == 0) {
        void *library = dlopen(argv[2], RTLD_NOW);
        CHECK(library, "%s", dlerror());
        word (*calls)(word) = (word (*)(word))dlsym(library, "plugin_calls");
        CHECK(calls, "%s", dlerror());
        calls(100000);
        CHECK(dlclose(library) == 0, "%s", dlerror());
    } else if (strcmp(argv[1], "execv") == 0) {
        execv("/proc/self/exe", (char *[]) { argv[0], "child", NULL });
        CHECK(0, "exec");
    } else if (strcmp(argv[1], "execlp") == 0) {
        execlp("true", "true", NULL);
        CHECK(0, "exec");
    }
    site(1, 3, 100000);
    puts("blacklist done");
    return 0;
}
