/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* A stub of 16 bytes for each register, by its hardware number, that goes on to the retpoline. */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/unwind_hints.h>

	.section .text
	.balign 64, 0xcc
SYM_START(taker_stubs, SYM_L_GLOBAL, SYM_A_NONE)
#ifdef CONFIG_X86_KERNEL_IBT
	ANNOTATE_NOENDBR	/* nothing is led here but by direct branches */
#endif
	.irp	reg, rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
882:
	UNWIND_HINT_FUNC
	.ifnc	\reg, rsp
	jmp	__x86_indirect_thunk_\reg
	.endif
	.org	882b + 16, 0xcc
	.endr
SYM_END(taker_stubs, SYM_T_FUNC)
