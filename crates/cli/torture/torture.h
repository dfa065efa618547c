/* What the parts of the torture program share: callees that say who they are, counters that outlive a crash, and a note
 * of everything that was wrong. Part of the command relpoline, which compiles it (src/torture). */
#ifndef TORTURE_H
#define TORTURE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef unsigned long word;
typedef word callee_t(word);

#ifdef __clang__
#define OPAQUE __attribute__((noinline, unused))
#else
/* Neither inlined nor cloned nor seen through: the compiler must call it as written. */
#define OPAQUE __attribute__((noipa, unused))
#endif
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* Every counter: its name here, and what the summary calls it. */
#define COUNTERS(m)                                                                                \
    m(CALL, "calls by register") m(TAIL, "tail jumps") m(GOTO, "computed gotos")                   \
    m(ARGUMENTS, "calls with all kinds of arguments") m(LIBRARY, "calls into libraries")           \
    m(REGISTERS, "calls with every register compared") m(FLAGS, "gotos with every flag compared")  \
    m(VIRTUAL, "virtual calls") m(PLUGIN, "calls from and into loaded libraries")                  \
    m(HANDLER, "calls in signal handlers") m(CHILD, "calls in children")                           \
    m(COROUTINE, "calls in coroutines") m(STARTED, "calls in programs started meanwhile")          \
    m(PROFILED, "calls interrupted and unwound")                                                   \
    m(EVENT_SWITCH, "disabled and enabled") m(EVENT_FLAP, "changes of targets")                    \
    m(EVENT_LOAD, "libraries loaded and unloaded") m(EVENT_FORK, "children forked")                \
    m(EVENT_VFORK, "children vforked") m(EVENT_START, "programs started")                          \
    m(EVENT_SIGNAL, "signals handled") m(EVENT_JUMP, "handlers left by longjmp")                   \
    m(EVENT_THROW, "exceptions thrown") m(EVENT_RESUME, "coroutines resumed")                      \
    m(EVENT_SAMPLE, "profiler's samples, each with all frames")                                    \
    m(EVENT_HANDLER_THREW, "handlers that threw") m(EVENT_CANCEL, "threads cancelled anywhere")    \
    m(EVENT_WALK, "walks through lists of objects that change")                                    \
    m(EVENT_STORM, "programs started with odd environments")                                       \
    m(WRONG, "wrong")

enum counter {
#define NAME(name, text) name,
    COUNTERS(NAME)
#undef NAME
    COUNTER_COUNT
};

/* The file that the command reads, mapped by the program and its children: src/torture/board.rs has the same layout. */
#define NOTES 16
struct board {
    word pid;    /* of the program; 0 before it is ready */
    word ended;  /* 1 when it came to its end */
    word count;  /* of counters */
    word unused;
    struct { char name[56]; word value; } counters[64];
    struct { char text[512]; } notes[NOTES];
};
extern struct board *board;

/* Set when it is time to end. */
extern volatile int stop;

void count(enum counter which, word how_many);
/* Notes what was seen. The program goes on, and ends soon. */
void wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* How many callees this thread has entered: a lost or a doubled call shows. */
extern __thread word entered;

/* Callee n gives argument * 31 + n: a wrong callee and a wrong argument show. */
#define ANSWER(n, x) ((x) * 31 + (n))

/* In which order targets are called: numbers below CALLEES, taken in turn. */
#define MODES 12
#define PATTERN 256
extern unsigned char patterns[MODES][PATTERN];

/* A function full of sites. It makes `calls` calls in the order of `pattern`, checks each, and returns how many it made. */
typedef word run_t(const unsigned char *pattern, word base, word calls);
struct kind {
    const char *name;
    enum counter counter;
    run_t *run;
};
/* Of every build of sites.c that was linked, ended by one without a name. */
extern const struct kind *const builds[];

/* Runs kind number `n`, whatever n is, and counts its calls under `counter`, or under its own when that is WRONG. */
void torment(word n, word seed, word calls, enum counter counter);

/* registers.c */
word compare_registers(const unsigned char *pattern, word base, word calls);
word compare_flags(const unsigned char *pattern, word base, word calls);
/* objects.cc */
word call_objects(const unsigned char *pattern, word base, word calls);
void throw_through_sites(word seed);
/* unwind.cc */
void *be_profiled(void *), *throw_out_of_handlers(void *), *cancel_threads(void *);
/* disturb.c */
extern char **exchanged;
extern char **plugins;
extern int plugin_count;
extern const char *program_path, *board_path;
void *flap(void *), *switch_off_and_on(void *), *load_libraries(void *), *fork_children(void *), *send_signals(void *);
void *be_jumped_out_of(void *), *throw_exceptions(void *), *resume_coroutines(void *);
void *walk_through_objects(void *), *start_in_odd_environments(void *);
void small_signal_stack(void);
void catch_signals(void);
void is_target_of_signals(int slot);
void pause_for(long microseconds);

static inline word next_random(word *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#ifdef __cplusplus
}
#endif
#endif
