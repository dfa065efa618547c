/* Libraries are loaded and unloaded without end.
 *   again LIBRARY TIMES THREADS   the same one, by several threads at once; then once more, to stay
 *   elsewhere LIBRARY TIMES       the same one, at another place each time; then once more, to stay
 *   many LIBRARY TIMES            as many copies of it that differ, all loaded at once, then each by itself
 */
#include "check.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

static char **arguments;
static int times;

static void use(void *library, word calls) {
    CHECK(library, "%s", dlerror());
    callee_t *own = (callee_t *)dlsym(library, "plugin_calls");
    CHECK(own, "%s", dlerror());
    own(calls);
}

static void *again(void *ignored) {
    (void)ignored;
    for (int n = 0; n < times; n++) {
        void *library = dlopen(arguments[2], RTLD_NOW);
        use(library, 100);
        dlclose(library);
    }
    return NULL;
}

static void from_threads(int threads) {
    pthread_t all[16];
    for (int n = 0; n < threads; n++) pthread_create(&all[n], NULL, again, NULL);
    for (int n = 0; n < threads; n++) pthread_join(all[n], NULL);
}

/* The library is the first build of crates/cli/torture/exchanged.S. */
static void *let_choose(void *library, word calls) {
    CHECK(library, "%s", dlerror());
    /* Functions near enough for a direct jump; the first one gives back what it is given. */
    callee_t *same = (callee_t *)dlsym(RTLD_DEFAULT, "labs"), *other = (callee_t *)dlsym(RTLD_DEFAULT, "getpid");
    word (*choose)(callee_t *, callee_t *) = (word (*)(callee_t *, callee_t *))dlsym(library, "choose");
    CHECK(choose, "%s", dlerror());
    for (word i = 0; i < calls; i++) CHECK(choose(same, other) == (word)same, "it chose the other one");
    return library;
}

static void elsewhere(void) {
    for (int n = 0; n < times; n++) {
        void *library = let_choose(dlopen(arguments[2], RTLD_NOW), 50);
        Dl_info info;
        CHECK(dladdr(dlsym(library, "choose"), &info), "where is it?");
        dlclose(library);
        /* Nothing comes to lie there again. */
        void *taken = mmap(info.dli_fbase, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        CHECK(taken == info.dli_fbase, "its place cannot be taken");
    }
    let_choose(dlopen(arguments[2], RTLD_NOW), 400000);
}

static char *bytes;
static long length;
static char *directory;

/* A copy under a name of its own, whose build-id is another: the last bytes of its notes say its number. */
static void *copy(int number, char *path) {
    snprintf(path, 256, "%s/%d.so", directory, number);
    char *id = memmem(bytes, length, "GNU\0", 4);
    CHECK(id, "the library has no build-id");
    memcpy(id + 4, &number, sizeof number);
    int file = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0700);
    CHECK(file >= 0 && write(file, bytes, length) == length, "%s cannot be written", path);
    close(file);
    return dlopen(path, RTLD_NOW);
}

static void read_library(void) {
    FILE *file = fopen(arguments[2], "r");
    CHECK(file, "%s cannot be read", arguments[2]);
    fseek(file, 0, SEEK_END);
    length = ftell(file);
    rewind(file);
    bytes = malloc(length);
    CHECK(fread(bytes, 1, length, file) == (size_t)length, "it is shorter than it says");
    fclose(file);
}

static void many(void) {
    static void *all[8192];
    char path[256], template[] = "/tmp/relpoline-many-XXXXXX";
    directory = mkdtemp(template);
    CHECK(directory && times <= 8192, "no directory");
    read_library();
    for (int n = 0; n < times; n++) {
        all[n] = let_choose(copy(n, path), 50);
        unlink(path);
    }
    /* The last one stays. */
    for (int n = 0; n < times - 1; n++) dlclose(all[n]);
    for (int n = 0; n < times; n++) {
        void *library = let_choose(copy(times + n, path), 50);
        unlink(path);
        dlclose(library);
    }
    rmdir(directory);
    let_choose(all[times - 1], 400000);
    /* And the one whose file is still there afterwards. */
    let_choose(dlopen(arguments[2], RTLD_NOW), 400000);
}

int main(int argc, char **argv) {
    CHECK(argc >= 4, "arguments are missing");
    arguments = argv;
    times = atoi(argv[3]);
    if (strcmp(argv[1], "many") == 0) {
        many();
    } else if (strcmp(argv[1], "elsewhere") == 0) {
        elsewhere();
    } else {
        from_threads(atoi(argv[4]));
        use(dlopen(argv[2], RTLD_NOW), 400000);
    }
    puts("reload done");
    return 0;
}
