/* Libraries come and go, from several threads, while their functions are hot targets. Arguments: the libraries, of
 * which the last one stays and calls into the others. */
#include "check.h"
#include <dlfcn.h>
#include <pthread.h>

#define VARIANTS 4
#define THREADS 4

DISPATCHER(executable_site)

static char **paths;
static int rounds = 60;
static void (*volatile dispatch)(callee_t *target, word variant, word calls);

static OPAQUE void plugin_site(callee_t *target, word variant, word calls) {
    for (word i = 0; i < calls; i++) {
        word got = target(i);
        CHECK(got == ANSWER(variant, i), "variant %lu said %lu", variant, got);
    }
}

static void use(void *library, word variant, word calls) {
    callee_t *target = (callee_t *)dlsym(library, "plugin_target"), *own = (callee_t *)dlsym(library, "plugin_calls");
    CHECK(target && own, "%s", dlerror());
    plugin_site(target, variant, calls);
    dispatch(target, variant, calls);
    own(calls);
}

/* Loads and unloads its own library over and over. */
static void *come_and_go(void *number) {
    word variant = (word)number;
    for (int round = 0; round < rounds; round++) {
        void *library = dlopen(paths[variant], round % 2 ? RTLD_NOW : RTLD_LAZY);
        CHECK(library, "%s", dlerror());
        use(library, variant, 8000);
        executable_site(round % 40, 2, 3000);
        CHECK(dlclose(library) == 0, "%s", dlerror());
    }
    return NULL;
}

/* One library in the place of another one, whose targets the trees still name. */
static void replace(void) {
    for (int round = 0; round < rounds; round++) {
        word variant = round % VARIANTS;
        void *library = dlopen(paths[variant], RTLD_NOW);
        CHECK(library, "%s", dlerror());
        use(library, variant, 20000);
        dlclose(library);
    }
}

int main(int argc, char **argv) {
    CHECK(argc == VARIANTS + 2, "the libraries are missing");
    paths = argv + 1;
    void *host = dlopen(paths[VARIANTS], RTLD_NOW);
    CHECK(host, "%s", dlerror());
    *(void **)&dispatch = dlsym(host, "plugin_dispatch");
    replace();
    pthread_t threads[THREADS];
    for (word i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, come_and_go, (void *)i);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    /* At last one of them stays. */
    void *library = dlopen(paths[2], RTLD_NOW);
    use(library, 2, 400000);
    executable_site(1, 2, 400000);
    puts("libraries done");
    return 0;
}
