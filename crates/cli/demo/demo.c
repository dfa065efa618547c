/*
 * The program of `relpoline demo`: the kinds of indirect branches that retpolines make dear.
 *
 *   interpreter   a virtual machine that dispatches by computed goto: many targets per site
 *   objects       virtual calls over a collection of mixed kinds
 *   events        handlers looked up in a table, some far more often than others
 *   sorting       a comparator called through a pointer
 *   filters       a shared library that calls its own functions, and one of ours, through pointers
 *
 * Several threads run all of it. Half-way through, the phase changes: comparator, handlers and the mix of
 * objects become others, so what was learned no longer holds. The output depends on nothing but the source,
 * so two builds can be compared by it.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filters.h"

/* Keeps the compiler from seeing through a call, as it could not in a larger program. */
#define OPAQUE __attribute__((noinline, noclone))
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { THREADS = 4, PHASES = 2 };

/* A small generator: numbers that look random and are the same everywhere. */
static uint64_t next_number(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- interpreter ------------------------------------------------------------------------------------- */

enum opcode {
	HALT, LOADI, MOV, ADD, SUB, MUL, MOD, AND, OR, XOR, NOT, ADDI, SUBI, SHRI, ROTL, LT, EQ, JMP, JZ, JNZ,
	LOAD, STORE, SWAP,
};

struct instruction {
	uint8_t op, a, b, c;
	int32_t value;
};

#define I3(op, a, b, c) { op, a, b, c, 0 }
#define IV(op, a, b, value) { op, a, b, 0, value }

enum { CELLS = 4096 };

/* Steps of 3n + 1 until 1, over all n up to r0. */
static const struct instruction collatz[] = {
	IV(LOADI, 4, 0, 0), IV(LOADI, 5, 0, 1), IV(LOADI, 6, 0, 3), I3(MOV, 1, 0, 0),
	/* 4 */ I3(MOV, 2, 1, 0),
	/* 5 */ I3(AND, 3, 2, 5), IV(JZ, 3, 0, 10), I3(MUL, 2, 2, 6), IV(ADDI, 2, 2, 1), IV(JMP, 0, 0, 11),
	/* 10 */ IV(SHRI, 2, 2, 1),
	/* 11 */ IV(ADDI, 4, 4, 1), I3(SUB, 3, 2, 5), IV(JNZ, 3, 0, 5),
	IV(SUBI, 1, 1, 1), I3(SUB, 3, 1, 5), IV(JNZ, 3, 0, 4), I3(HALT, 0, 0, 0),
};

/* Primes below r0. */
static const struct instruction sieve[] = {
	IV(LOADI, 1, 0, 0), IV(LOADI, 2, 0, 0),
	/* 2 */ I3(STORE, 2, 1, 0), IV(ADDI, 1, 1, 1), I3(LT, 3, 1, 0), IV(JNZ, 3, 0, 2),
	IV(LOADI, 1, 0, 2), IV(LOADI, 4, 0, 0),
	/* 8 */ I3(LOAD, 3, 1, 0), IV(JNZ, 3, 0, 17), IV(ADDI, 4, 4, 1), I3(ADD, 5, 1, 1),
	/* 12 */ I3(LT, 3, 5, 0), IV(JZ, 3, 0, 17), I3(STORE, 1, 5, 0), I3(ADD, 5, 5, 1), IV(JMP, 0, 0, 12),
	/* 17 */ IV(ADDI, 1, 1, 1), I3(LT, 3, 1, 0), IV(JNZ, 3, 0, 8), I3(HALT, 0, 0, 0),
};

/* A hash of nothing, r0 rounds of it. */
static const struct instruction scramble[] = {
	IV(LOADI, 1, 0, 12345), IV(LOADI, 2, 0, -1),
	/* 2 */ IV(ROTL, 1, 1, 13), I3(XOR, 1, 1, 2), I3(MUL, 2, 2, 1), IV(ADDI, 2, 2, 77), IV(SHRI, 3, 1, 7),
	I3(XOR, 1, 1, 3), I3(OR, 4, 1, 2), I3(NOT, 4, 4, 0), I3(ADD, 2, 2, 4), I3(EQ, 5, 1, 2), IV(JNZ, 5, 0, 14),
	IV(SUBI, 0, 0, 1),
	/* 14 */ IV(JNZ, 0, 0, 2), I3(MOV, 4, 1, 0), I3(HALT, 0, 0, 0),
};

/* Greatest common divisors of r0 and all numbers up to it, added up. */
static const struct instruction divisors[] = {
	IV(LOADI, 4, 0, 0), I3(MOV, 1, 0, 0),
	/* 2 */ I3(MOV, 2, 0, 0), I3(MOV, 3, 1, 0),
	/* 4 */ IV(JZ, 3, 0, 8), I3(MOD, 2, 2, 3), I3(SWAP, 2, 3, 0), IV(JMP, 0, 0, 4),
	/* 8 */ I3(ADD, 4, 4, 2), IV(SUBI, 1, 1, 1), IV(JNZ, 1, 0, 2), I3(HALT, 0, 0, 0),
};

enum type { NOTHING, INTEGER };

/* As in most interpreters, a value knows its type, and every instruction checks it. */
struct value {
	enum type type;
	uint64_t bits;
};

/* Runs a program with r0 = argument; its result is r4. */
static OPAQUE uint64_t interpret(const struct instruction *program, uint64_t argument, struct value *cells)
{
	static const void *const labels[] = {
		&&halt, &&loadi, &&mov, &&add, &&sub, &&mul, &&mod, &&and, &&or, &&xor, &&not, &&addi, &&subi,
		&&shri, &&rotl, &&lt, &&eq, &&jmp, &&jz, &&jnz, &&load, &&store, &&swap,
	};
	struct value r[8] = { { INTEGER, argument } };
	const struct instruction *i = program;
	uint64_t steps = 0;

#define DISPATCH do { steps++; goto *labels[i->op]; } while (0)
#define NEXT do { i++; DISPATCH; } while (0)
#define CHECK(x) do { if (r[x].type != INTEGER) goto fault; } while (0)
#define SET(result) do { r[i->a] = (struct value){ INTEGER, (result) }; NEXT; } while (0)
#define UNARY(result) do { CHECK(i->b); uint64_t b = r[i->b].bits; SET(result); } while (0)
#define BINARY(result) do { CHECK(i->b); CHECK(i->c); uint64_t b = r[i->b].bits, c = r[i->c].bits; SET(result); } while (0)
#define JUMP do { i = program + i->value; DISPATCH; } while (0)
	DISPATCH;
loadi:	SET((uint64_t)(int64_t)i->value);
mov:	r[i->a] = r[i->b]; NEXT;
add:	BINARY(b + c);
sub:	BINARY(b - c);
mul:	BINARY(b * c);
mod:	BINARY((uint32_t)b % (uint32_t)c);
and:	BINARY(b & c);
or:	BINARY(b | c);
xor:	BINARY(b ^ c);
not:	UNARY(~b);
addi:	UNARY(b + (uint64_t)i->value);
subi:	UNARY(b - (uint64_t)i->value);
shri:	UNARY(b >> i->value);
rotl:	UNARY(b << i->value | b >> (64 - i->value));
lt:	BINARY(b < c);
eq:	BINARY(b == c);
jmp:	JUMP;
jz:	CHECK(i->a); if (r[i->a].bits) NEXT; JUMP;
jnz:	CHECK(i->a); if (!r[i->a].bits) NEXT; JUMP;
load:	CHECK(i->b); r[i->a] = cells[r[i->b].bits % CELLS]; NEXT;
store:	CHECK(i->b); cells[r[i->b].bits % CELLS] = r[i->a]; NEXT;
swap:	{ struct value kept = r[i->a]; r[i->a] = r[i->b]; r[i->b] = kept; } NEXT;
halt:	return r[4].bits ^ steps;
fault:	return ~steps;
}

static uint64_t run_interpreter(int phase)
{
	struct value *cells = calloc(CELLS, sizeof(*cells));
	uint64_t sum = 0;

	for (int round = 0; round < 18; round++) {
		sum = sum * 31 + interpret(sieve, CELLS, cells);
		sum = sum * 31 + interpret(phase ? divisors : collatz, phase ? 6000 : 2400, cells);
		sum = sum * 31 + interpret(scramble, 16000, cells);
	}
	free(cells);
	return sum;
}

/* ---- objects ----------------------------------------------------------------------------------------- */

struct shape;
struct shape_class {
	uint64_t (*area)(const struct shape *);
	void (*grow)(struct shape *, uint64_t by);
	uint64_t (*tag)(const struct shape *);
};
struct shape {
	const struct shape_class *class;
	uint64_t width, height;
};

/* The integer square root, bit by bit: what a method is called for. */
static OPAQUE uint64_t root(uint64_t square)
{
	uint64_t result = 0;

	for (uint64_t bit = 1 << 9; bit; bit >>= 1)
		if ((result | bit) * (result | bit) <= square)
			result |= bit;
	return result;
}

static uint64_t square_area(const struct shape *s) { return s->width * s->width; }
static uint64_t oblong_area(const struct shape *s) { return root(s->width * s->height); }
static uint64_t wedge_area(const struct shape *s) { return root(s->width * s->height / 2); }
static uint64_t disc_area(const struct shape *s) { return s->width * s->width * 355 / 452; }
static void widen(struct shape *s, uint64_t by) { s->width = (s->width + by) & 1023; }
static void heighten(struct shape *s, uint64_t by) { s->height = (s->height + by) & 1023; }
static uint64_t odd_tag(const struct shape *s) { return s->width | 1; }
static uint64_t plain_tag(const struct shape *s) { return s->width ^ s->height; }

static const struct shape_class square = { square_area, widen, odd_tag };
static const struct shape_class oblong = { oblong_area, heighten, plain_tag };
static const struct shape_class wedge = { wedge_area, heighten, odd_tag };
static const struct shape_class disc = { disc_area, widen, plain_tag };

static OPAQUE uint64_t walk_shapes(struct shape *shapes, size_t count)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < count; i++) {
		struct shape *s = &shapes[i];
		s->class->grow(s, i);
		sum += s->class->area(s) ^ s->class->tag(s);
	}
	return sum;
}

