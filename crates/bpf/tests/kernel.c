/* Runs every program of an object in the kernel's test run, for tests/helpers.rs and tests/corpus.rs: the name, the result,
   the packet's length and a sum of it; once over a packet of 64 bytes, or over those of a file, each behind its length.
   cc -o kernel kernel.c -lbpf; needs root. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char out[70000], packets[1 << 20] = {64};
static unsigned used = 68;

static int quiet(enum libbpf_print_level level, const char *format, va_list arguments) {
    return getenv("LOUD") ? vfprintf(stderr, format, arguments) : 0;
}

/* Names of sections that libbpf took once, and takes for nothing today. */
static void name_type(struct bpf_program *program) {
    const char *section = bpf_program__section_name(program);
    if (bpf_program__type(program) != BPF_PROG_TYPE_UNSPEC)
        return;
    if (!strncmp(section, "xdp", 3))
        bpf_program__set_type(program, BPF_PROG_TYPE_XDP);
    else if (!strncmp(section, "tc", 2))
        bpf_program__set_type(program, BPF_PROG_TYPE_SCHED_CLS);
}

/* Loads and runs the n-th program alone, with maps of its own. */
static int one(const char *file, int n) {
    struct bpf_object *object = bpf_object__open(file);
    struct bpf_program *program, *wanted = NULL;
    int at = 0;
    if (!object)
        return -1;
    struct bpf_map *map;
    bpf_object__for_each_map(map, object)
        bpf_map__set_pin_path(map, NULL);
    bpf_object__for_each_program(program, object) {
        name_type(program);
        bpf_program__set_autoload(program, at == n);
        if (at++ == n)
            wanted = program;
    }
    if (!wanted)
        return -1;
    if (bpf_object__load(object)) {
        printf("%s refused\n", bpf_program__name(wanted));
    } else {
        for (unsigned at = 0, len; at < used; at += 4 + len) {
            memcpy(&len, packets + at, 4);
            LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packets + at + 4, .data_size_in = len, .data_out = out,
                        .data_size_out = sizeof out);
            int error = bpf_prog_test_run_opts(bpf_program__fd(wanted), &options);
            if (error) {
                printf("%s not run: %s\n", bpf_program__name(wanted), strerror(-error));
                continue;
            }
            unsigned sum = 0;
            for (unsigned i = 0; i < options.data_size_out; i++)
                sum = sum * 31 + out[i];
            printf("%s %d %u %08x\n", bpf_program__name(wanted), (int)options.retval, options.data_size_out, sum);
        }
    }
    bpf_object__close(object);
    return 0;
}

int main(int count, char **arguments) {
    libbpf_set_print(quiet);
    FILE *file = count > 2 ? fopen(arguments[2], "rb") : NULL;
    unsigned char *first = packets + 4;
    for (int i = 0; i < 64; i++)
        first[i] = i;
    first[12] = 8, first[13] = 0, first[14] = 0x45;
    if (file)
        used = fread(packets, 1, sizeof packets, file);
    for (int n = 0; count > 1 && !one(arguments[1], n); n++)
        ;
}
