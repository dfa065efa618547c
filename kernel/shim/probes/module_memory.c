// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Whether a module's text is one of several pieces of memory (struct module_memory). */
#include <linux/module.h>

unsigned long probe(struct module *mod);
unsigned long probe(struct module *mod)
{
	return (unsigned long)mod->mem[MOD_TEXT].base + mod->mem[MOD_TEXT].size;
}
