// A process that wants to harm whoever looks at it. It says "ready" and ends when its stdin does.
//
//   statistics FILE [NAMES]   FILE's bytes are its statistics; NAMES more files have names that are nearly its own; at
//                             1 << 40 there is a mebibyte of memory
//   links MODE                its loader's structures are not what they should be
//   name PATH                 its C library has another path
//   storm                     signals, threads and system calls without end
//   exchange A B [C D]...     what is called A is called B, and the other way round, and so on without end
//   state WHAT [DIRECTORY]    a state that processes are rarely in; the directory becomes its root directory
//   forges PATH               its engine's statistics say that PATH is a file of its, with its retpolines
//   reads PATH                the same; and as another user it ends with 7 if it can read PATH
//   fuse DIRECTORY OPERATION  on a file system of its own, mounted there in a mount namespace of its own, it answers everything
//                             but OPERATION (lookup, getattr, statfs, open, read); what its loader is said to have mapped
//                             is called what stands in a file there
//   mounts DIRECTORY          in a mount namespace of its own, other things are mounted over /dev/shm without end
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <errno.h>
#include <link.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHECK(what) do { if (!(what)) { perror(#what); exit(1); } } while (0)

typedef long (*function)(long);
__attribute__((noinline)) long target(long x) { return x * 3 + 1; }
static function volatile table[1] = {target};
static volatile long sum;

