/* Loads a library by name alone: found through this program's RUNPATH, as without the engine. */
#include "check.h"
#include <dlfcn.h>

int main(void) {
    void *library = dlopen("libplugin0.so", RTLD_NOW);
    CHECK(library, "%s", dlerror());
    callee_t *own = (callee_t *)dlsym(library, "plugin_calls");
    CHECK(own, "%s", dlerror());
    own(400000);
    void *missing = dlopen("libplugin-that-is-not-there.so", RTLD_NOW);
    CHECK(!missing, "found what is not there");
    Dl_info info;
    CHECK(dladdr((void *)own, &info) && strstr(info.dli_fname, "libplugin0.so"), "dladdr");
    printf("%s %s\n", info.dli_sname, dlsym(RTLD_DEFAULT, "plugin_target") ? "global" : "local");
    const char *error = dlerror();
    puts(error && strstr(error, "plugin_target") ? "dlerror right" : "dlerror wrong");
    return 0;
}
