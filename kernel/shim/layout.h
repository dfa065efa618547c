/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The shape of the module's own text: the numbers of ../src/layout.rs, for the
 * assembler and for C. A test compares the two.
 */
#ifndef RELPOLINE_LAYOUT_H
#define RELPOLINE_LAYOUT_H

#define RLP_SITES		32768
#define RLP_COLD_STUB		32
#define RLP_COLD_JUMP		17
#define RLP_RECORDERS		64	/* per register */
#define RLP_RECORDER		16
#define RLP_TREES		1024
#define RLP_TREE		128
#define RLP_MISS		64
#define RLP_MISS_JUMP		(RLP_MISS + 17)
#define RLP_COUNTED		96
#define RLP_RING		4096

/* Offsets in struct relpoline_cpu. */
#define RLP_CPU_CURSOR		0
#define RLP_CPU_MISSES		64
#define RLP_CPU_CALLS		(RLP_CPU_MISSES + 4 * RLP_TREES)
#define RLP_CPU_RECORDS		(RLP_CPU_CALLS + 8 * RLP_TREES)
#define RLP_CPU_COLD		(RLP_CPU_RECORDS + 8 * RLP_RING)

#endif
