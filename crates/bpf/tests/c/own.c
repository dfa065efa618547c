/* Everything that relpoline_bpf.h declares, and what differs from ubpf's. The object is the first argument. */
#define RELPOLINE_BPF_ONLY_OWN_NAMES
#include "relpoline_bpf.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "line %d: %s; %s\n", __LINE__, #condition, message ? message : "");                        \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)

static uint64_t twice(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) {
    (void)b, (void)c, (void)d, (void)e;
    return 2 * a;
}

static char file[1 << 20];

int main(int count, char **arguments) {
    char *message = NULL;
    FILE *object = count > 1 ? fopen(arguments[1], "rb") : NULL;
    CHECK(object);
    size_t len = fread(file, 1, sizeof file, object);
    unsigned char in[8] = {21};
    uint64_t result = 0, value = 7;
    uint32_t key = 1, before = 1;
    struct relpoline_bpf *machine = relpoline_bpf_create();

    CHECK(relpoline_bpf_exec(machine, in, sizeof in, &result) == -1);
    CHECK(relpoline_bpf_compile(machine, &message) == NULL && message && strstr(message, "nothing is loaded"));
    free(message), message = NULL;
    CHECK(relpoline_bpf_load_elf(machine, "no object", 9, &message) == -1 && strstr(message, "not an eBPF object"));
    free(message), message = NULL;
    /* The function that it calls is nobody's yet. */
    CHECK(relpoline_bpf_load_elf_ex(machine, file, len, "doubles", &message) == -1 && strstr(message, "'twice'"));
    free(message), message = NULL;
    CHECK(relpoline_bpf_register(machine, 12, "tail_call", twice) == -1);
    CHECK(relpoline_bpf_register(machine, 60, "twice", NULL) == -1);
    CHECK(relpoline_bpf_register(machine, 60, "twice", twice) == 0);
    CHECK(relpoline_bpf_load_elf_ex(machine, file, len, "nobody", &message) == -1 && strstr(message, "nobody"));
    free(message), message = NULL;

    CHECK(relpoline_bpf_load_elf(machine, file, len, &message) == 0);
    CHECK(relpoline_bpf_exec(machine, in, sizeof in, &result) == 0 && result == 42);
    relpoline_bpf_compiled function = relpoline_bpf_compile(machine, &message);
    CHECK(function && function == relpoline_bpf_compile(machine, NULL) && function(in, sizeof in) == 42);
    CHECK(relpoline_bpf_register(machine, 61, "late", twice) == -1);
    CHECK(relpoline_bpf_load_elf(machine, file, len, &message) == -1 && strstr(message, "already"));
    free(message), message = NULL;
    relpoline_bpf_unload_code(machine);
    CHECK(function(in, sizeof in) == UINT64_MAX);

    CHECK(relpoline_bpf_load_elf_ex(machine, file, len, "adds", &message) == 0);
    CHECK(relpoline_bpf_map_update(machine, "values", &key, &value) == 0);
    CHECK(relpoline_bpf_exec(machine, in, sizeof in, &result) == 0 && result == 28);
    CHECK(relpoline_bpf_map_lookup(machine, "values", &key, &value) == 0 && value == 28);
    key = 2;
    CHECK(relpoline_bpf_map_lookup(machine, "values", &key, &value) == -1);
    CHECK(relpoline_bpf_map_update(machine, "nothing", &key, &value) == -1);
    relpoline_bpf_unload_code(machine);

    CHECK(relpoline_bpf_load_elf_ex(machine, file, len, "steps_on", &message) == 0);
    CHECK(relpoline_bpf_exec(machine, in, sizeof in, &result) == 0 && result == 99);
    CHECK(relpoline_bpf_array_update(machine, "steps", 1, "doubles", &message) == 0);
    CHECK(relpoline_bpf_exec(machine, in, sizeof in, &result) == 0 && result == 42);
    CHECK(relpoline_bpf_array_update(machine, "steps", 1, NULL, &message) == 0);
    CHECK(relpoline_bpf_exec(machine, in, sizeof in, &result) == 0 && result == 99);
    CHECK(relpoline_bpf_array_update(machine, "steps", 9, "doubles", &message) == -1 && strstr(message, "beyond"));
    free(message), message = NULL;
    CHECK(relpoline_bpf_array_update(machine, "steps", 0, "nobody", NULL) == -1);
    relpoline_bpf_unload_code(machine);

    CHECK(relpoline_bpf_load_elf_ex(machine, file, len, "careless", &message) == 0);
    CHECK(relpoline_bpf_exec_told(machine, in, sizeof in, &result, &message) == -1 && strstr(message, "out of bounds"));
    free(message), message = NULL;
    relpoline_bpf_unload_code(machine);

    /* A loop without end: goto -1. */
    static const unsigned char endless[] = {5, 0, 0xff, 0xff, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0};
    CHECK(relpoline_bpf_set_instruction_limit(machine, 1000, &before) == 0 && before == 1 << 30);
    CHECK(relpoline_bpf_load(machine, endless, sizeof endless, &message) == 0);
    CHECK(relpoline_bpf_set_instruction_limit(machine, 0, NULL) == -1);
    CHECK(relpoline_bpf_exec_told(machine, NULL, 0, &result, &message) == -1 && strstr(message, "budget"));
    free(message), message = NULL;
    relpoline_bpf_unload_code(machine);
    CHECK(relpoline_bpf_load(machine, endless, 7, &message) == -1 && strstr(message, "multiple of 8"));
    free(message), message = NULL;

    /* Unchecked: r0 = *(u8 *)(r1 + 0); exit, over an address that the run was not given. */
    static const unsigned char reads[] = {0x79, 0x11, 0, 0, 0, 0, 0, 0, 0x71, 0x10, 0, 0, 0, 0, 0, 0,
                                          0x95, 0,    0, 0, 0, 0, 0, 0};
    static unsigned char outside = 5;
    unsigned char *pointer = &outside;
    CHECK(relpoline_bpf_load(machine, reads, sizeof reads, &message) == 0);
    CHECK(relpoline_bpf_exec(machine, &pointer, sizeof pointer, &result) == -1);
    relpoline_bpf_unload_code(machine);
    CHECK(relpoline_bpf_toggle_bounds_check(machine, false) == true);
    CHECK(relpoline_bpf_load(machine, reads, sizeof reads, &message) == 0);
    CHECK(relpoline_bpf_exec(machine, &pointer, sizeof pointer, &result) == 0 && result == 5);
    CHECK(relpoline_bpf_toggle_bounds_check(machine, true) == false);
    relpoline_bpf_destroy(machine);

    /* Sixty-four have functions, and no more. */
    struct relpoline_bpf *many[65];
    static const unsigned char nothing[] = {0xb7, 0, 0, 0, 3, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0};
    for (int i = 0; i < 65; i++) {
        many[i] = relpoline_bpf_create();
        CHECK(relpoline_bpf_load(many[i], nothing, sizeof nothing, &message) == 0);
        relpoline_bpf_compiled one = relpoline_bpf_compile(many[i], &message);
        CHECK(i < 64 ? one && one(NULL, 0) == 3 : !one && strstr(message, "64 machines"));
    }
    free(message), message = NULL;
    for (int i = 0; i < 65; i++)
        relpoline_bpf_destroy(many[i]);
    relpoline_bpf_destroy(NULL);
    puts("all of it");
    return 0;
}
