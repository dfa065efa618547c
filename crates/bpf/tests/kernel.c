/* Runs every program of an object once in the kernel's test run, for tests/helpers.rs: the name, the result, the packet.
   cc -o kernel kernel.c -lbpf; needs root. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char packet[64], out[20000];

static int quiet(enum libbpf_print_level level, const char *format, va_list arguments) {
    return getenv("LOUD") ? vfprintf(stderr, format, arguments) : 0;
}

/* Loads and runs the n-th program alone. */
static int one(const char *file, int n) {
    struct bpf_object *object = bpf_object__open(file);
    struct bpf_program *program, *wanted = NULL;
    int at = 0;
    if (!object)
        return -1;
    bpf_object__for_each_program(program, object) {
        bpf_program__set_autoload(program, at == n);
        if (at++ == n)
            wanted = program;
    }
    if (!wanted)
        return -1;
    if (bpf_object__load(object)) {
        printf("%s refused\n", bpf_program__name(wanted));
    } else {
        LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet, .data_size_in = sizeof packet, .data_out = out,
                    .data_size_out = sizeof out);
        int error = bpf_prog_test_run_opts(bpf_program__fd(wanted), &options);
        if (error) {
            printf("%s not run: %s\n", bpf_program__name(wanted), strerror(-error));
        } else {
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
    for (int i = 0; i < 64; i++)
        packet[i] = i;
    packet[12] = 8, packet[13] = 0, packet[14] = 0x45;
    for (int n = 0; count > 1 && !one(arguments[1], n); n++)
        ;
}
