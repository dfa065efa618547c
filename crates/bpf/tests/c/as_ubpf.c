/* A program as it is written for ubpf, with another include. The object is the first argument. */
#include "relpoline_bpf.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t twice(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) {
    (void)b, (void)c, (void)d, (void)e;
    return 2 * a;
}

int main(int count, char **arguments) {
    static char code[1 << 20];
    FILE *file = count > 1 ? fopen(arguments[1], "rb") : NULL;
    if (!file)
        return 1;
    size_t code_len = fread(code, 1, sizeof code, file);

    struct ubpf_vm *vm = ubpf_create();
    char *errmsg = NULL;
    ubpf_toggle_bounds_check(vm, true);
    if (ubpf_register(vm, 0, "twice", as_external_function_t((void *)twice)) < 0)
        return 1;
    if (ubpf_load_elf(vm, code, code_len, &errmsg) < 0) {
        fprintf(stderr, "Failed to load code: %s\n", errmsg);
        free(errmsg);
        ubpf_destroy(vm);
        return 1;
    }
    unsigned char mem[16] = {21};
    uint64_t ret;
    ubpf_jit_fn fn = ubpf_compile(vm, &errmsg);
    if (fn == NULL || ubpf_exec(vm, mem, sizeof mem, &ret) < 0)
        return 1;
    printf("0x%" PRIx64 " 0x%" PRIx64 "\n", ret, fn(mem, sizeof mem));
    ubpf_destroy(vm);
    return 0;
}
