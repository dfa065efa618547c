/* What programs are started as: tells its arguments and its environment. Where that was handed down, and has a PATH, the
 * engine's own variables are not told; in an environment that was made for this program there are none. */
#include "check.h"

extern char **environ;

DISPATCHER(started_site)

static int is_ours(const char *entry) {
    return strncmp(entry, "LD_PRELOAD=", 11) == 0 || strncmp(entry, "RELPOLINE", 9) == 0;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(int argc, char **argv) {
    started_site(1, 2, 100000);
    printf("%d:", argc);
    for (int i = 0; i < argc; i++) printf(" %s", argv[i]);
    printf(" |");
    /* A shell in between may put them in another order. */
    int count = 0;
    while (environ && environ[count]) count++;
    if (count) qsort(environ, count, sizeof *environ, by_text);
    for (char **entry = environ; entry && *entry; entry++)
        if (!(getenv("PATH") && is_ours(*entry)) && strncmp(*entry, "_=", 2)) printf(" %.40s", *entry);
    puts("");
    return argc > 1 && strcmp(argv[1], "seven") == 0 ? 7 : 0;
}
