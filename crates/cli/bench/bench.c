/*
 * The program of `relpoline bench`: plays sequences of calls, as it is told on stdin, and says how long they
 * took. It stays alive between two orders, so that the variants of it can take turns every few milliseconds,
 * and one that learns keeps what it learned.
 *
 *   bench FILE…            each file is a sequence: one byte per call, the number of its target
 *
 *   RUNNER SEQUENCE MICROSECONDS WARM_MICROSECONDS PHASE_MICROSECONDS SETS THREADS
 *                          an order: play the sequence with that number through that runner. With phases, the
 *                          targets are two further on after each, SETS times, then the first again. With two
 *                          threads, the second has its targets one further on.
 *   CALLS CYCLES [US…]     the answer: calls, cycles per call, and after each change of phase the time until
 *                          calls were as fast as they are in the end of the phase
 *
 * Each `site…` is a function of its own, hence a call site of its own: what a trace taught one does not disturb
 * the next. All runners have the same loop, with the same loads; `empty` has nothing else. Nothing is subtracted.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "targets.h"

/* Calls between two looks at the clock; fewer where the moment matters. Sequences are multiples of both. */
enum { PIECE = 2000, SHORT_PIECE = 500, MOST_SEQUENCES = 64, MOST_CHANGES = 256, MOST_PIECES = 1 << 21 };

/* ---- runners ----------------------------------------------------------------------------------------- */

typedef uint64_t runner(const uint8_t *sequence, target *const *table, long calls, uint64_t x);

#define RUNNER(name, CALL) \
	static uint64_t __attribute__((noinline, aligned(64))) \
	name(const uint8_t *sequence, target *const *table, long calls, uint64_t x) \
	{ \
		for (long i = 0; i < calls; i++) { \
			target *f = table[sequence[i]]; \
			__asm__ volatile("" : "+r"(f)); \
			CALL; \
		} \
		return x; \
	}

/* A call behind the compiler's back: everything a callee may change is named; built with -mno-red-zone. */
#define FENCED \
	uint64_t argument = x; \
	__asm__ volatile("lfence\n\tcall *%%rcx" : "+D"(argument), "=a"(x), "+c"(f) : \
		: "rdx", "rsi", "r8", "r9", "r10", "r11", "cc", "memory")

#define TRY(n) if (f == t##n) x = t##n(x); else
#define FOUR(a, b, c, d) TRY(a) TRY(b) TRY(c) TRY(d)

RUNNER(empty, x++)
RUNNER(direct, x = t0(x))
RUNNER(lfence, FENCED)
/* The same with some work between the calls, as programs have it. */
#define WORK x = x * 77 + 1; x = x * 55 + 3; x = x * 33 + 5; x = x * 99 + 7
RUNNER(direct_work, x = t0(x); WORK)
RUNNER(site_work, x = f(x); WORK)
/* Trees known beforehand: the hottest targets in order, the others through the program's own call. */
RUNNER(fixed1, TRY(0) x = f(x))
RUNNER(fixed2, TRY(0) TRY(1) x = f(x))
RUNNER(fixed4, FOUR(0, 1, 2, 3) x = f(x))
RUNNER(fixed8, FOUR(0, 1, 2, 3) FOUR(4, 5, 6, 7) x = f(x))
RUNNER(fixed16, FOUR(0, 1, 2, 3) FOUR(4, 5, 6, 7) FOUR(8, 9, 10, 11) FOUR(12, 13, 14, 15) x = f(x))

#define EACH_SITE(S) \
	S(00) S(01) S(02) S(03) S(04) S(05) S(06) S(07) S(08) S(09) \
	S(10) S(11) S(12) S(13) S(14) S(15) S(16) S(17) S(18) S(19) \
	S(20) S(21) S(22) S(23) S(24) S(25) S(26) S(27) S(28) S(29) \
	S(30) S(31) S(32) S(33) S(34) S(35) S(36) S(37) S(38) S(39)
#define SITE(n) RUNNER(site##n, x = f(x))
EACH_SITE(SITE)

#define NAMED(name) { #name, name },
#define NAMED_SITE(n) NAMED(site##n)
static const struct { const char *name; runner *run; } runners[] = {
	NAMED(empty) NAMED(direct) NAMED(lfence) NAMED(direct_work) NAMED(site_work)
	NAMED(fixed1) NAMED(fixed2) NAMED(fixed4) NAMED(fixed8) NAMED(fixed16)
	EACH_SITE(NAMED_SITE)
};

/* ---- playing ----------------------------------------------------------------------------------------- */

struct sequence { uint8_t *calls; long length, at[2]; };

struct piece { uint64_t at; uint32_t phase; float cycles; };

struct play {
	runner *run;
	struct sequence *sequence;
	uint64_t cycles, warm, phase;	/* [cycles] */
	int sets, threads, me;
	long calls;
	double cost;
	struct piece *pieces;
	long count;
};

static struct sequence sequences[MOST_SEQUENCES];
static struct piece pieces[MOST_PIECES];
static double cycles_per_us;
static volatile uint64_t sink;

