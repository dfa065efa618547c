/* Runs every program of an object in the kernel's test run, for tests/helpers.rs and tests/corpus.rs: the name, the result,
   the packet's length and a sum of it; once over a packet of 64 bytes, or over those of a file, each behind its length.
   With a third argument also what its maps hold afterwards: "name map", the map, its entries and a sum over them in the order
   of their keys, values of several CPUs added up.
   cc -o kernel kernel.c -lbpf; needs root. */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sched.h>
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
    /* What some hosts call socket filters, and iproute2 programs. */
    else if (!strcmp(section, "filter") || !strcmp(section, "loadbalancer"))
        bpf_program__set_type(program, BPF_PROG_TYPE_SOCKET_FILTER);
    else if (!strcmp(section, "prog"))
        bpf_program__set_type(program, BPF_PROG_TYPE_XDP);
}

static unsigned key_size;

static int by_key(const void *a, const void *b) { return memcmp(a, b, key_size); }

static unsigned sum_of(unsigned sum, const unsigned char *bytes, unsigned len) {
    for (unsigned i = 0; i < len; i++)
        sum = sum * 31 + bytes[i];
    return sum;
}

/* What is in a map that has values by key. */
static void show(const char *program, struct bpf_map *map) {
    enum bpf_map_type type = bpf_map__type(map);
    int percpu = type == BPF_MAP_TYPE_PERCPU_ARRAY || type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
    if (!percpu && type != BPF_MAP_TYPE_ARRAY && type != BPF_MAP_TYPE_HASH && type != BPF_MAP_TYPE_LRU_HASH &&
        type != BPF_MAP_TYPE_LPM_TRIE)
        return;
    /* Not what is only read, and not what takes long. */
    const char *name = bpf_map__name(map), *section = strchr(name, '.');
    /* Those of data sections have the file's name before the section's. */
    name = section ? section : name;
    if (!strncmp(name, ".rodata", 7) || !strncmp(name, ".kconfig", 8) || bpf_map__max_entries(map) > 65536)
        return;
    int fd = bpf_map__fd(map), cpus = percpu ? libbpf_num_possible_cpus() : 1;
    unsigned value_size = (bpf_map__value_size(map) + 7) & ~7u, most = bpf_map__max_entries(map), count = 0, sum = 0;
    key_size = bpf_map__key_size(map);
    unsigned char *keys = calloc(most + 1, key_size);
    unsigned long long *value = calloc(cpus, value_size);
    for (void *last = NULL; count < most; count++) {
        if (bpf_map_get_next_key(fd, last, keys + (size_t)count * key_size))
            break;
        last = keys + (size_t)count * key_size;
    }
    qsort(keys, count, key_size, by_key);
    for (unsigned n = 0; n < count; n++) {
        unsigned char *key = keys + (size_t)n * key_size;
        memset(value, 0, (size_t)cpus * value_size);
        if (bpf_map_lookup_elem(fd, key, value))
            continue;
        for (int cpu = 1; cpu < cpus; cpu++)
            for (unsigned i = 0; i < value_size / 8; i++)
                value[i] += value[cpu * (value_size / 8) + i];
        sum = sum_of(sum_of(sum, key, key_size), (void *)value, value_size);
    }
    printf("%s map %s %u %08x\n", program, name, count, sum);
    free(keys);
    free(value);
}

/* Loads and runs the n-th program alone, with maps of its own. */
static int one(const char *file, int n, int maps) {
    struct bpf_object *object = bpf_object__open(file);
    struct bpf_program *program, *wanted = NULL;
    int at = 0;
    if (!object)
        return -1;
    struct bpf_map *map;
    bpf_object__for_each_map(map, object) {
        bpf_map__set_pin_path(map, NULL);
        /* For the host to size; of event arrays and rings libbpf does it. */
        if (!bpf_map__max_entries(map) && bpf_map__type(map) != BPF_MAP_TYPE_PERF_EVENT_ARRAY &&
            bpf_map__type(map) != BPF_MAP_TYPE_RINGBUF)
            bpf_map__set_max_entries(map, 2);
    }
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
            unsigned sum = sum_of(0, out, options.data_size_out);
            printf("%s %d %u %08x\n", bpf_program__name(wanted), (int)options.retval, options.data_size_out, sum);
        }
    }
    if (maps && bpf_program__fd(wanted) >= 0)
        bpf_object__for_each_map(map, object)
            if (bpf_map__fd(map) >= 0)
                show(bpf_program__name(wanted), map);
    bpf_object__close(object);
    return 0;
}

int main(int count, char **arguments) {
    /* Values of one CPU, whose number is that of a slot here: some programs count by it. */
    cpu_set_t one_cpu;
    CPU_ZERO(&one_cpu);
    CPU_SET(0, &one_cpu);
    sched_setaffinity(0, sizeof one_cpu, &one_cpu);
    libbpf_set_print(quiet);
    FILE *file = count > 2 ? fopen(arguments[2], "rb") : NULL;
    unsigned char *first = packets + 4;
    for (int i = 0; i < 64; i++)
        first[i] = i;
    first[12] = 8, first[13] = 0, first[14] = 0x45;
    if (file)
        used = fread(packets, 1, sizeof packets, file);
    for (int n = 0; count > 1 && !one(arguments[1], n, count > 3); n++)
        ;
}
