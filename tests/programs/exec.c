/* Starts the program argv[2] in the way argv[1]. */
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>

DISPATCHER(starter_site)

extern char **environ;
static char *const environment[] = { "ONE=1", "TWO=2", NULL };
static char *const nothing[] = { NULL };

static void spawn(int (*how)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *, char *const *),
                  const char *path, char *const *env) {
    char *const list[] = { "spawned", "a", "b c", "", NULL };
    pid_t pid;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 9, "/dev/null", O_RDONLY, 0);
    int error = how(&pid, path, &actions, NULL, list, env);
    int status = -1;
    if (!error) waitpid(pid, &status, 0);
    printf("error %d, status %x\n", error, status);
}

static void through_shell(const char *path) {
    char line[512];
    snprintf(line, sizeof line, "%s x 'y z' | cat", path);
    fflush(stdout);
    printf("system %x\n", system(line));
    FILE *pipe = popen(line, "r");
    while (fgets(line, sizeof line, pipe)) printf("popen: %s", line);
    printf("pclose %x\n", pclose(pipe));
}

int main(int argc, char **argv) {
    CHECK(argc == 3, "arguments");
    const char *how = argv[1], *path = argv[2];
    char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    char *const list[] = { "zero", "one", "two words", "", "seven", NULL };
    starter_site(1, 2, 100000);
    if (slash) {
        char directories[600];
        snprintf(directories, sizeof directories, "/nowhere:%.*s:/usr/bin:/bin", (int)(slash - path), path);
        setenv("PATH", directories, 1);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
#define IS(s) (strcmp(how, s) == 0)
    if (IS("execl")) execl(path, "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20", NULL);
    else if (IS("execl1")) execl(path, "0", NULL);
    else if (IS("execl4")) execl(path, "0", "1", "2", "3", NULL);
    else if (IS("execl5")) execl(path, "0", "1", "2", "3", "4", NULL);
    else if (IS("execlp")) execlp(name, "0", "1", "2", "3", "4", "5", NULL);
    else if (IS("execle")) execle(path, "0", "1", "2", "3", "4", "5", "6", NULL, environment);
    else if (IS("execle2")) execle(path, "0", "1", NULL, environment);
    else if (IS("execv")) execv(path, list);
    else if (IS("execvp")) execvp(name, list);
    else if (IS("execvpe")) execvpe(name, list, environment);
    else if (IS("execve")) execve(path, list, environment);
    else if (IS("empty")) execve(path, list, nothing);
    else if (IS("fexecve")) fexecve(open(path, O_RDONLY | O_CLOEXEC), list, environ);
    else if (IS("clear")) clearenv(), execv(path, list);
    else if (IS("null")) execve(path, list, NULL);
    else if (IS("posix_spawn")) return spawn(posix_spawn, path, environment), 0;
    else if (IS("posix_spawnp")) return spawn(posix_spawnp, name, environ), 0;
    else if (IS("system")) return through_shell(path), 0;
    else CHECK(0, "no such way: %s", how);
    int error = errno;
    starter_site(1, 2, 1000); /* a failed exec must leave everything as it was */
    printf("%s: %s\n", how, strerror(error));
    return 3;
}
