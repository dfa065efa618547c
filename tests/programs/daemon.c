/* What servers do to themselves at start: close everything, move away, lock themselves in, detach. */
#include "check.h"
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#define ENOUGH 400000

DISPATCHER(before_site)
DISPATCHER(after_site)

static void phases(void) {
    before_site(20, 3, ENOUGH);
    for (word phase = 0; phase < 20; phase++) before_site(phase * 4, 2, ENOUGH / 20);
    after_site(30, 2, ENOUGH);
    before_site(2, 2, ENOUGH);
}

static void close_everything(void) {
    for (int fd = 0; fd < 4096; fd++) close(fd);
    CHECK(chdir("/") == 0, "chdir");
    /* Low numbers now belong to files of ours: whoever remembers an old one writes into them. */
    int files[8];
    for (int i = 0; i < 8; i++) files[i] = syscall(SYS_memfd_create, "ours", 0);
    phases();
    for (int i = 0; i < 8; i++) {
        CHECK(files[i] == i, "file %d has number %d", i, files[i]);
        CHECK(lseek(files[i], 0, SEEK_END) == 0, "file %d was written to", i);
    }
    int next = syscall(SYS_memfd_create, "next", 0);
    CHECK(next == 8, "somebody holds descriptor %d", next - 1);
}

static void lock_in(const char *empty) {
    CHECK(chroot(empty) == 0 && chdir("/") == 0, "chroot to %s", empty);
    phases();
}

/* setsid and two forks; the last child tells by shared memory how it went. */
static void detach(void) {
    volatile int *done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        if (fork() > 0) _exit(0);
        for (int fd = 0; fd < 256; fd++) close(fd);
        phases();
        *done = 1;
        exit(0);
    }
    reap(pid, "the session leader");
    for (int i = 0; i < 20000 && !*done; i++) nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
    CHECK(*done == 1, "the daemon did not come to its end");
}

int main(int argc, char **argv) {
    before_site(1, 2, ENOUGH);
    if (argc == 2 && strcmp(argv[1], "close") == 0) close_everything();
    else if (argc == 3 && strcmp(argv[1], "chroot") == 0) lock_in(argv[2]);
    else if (argc == 2 && strcmp(argv[1], "detach") == 0) detach();
    else CHECK(0, "no such mode");
    return 0;
}
