/* Three thousand sites that are equally warm: a crowd, on every processor. Those that call what others call are
 * led to what those run, without having been learned; those that nobody resembles are parked at thunks that they
 * share. Each call must be right whatever it is led to. */
#include "arena.h"

#define ROWS(of)                                                                                   \
    of(a) of(b) of(c) of(d) of(e) of(f) of(g) of(h) of(i) of(j) of(k) of(l) of(m) of(n) of(o) of(p)                \
    of(q) of(r) of(s) of(t) of(u) of(v) of(w) of(x) of(y) of(z) of(A) of(B) of(C) of(D) of(E) of(F)                \
    of(G) of(H) of(I) of(J) of(K) of(L) of(M) of(N) of(O) of(P) of(Q) of(R) of(S) of(T) of(U) of(V)
#define SITES (48 * 64)
/* The number of a row. */
#define ROW_OF(name) (*(name) >= 'a' ? *(name) - 'a' : *(name) - 'A' + 26)
#define EIGHT(m, r, n) m(r, n##0) m(r, n##1) m(r, n##2) m(r, n##3) m(r, n##4) m(r, n##5) m(r, n##6) m(r, n##7)
#define ROW(m, r)                                                                                  \
    EIGHT(m, r, 0) EIGHT(m, r, 1) EIGHT(m, r, 2) EIGHT(m, r, 3) EIGHT(m, r, 4) EIGHT(m, r, 5) EIGHT(m, r, 6) EIGHT(m, r, 7)

typedef word site_t(callee_t *, word);
#define SITE(r, n) static OPAQUE word site_##r##n(callee_t *callee, word x) { word a = callee(x); return a + 1; }
#define SITE_NAME(r, n) site_##r##n,
#define OWN(r, n) static OPAQUE word own_##r##n(word x) { entered++; return x * 7 + (0##n | ROW_OF(#r) << 6); }
#define OWN_NAME(r, n) own_##r##n,
#define SITE_ROW(r) ROW(SITE, r)
#define SITE_NAME_ROW(r) ROW(SITE_NAME, r)
#define OWN_ROW(r) ROW(OWN, r)
#define OWN_NAME_ROW(r) ROW(OWN_NAME, r)

ROWS(SITE_ROW)
ROWS(OWN_ROW)
static site_t *volatile sites[SITES] = { ROWS(SITE_NAME_ROW) };
static callee_t *volatile own[SITES] = { ROWS(OWN_NAME_ROW) };

static void call_own(word site, word x) {
    word before = entered, answer = sites[site](own[site], x);
    CHECK(answer == x * 7 + site + 1, "site %lu said %lu for %lu", site, answer, x);
    CHECK(entered == before + 1, "site %lu", site);
}

static void call_shared(word site, word callee, word x) {
    word before = entered, answer = sites[site](callees[callee], x);
    CHECK(answer == ANSWER(callee, x) + 1, "site %lu, callee %lu said %lu for %lu", site, callee, answer, x);
    CHECK(entered == before + 1, "site %lu", site);
}

static int by_address(const void *a, const void *b) {
    word x = *(const word *)a, y = *(const word *)b;
    return (x > y) - (x < y);
}

/* How many sites lead to where another one leads. */
static int together(void) {
    static word to[SITES];
    int count = 0;
    for (word n = 0; n < SITES; n++)
        to[n] = (word)first_call_of((void *)sites[n]);
    qsort(to, SITES, sizeof *to, by_address);
    for (word n = 0; n < SITES; n++)
        count += (n > 0 && to[n] == to[n - 1]) || (n + 1 < SITES && to[n] == to[n + 1]);
    return count;
}

#define ROUNDS 60000

int main(int count, char **argument) {
    CHECK(count == 2, "%d", count);
    int is_shared = !strcmp(argument[1], "shared");
    int enough = is_shared ? SITES / 8 * 7 : SITES / 12;
    word round = 0;
    for (; round < ROUNDS && (round % 500 != 0 || together() < enough); round++)
        for (word n = 0; n < SITES; n++)
            if (is_shared)
                call_shared(n, n % 8, round);
            else
                call_own(n, round);
    CHECK(together() >= enough, "%d sites lead where others lead", together());
    /* What they were led to is wrong from now on for each second one. */
    for (word last = round + 3000; round < last; round++)
        for (word n = 0; n < SITES; n++)
            if (is_shared)
                call_shared(n, n % 2 ? n % 8 : 8 + n % 4, round);
            else
                call_own(n, round);
    return 0;
}
