/* Looking at what the engine has made of this process: its arena, the sites of a function, where they lead. */
#ifndef ARENA_H
#define ARENA_H
#include "check.h"
#include <fcntl.h>

struct range {
    word start, end;
    char permissions[5];
    char path[160];
};

/* Reads the maps into `out` without the heap; how many there are. */
static inline int read_maps(struct range *out, int most) {
    static __thread char text[1 << 17];
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0, "no maps");
    size_t length = 0;
    for (ssize_t n; (n = read(fd, text + length, sizeof text - 1 - length)) > 0;) length += n;
    close(fd);
    text[length] = 0;
    int count = 0;
    for (char *line = strtok(text, "\n"); line && count < most; line = strtok(NULL, "\n")) {
        struct range *r = &out[count++];
        r->path[0] = 0;
        sscanf(line, "%lx-%lx %4s %*s %*s %*s %159[^\n]", &r->start, &r->end, r->permissions, r->path);
    }
    return count;
}

static inline int is_arena(const struct range *r) {
    return strstr(r->path, "memfd:relpoline") != NULL;
}

/* Whether an address lies in executable pages of the engine's. */
static inline int in_arena(word address) {
    static __thread struct range maps[1024];
    int count = read_maps(maps, 1024);
    for (int i = 0; i < count; i++)
        if (is_arena(&maps[i]) && maps[i].permissions[2] == 'x' && address - maps[i].start < maps[i].end - maps[i].start)
            return 1;
    return 0;
}

/* Where the direct call or jump at `at` leads. */
static inline word leads_to(const unsigned char *at) {
    int32_t displacement;
    memcpy(&displacement, at + 1, 4);
    return (word)at + 5 + displacement;
}

/* Where the first call of a function leads. */
static inline word first_call_of(void *function) {
    const unsigned char *at = function;
    while (*at != 0xe8) at++;
    return leads_to(at);
}

/* The sites of a function that were led into the arena: calls and jumps in its first `length` bytes. */
static inline int find_sites(void *function, size_t length, const unsigned char **out, int most) {
    const unsigned char *code = function;
    int count = 0;
    for (size_t i = 0; i + 5 <= length && count < most; i++)
        if ((code[i] == 0xe8 || code[i] == 0xe9) && in_arena(leads_to(code + i)))
            out[count++] = code + i;
    return count;
}

/* Whether the calls of a site reach a tree: not the thunk, nor the stubs that count and record. */
static inline int is_promoted(const unsigned char *site) {
    const unsigned char *at = (const unsigned char *)leads_to(site);
    for (int hops = 0; hops < 4 && *at == 0xe9; hops++) at = (const unsigned char *)leads_to(at);
    int counts = at[0] == 0xff, records = (at[0] & 0xf8) == 0x50, thunk = at[0] == 0xe8;
    return in_arena((word)at) && !counts && !records && !thunk;
}

/* Whether a site goes to a gate that holds a copy of gcc's thunk. */
static inline int is_at_thunk(const unsigned char *site) {
    static const unsigned char head[8] = { 0xe8, 7, 0, 0, 0, 0xf3, 0x90, 0x0f };
    return memcmp((void *)leads_to(site), head, 8) == 0;
}
#endif
