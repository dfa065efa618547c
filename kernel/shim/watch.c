// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Text that comes and goes: tells the engine of the kernel's own text, of the
 * modules that are there already, and of those that come and go.
 */
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/slab.h>
#include "relpoline.h"

/* Modules whose sites the engine has. Guarded by relpoline_lock. */
struct known {
	struct list_head list;
	struct module *mod;
};
static LIST_HEAD(known_modules);

static struct known *find_known(struct module *mod)
{
	struct known *known;

	list_for_each_entry(known, &known_modules, list)
		if (known->mod == mod)
			return known;
	return NULL;
}

static void comes(struct module *mod)
{
	u64 base = (u64)mod->core_layout.base;
	u64 quiet = (u64)mod->noinstr_text_start;
	struct relpoline_text text = {
		.start = base,
		.end = base + mod->core_layout.text_size,
		.barred = { { quiet, quiet + mod->noinstr_text_size } },
		.owner = (u64)mod,
	};
	struct known *known;

	if (mod == THIS_MODULE || find_known(mod))
		return;
	known = kmalloc(sizeof(*known), GFP_KERNEL);
	if (!known)
		return; /* its sites stay as they are */
	known->mod = mod;
	list_add(&known->list, &known_modules);
	relpoline_engine_text_comes(&text);
}

static void goes(struct module *mod)
{
	u64 base = (u64)mod->core_layout.base;
	struct known *known = find_known(mod);

	/* Whether or not it has sites, some site's tree may lead into it. */
	relpoline_engine_text_goes((u64)mod, base, base + mod->core_layout.text_size);
	if (known) {
		list_del(&known->list);
		kfree(known);
	}
}

static int changed(struct notifier_block *block, unsigned long state, void *data)
{
	mutex_lock(&relpoline_lock);
	if (state == MODULE_STATE_COMING)
		comes(data);
	else if (state == MODULE_STATE_GOING)
		goes(data);
	mutex_unlock(&relpoline_lock);
	return NOTIFY_OK;
}

/* Early: a module's own constructors, and what it registers, come later. */
static struct notifier_block watcher = { .notifier_call = changed, .priority = INT_MAX - 1 };

static void kernel_comes(void)
{
	struct relpoline_text text = {
		.start = relpoline_kernel.stext,
		.end = relpoline_kernel.etext,
		.barred = {
			{ relpoline_kernel.noinstr_start, relpoline_kernel.noinstr_end },
			{ relpoline_kernel.entry_start, relpoline_kernel.entry_end },
		},
	};

	relpoline_engine_text_comes(&text);
}

int relpoline_watch(void)
{
	struct module *mod;
	int err = register_module_notifier(&watcher);

	if (err)
		return err;
	mutex_lock(&relpoline_lock);
	kernel_comes();
	/* module_mutex keeps the list, and each module on it, for as long as it is read. */
	mutex_lock(relpoline_kernel.module_mutex);
	list_for_each_entry(mod, relpoline_kernel.modules, list)
		if (mod->state == MODULE_STATE_LIVE || mod->state == MODULE_STATE_COMING)
			comes(mod);
	mutex_unlock(relpoline_kernel.module_mutex);
	mutex_unlock(&relpoline_lock);
	return 0;
}

void relpoline_unwatch(void)
{
	struct known *known, *next;

	unregister_module_notifier(&watcher);
	list_for_each_entry_safe(known, next, &known_modules, list)
		kfree(known);
}
