/*
 * Targets: functions that do next to nothing, so that what is measured is the call. They are compiled apart,
 * so that no caller knows which registers they leave alone.
 */
#include "targets.h"

#define T(n) uint64_t __attribute__((aligned(64))) t##n(uint64_t x) { return x + n; }
#define TEN(n) T(n##0) T(n##1) T(n##2) T(n##3) T(n##4) T(n##5) T(n##6) T(n##7) T(n##8) T(n##9)

T(0) T(1) T(2) T(3) T(4) T(5) T(6) T(7) T(8) T(9)
TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8)
T(90) T(91) T(92) T(93) T(94) T(95)

#define A(n) t##n
#define ATEN(n) A(n##0), A(n##1), A(n##2), A(n##3), A(n##4), A(n##5), A(n##6), A(n##7), A(n##8), A(n##9)

target *const targets[TARGETS] = {
	A(0), A(1), A(2), A(3), A(4), A(5), A(6), A(7), A(8), A(9),
	ATEN(1), ATEN(2), ATEN(3), ATEN(4), ATEN(5), ATEN(6), ATEN(7), ATEN(8),
	A(90), A(91), A(92), A(93), A(94), A(95),
};
