/*
 * ubpf as a peer of `relpoline bpf bench`: for each line on stdin a line on stdout, nanoseconds of a run with 33 hops,
 * of one without, and of one that adds up 64 bytes.
 *
 * ubpf has no tail calls: 33 hops are 33 more runs that the host starts, each program telling it which is next.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ubpf.h>

enum { HOPS = 33 };

struct program {
    struct ubpf_vm *vm;
    ubpf_jit_fn compiled;
};

static int interpret;
static uint8_t input[64];

static struct program load(const uint8_t *code, uint32_t len) {
    char *error = NULL;
    struct program program = {ubpf_create(), NULL};
    if (program.vm == NULL || ubpf_load(program.vm, code, len, &error) != 0) {
        fprintf(stderr, "ubpf: cannot load: %s\n", error ? error : "?");
        exit(1);
    }
    program.compiled = ubpf_compile(program.vm, &error);
    if (program.compiled == NULL) {
        fprintf(stderr, "ubpf: cannot compile: %s\n", error ? error : "?");
        exit(1);
    }
    return program;
}

static uint64_t run(const struct program *program) {
    uint64_t result = 0;
    if (!interpret)
        return program->compiled(input, sizeof input);
    if (ubpf_exec(program->vm, input, sizeof input, &result) != 0)
        exit(1);
    return result;
}

static uint64_t chain(const struct program *programs) {
    uint64_t at = 0;
    while (at <= HOPS)
        at = run(&programs[at]);
    return at;
}

static double since(struct timespec begin) {
    struct timespec end;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    return (end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec);
}

static double time_of(uint64_t (*what)(const struct program *), const struct program *programs, int runs) {
    struct timespec begin;
    volatile uint64_t sink;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
    for (int i = 0; i < runs; i++)
        sink = what(programs);
    (void)sink;
    return since(begin) / runs;
}

int main(int argc, char **argv) {
    static const uint8_t sum[][8] = {
        {0xb7, 0x00}, {0xb7, 0x03, 0, 0, 64}, {0x71, 0x14}, {0x0f, 0x40}, {0x07, 0x01, 0, 0, 1},
        {0x17, 0x03, 0, 0, 1}, {0x55, 0x03, 0xfb, 0xff}, {0x95},
    };
    struct program programs[HOPS + 1], adding = load(&sum[0][0], sizeof sum);
    char line[64];
    interpret = argc > 1 && strcmp(argv[1], "interpreter") == 0;
    for (int i = 0; i <= HOPS; i++) {
        const uint8_t link[][8] = {{0xb7, 0, 0, 0, (uint8_t)(i + 1)}, {0x95}};
        programs[i] = load(&link[0][0], sizeof link);
    }
    memset(input, 1, sizeof input);
    while (fgets(line, sizeof line, stdin)) {
        int runs = interpret ? 2000 : 20000;
        double with = time_of(chain, programs, runs), without = time_of(run, programs, runs);
        printf("%f %f %f\n", with, without, time_of(run, &adding, runs));
        fflush(stdout);
    }
    return 0;
}
