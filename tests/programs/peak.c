// What a command takes: peak FILE PROGRAM [ARGUMENT]... runs it, ends as it did, and writes to FILE the most memory that it or one
// of its children had at a time (KiB) and the processor's time that all took (ms).
//
// A program of its own: what wait4 tells of a child includes the memory of the process that it was before it called exec.
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    pid_t child = fork();
    if (child == 0) {
        execv(argv[2], argv + 2);
        perror(argv[2]);
        _exit(127);
    }
    int status = 0;
    struct rusage used;
    if (child < 0 || wait4(child, &status, 0, &used) != child) return 2;
    FILE *file = fopen(argv[1], "w");
    if (!file) return 2;
    long ms = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
    fprintf(file, "%ld %ld\n", used.ru_maxrss, ms);
    fclose(file);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
