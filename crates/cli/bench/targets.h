/* What is called, and what is counted: see bench.c. */
#include <stdint.h>

enum { TARGETS = 96 };

typedef uint64_t target(uint64_t);

extern target *const targets[TARGETS];

/* The hottest ones by name, for calls that the compiler can make directly. */
target t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, t13, t14, t15;
