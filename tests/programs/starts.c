/* Starts programs in every way and tells what comes of each: argv[1] is the part, argv[2] a directory of its own, argv[3]
 * the program `arguments`. */
#include "check.h"
#pragma GCC diagnostic ignored "-Wunused-result"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

DISPATCHER(site)

extern char **environ;
static char *const made[] = { "ONE=1", "TWO=2", NULL };
static char *list[] = { "zero", "one", NULL };

#define WAYS(way) way(execve) way(execv) way(execvp) way(execvpe) way(execl) way(execlp) way(execle) way(fexecve) way(execveat) way(syscall_) way(vfork_)
#define NAME(way) #way,
static const char *const ways[] = { WAYS(NAME) };
enum { WAY_COUNT = sizeof ways / sizeof *ways };

/* Returns only when it does not work. */
static int start(int way, const char *path, char *const *argv, char *const *env) {
    switch (way) {
    case 0: return execve(path, argv, env);
    case 1: environ = (char **)env; return execv(path, argv);
    case 2: environ = (char **)env; return execvp(path, argv);
    case 3: return execvpe(path, argv, env);
    case 4: environ = (char **)env; return execl(path, "zero", "one", NULL);
    case 5: environ = (char **)env; return execlp(path, "zero", "one", NULL);
    case 6: return execle(path, "zero", "one", NULL, env);
    case 7: return fexecve(open(path, O_PATH | O_CLOEXEC), argv, env);
    case 8: return execveat(AT_FDCWD, path, argv, env, 0);
    case 9: return syscall(SYS_execve, path, argv, env);
    default: {
        volatile int error = 0;
        pid_t child = vfork();
        if (child == 0) {
            execve(path, argv, env);
            error = errno;
            _exit(99);
        }
        int status;
        waitpid(child, &status, 0);
        if (error == 0) _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 98);
        errno = error;
        return -1;
    }
    }
}

static void tell(const char *what, const char *way, const char *path, char *const *argv, char *const *env, int n) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        int result = start(n, path, argv, env), error = errno;
        printf("%s %s: %d, %s\n", what, way, result, strerror(error));
        fflush(stdout);
        _exit(77);
    }
    int status;
    waitpid(child, &status, 0);
    printf("%s %s: status %x\n", what, way, status);
}

static void in_all_ways(const char *what, const char *path, char *const *env) {
    for (int n = 0; n < WAY_COUNT; n++) tell(what, ways[n], path, list, env, n);
    pid_t child;
    int status = -1, error = posix_spawn(&child, path, NULL, NULL, list, env);
    if (!error) waitpid(child, &status, 0);
    printf("%s posix_spawn: %d, status %x\n", what, error, status);
    error = posix_spawnp(&child, path, NULL, NULL, list, env);
    if (!error) waitpid(child, &status, 0);
    printf("%s posix_spawnp: %d, status %x\n", what, error, status);
}

static char *in(const char *directory, const char *name) {
    char *path;
    CHECK(asprintf(&path, "%s/%s", directory, name) > 0, "memory");
    return path;
}

static char *file(const char *directory, const char *name, const char *content, size_t size, int mode) {
    char *path = in(directory, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0700);
    CHECK(fd >= 0 && write(fd, content, size) == (ssize_t)size && fchmod(fd, mode) == 0 && close(fd) == 0, "%s", path);
    return path;
}

#define TEXT(directory, name, content, mode) file(directory, name, content, strlen(content), mode)

