/* The torture program: threads call sites of every kind and check each call, while others do everything to them that
 * may go wrong. Started by `relpoline torture` as: torture BOARD SECONDS THREADS EXCHANGED EXCHANGED PLUGIN… */
#include "torture.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MOST_THREADS 256
/* Calls of one kind before the next. */
#define BATCH 20000

struct board *board;
volatile int stop;
__thread word entered;
unsigned char patterns[MODES][PATTERN];
const char *program_path, *board_path;
char **exchanged;
char **plugins;
int plugin_count;

void count(enum counter which, word how_many) {
    __atomic_fetch_add(&board->counters[which].value, how_many, __ATOMIC_RELAXED);
}

static word value(enum counter which) { return __atomic_load_n(&board->counters[which].value, __ATOMIC_RELAXED); }

void wrong(const char *format, ...) {
    word number = __atomic_fetch_add(&board->counters[WRONG].value, 1, __ATOMIC_RELAXED);
    if (number < NOTES) {
        va_list list;
        va_start(list, format);
        vsnprintf(board->notes[number].text, sizeof board->notes->text, format, list);
        va_end(list);
    }
}

/* The line of /proc/self/maps in which an address lies, "nothing" without one. */
static const char *mapping(word address) {
    static char text[1 << 18];
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    for (ssize_t n; fd >= 0 && (n = read(fd, text + length, sizeof text - 1 - length)) > 0;) length += n;
    close(fd);
    text[length] = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        word start, end;
        if (sscanf(line, "%lx-%lx", &start, &end) == 2 && address - start < end - start) return line;
    }
    return "nothing";
}

/* A crash is noted like any other fault, also in a child: where, and what is there. Then it happens, with a core where the
 * system leaves one. */
static void on_crash(int signal, siginfo_t *info, void *context) {
    const greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct sigaction action = { 0 };
    word at = registers[REG_RIP], stack = registers[REG_RSP], address = (word)info->si_addr;
    char places[3][100], code[49] = "";
    unsigned char bytes[16];
    snprintf(places[0], sizeof places[0], "%s", mapping(at));
    snprintf(places[1], sizeof places[1], "%s", mapping(address));
    snprintf(places[2], sizeof places[2], "%s", mapping(stack));
    /* Through the kernel: it may be a place that cannot be read. */
    int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    ssize_t length = pread(memory, bytes, sizeof bytes, (off_t)at);
    close(memory);
    for (int i = 0; i < length; i++) sprintf(code + 3 * i, "%02x ", bytes[i]);
    wrong("process %d: signal %d (%d) at %lx: %sin %s; address %lx in %s; stack %lx in %s", getpid(), signal, info->si_code, at,
          code, places[0], address, places[1], stack, places[2]);
    action.sa_handler = SIG_DFL;
    sigaction(signal, &action, NULL);
    raise(signal); /* comes when this returns, where it came from */
}

static void note_crashes(void) {
    static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGABRT };
    struct sigaction action = { .sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    for (word i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, NULL);
}

/* Orders of targets: one, few in turn, many, skewed, at random, in runs. */
static void make_patterns(void) {
    static const word in_turn[] = { 1, 1, 2, 3, 4, 8, 24 };
    word state = 2463534242;
    for (int mode = 0; mode < MODES; mode++)
        for (word i = 0; i < PATTERN; i++) {
            word random = next_random(&state) >> 8;
            patterns[mode][i] = (unsigned char)(mode < 7 ? i % in_turn[mode]
                : mode == 7 ? random % 16 ? 0 : random / 16 % 64
                : mode == 8 ? random % 2
                : mode == 9 ? random % 64
                : mode == 10 ? i / 16 % 4
                : random % 8 * (random / 8 % 2));
        }
}

static volatile word phase;

/* Other targets for everybody, every few milliseconds. */
void *flap(void *unused) {
    word state = 0x9e3779b97f4a7c15;
    while (!stop) {
        phase = next_random(&state) >> 11;
        count(EVENT_FLAP, 1);
        pause_for(state & (1 << 20) ? 30000 : state & (1 << 21) ? 4000 : 500);
    }
    return unused;
}

