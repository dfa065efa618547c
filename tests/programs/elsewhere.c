/* Starts programs elsewhere than it runs itself: in other roots, as other users, in other namespaces. argv[1] is the part. Each
 * tells what came of it. As `who` it is one of those that are started. */
#include "check.h"
#pragma GCC diagnostic ignored "-Wunused-result"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

DISPATCHER(site)

extern char **environ;
enum { NOBODY = 65534 };

/* What starts the programs; each in a child that is where they are to be. */
static const char *const ways[] = { "execv", "vfork", "posix_spawn", "system", "popen" };
enum { WAYS = sizeof ways / sizeof *ways };

static int status_of(pid_t child) {
    int status = -1;
    waitpid(child, &status, 0);
    return status;
}

/* For a shell, where one is needed: the words without quotes. */
static const char *line(char *const *words) {
    static char text[4096];
    text[0] = 0;
    for (; *words; words++) strcat(strcat(text, *words), words[1] ? " " : "");
    return text;
}

static int start(int way, char *const *words) {
    pid_t child;
    switch (way) {
    case 0:
        execv(words[0], words);
        return -errno;
    case 1:
        child = vfork();
        if (child == 0) {
            execve(words[0], words, environ);
            _exit(99);
        }
        return status_of(child);
    case 2: {
        int error = posix_spawn(&child, words[0], NULL, NULL, words, environ);
        return error ? -error : status_of(child);
    }
    case 3: return system(line(words));
    default: {
        FILE *pipe = popen(line(words), "r");
        char text[512];
        while (pipe && fgets(text, sizeof text, pipe)) printf("popen: %s", text), fflush(stdout);
        return pipe ? pclose(pipe) : -errno;
    }
    }
}

/* Goes where `place` takes a child, and starts `words` there in the first `count` ways. */
static void each(const char *what, void (*place)(const char *), const char *where, char *const *words, int count) {
    for (int way = 0; way < count; way++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(30);
            place(where);
            int came = start(way, words);
            printf("%s %s: %d\n", what, ways[way], came);
            fflush(stdout);
            _exit(3);
        }
        int status = status_of(child);
        printf("%s %s ended with %x\n", what, ways[way], status);
        fflush(stdout);
    }
}

static void in_root(const char *root) { CHECK(chroot(root) == 0 && chdir("/") == 0, "chroot: %s", strerror(errno)); }

static void as_nobody(const char *unused) {
    (void)unused;
    CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0, "setuid: %s", strerror(errno));
}

static void as_ever(const char *unused) { (void)unused; }

static void in_nowhere(const char *directory) {
    char gone[600];
    snprintf(gone, sizeof gone, "%s/gone", directory);
    CHECK(mkdir(gone, 0755) == 0 && chdir(gone) == 0 && rmdir(gone) == 0, "rmdir: %s", strerror(errno));
}

/* In namespaces of its own; what is not allowed is told, and the same without the engine. */
static void apart(int flags, int hides_proc) {
    if (unshare(flags) != 0) {
        printf("unshare: %s\n", strerror(errno));
        return;
    }
    if (flags & CLONE_NEWNS) {
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) printf("private: %s\n", strerror(errno));
        if (hides_proc && mount("none", "/proc", "tmpfs", 0, NULL) != 0) printf("tmpfs: %s\n", strerror(errno));
    }
    pid_t child = fork();
    if (child == 0) return;
    _exit(WEXITSTATUS(status_of(child)));
}

static void apart_users(const char *unused) { (void)unused, apart(CLONE_NEWUSER, 0); }
static void apart_pids(const char *unused) { (void)unused, apart(CLONE_NEWPID, 0); }
static void apart_mounts(const char *unused) { (void)unused, apart(CLONE_NEWNS, 1); }
static void apart_all(const char *unused) { (void)unused, apart(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS, 1); }

/* glibc 2.39 and later. */
static void pidfd(char *const *words) {
    typedef int pidfd_spawn_t(int *, const char *, const void *, const void *, char *const *, char *const *);
    pidfd_spawn_t *pidfd_spawn = (pidfd_spawn_t *)dlsym(RTLD_DEFAULT, "pidfd_spawn");
    if (!pidfd_spawn) {
        puts("no pidfd_spawn");
        return;
    }
    int fd = -1, error = pidfd_spawn(&fd, words[0], NULL, NULL, words, environ);
    siginfo_t info = { 0 };
    if (!error) waitid(P_PIDFD, fd, &info, WEXITED);
    printf("pidfd_spawn: %d, status %d\n", error, info.si_status);
}

static int who(int argc, char **argv) {
    site(1, 2, 100000);
    printf("user %u as %u, process %s:", getuid(), geteuid(), getpid() == 1 ? "1" : "n");
    for (int i = 2; i < argc; i++) printf(" %s", argv[i]);
    char path[600];
    printf(" | %s\n", getcwd(path, sizeof path) ? "somewhere" : strerror(errno));
    return 5;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 4096);
    CHECK(argc > 1, "which part?");
    if (strcmp(argv[1], "who") == 0) return who(argc, argv);
    site(1, 2, 1000000);
    const char *where = argc > 2 ? argv[2] : "";
    char *own[] = { argc > 3 ? argv[3] : argv[0], "who", "one", NULL };
    if (strcmp(argv[1], "root") == 0) {
        char *cat[] = { "/bin/cat", "/mark", NULL }, *shell[] = { "/bin/dash", "/script", "one", NULL };
        char *script[] = { "/script", "two", NULL };
        each("cat", in_root, where, cat, 3);
        each("shell", in_root, where, shell, 3);
        each("script", in_root, where, script, 3);
    } else if (strcmp(argv[1], "bare") == 0) {
        each("bare", in_root, where, own, 3);
    } else if (strcmp(argv[1], "nobody") == 0) {
        each("nobody", as_nobody, where, own, WAYS);
    } else if (strcmp(argv[1], "here") == 0) {
        each("here", as_ever, where, own, WAYS);
        pidfd(own);
    } else if (strcmp(argv[1], "nowhere") == 0) {
        each("nowhere", in_nowhere, where, own, WAYS);
    } else if (strcmp(argv[1], "apart") == 0) {
        each("users", apart_users, where, own, WAYS);
        each("pids", apart_pids, where, own, WAYS);
        each("mounts", apart_mounts, where, own, WAYS);
        each("all", apart_all, where, own, WAYS);
    } else {
        CHECK(0, "no part %s", argv[1]);
    }
    return 0;
}