static void files(const char *directory, const char *program) {
    char *fifo = in(directory, "fifo"), *loop = in(directory, "loop"), *script;
    CHECK(mkfifo(fifo, 0755) == 0 && symlink(loop, loop) == 0, "cannot make them");
    in_all_ways("program", program, environ);
    in_all_ways("program with an environment of its own", program, made);
    in_all_ways("fifo", fifo, environ);
    in_all_ways("link to itself", loop, environ);
    in_all_ways("device", "/dev/zero", environ);
    in_all_ways("directory", directory, environ);
    in_all_ways("nothing", in(directory, "nothing"), environ);
    in_all_ways("below a file", in(program, "x"), environ);
    in_all_ways("empty name", "", environ);
    in_all_ways("empty file", TEXT(directory, "empty", "", 0755), environ);
    in_all_ways("not executable", TEXT(directory, "data", "#!/bin/sh\n", 0600), environ);
    in_all_ways("no mark", TEXT(directory, "no-mark", "echo from the shell: $#\n", 0755), environ);
    asprintf(&script, "#!%s an argument\n", program);
    char *chained = TEXT(directory, "script", script, 0755);
    in_all_ways("script", chained, environ);
    for (char level = 'a'; level < 'g'; level++) {
        char name[] = { level, 0 };
        asprintf(&script, "#! %s\n", chained);
        chained = TEXT(directory, name, script, 0755);
        in_all_ways("script of a script", chained, made);
    }
    in_all_ways("script of a fifo", (asprintf(&script, "#!%s\n", fifo), TEXT(directory, "of-fifo", script, 0755)), environ);
    char long_line[400] = "#!";
    memset(long_line + 2, 'x', sizeof long_line - 2);
    in_all_ways("long interpreter", file(directory, "long", long_line, sizeof long_line, 0755), environ);
    int busy = open(TEXT(directory, "busy", "#!/bin/sh\n", 0755), O_WRONLY);
    in_all_ways("busy", in(directory, "busy"), environ);
    close(busy);
    char elf32[52] = "\x7f" "ELF\1\1\1";
    elf32[16] = 2, elf32[18] = 3;
    in_all_ways("another class", file(directory, "of-32-bits", elf32, sizeof elf32, 0755), environ);
    char name[5000];
    memset(name, 'n', sizeof name - 1), name[sizeof name - 1] = 0;
    in_all_ways("long name", name, environ);
    /* The search of execvp: what cannot be executed does not end it, and is remembered. */
    static const char *const paths[] = { "/nowhere:/etc/passwd:/usr/bin:/bin", "", ":", "relative:.", "/root/x:/nowhere", "/proc/self/fd" };
    for (unsigned n = 0; n < sizeof paths / sizeof *paths; n++) {
        setenv("PATH", paths[n], 1);
        in_all_ways(paths[n], "true", environ);
        in_all_ways(paths[n], "not-there", environ);
    }
    unsetenv("PATH");
    in_all_ways("no PATH", "true", environ);
}

static void pointers(const char *program) {
    char *pages[2];
    for (int n = 0; n < 2; n++) {
        pages[n] = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(pages[n] != MAP_FAILED && mprotect(pages[n] + 4096, 4096, PROT_NONE) == 0, "memory");
        memset(pages[n], 'x', 4096);
    }
    char *page = pages[0];
    char *bad[] = { NULL, (char *)8, (char *)-1, page + 4096, pages[1] + 4093, (char *)0x800000000000 };
    char **cut = (char **)(page + 4096 - sizeof *cut);
    *cut = "CUT=off";
    char **odd = (char **)(page + 1);
    char *whole[] = { "A=1", NULL };
    memcpy(odd, whole, sizeof whole);
    for (unsigned n = 0; n < sizeof bad / sizeof *bad; n++) {
        char what[32], *strings[] = { "A=1", bad[n], "B=2", NULL };
        snprintf(what, sizeof what, "pointer %u", n);
        for (int way = 0; way < WAY_COUNT; way++) {
            /* execvp and its like read the path themselves, and fall over it. */
            int reads = way == 2 || way == 3 || way == 5 || way == 7;
            if (!reads) tell(what, "path", bad[n], list, environ, way);
            if (!reads || n != 0) tell(what, "argv", program, (char **)bad[n], environ, way);
            tell(what, "envp", program, list, (char **)bad[n], way);
            tell(what, "string of envp", program, list, strings, way);
            tell(what, "envp of nothing", "/nowhere/at/all", list, (char **)bad[n], way);
        }
    }
    for (int way = 0; way < WAY_COUNT; way++) {
        tell("cut off", ways[way], program, list, cut, way);
        if (way != 2 && way != 3 && way != 5) tell("odd", ways[way], program, list, odd, way);
    }
}

