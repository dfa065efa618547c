/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The module's own text into which sites are led: counting stubs, recording
 * stubs and tree slots. Filled at run time, laid out here, so that objtool gives
 * every byte of it ORC data and a stack is unwound through it like through any
 * other function.
 *
 * All of it runs between a caller and its callee. Registers are as the caller
 * left them; only flags are clobbered, which no calling convention keeps. The
 * stack is used, and is as it was when the code goes on.
 */
#include <linux/linkage.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include <asm/unwind_hints.h>
#include "layout.h"

	.section .text

/*
 * Counting stubs. Site n: incl counter[n](%rip); jmp thunk; int3 ...
 * They do not touch the stack, so one ORC entry serves all.
 */
	.balign 64
SYM_FUNC_START(relpoline_cold_stubs)
	.rept	RLP_SITES
	.byte	0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00
	.byte	0x0f, 0x1f, 0x44, 0x00, 0x00
	.endr
	jmp	__x86_indirect_thunk_rax
	int3
SYM_FUNC_END(relpoline_cold_stubs)

/*
 * Recording stubs: 64 for each register, by the register's hardware number.
 * Each pushes its number and goes on to its register's recorder, which stores
 *	number << 32 | low half of the target
 * into the ring of this processor, unless that is full. The place is taken by
 * one instruction, so an interrupt that records in between takes another one. A
 * task that is moved to another processor in between writes one record to a
 * wrong place.
 */
	.macro RECORDER_STUBS reg
	.set	n, 0
	.rept	RLP_RECORDERS
	UNWIND_HINT_FUNC
	.byte	0x68			/* push $number */
	.long	number
	.byte	0xe9			/* jmp recorder */
	.long	.Lrecord_\reg - . - 4
	.byte	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc
	.set	number, number + 1
	.endr
	.endm

	.macro RECORDER reg
.Lrecord_\reg:
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	.ifnc	\reg, rdx
	movq	%\reg, %rdx
	.endif
	movq	PER_CPU_VAR(relpoline_cpu), %rcx
	movl	$1, %eax
	xaddl	%eax, RLP_CPU_CURSOR(%rcx)
	cmpl	$RLP_RING, %eax
	jae	.Lfull_\reg
	movl	%edx, %edx
	shlq	$32, 24(%rsp)
	orq	24(%rsp), %rdx
	movq	%rdx, RLP_CPU_RECORDS(%rcx, %rax, 8)
.Lfull_\reg:
	popq	%rdx
	popq	%rcx
	popq	%rax
	leaq	8(%rsp), %rsp
	jmp	__x86_indirect_thunk_\reg
	int3
	.endm

	.balign 64
SYM_FUNC_START(relpoline_recorders)
	.set	number, 0
	.irp	reg, rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
	.ifc	\reg, rsp
	/* Nothing is called through rsp; its stubs keep the others in step. */
	.rept	RLP_RECORDERS
	.byte	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc
	.byte	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc
	.set	number, number + 1
	.endr
	.else
	RECORDER_STUBS \reg
	.endif
	.endr
	.irp	reg, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
	RECORDER \reg
	.endr
SYM_FUNC_END(relpoline_recorders)

/*
 * Tree slots: see ../src/trees.rs. The tree is written over the first 64 bytes,
 * the jump to the thunk over the five bytes at the end of the miss stub.
 */
	.balign 64
SYM_FUNC_START(relpoline_trees)
	.set	slot, 0
	.rept	RLP_TREES
771:
	UNWIND_HINT_FUNC
	.rept	4
	.byte	0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00
	.byte	0x0f, 0x1f, 0x44, 0x00, 0x00
	.endr
	/* +64: the miss stub */
	pushq	%rax
	movq	PER_CPU_VAR(relpoline_cpu), %rax
	.byte	0xff, 0x80		/* incl misses[slot](%rax) */
	.long	RLP_CPU_MISSES + 4 * slot
	popq	%rax
	.byte	0xe9			/* jmp thunk */
	.long	__x86_indirect_thunk_rax - . - 4
	.skip	771b + RLP_COUNTED - ., 0xcc
	/* +96: the counting entry */
	UNWIND_HINT_FUNC
	pushq	%rax
	movq	PER_CPU_VAR(relpoline_cpu), %rax
	.byte	0x48, 0xff, 0x80	/* incq calls[slot](%rax) */
	.long	RLP_CPU_CALLS + 8 * slot
	popq	%rax
	.byte	0xe9			/* jmp tree */
	.long	771b - . - 4
	.skip	771b + RLP_TREE - ., 0xcc
	.set	slot, slot + 1
	.endr
SYM_FUNC_END(relpoline_trees)