static word kinds_of(const struct kind *const *build) {
    word n = 0;
    while ((*build)[n].name) n++;
    return n;
}

static const struct kind *kind_number(word n) {
    static word total;
    if (!total)
        for (word b = 0; builds[b]; b++) total += kinds_of(&builds[b]);
    n %= total;
    for (word b = 0;; b++) {
        word here = kinds_of(&builds[b]);
        if (n < here) return &builds[b][n];
        n -= here;
    }
}

void torment(word n, word seed, word calls, enum counter counter) {
    const struct kind *kind = kind_number(n);
    word made = kind->run(patterns[seed % MODES], seed / MODES % 64, calls);
    count(counter == WRONG ? kind->counter : counter, made);
}

/* Goes through all kinds. What a kind calls depends on the phase; sometimes on the thread too. */
static void *call(void *argument) {
    word number = (word)argument;
    small_signal_stack();
    is_target_of_signals((int)number);
    for (word n = number * 7; !stop; n++) {
        word now = phase, own = (now >> 9) % 4 ? 0 : number * 12;
        torment(n, (now + n * 5) % 31 * 12 + now % 12 + own, BATCH, WRONG);
    }
    return NULL;
}

/* A short life, as a program that was started: every kind once or twice. */
static int live_shortly(void) {
    for (word n = 0; n < 90; n++) torment(n, n * 17, 3000, STARTED);
    return 0;
}

static void name_counters(void) {
    static const char *const names[] = {
#define TEXT_OF(name, text) text,
        COUNTERS(TEXT_OF)
    };
    board->count = COUNTER_COUNT;
    for (int i = 0; i < COUNTER_COUNT; i++) {
        strncpy(board->counters[i].name, names[i], sizeof board->counters->name - 1);
        board->counters[i].value = 0;
    }
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Until the time is over, or something was wrong. */
static void wait_until(double end) {
    while (seconds_now() < end && !value(WRONG)) pause_for(10000);
    stop = 1;
}

static void start(pthread_t *thread, void *(*work)(void *), word number) {
    if (pthread_create(thread, NULL, work, (void *)number)) {
        perror("a thread cannot be made");
        exit(3);
    }
}

static word count_environment(void) {
    word entries = 0;
    while (environ && environ[entries]) entries++;
    return entries;
}

int main(int argc, char **argv) {
    static pthread_t threads[MOST_THREADS + 16];
    static void *(*const disturbers[])(void *) = { flap, switch_off_and_on, load_libraries, fork_children, send_signals,
                                                   be_jumped_out_of, throw_exceptions, resume_coroutines,
                                                   walk_through_objects, start_in_odd_environments,
#ifdef WITH_CPP
                                                   be_profiled, throw_out_of_handlers, cancel_threads,
#endif
    };
    /* Started in an odd environment: of so many entries. */
    if (argc == 3) return count_environment() != strtoul(argv[2], NULL, 10);
    int file = argc > 1 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
    board = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (board == MAP_FAILED) {
        fprintf(stderr, "this is the torture program of relpoline torture, which starts it\n");
        return 2;
    }
    small_signal_stack();
    note_crashes();
    make_patterns();
    if (argc == 2) return live_shortly();
    word callers = strtoul(argv[3], NULL, 10), count = 0;
    if (callers > MOST_THREADS) callers = MOST_THREADS;
    program_path = argv[0];
    board_path = argv[1];
    exchanged = argv + 4;
    plugins = argv + 6;
    plugin_count = argc - 6;
    name_counters();
    catch_signals();
    double end = seconds_now() + strtod(argv[2], NULL);
    board->pid = (word)getpid();
    for (word i = 0; i < callers; i++) start(&threads[count++], call, i);
    for (word i = 0; i < sizeof disturbers / sizeof *disturbers; i++) start(&threads[count++], disturbers[i], i);
    wait_until(end);
    for (word i = 0; i < count; i++) pthread_join(threads[i], NULL);
    board->ended = 1;
    return value(WRONG) != 0;
}