static uint64_t run_objects(int phase)
{
	static const struct shape_class *const first[] = { &square, &oblong, &square, &disc };
	static const struct shape_class *const second[] = { &wedge, &disc, &wedge, &oblong };
	struct shape shapes[256];
	uint64_t sum = 0;

	for (size_t i = 0; i < COUNT(shapes); i++)
		shapes[i] = (struct shape){ (phase ? second : first)[i % 4], i, i * 7 & 255 };
	for (int round = 0; round < 7000; round++)
		sum = sum * 31 + walk_shapes(shapes, COUNT(shapes));
	return sum;
}

/* ---- events ------------------------------------------------------------------------------------------ */

typedef uint64_t handler(uint64_t event, uint64_t sum);

/* Eight rounds of a hash over an event: what a handler is called for. */
static OPAQUE uint64_t digest(uint64_t event, uint64_t sum)
{
	for (int round = 0; round < 8; round++) {
		sum = (sum ^ (event & 255)) * 0x100000001b3;
		event = event >> 8 | event << 56;
	}
	return sum;
}

static uint64_t on_timer(uint64_t event, uint64_t sum) { return digest(event, sum); }
static uint64_t on_input(uint64_t event, uint64_t sum) { return digest(event << 3, ~sum); }
static uint64_t on_output(uint64_t event, uint64_t sum) { return digest(~event, sum); }
static uint64_t on_error(uint64_t event, uint64_t sum) { return sum * 33 + event; }
static uint64_t on_signal(uint64_t event, uint64_t sum) { return sum + (event >> 5); }
static uint64_t on_quit(uint64_t event, uint64_t sum) { return ~sum + event; }

