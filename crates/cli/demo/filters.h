/* The shared library of the demo. */
#include <stddef.h>
#include <stdint.h>

typedef uint32_t filter(uint32_t sample);

/* Sends the samples through a chain of filters, another one in each phase, and through `own` if there is
 * one. Returns a sum of what comes out. */
uint64_t filter_samples(uint32_t *samples, size_t count, int phase, filter *own);