/* What the kernel says of an environment that cannot be read. */
static void unreadable(const char *program) {
    char *strings[] = { "A=1", (char *)8, NULL };
    char **bad[] = { (char **)8, strings };
    for (int n = 0; n < 2; n++) {
        pid_t child = fork();
        if (child == 0) {
            execve(program, list, bad[n]);
            _exit(errno);
        }
        int status;
        waitpid(child, &status, 0);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == EFAULT, "status %x", status);
    }
}

static char **environment(int count) {
    char **env = calloc(count + 1, sizeof *env);
    for (int n = 0; n < count; n++) CHECK(asprintf(&env[n], "V%d=%d", n, n) > 0, "memory");
    return env;
}

static struct { const char *path; char **env; int way, spawns; } wanted;

static int on_another_stack(void *unused) {
    (void)unused;
    /* Bound before the stack is painted; what comes after it is not counted. */
    start(wanted.way, wanted.path, list, wanted.env);
    _exit(errno);
}

static int stack_used(const char *path, char **env, int way, size_t size) {
    char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED, "memory");
    memset(stack, 0x5a, size);
    wanted.path = path, wanted.env = env, wanted.way = way;
    int status, pid = clone(on_another_stack, stack + size, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid, "clone");
    size_t left = 0;
    while (left < size && stack[left] == 0x5a) left++;
    CHECK(left > 0, "the stack is too small for the test");
    munmap(stack, size);
    return size - left;
}

/* How much stack it takes; told to a file, for no two runs take the same. */
static void stacks(const char *directory, const char *program) {
    static const int counts[] = { 0, 10, 1000, 30000 };
    char script[600];
    snprintf(script, sizeof script, "#!%s\n", program);
    const char *paths[] = { program, in(directory, "nothing"), TEXT(directory, "script", script, 0755), "/etc/passwd" };
    FILE *told = fopen(in(directory, "stack"), "w");
    for (unsigned c = 0; c < 4; c++) {
        char **env = environment(counts[c]);
        for (int p = 0; p < 4; p++)
            for (int way = 0; way <= 9; way += 9) {
                int used = stack_used(paths[p], env, way, 65536);
                fprintf(told, "%d\n", used);
            }
    }
}

static void *in_thread(void *env) {
    execve(wanted.path, list, env);
    return NULL;
}

/* Programs started from threads and children whose stacks are the smallest there are. */
static void tiny(const char *program) {
    char **env = environment(30000);
    wanted.path = program;
    for (int named = 0; named < 2; named++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            pthread_attr_t attributes;
            pthread_t thread;
            pthread_attr_init(&attributes);
            CHECK(pthread_attr_setstacksize(&attributes, 16384) == 0, "size");
            CHECK(pthread_create(&thread, &attributes, in_thread, named ? (void *)environ : (void *)env) == 0, "thread");
            pthread_join(thread, NULL);
            _exit(1);
        }
        int status;
        waitpid(child, &status, 0);
        printf("thread: status %x\n", status);
    }
}

/* Pages of address space. Mappings side by side count as one, so those are not counted. */
static long pages(void) {
    long all = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    CHECK(statm && fscanf(statm, "%ld", &all) == 1 && fclose(statm) == 0, "statm");
    return all;
}

/* Children borrow this process' memory; nothing of what they take may stay. */
static void many(const char *program) {
    char **large = environment(2000);
    long before = 0;
    for (int n = 0; n < 600; n++) {
        pid_t child;
        int status, fd = open("/dev/null", O_WRONLY);
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, fd, 1);
        CHECK(posix_spawn(&child, n % 7 ? program : "/nowhere/at/all", &actions, NULL, list, n % 3 ? made : large) == (n % 7 ? 0 : ENOENT), "spawn");
        if (n % 7) CHECK(waitpid(child, &status, 0) == child && status == 0, "status %x", status);
        posix_spawn_file_actions_destroy(&actions);
        close(fd);
        if (n == 99) before = pages();
    }
    long after = pages();
    CHECK(after <= before + 64, "%ld pages became %ld", before, after);
}