static OPAQUE uint64_t dispatch_events(handler *const *table, const uint8_t *events, size_t count)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < count; i++)
		sum = table[events[i]](i, sum);
	return sum;
}

static uint64_t run_events(int phase, uint64_t seed)
{
	static handler *const before[] = { on_timer, on_input, on_output, on_signal, on_error, on_quit };
	static handler *const after[] = { on_output, on_signal, on_timer, on_input, on_quit, on_error };
	uint8_t events[4096];
	uint64_t sum = 0, state = seed;

	/* The first kind nearly always, each further one far more rarely. */
	for (size_t i = 0; i < COUNT(events); i++) {
		uint64_t chance = next_number(&state) % 1000;
		events[i] = chance < 900 ? 0 : chance < 970 ? 1 : chance < 985 ? 2 : chance % 6;
	}
	for (int round = 0; round < 500; round++)
		sum = sum * 31 + dispatch_events(phase ? after : before, events, COUNT(events));
	return sum;
}

/* ---- sorting ----------------------------------------------------------------------------------------- */

struct row {
	char name[12];
	uint32_t size;
};

typedef int comparator(const struct row *, const struct row *);

static int by_name(const struct row *a, const struct row *b)
{
	for (size_t i = 0; i < sizeof(a->name); i++)
		if (a->name[i] != b->name[i])
			return a->name[i] < b->name[i] ? -1 : 1;
	return 0;
}

