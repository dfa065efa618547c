/* Sites whose targets never stop changing: each goes to four callees for a while, then to four others. */
#include "check.h"

#define SITE(n)                                                                                    \
    static OPAQUE void flapping_site_##n(const word *four, word calls) {                           \
        for (word i = 0; i < calls; i++) {                                                         \
            word n_ = four[i % 4], before = entered, got = callees[n_](i);                         \
            CHECK(got == ANSWER(n_, i), "callee %lu said %lu for %lu", n_, got, i);                \
            CHECK(entered == before + 1, "callee %lu entered %lu times", n_, entered - before);    \
        }                                                                                          \
    }
EIGHT_(SITE, 0) EIGHT_(SITE, 1)
#define NAME(n) flapping_site_##n,
static void (*const sites[16])(const word *, word) = { EIGHT_(NAME, 0) EIGHT_(NAME, 1) };

int main(int count, char **arguments) {
    word state = 88172645463325252, rounds = count > 1 ? strtoul(arguments[1], NULL, 10) : 1;
    for (word round = 0; round < rounds; round++)
        for (int site = 0; site < 16; site++) {
            word four[4];
            for (int i = 0; i < 4; i++) four[i] = next_random(&state) % CALLEES;
            sites[site](four, 8000);
        }
    puts("flapping done");
    return 0;
}
