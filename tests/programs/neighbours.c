/* Many sites that are equally warm. Those that call the same share what they are linked to; those that are left alone share a
 * thunk. Each must go on learning for itself. */
#include "arena.h"

#define SITES 48
#define SITE_(n) OPAQUE word site_##n(callee_t *callee, word x) { word a = callee(x); return a + (n); }
#define SITE_NAME_(n) site_##n,
#define FOR_48(m)                                                                                  \
    EIGHT_(m, 0) EIGHT_(m, 1) EIGHT_(m, 2) EIGHT_(m, 3) EIGHT_(m, 4) EIGHT_(m, 5)

typedef word site_t(callee_t *, word);
FOR_48(SITE_)
static site_t *volatile sites[SITES] = { FOR_48(SITE_NAME_) };

static void call(int site, int callee, word x) {
    word before = entered;
    word answer = sites[site](callees[callee], x);
    CHECK(answer == ANSWER((word)callee, x) + (word)site, "site %d, callee %d", site, callee);
    CHECK(entered == before + 1, "site %d", site);
}

/* All of them call the same; in the end the last ones call something else. */
static void sharing(void) {
    for (word n = 0; n < 400000; n++)
        for (int site = 0; site < SITES; site++)
            call(site, 3, n);
    for (word n = 0; n < 400000; n++)
        for (int site = 0; site < SITES; site++)
            call(site, site < SITES - 2 ? 3 : 5, n);
}

/* How many sites lead to where another one leads. */
static int together(void) {
    int count = 0;
    for (int a = 0; a < SITES; a++)
        for (int b = 0; b < SITES; b++)
            if (a != b && first_call_of((void *)sites[a]) == first_call_of((void *)sites[b])) {
                count++;
                break;
            }
    return count;
}

/* Nobody can foresee what they call, until some lead to the same thunk, or for so many rounds. */
static int unforeseen(word rounds, int enough) {
    word state = 88172645463325252;
    int most = 0;
    for (word n = 0; n < rounds && most < enough; n++) {
        for (int site = 0; site < SITES; site++)
            call(site, next_random(&state) % CALLEES, n);
        if (n % 1000 == 0 && most < together())
            most = together();
    }
    return most;
}

/* In the end anybody can foresee it. The last one changes its mind all the time, for it is on such occasions that the others get
 * another chance. */
static void alone(void) {
    unforeseen(40000, SITES + 1);
    for (word n = 0; n < 400000; n++) {
        for (int site = 0; site < SITES - 1; site++)
            call(site, site, n);
        for (int k = 0; k < 4; k++)
            call(SITES - 1, n / 4000 % CALLEES, n);
    }
}

int main(int count, char **argument) {
    CHECK(count == 2, "%d", count);
    if (!strcmp(argument[1], "sharing"))
        sharing();
    else if (!strcmp(argument[1], "together"))
        CHECK(unforeseen(1000000, 8) >= 8, "each site has a gate of its own");
    else
        alone();
    return 0;
}