static uint64_t nanoseconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Plays for so long. `first` is the clock at which phase 0 began. */
static long play_for(struct play *p, uint64_t first, uint64_t cycles, int record)
{
	long *at = &p->sequence->at[p->me], calls = 0, size = p->phase ? SHORT_PIECE : PIECE;
	uint64_t begin = __rdtsc(), now = begin, end = begin + cycles, x = sink;

	while (now < end) {
		uint64_t phase = p->phase ? (now - first) / p->phase : 0;
		target *const *table = targets + 2 * (phase % (uint64_t)p->sets) + p->me;
		x = p->run(p->sequence->calls + *at, table, size, x);
		*at = (*at + size) % p->sequence->length;
		calls += size;
		uint64_t then = now;
		now = __rdtsc();
		if (record && p->count < MOST_PIECES)
			p->pieces[p->count++] = (struct piece){ then - first, phase, (float)(now - then) / size };
	}
	sink = x;
	return calls;
}

static void *play(void *argument)
{
	struct play *p = argument;
	uint64_t first = __rdtsc();

	play_for(p, first, p->warm, 0);
	uint64_t cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID), wall = nanoseconds(CLOCK_MONOTONIC), begin = __rdtsc();
	p->calls = play_for(p, first, p->cycles, p->phase != 0);
	uint64_t cycles = __rdtsc() - begin;
	cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
	wall = nanoseconds(CLOCK_MONOTONIC) - wall;
	/* Time in which others had the CPU is not ours. */
	double share = wall && cpu < wall ? (double)cpu / wall : 1;
	p->cost = cycles * share / p->calls;
	return NULL;
}

/* ---- changes of phase -------------------------------------------------------------------------------- */

static int by_cycles(const void *a, const void *b)
{
	float left = ((const struct piece *)a)->cycles, right = ((const struct piece *)b)->cycles;

	return (left > right) - (left < right);
}

static float median(const struct piece *from, long count)
{
	struct piece *copy = malloc(count * sizeof(*copy));

	memcpy(copy, from, count * sizeof(*copy));
	qsort(copy, count, sizeof(*copy), by_cycles);
	float middle = copy[count / 2].cycles;
	free(copy);
	return middle;
}

/* Microseconds until a window of eight pieces is as fast as the later half of the phase, or nearly. */
static double settled(const struct play *p, const struct piece *phase, long count)
{
	enum { WINDOW = 8 };
	float goal = 1.25f * median(phase + count / 2, count - count / 2);

	for (long i = 0; i + WINDOW <= count; i++)
		if (median(phase + i, WINDOW) <= goal)
			return (phase[i].at - phase->phase * p->phase) / cycles_per_us;
	return p->phase / cycles_per_us;
}

/* Of all phases that were played from their beginning and nearly to their end. */
static void print_changes(const struct play *p)
{
	long begin = 0, printed = 0;

	while (begin < p->count && printed < MOST_CHANGES) {
		long end = begin;
		while (end < p->count && p->pieces[end].phase == p->pieces[begin].phase)
			end++;
		if (begin && end - begin >= 64 && end < p->count) {
			printf(" %.1f", settled(p, p->pieces + begin, end - begin));
			printed++;
		}
		begin = end;
	}
}

/* ---- orders ------------------------------------------------------------------------------------------ */

static runner *find(const char *name)
{
	for (size_t i = 0; i < sizeof(runners) / sizeof(*runners); i++)
		if (!strcmp(runners[i].name, name))
			return runners[i].run;
	fprintf(stderr, "no runner %s\n", name);
	exit(1);
}

static void obey(const char *name, int number, double us, double warm_us, double phase_us, int sets, int threads)
{
	struct play p = {
		.run = find(name), .sequence = &sequences[number % MOST_SEQUENCES], .cycles = us * cycles_per_us,
		.warm = warm_us * cycles_per_us, .phase = phase_us * cycles_per_us, .sets = sets > 0 ? sets : 1,
		.threads = threads, .pieces = pieces,
	};
	struct play other = p;
	pthread_t thread;

	other.me = 1;
	if (threads == 2 && pthread_create(&thread, NULL, play, &other))
		exit(1);
	play(&p);
	if (threads == 2) {
		pthread_join(thread, NULL);
		p.cost = (p.cost + other.cost) / 2;
		p.calls += other.calls;
	}
	printf("%ld %.4f", p.calls, p.cost);
	print_changes(&p);
	puts("");
	fflush(stdout);
}

static int load(struct sequence *to, const char *path)
{
	FILE *file = fopen(path, "rb");

	if (!file || fseek(file, 0, SEEK_END))
		return 0;
	to->length = ftell(file);
	rewind(file);
	to->calls = malloc(to->length);
	int whole = to->calls && to->length && !(to->length % PIECE)
		&& fread(to->calls, 1, to->length, file) == (size_t)to->length;
	fclose(file);
	return whole;
}

static double calibrate(void)
{
	uint64_t begin = __rdtsc(), then = nanoseconds(CLOCK_MONOTONIC), now;

	do
		now = nanoseconds(CLOCK_MONOTONIC);
	while (now - then < 20000000);
	return (__rdtsc() - begin) * 1e3 / (now - then);
}

int main(int argc, char **argv)
{
	char name[32];
	int number, sets, threads;
	double us, warm, phase;

	for (int i = 1; i < argc && i <= MOST_SEQUENCES; i++)
		if (!load(&sequences[i - 1], argv[i])) {
			fprintf(stderr, "cannot read %s\n", argv[i]);
			return 1;
		}
	cycles_per_us = calibrate();
	printf("%.3f\n", cycles_per_us);
	fflush(stdout);
	while (scanf("%31s %d %lf %lf %lf %d %d", name, &number, &us, &warm, &phase, &sets, &threads) == 7)
		obey(name, number, us, warm, phase, sets, threads);
	return 0;
}
