/* Libraries are exchanged for others at the same place, as it is told on stdin, one letter and what it concerns:
 *   o PATH   dlopen; says where its function lies
 *   m PATH   dlmopen into a namespace of its own, likewise
 *   c        dlclose the last one that was opened
 *   a WANT   lets every library choose between 1 and 2, very often; says how often that was not WANT
 *   x PATH   puts the text of another build over that of the last one, without the loader
 *   t        writes the other build's thunk over the last one's
 *   u        puts a mapping that nobody may read in place of its text
 */
#include "check.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>

#define MOST 64

typedef word chooser(callee_t *, callee_t *);

static OPAQUE word one(word x) { return 1 + 0 * x; }
static OPAQUE word two(word x) { return 2 + 0 * x; }

static void *opened[MOST];
static int count;

static chooser *last(const char *name) {
    chooser *found = (chooser *)dlsym(opened[count - 1], name);
    CHECK(found, "%s", dlerror());
    return found;
}

static void *page_of(void *address) { return (void *)((word)address & ~4095ul); }

static void open_library(const char *path, int is_apart) {
    void *library = is_apart ? dlmopen(LM_ID_NEWLM, path, RTLD_NOW) : dlopen(path, RTLD_NOW);
    CHECK(library && count < MOST, "%s", dlerror());
    opened[count++] = library;
    printf("%p\n", (void *)last("choose"));
}

static void ask(word want) {
    word wrong = 0;
    for (int n = 0; n < count; n++) {
        chooser *choose = (chooser *)dlsym(opened[n], "choose");
        for (int i = 0; i < 200000; i++) wrong += choose(one, two) != want;
    }
    printf("%lu\n", wrong);
}

/* The page of the file that holds the function: the two builds have it at the same offset. */
static void map_over(const char *path) {
    Dl_info info;
    CHECK(dladdr((void *)last("choose"), &info), "who is it?");
    char *page = page_of((void *)last("choose"));
    int file = open(path, O_RDONLY);
    void *at = mmap(page, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, file, page - (char *)info.dli_fbase);
    CHECK(file >= 0 && at == page, "%s cannot be mapped", path);
    close(file);
}

static void change_thunk(void) {
    unsigned char *thunk = (unsigned char *)(void *)last("thunk_register");
    CHECK(mprotect(page_of(thunk), 4096, PROT_READ | PROT_WRITE) == 0, "text cannot be written");
    CHECK(thunk[2] == 0x04 || thunk[2] == 0x14, "this is no thunk: %x", thunk[2]);
    thunk[2] ^= 0x10;
    CHECK(mprotect(page_of(thunk), 4096, PROT_READ | PROT_EXEC) == 0, "text cannot be executed");
}

static void take_away(void) {
    void *page = page_of((void *)last("choose"));
    void *at = mmap(page, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(at == page, "nothing can be mapped");
}

int main(void) {
    char line[4096];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        const char *what = line[1] ? line + 2 : "";
        switch (line[0]) {
        case 'o': open_library(what, 0); break;
        case 'm': open_library(what, 1); break;
        case 'c': CHECK(dlclose(opened[--count]) == 0, "%s", dlerror()); puts("closed"); break;
        case 'a': ask(atoi(what)); break;
        case 'x': map_over(what); puts("over"); break;
        case 't': change_thunk(); puts("changed"); break;
        case 'u': take_away(); puts("away"); break;
        default: CHECK(0, "what is %s?", line);
        }
        fflush(stdout);
    }
    puts("exchange done");
    return 0;
}