// What engines want to know of a process.
static void whoami(unsigned long *ns, unsigned long long *started) {
    struct stat st;
    CHECK(stat("/proc/self/ns/pid", &st) == 0);
    *ns = st.st_ino;
    char text[4096] = {0};
    FILE *f = fopen("/proc/self/stat", "r");
    CHECK(f && fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    char *p = strrchr(text, ')') + 2;
    for (int field = 3; field < 22; field++) p = strchr(p, ' ') + 1;
    *started = strtoull(p, 0, 10);
}

static void statistics(const char *content, int names) {
    unsigned long ns;
    unsigned long long started;
    whoami(&ns, &started);
    char directory[64], path[128];
    snprintf(directory, sizeof directory, "/dev/shm/relpoline-%d", geteuid());
    mkdir(directory, 0700);
    snprintf(path, sizeof path, "%s/%d-%lu-%llu.stats", directory, getpid(), ns, started);
    unlink(path);
    int from = open(content, O_RDONLY), to = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(from >= 0 && to >= 0);
    struct stat st;
    CHECK(fstat(from, &st) == 0 && ftruncate(to, st.st_size) == 0);
    // Holes stay holes.
    for (off_t at = 0; (at = lseek(from, at, SEEK_DATA)) >= 0;) {
        off_t end = lseek(from, at, SEEK_HOLE);
        for (char bytes[4096]; at < end;) {
            ssize_t n = pread(from, bytes, sizeof bytes < (size_t)(end - at) ? sizeof bytes : (size_t)(end - at), at);
            CHECK(n > 0 && pwrite(to, bytes, n, at) == n);
            at += n;
        }
    }
    CHECK(flock(to, LOCK_SH) == 0);
    CHECK(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, to, 0) != MAP_FAILED);
    void *code = (void *)(1ul << 40);
    CHECK(mmap(code, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == code);
    const char *forms[] = {"%s/%d-%lu-%d.stats", "%s/0%d-%lu-%d.stats", "%s/run-%d-%lu-%d"};
    for (int n = 0; n < names; n++) {
        char other[128];
        snprintf(other, sizeof other, forms[n % 3], directory, getpid(), ns, n + 1);
        if (n % 3 == 2) {
            mkdir(other, 0700);
        } else {
            int fd = open(other, O_RDWR | O_CREAT, 0600);
            CHECK(fd >= 0);
            close(fd);
        }
    }
}

// As in link.h, version 2.
struct lists { int version; struct link_map *map; unsigned long brk; int state; unsigned long base; struct lists *next; };

static void *flip(void *at) {
    struct link_map *map = at, *next = map->l_next;
    for (;;) {
        map->l_next = map;
        map->l_next = next;
    }
    return 0;
}

static void links(const char *mode) {
    ElfW(Dyn) *d = _DYNAMIC;
    CHECK(mprotect((void *)((unsigned long)d & ~4095ul), 8192, PROT_READ | PROT_WRITE) == 0);
    while (d->d_tag != DT_DEBUG) d++;
    struct r_debug *debug = (void *)d->d_un.d_ptr;
    static struct lists own;
    own = (struct lists){2, debug->r_map, debug->r_brk, 0, 0, &own};
    struct link_map *second = debug->r_map->l_next;
    ElfW(Phdr) *headers = (void *)getauxval(AT_PHDR), *dynamic = headers;
    while (dynamic->p_type != PT_DYNAMIC) dynamic++;
    CHECK(mprotect((void *)((unsigned long)headers & ~4095ul), 4096, PROT_READ | PROT_WRITE) == 0);
    if (!strcmp(mode, "empty-circle")) {
        own.map = 0;
        d->d_un.d_ptr = (unsigned long)&own;
    } else if (!strcmp(mode, "circle-of-lists")) {
        d->d_un.d_ptr = (unsigned long)&own;
    } else if (!strcmp(mode, "circle")) {
        second->l_next = second;
    } else if (!strcmp(mode, "end-of-memory")) {
        d->d_un.d_ptr = ~0ul;
    } else if (!strcmp(mode, "link-at-the-end")) {
        second->l_next = (void *)(~0ul - 7);
    } else if (!strcmp(mode, "huge-dynamic")) {
        dynamic->p_memsz = 1ul << 63;
    } else if (!strcmp(mode, "large-dynamic")) {
        dynamic->p_memsz = 1ul << 40;
    } else if (!strcmp(mode, "zeroes")) {
        unsigned long size = 12ul << 30, base = 0;
        char *at = mmap(0, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(at != MAP_FAILED);
        for (ElfW(Phdr) *p = headers; p->p_type != PT_DYNAMIC; p++)
            if (p->p_type == PT_PHDR) base = (unsigned long)p - p->p_vaddr;
        dynamic->p_vaddr = (unsigned long)at - base;
        dynamic->p_memsz = size;
    } else if (!strcmp(mode, "endless-names")) {
        unsigned long size = 1ul << 30;
        char *at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(at != MAP_FAILED);
        memset(at, 'x', 8192);
        for (struct link_map *map = second; map; map = map->l_next) map->l_name = at;
    } else if (!strcmp(mode, "escapes")) {
        for (struct link_map *map = second; map; map = map->l_next)
            map->l_name = "/x/\033]0;OWNED\a\033[31m\nlibc.so.6";
    } else if (!strcmp(mode, "dynamics")) {
        for (struct link_map *map = second; map; map = map->l_next) map->l_ld = (void *)headers;
    } else if (!strcmp(mode, "flips")) {
        pthread_t thread;
        CHECK(pthread_create(&thread, 0, flip, second) == 0);
    } else {
        fprintf(stderr, "no mode %s\n", mode);
        exit(1);
    }
}

static void name(const char *path) {
    for (struct link_map *map = _r_debug.r_map; map; map = map->l_next)
        if (map->l_name && strstr(map->l_name, "libc.so")) map->l_name = strdup(path);
}

static void nothing(int signal) { (void)signal; }

static void *shoot(void *main_thread) {
    for (;;) pthread_kill(*(pthread_t *)main_thread, SIGUSR1);
    return 0;
}

static void *work(void *unused) {
    for (;;) {
        sum += table[0](sum);
        syscall(-1);
    }
    return unused;
}

static void *brief(void *unused) { return unused; }

static void *breed(void *unused) {
    for (pthread_t thread;;)
        if (pthread_create(&thread, 0, brief, 0) == 0) pthread_detach(thread);
    return unused;
}

static void storm(void) {
    static pthread_t main_thread, thread;
    main_thread = pthread_self();
    signal(SIGUSR1, nothing);
    CHECK(pthread_create(&thread, 0, shoot, &main_thread) == 0);
    CHECK(pthread_create(&thread, 0, work, 0) == 0);
    CHECK(pthread_create(&thread, 0, breed, 0) == 0);
}

// A child that does something without end, and ends with its parent, also if that has ended already.
static int in_child(void) {
    int parent = getpid();
    if (fork() != 0) return 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(0);
    return 1;
}

static void exchange(char **names) {
    if (!in_child()) return;
    for (;;)
        for (char **pair = names; pair[0] && pair[1]; pair += 2)
            syscall(SYS_renameat2, AT_FDCWD, pair[0], AT_FDCWD, pair[1], RENAME_EXCHANGE);
}

static void *map_and_unmap(void *unused) {
    // Where whoever attaches looks for room and for text: near the program and its libraries.
    char *near = (char *)(((unsigned long)target & ~4095ul) + (16 << 20));
    for (;;) {
        char *at = mmap(near, 1 << 20, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at != MAP_FAILED) munmap(at, 1 << 20);
    }
    return unused;
}

// Wherever its own path stands in the engine's statistics but at their beginning, which is where the program is named.
static void forges(const char *path) {
    char own[4096] = {0}, line[8192];
    CHECK(readlink("/proc/self/exe", own, sizeof own - 1) > 0);
    size_t length = strlen(own) + 1;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        char access[8];
        if (!strstr(line, "/dev/shm/relpoline-") || !strstr(line, ".stats")) continue;
        if (sscanf(line, "%lx-%lx %7s", &start, &end, access) != 3 || access[1] != 'w') continue;
        int seen = 0;
        for (char *p = (char *)start; p + 256 < (char *)end; p += 4)
            if (!memcmp(p, own, length) && seen++) strncpy(memset(p, 0, 232), path, 231);
    }
    fclose(maps);
}

static void reads(const char *path) {
    forges(path);
    CHECK(setgid(54322) == 0 && setuid(54322) == 0);
    if (open(path, O_RDONLY) >= 0) _exit(7);
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    if (fd < 0) return;
    if (write(fd, text, strlen(text)) < 0) {}
    close(fd);
}

static void mounts(const char *directory) {
    unsigned long ns;
    unsigned long long started;
    whoami(&ns, &started);
    char map[64], own[64], file[160], link[160];
    unsigned user = geteuid();
    snprintf(map, sizeof map, "0 %u 1", user);
    snprintf(own, sizeof own, "/dev/shm/relpoline-%u", user);
    snprintf(file, sizeof file, "%s/%d-%lu-%llu.stats", own, getpid(), ns, started);
    snprintf(link, sizeof link, "%s/4194303-1-2.stats", own);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
        printf("no namespaces\n");
        fflush(stdout);
        _exit(0);
    }
    put("/proc/self/uid_map", map);
    CHECK(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0) == 0);
    if (!in_child()) return;
    for (;;) {
        if (mount("none", "/dev/shm", "tmpfs", 0, 0) == 0) {
            mkdir(own, 0700);
            put(file, "RELPSTAT");
            if (symlink(directory, link) != 0) {}
            mount(directory, own, 0, MS_BIND, 0);
            umount2(own, MNT_DETACH);
            umount2("/dev/shm", MNT_DETACH);
        }
        for (int n = 0; n < 2; n++)
            if (mount(n ? "/proc" : directory, "/dev/shm", 0, MS_BIND | MS_REC, 0) == 0) umount2("/dev/shm", MNT_DETACH);
    }
}

