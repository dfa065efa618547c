// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Text that comes and goes: tells the engine of the kernel's own text, of the
 * modules that are there already, and of those that come and go.
 */
#define pr_fmt(fmt) "relpoline: " fmt

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

static u64 text_base(const struct module *mod)
{
#ifdef RLP_MODULE_MEMORY
	return (u64)mod->mem[MOD_TEXT].base;
#else
	return (u64)mod->core_layout.base;
#endif
}

static u64 text_size(const struct module *mod)
{
#ifdef RLP_MODULE_MEMORY
	return mod->mem[MOD_TEXT].size;
#else
	return mod->core_layout.text_size;
#endif
}

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
	u64 base = text_base(mod);
	u64 quiet = (u64)mod->noinstr_text_start;
	struct relpoline_text text = {
		.start = base,
		.end = base + text_size(mod),
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
	u64 base = text_base(mod);
	struct known *known = find_known(mod);

	/* Whether or not it has sites, some site's tree may lead into it. */
	relpoline_engine_text_goes((u64)mod, base, base + text_size(mod));
	if (known) {
		list_del(&known->list);
		kfree(known);
	}
}

static int changed(struct notifier_block *block, unsigned long state, void *data)
{
	mutex_lock(&relpoline_lock);
	if (state == MODULE_STATE_COMING) {
		comes(data);
	} else if (state == MODULE_STATE_GOING) {
		goes(data);
		/* Its numbers come free after a grace period, which the thread begins. */
		relpoline_wake();
	}
	mutex_unlock(&relpoline_lock);
	return NOTIFY_OK;
}

/* Early: a module's own constructors, and what it registers, come later. */
static struct notifier_block watcher = { .notifier_call = changed, .priority = INT_MAX - 1 };

static u64 kernel_comes(void)
{
	struct relpoline_text text = {
		.start = relpoline_kernel.stext,
		.end = relpoline_kernel.etext,
		.barred = {
			{ relpoline_kernel.noinstr_start, relpoline_kernel.noinstr_end },
			{ relpoline_kernel.entry_start, relpoline_kernel.entry_end },
		},
	};

	return relpoline_engine_text_comes(&text);
}

int relpoline_watch(void)
{
	struct module *mod;
	int err = register_module_notifier(&watcher);

	if (err) {
		pr_err("refused: the kernel does not say which modules come and go (error %d)\n", err);
		return err;
	}
	mutex_lock(&relpoline_lock);
	if (!kernel_comes()) {
		mutex_unlock(&relpoline_lock);
		unregister_module_notifier(&watcher);
		pr_err("refused: no call in the kernel names a thunk; it is not a kernel that the module knows\n");
		return -EOPNOTSUPP;
	}
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
