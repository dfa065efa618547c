// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Takes one branch of the kernel, as another module might that patches text: leads it to
 * a stub of its own, which goes on to the retpoline. Puts back what it found when it goes.
 */
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/string.h>

/* Address of the branch's opcode, and the number of its register. */
static unsigned long at;
module_param(at, ulong, 0444);
static uint reg;
module_param(reg, uint, 0444);

extern char taker_stubs[];
#define STUB 16

static void (*poke)(void *at, const void *bytes, size_t len, const void *emulate);
static struct mutex *text;
static u8 found[5];

static void *lookup(const char *name)
{
	static unsigned long (*lookup_name)(const char *name);
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };

	if (!lookup_name && !register_kprobe(&probe)) {
		lookup_name = (void *)probe.addr;
		unregister_kprobe(&probe);
	}
	return lookup_name ? (void *)lookup_name(name) : NULL;
}

static int __init taker_init(void)
{
	u8 led[5];
	s32 far;

	poke = lookup("text_poke_bp") ?: lookup("smp_text_poke_single");
	text = lookup("text_mutex");
	if (!poke || !text || !at || reg > 15)
		return -EINVAL;
	far = (unsigned long)taker_stubs + STUB * reg - (at + 5);
	mutex_lock(text);
	memcpy(found, (void *)at, sizeof(found));
	led[0] = found[0];
	memcpy(led + 1, &far, sizeof(far));
	poke((void *)at, led, sizeof(led), NULL);
	mutex_unlock(text);
	return 0;
}

static void __exit taker_exit(void)
{
	mutex_lock(text);
	poke((void *)at, found, sizeof(found), NULL);
	mutex_unlock(text);
	/* Whoever was preempted in a stub has left it. */
	synchronize_rcu_tasks();
}

module_init(taker_init);
module_exit(taker_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Takes a branch of the kernel, for the kernel test");
