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
 *
 * What is written at run time stands at a fixed offset. Instructions before it
 * are of different length on different kernels: .org fills up, and the assembler
 * refuses what does not fit. The module looks at all of it again when it is
 * loaded (relpoline_check_stubs).
 */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include <asm/unwind_hints.h>
#include "layout.h"

	.section .text

/*
 * A stub without an ENDBR, whatever the kernel's configuration: nothing is led
 * here but by direct branches. No probe may be set in it, since what stands
 * there changes.
 */
	.macro STUBS name
	.balign 64, 0xcc
SYM_START(\name, SYM_L_GLOBAL, SYM_A_NONE)
#ifdef CONFIG_X86_KERNEL_IBT
	ANNOTATE_NOENDBR
#endif
	.endm

	.macro STUBS_END name
SYM_END(\name, SYM_T_FUNC)
_ASM_NOKPROBE(\name)
	.endm

	/* Not 0 in a variant that must be refused: there one stub lies otherwise than all the others. */
	.set	shift, 0

/* Counts at the offset "counter" in this processor's memory, and goes on to a thunk: 22 bytes in all. */
	.macro COUNT_AND_GO
881:
	pushq	%rax
	movq	PER_CPU_VAR(relpoline_cpu), %rax
	.byte	0xff, 0x80		/* incl counter(%rax) */
	.long	counter
	popq	%rax
	.org	881b + RLP_COLD_JUMP + shift, 0x90
	.byte	0xe9			/* jmp thunk */
	.long	__x86_indirect_thunk_rax - . - 4
	.endm

/* Counting stubs, one for each site. The jump is written at run time. */
	STUBS relpoline_cold_stubs
	.set	n, 0
	.rept	RLP_SITES
	UNWIND_HINT_FUNC
	.set	counter, RLP_CPU_COLD + 4 * n
#ifdef RLP_BROKEN_SHIFTED_STUB
	.if	n == 4711
	.set	shift, 4
	.else
	.set	shift, 0
	.endif
#endif
	COUNT_AND_GO
	.org	881b + RLP_COLD_STUB, 0xcc
	.set	n, n + 1
	.endr
	STUBS_END relpoline_cold_stubs

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

	STUBS relpoline_recorders
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
	STUBS_END relpoline_recorders

/*
 * Tree slots: see ../src/trees.rs. The tree is written over the first 64 bytes,
 * the jump to the thunk over the five bytes at the end of the miss stub.
 */
	STUBS relpoline_trees
	.set	slot, 0
	.rept	RLP_TREES
771:
	UNWIND_HINT_FUNC
	.rept	4
	.byte	0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00
	.byte	0x0f, 0x1f, 0x44, 0x00, 0x00
	.endr
	/* +64: the miss stub */
	.set	counter, RLP_CPU_MISSES + 4 * slot
	COUNT_AND_GO
	.org	771b + RLP_COUNTED, 0xcc
	/* +96: the counting entry */
	UNWIND_HINT_FUNC
	pushq	%rax
	movq	PER_CPU_VAR(relpoline_cpu), %rax
	.byte	0x48, 0xff, 0x80	/* incq calls[slot](%rax) */
	.long	RLP_CPU_CALLS + 8 * slot
	popq	%rax
	.byte	0xe9			/* jmp tree */
	.long	771b - . - 4
	.org	771b + RLP_TREE, 0xcc
	.set	slot, slot + 1
	.endr
	STUBS_END relpoline_trees