// What a file system answers, to whom it likes. Nobody else is needed to end it: with its process all that wait are let go.
static void serve(int fd, unsigned silent, size_t size) {
    static char request[1 << 20];
    for (;;) {
        ssize_t n = read(fd, request, sizeof request);
        if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT)) continue;
        if (n < (ssize_t)sizeof(struct fuse_in_header)) _exit(0);
        struct fuse_in_header *in = (void *)request;
        if (in->opcode == silent || in->opcode == FUSE_FORGET || in->opcode == FUSE_BATCH_FORGET ||
            in->opcode == FUSE_INTERRUPT)
            continue;
        struct { struct fuse_out_header out; union { struct fuse_init_out init; struct fuse_entry_out entry;
            struct fuse_attr_out attr; struct fuse_open_out open; struct fuse_statfs_out statfs; } u; } answer;
        memset(&answer, 0, sizeof answer);
        answer.out.unique = in->unique;
        size_t length = 0;
        struct fuse_attr *attr = in->opcode == FUSE_LOOKUP ? &answer.u.entry.attr : &answer.u.attr.attr;
        if (in->opcode == FUSE_LOOKUP || in->opcode == FUSE_GETATTR) {
            int is_file = in->opcode == FUSE_LOOKUP || in->nodeid != FUSE_ROOT_ID;
            attr->ino = is_file ? 2 : 1;
            attr->mode = is_file ? S_IFREG | 0755 : S_IFDIR | 0755;
            attr->nlink = 1;
            attr->size = is_file ? size : 0;
            attr->blocks = size / 512;
        }
        if (in->opcode == FUSE_INIT) {
            // What is read is waited for by who reads: the kernel does not read ahead on its own.
            answer.u.init.major = FUSE_KERNEL_VERSION;
            answer.u.init.minor = 31;
            answer.u.init.max_write = 4096;
            length = FUSE_COMPAT_22_INIT_OUT_SIZE;
        } else if (in->opcode == FUSE_LOOKUP) {
            answer.u.entry.nodeid = 2;
            length = sizeof answer.u.entry;
        } else if (in->opcode == FUSE_GETATTR) {
            length = sizeof answer.u.attr;
        } else if (in->opcode == FUSE_OPEN || in->opcode == FUSE_OPENDIR) {
            length = sizeof answer.u.open;
        } else if (in->opcode == FUSE_STATFS) {
            answer.u.statfs.st.bsize = 4096;
            length = sizeof answer.u.statfs;
        } else if (in->opcode != FUSE_READ && in->opcode != FUSE_FLUSH && in->opcode != FUSE_RELEASE) {
            answer.out.error = -ENOSYS;
        }
        answer.out.len = sizeof answer.out + length;
        if (write(fd, &answer, answer.out.len) < 0) {}
    }
}

