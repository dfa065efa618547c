/* Nothing is to be promoted here until the library argv[1] is loaded; threads run by then, and may fork or leave. */
#include "check.h"
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

static volatile int stop;

static void *busy(void *unused) {
    (void)unused;
    while (!stop) usleep(1000);
    return NULL;
}

static void load(const char *path) {
    void *library = dlopen(path, RTLD_NOW);
    CHECK(library, "%s", dlerror());
    word (*calls)(word) = (word (*)(word))dlsym(library, "plugin_calls");
    CHECK(calls, "%s", dlerror());
    calls(400000);
}

static int count_arenas(struct dl_phdr_info *info, size_t size, void *count) {
    (void)size;
    *(int *)count += strcmp(info->dlpi_name, "[relpoline]") == 0;
    return 0;
}

int main(int argc, char **argv) {
    CHECK(argc == 2, "arguments");
    pthread_t threads[4];
    for (int n = 0; n < 4; n++) CHECK(pthread_create(&threads[n], NULL, busy, NULL) == 0, "thread");
    puts("ready");
    fflush(stdout);
    int c = getchar();
    pid_t child = c == 'f' ? fork() : -1;
    if (child > 0) {
        reap(child, "child");
    } else {
        load(argv[1]);
        if (child == 0) _exit(0);
    }
    puts("loaded");
    fflush(stdout);
    while ((c = getchar()) != EOF) {
        int arenas = 0;
        dl_iterate_phdr(count_arenas, &arenas);
        if (c == 'u') printf("%d arenas are unwound through\n", arenas), fflush(stdout);
    }
    stop = 1;
    for (int n = 0; n < 4; n++) pthread_join(threads[n], NULL);
    puts("late done");
    return 0;
}
