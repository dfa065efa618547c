/* A shared library with indirect calls of its own: see demo.c. */
#include "filters.h"

static uint32_t halve(uint32_t sample) { return sample / 2; }
static uint32_t lift(uint32_t sample) { return sample + 100; }
static uint32_t fold(uint32_t sample) { return sample ^ 0x00ff; }
static uint32_t spread(uint32_t sample) { return sample * 3; }
static uint32_t wrap(uint32_t sample) { return sample & 0xffff; }

static filter *const chains[2][4] = { { halve, lift, spread, wrap }, { fold, lift, wrap, halve } };

uint64_t filter_samples(uint32_t *samples, size_t count, int phase, filter *own)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < count; i++) {
		uint32_t sample = samples[i];
		for (int stage = 0; stage < 4; stage++)
			sample = chains[phase & 1][stage](sample);
		samples[i] = own ? own(sample) : sample;
		sum += samples[i];
	}
	return sum;
}
