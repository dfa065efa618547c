/* A library that is preloaded besides the engine and stands before libc, as fakechroot and noexec wrappers do: in the
 * programs of these tests it tells that it was asked, and refuses, or leads another way (INTERPOSER=lead). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char *program_invocation_short_name;

static int is_asked(const char *name) {
    if (strncmp(program_invocation_short_name, "starts", 6)) return 0;
    char line[64] = "[";
    strcat(strcat(line, name), "]\n");
    return write(1, line, strlen(line)) > 0;
}

static const char *led(const char *path) {
    const char *how = getenv("INTERPOSER");
    const char *to = getenv("LEADS_TO");
    return how && to && strcmp(how, "lead") == 0 && strncmp(path, "/nowhere", 8) == 0 ? to : NULL;
}

#define INTERPOSE(name, refusal, types, path, ...)                                                 \
    int name types {                                                                               \
        int (*next) types = (int (*) types)dlsym(RTLD_NEXT, #name);                                \
        if (is_asked(#name)) {                                                                     \
            if (!led(path)) refusal;                                                               \
            path = led(path);                                                                      \
        }                                                                                          \
        return next(__VA_ARGS__);                                                                  \
    }
#define REFUSE return errno = EACCES, -1
INTERPOSE(execve, REFUSE, (const char *path, char *const a[], char *const e[]), path, path, a, e)
INTERPOSE(execv, REFUSE, (const char *path, char *const a[]), path, path, a)
INTERPOSE(execvp, REFUSE, (const char *path, char *const a[]), path, path, a)
INTERPOSE(execvpe, REFUSE, (const char *path, char *const a[], char *const e[]), path, path, a, e)
INTERPOSE(posix_spawn, return EACCES, (pid_t *p, const char *path, const posix_spawn_file_actions_t *f, const posix_spawnattr_t *t, char *const a[], char *const e[]), path, p, path, f, t, a, e)
INTERPOSE(posix_spawnp, return EACCES, (pid_t *p, const char *path, const posix_spawn_file_actions_t *f, const posix_spawnattr_t *t, char *const a[], char *const e[]), path, p, path, f, t, a, e)

int execl(const char *path, const char *first, ...) {
    (void)path, (void)first;
    if (is_asked("execl")) REFUSE;
    abort();
}

int execlp(const char *path, const char *first, ...) {
    (void)path, (void)first;
    if (is_asked("execlp")) REFUSE;
    abort();
}

int execle(const char *path, const char *first, ...) {
    (void)path, (void)first;
    if (is_asked("execle")) REFUSE;
    abort();
}

int fexecve(int fd, char *const a[], char *const e[]) {
    int (*next)(int, char *const[], char *const[]) = (int (*)(int, char *const[], char *const[]))dlsym(RTLD_NEXT, "fexecve");
    return is_asked("fexecve") ? (errno = EACCES, -1) : next(fd, a, e);
}

int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d) {
    int (*next)(int, unsigned long, unsigned long, unsigned long, unsigned long) =
        (int (*)(int, unsigned long, unsigned long, unsigned long, unsigned long))dlsym(RTLD_NEXT, "prctl");
    return is_asked("prctl") ? 42 : next(option, a, b, c, d);
}

long interposed(long number, long a, long b, long c, long d, long e, long f) __asm__("syscall");
long interposed(long number, long a, long b, long c, long d, long e, long f) {
    long (*next)(long, long, long, long, long, long, long) =
        (long (*)(long, long, long, long, long, long, long))dlsym(RTLD_NEXT, "syscall");
    return is_asked("syscall") && number != 59 ? 42 : next(number, a, b, c, d, e, f);
}
