/* Starts, timed: `starts exec ROUNDS PROGRAM ARGUMENT…` or `starts fork ROUNDS`. Prints how long one takes in milliseconds,
 * that which a twentieth of them stay below: what disturbs the machine only ever makes a start longer. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static long first(long x) { return x + 1; }
static long second(long x) { return x ^ 7; }
static long (*volatile const targets[])(long) = { first, second };

/* What is promoted when it forks. */
static long work(long calls) {
    long x = 1;
    for (long i = 0; i < calls; i++) x = targets[i & 1](x);
    return x;
}

static int started(char **words) {
    posix_spawn_file_actions_t quietly;
    posix_spawn_file_actions_init(&quietly);
    posix_spawn_file_actions_addopen(&quietly, 1, "/dev/null", O_WRONLY, 0);
    pid_t child;
    int status, error = posix_spawn(&child, words[0], &quietly, NULL, words, environ);
    posix_spawn_file_actions_destroy(&quietly);
    return !error && waitpid(child, &status, 0) == child && status == 0;
}

static int forked(void) {
    int status;
    pid_t child = fork();
    if (child == 0) _exit(0);
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int is_fork = strcmp(argv[1], "fork") == 0, rounds = atoi(argv[2]);
    double *took = calloc((size_t)rounds + 1, sizeof *took);
    if (is_fork && work(2000000) == 0) return 3;
    for (int i = 0; i < rounds; i++) {
        double begun = now();
        if (!(is_fork ? forked() : started(argv + 3))) return 4;
        took[i] = now() - begun;
    }
    qsort(took, (size_t)rounds, sizeof *took, ascending);
    printf("%.5f\n", took[rounds / 20]);
    return 0;
}
