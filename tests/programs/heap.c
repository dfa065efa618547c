/* How far the break grows, in megabytes up to argv[1], and that what it gives can be used. Linked where the linker likes. */
#include "check.h"

DISPATCHER(site)

extern char end[];

#ifdef ZEROES
static char zeroes[ZEROES];
#else
static char zeroes[1];
#endif

int main(int argc, char **argv) {
    long most = argc > 1 ? atol(argv[1]) : 6000, grown = 0;
    static char buffer[4096];
    /* Or it would lie in what is given back. */
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    zeroes[sizeof zeroes - 1] = 1;
    char *first = sbrk(0);
    CHECK(first >= end, "the break begins at %p, the program ends at %p", first, end);
    site(1, 2, 1000000);
    while (grown < most) {
        char *more = sbrk(16 << 20);
        if (more == (char *)-1) break;
        CHECK(more == first + (grown << 20), "the break went from %p to %p", first, more);
        more[0] = more[(16 << 20) - 1] = 1;
        grown += 16;
    }
    site(1, 2, 1000000);
    printf("the break grew by %ld MB\n", grown);
    CHECK(brk(first) == 0 && sbrk(0) == first, "it does not shrink");
    /* malloc's heap begins there again. */
    for (int i = 0; i < 1000; i++) CHECK(malloc(i) != NULL, "no memory");
    return 0;
}
