// The beginning and the end of the program with crowds; what lies between is generated (src/bench/crowds.rs).
#include <stdint.h>
#include <stdio.h>
#include <time.h>

// Nothing is to be known of the others: it would take the compiler half a minute to find out that there is nothing to know.
#define NO __attribute__((noipa))
typedef uint64_t (*F)(uint64_t);

// So many targets, which lie 16 bytes apart.
extern char targets_from_here[];
#define TARGETS(count)                                                                     \
	__asm__(".text\n.balign 16\ntargets_from_here:\n.rept " count "\n lea 1(%rdi), %rax\n ret\n .balign 16\n.endr\n");

static double running_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

// Reads "sites targets is_shuffled times ms", walks for that long, and answers with nanoseconds per call.
#define MAIN(SITES)                                                                        \
	int main(void)                                                                     \
	{                                                                                  \
		int sites, targets, is_shuffled, times, ms;                                \
		uint64_t x = 1;                                                            \
		while (scanf("%d %d %d %d %d", &sites, &targets, &is_shuffled, &times, &ms) == 5) { \
			for (int i = 0; i < SITES; i++)                                    \
				p[i] = (F)(targets_from_here + 16 * (i % targets));                                          \
			double walks = 0, ns = 0, start = running_ns();                    \
			while (ns < ms * 1e6) {                                            \
				x ^= walk(sites, is_shuffled, x, times);                   \
				walks += times;                                            \
				ns = running_ns() - start;                                 \
			}                                                                  \
			printf("%.4f\n", ns / walks / sites);                              \
			fflush(stdout);                                                    \
		}                                                                          \
		return x == 0;                                                             \
	}