static void fuse(const char *directory, const char *silent) {
    const struct { const char *name; unsigned opcode; } all[] = {{"lookup", FUSE_LOOKUP}, {"getattr", FUSE_GETATTR},
        {"statfs", FUSE_STATFS}, {"open", FUSE_OPEN}, {"read", FUSE_READ}, {"none", 0}};
    unsigned opcode = 0;
    for (size_t n = 0; n < sizeof all / sizeof *all; n++) if (!strcmp(silent, all[n].name)) opcode = all[n].opcode;
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    char options[128], path[4096];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd);
    if (fd < 0 || unshare(CLONE_NEWNS) != 0 || mount(0, "/", 0, MS_REC | MS_PRIVATE, 0) != 0 ||
        mount("hostile", directory, "fuse", MS_NOSUID | MS_NODEV, options) != 0) {
        printf("no fuse\n");
        fflush(stdout);
        _exit(0);
    }
    if (in_child()) serve(fd, opcode, 1 << 16);
    close(fd);
    if (opcode != FUSE_READ) return;
    snprintf(path, sizeof path, "%s/file", directory);
    int file = open(path, O_RDONLY);
    CHECK(file >= 0);
    char *at = mmap(0, 1 << 16, PROT_READ, MAP_SHARED, file, 0);
    CHECK(at != MAP_FAILED);
    for (struct link_map *map = _r_debug.r_map->l_next; map; map = map->l_next) map->l_name = at;
}

static void state(const char *what, char **argv) {
    pthread_t thread;
    if (!strcmp(what, "private")) {
        CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
    } else if (!strcmp(what, "elsewhere")) {
        // Root there, with mounts and a root directory of its own. Where that is forbidden: as it was.
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) {
            if (argv[3] && chroot(argv[3]) == 0) CHECK(chdir("/") == 0);
        }
    } else if (!strcmp(what, "lends")) {
        // Waits until its child, which has its memory, calls exec: it does not.
        printf("ready\n");
        fflush(stdout);
        if (vfork() == 0) {
            for (char byte; read(0, &byte, 1) != 0;) {}
            _exit(0);
        }
        _exit(0);
    } else if (!strcmp(what, "execs")) {
        // For a few seconds, each time another program for whoever looks.
        long n = getenv("ROUND") ? atol(getenv("ROUND")) : 0;
        if (n == 0) {
            printf("ready\n");
            fflush(stdout);
        }
        char round[32];
        snprintf(round, sizeof round, "%ld", n + 1);
        setenv("ROUND", round, 1);
        struct pollfd ends = {.fd = 0, .events = POLLIN};
        if (poll(&ends, 1, n % 7) == 0) execv("/proc/self/exe", argv);
        _exit(0);
    } else if (!strcmp(what, "maps")) {
        CHECK(pthread_create(&thread, 0, map_and_unmap, 0) == 0);
    } else if (!strcmp(what, "ends")) {
        alarm(1);
        signal(SIGALRM, (void (*)(int))_exit);
    } else if (!strcmp(what, "no-text")) {
        prctl(PR_SET_NAME, "\xff\xfe) S 1 (");
    } else if (strcmp(what, "plain")) {
        fprintf(stderr, "no state %s\n", what);
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "state") && !strcmp(argv[2], "execs")) state(argv[2], argv);
    if (getenv("HOSTILE_NAME")) prctl(PR_SET_NAME, getenv("HOSTILE_NAME"));
    for (int n = 0; n < 400000; n++) sum += table[0](n);
    if (argc > 2 && !strcmp(argv[1], "statistics")) statistics(argv[2], argc > 3 ? atoi(argv[3]) : 0);
    else if (argc > 2 && !strcmp(argv[1], "links")) links(argv[2]);
    else if (argc > 2 && !strcmp(argv[1], "name")) name(argv[2]);
    else if (argc > 1 && !strcmp(argv[1], "storm")) storm();
    else if (argc > 3 && !strcmp(argv[1], "exchange")) exchange(argv + 2);
    else if (argc > 2 && !strcmp(argv[1], "state")) state(argv[2], argv);
    else if (argc > 2 && !strcmp(argv[1], "forges")) forges(argv[2]);
    else if (argc > 2 && !strcmp(argv[1], "reads")) reads(argv[2]);
    else if (argc > 2 && !strcmp(argv[1], "mounts")) mounts(argv[2]);
    else if (argc > 3 && !strcmp(argv[1], "fuse")) fuse(argv[2], argv[3]);
    printf("ready\n");
    fflush(stdout);
    for (char byte;;) {
        ssize_t n = read(0, &byte, 1);
        if (n == 0) _exit(0);
        sum += table[0](n);
    }
}