static int by_size(const struct row *a, const struct row *b) { return (a->size > b->size) - (a->size < b->size); }

/* Merge sort; `spare` has room for half of the rows. */
static OPAQUE void sort(struct row *rows, size_t count, struct row *spare, comparator *compare)
{
	size_t half = count / 2, left = 0, right = half;

	if (count < 2)
		return;
	sort(rows, half, spare, compare);
	sort(rows + half, count - half, spare, compare);
	memcpy(spare, rows, half * sizeof(*rows));
	for (size_t to = 0; left < half; to++) {
		if (right < count && compare(&rows[right], &spare[left]) < 0)
			rows[to] = rows[right++];
		else
			rows[to] = spare[left++];
	}
}

static uint64_t run_sorting(int phase, uint64_t seed)
{
	enum { ROWS = 4096 };
	static __thread struct row rows[ROWS], spare[ROWS / 2];
	uint64_t sum = 0, state = seed;

	for (int round = 0; round < 18; round++) {
		for (size_t i = 0; i < ROWS; i++) {
			uint64_t number = next_number(&state);
			/* Mostly in order, as data often is. */
			rows[i].size = (ROWS - i) * 16 + number % 256;
			snprintf(rows[i].name, sizeof(rows[i].name), "row%07u", (unsigned)(i * 16 + number % 256));
		}
		sort(rows, ROWS, spare, phase ? by_size : by_name);
		for (size_t i = 0; i < ROWS; i += 97)
			sum = sum * 31 + rows[i].size + (uint64_t)rows[i].name[9];
	}
	return sum;
}

/* ---- filters ----------------------------------------------------------------------------------------- */

/* Our own stage in the library's chain: too far from the library for a direct jump. */
static uint32_t clip(uint32_t sample) { return sample > 60000 ? 60000 : sample; }

static uint64_t run_filters(int phase, uint64_t seed)
{
	uint32_t samples[512];
	uint64_t sum = 0, state = seed;

	for (size_t i = 0; i < COUNT(samples); i++)
		samples[i] = next_number(&state) & 0xffff;
	for (int round = 0; round < 900; round++)
		sum = sum * 31 + filter_samples(samples, COUNT(samples), phase, round % 16 ? NULL : clip);
	return sum;
}

/* ------------------------------------------------------------------------------------------------------ */

struct worker {
	pthread_t thread;
	uint64_t seed, sums[5];
};

static void *work(void *argument)
{
	struct worker *w = argument;

	for (int phase = 0; phase < PHASES; phase++) {
		uint64_t sums[] = {
			run_interpreter(phase), run_objects(phase), run_events(phase, w->seed),
			run_sorting(phase, w->seed), run_filters(phase, w->seed),
		};
		for (size_t i = 0; i < COUNT(sums); i++)
			w->sums[i] = w->sums[i] * 31 + sums[i];
	}
	return NULL;
}

int main(void)
{
	static const char *const names[] = { "interpreter", "objects", "events", "sorting", "filters" };
	struct worker workers[THREADS] = { 0 };

	for (int i = 0; i < THREADS; i++) {
		workers[i].seed = 88172645463325252u + (uint64_t)i;
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			return 1;
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	for (size_t kind = 0; kind < COUNT(names); kind++) {
		uint64_t sum = 0;
		for (int i = 0; i < THREADS; i++)
			sum = sum * 31 + workers[i].sums[kind];
		printf("%-12s %016llx\n", names[kind], (unsigned long long)sum);
	}
	return 0;
}
