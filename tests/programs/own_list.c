/* A program that has functions itself which the engine might ask: its own dl_iterate_phdr answers from a copy that grows old,
 * and memory comes from its own malloc. Argument: a library. */
#include "check.h"
#include <dlfcn.h>
#include <link.h>

typedef int visitor(struct dl_phdr_info *, size_t, void *);
typedef int iterator(visitor *, void *);

static struct dl_phdr_info copies[64];
static int count, is_copied;

static int copy(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size, (void)data;
    if (count < 64) {
        copies[count] = *info;
        copies[count++].dlpi_name = strdup(info->dlpi_name);
    }
    return 0;
}

int dl_iterate_phdr(visitor *visit, void *data) {
    CHECK(is_copied, "the program's own dl_iterate_phdr was called before it was ready");
    for (int n = 0; n < count; n++) {
        int result = visit(&copies[n], sizeof copies[n], data);
        if (result) return result;
    }
    return 0;
}

static char heap[1 << 22] __attribute__((aligned(16)));
static word used;
void *malloc(size_t size) {
    used = (used + 15) & ~15ul;
    CHECK(used + size + 16 < sizeof heap, "the heap is full");
    word *at = (word *)(void *)(heap + used);
    used += size + 16;
    at[0] = size;
    return at + 2;
}
void free(void *at) { (void)at; }
void *calloc(size_t n, size_t size) { return memset(malloc(n * size), 0, n * size); }
void *realloc(void *at, size_t size) {
    void *new = malloc(size);
    if (at) memcpy(new, at, ((word *)at)[-2] < size ? ((word *)at)[-2] : size);
    return new;
}

static void use(void *library) {
    callee_t *calls = (callee_t *)dlsym(library, "plugin_calls");
    CHECK(calls, "%s", dlerror());
    calls(100000);
}

int main(int argc, char **argv) {
    CHECK(argc == 2, "the library is missing");
    void *library = dlopen(argv[1], RTLD_NOW);
    CHECK(library, "%s", dlerror());
    use(library);
    /* The copy has the library, and will have it when it is gone. */
    iterator *real = (iterator *)dlsym(RTLD_NEXT, "dl_iterate_phdr");
    CHECK(real, "%s", dlerror());
    real(copy, NULL);
    is_copied = 1;
    dlclose(library);
    CHECK(dlopen("libm.so.6", RTLD_NOW), "%s", dlerror());
    /* And does not have those that come later. */
    for (int n = 0; n < 20; n++) {
        library = dlopen(argv[1], RTLD_NOW);
        CHECK(library, "%s", dlerror());
        use(library);
        if (n < 19) dlclose(library);
    }
    use(library);
    puts("own list done");
    return 0;
}
