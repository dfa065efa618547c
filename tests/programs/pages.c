/* No page is ever writable and executable, and nobody can make the engine's code writable. */
#include "arena.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#define ENOUGH 400000

DISPATCHER(page_site)

static volatile int stop;
static word looks;

static void *watch(void *unused) {
    static struct range maps[1024];
    for (; !stop; looks++) {
        int count = read_maps(maps, 1024);
        for (int i = 0; i < count; i++)
            CHECK(maps[i].permissions[1] != 'w' || maps[i].permissions[2] != 'x', "%lx is %s (%s)", maps[i].start, maps[i].permissions, maps[i].path);
    }
    return unused;
}

static void work(void) {
    for (word phase = 0; phase < 200; phase++) page_site(phase % 80, 1 + phase % 7, ENOUGH / 50);
}

/* Every attempt of a process that is not the parent to change what the parent executes. */
static void try_to_write(int arenas_wanted) {
    static struct range maps[1024];
    int count = read_maps(maps, 1024), arenas = 0;
    for (int i = 0; i < count; i++) {
        if (!is_arena(&maps[i])) continue;
        void *start = (void *)maps[i].start;
        size_t length = maps[i].end - maps[i].start;
        CHECK(maps[i].permissions[1] != 'w', "a child has the writable alias at %p", start);
        if (maps[i].permissions[2] != 'x') continue;
        arenas++;
        CHECK(mprotect(start, length, PROT_READ | PROT_WRITE) == -1 && errno == EACCES, "mprotect rw gives %d", errno);
        CHECK(mprotect(start, length, PROT_READ | PROT_WRITE | PROT_EXEC) == -1 && errno == EACCES, "mprotect rwx gives %d", errno);
    }
    CHECK(!arenas_wanted || arenas > 0, "no arena in the child");
    char path[64];
    static const char *const files[] = { "/proc/%d/mem", "/proc/%d/map_files" };
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, files[i], getppid());
        CHECK(open(path, i ? O_RDONLY : O_RDWR) == -1 && errno == EACCES, "%s gives %d", path, errno);
    }
}

static void children(int arenas_wanted) {
    for (int own = 0; own < 2; own++) {
        pid_t pid = fork();
        if (pid == 0) {
            if (own) page_site(3, 2, ENOUGH); /* with an arena of its own before it changes the user */
            CHECK(setgid(65534) == 0 && setuid(65534) == 0, "setuid");
            if (!own) try_to_write(arenas_wanted);
            work();
            _exit(0);
        }
        reap(pid, "the unprivileged child");
    }
}

int main(int argc, char **argv) {
    int arenas_wanted = argc > 1 && strcmp(argv[1], "engine") == 0;
    pthread_t watcher;
    pthread_create(&watcher, NULL, watch, NULL);
    work();
    stop = 1;
    pthread_join(watcher, NULL);
    CHECK(looks > 5, "looked %lu times only", looks);
    page_site(1, 2, ENOUGH);
    if (getuid() == 0) children(arenas_wanted);
    puts("pages done");
    return 0;
}