/* What children of posix_spawn do before they become the program. */
static void actions(const char *directory, const char *program) {
    char *below = in(directory, "below"), *copy;
    CHECK(mkdir(below, 0755) == 0 && asprintf(&copy, "cp %s %s/prog", program, below) > 0 && system(copy) == 0, "copy");
    for (int way = 0; way < 12; way++) {
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        posix_spawn_file_actions_init(&actions);
        posix_spawnattr_init(&attributes);
        int fd = open(below, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (way & 1) posix_spawn_file_actions_addfchdir_np(&actions, fd);
        else posix_spawn_file_actions_addchdir_np(&actions, below);
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
        posix_spawn_file_actions_adddup2(&actions, 0, 5);
        if (way & 2) posix_spawn_file_actions_addclosefrom_np(&actions, 10);
        if (way & 4) {
            sigset_t set;
            sigfillset(&set);
            posix_spawnattr_setsigmask(&attributes, &set);
            posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
        }
        pid_t child;
        int status = -1;
        int error = way < 8 ? posix_spawn(&child, "./prog", &actions, &attributes, list, way & 2 ? made : environ)
                            : posix_spawnp(&child, way & 2 ? "prog" : "./prog", &actions, &attributes, list, environ);
        if (!error) waitpid(child, &status, 0);
        printf("actions %d: %d, status %x\n", way, error, status);
        posix_spawn_file_actions_destroy(&actions);
        close(fd);
    }
}

static void large(const char *program) {
    /* More entries than any buffer on a stack holds, and strings that are too long. */
    in_all_ways("many entries", "/usr/bin/true", environment(100000));
    char *huge = malloc(3 << 20);
    memset(huge, 'h', (3 << 20) - 1), huge[(3 << 20) - 1] = 0;
    char *strings[] = { "A=1", huge, NULL };
    in_all_ways("too long", program, strings);
    list[1] = huge;
    in_all_ways("too long an argument", program, environ);
    huge[100000] = 0;
    in_all_ways("a long argument", program, environ);
    list[1] = "one";
    memcpy(huge, "LD_PRELOAD=", 11);
    memset(huge + 11, ':', 90000), huge[90011] = 0;
    char *preload[] = { "A=1", huge, "LD_PRELOAD_NOT=2", NULL };
    in_all_ways("a long preload", program, preload);
}

/* Another preload stands before libc, which is asked for "/nowhere/at/all" and for a program. */
static void chain(const char *program) {
    setenv("LEADS_TO", program, 1);
    setenv("INTERPOSER", "refuse", 1);
    in_all_ways("refused", program, environ);
    setenv("INTERPOSER", "lead", 1);
    in_all_ways("led", "/nowhere/at/all", environ);
    in_all_ways("led to nothing", "/nothing/at/all", environ);
    printf("prctl %d, syscall %ld\n", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), syscall(SYS_getppid) == getppid() ? 0L : 42L);
}

int main(int argc, char **argv) {
    CHECK(argc == 4, "arguments");
    setvbuf(stdout, NULL, _IOLBF, 0);
    site(1, 2, 100000);
    const char *directory = argv[2], *program = argv[3];
#define PART(name, call) if (strcmp(argv[1], #name) == 0) call
    PART(files, files(directory, program));
    PART(pointers, pointers(program));
    PART(unreadable, unreadable(program));
    PART(stacks, stacks(directory, program));
    PART(tiny, tiny(program));
    PART(many, many(program));
    PART(actions, actions(directory, program));
    PART(large, large(program));
    PART(chain, chain(program));
    site(1, 3, 1000);
    return 0;
}
