// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Lets one call that relpoline.ko makes come back without what was asked for, as if
 * memory were short: the call number "nth" of the kernel's function "function" answers
 * "answer". The kernel's own fault injection does the same; stock kernels have it not.
 */
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/string.h>

static char *function = "";
module_param(function, charp, 0444);
static int nth = 1;
module_param(nth, int, 0444);
static long answer;
module_param(answer, long, 0444);
/* Calls that were let down. */
static int refused;
module_param(refused, int, 0444);

static int calls;

/* Runs in place of the function: returns to its caller. */
static noinline notrace long let_down(void)
{
	return READ_ONCE(answer);
}

static int before(struct kprobe *probe, struct pt_regs *regs)
{
	char caller[KSYM_SYMBOL_LEN];

	sprint_symbol_no_offset(caller, *(unsigned long *)regs->sp);
	if (!strstr(caller, "[relpoline]") || ++calls != nth)
		return 0;
	refused++;
	regs->ip = (unsigned long)let_down;
	return 1;
}
NOKPROBE_SYMBOL(before);

static struct kprobe probe = { .pre_handler = before };

static int __init starving_init(void)
{
	probe.symbol_name = function;
	return register_kprobe(&probe);
}

static void __exit starving_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(starving_init);
module_exit(starving_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Lets one call of relpoline.ko down, for the kernel test");
