// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Symbols that the kernel does not export, and the reasons for which the module
 * does not load. Each reason is one sentence; `relpoline kernel load` shows it.
 */
#define pr_fmt(fmt) "relpoline: " fmt

#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/security.h>
#include <linux/utsname.h>
#include <linux/version.h>
#include <generated/utsrelease.h>
#include <asm/cpufeature.h>
#include <asm/nospec-branch.h>
#include "relpoline.h"

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0) || LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
#error "relpoline knows Linux 6.1: the layout of modules and the int3 patching differ elsewhere"
#endif

struct relpoline_kernel relpoline_kernel;

/* kallsyms_lookup_name is not exported, but a probe on it finds its address. */
static int find_lookup(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int err = register_kprobe(&probe);

	if (err) {
		pr_err("refused: no probe can be set on kallsyms_lookup_name (error %d); the kernel needs CONFIG_KPROBES and must not be locked down\n",
		       err);
		return err;
	}
	relpoline_kernel.lookup_name = (void *)probe.addr;
	unregister_kprobe(&probe);
	return 0;
}

static int find(const char *name, void *place)
{
	unsigned long at = relpoline_kernel.lookup_name(name);

	if (!at) {
		pr_err("refused: this kernel has no symbol %s; it is not one that the module knows\n", name);
		return -ENOENT;
	}
	*(unsigned long *)place = at;
	return 0;
}

int relpoline_find_symbols(void)
{
	struct relpoline_kernel *k = &relpoline_kernel;
	struct { const char *name; void *place; } wanted[] = {
		{ "kallsyms_lookup_size_offset", &k->lookup_size_offset },
		{ "__module_text_address", &k->module_text_address },
		{ "text_poke_copy", &k->text_poke_copy },
		{ "text_poke_queue", &k->text_poke_queue },
		{ "text_poke_finish", &k->text_poke_finish },
		{ "synchronize_rcu_tasks", &k->synchronize_rcu_tasks },
		{ "synchronize_rcu_tasks_rude", &k->synchronize_rcu_tasks_rude },
		{ "text_mutex", &k->text_mutex },
		{ "module_mutex", &k->module_mutex },
		{ "modules", &k->modules },
		{ "spectre_v2_enabled", &k->spectre_v2 },
		{ "__x86_indirect_thunk_array", &k->thunks },
		{ "_stext", &k->stext },
		{ "_etext", &k->etext },
		{ "__noinstr_text_start", &k->noinstr_start },
		{ "__noinstr_text_end", &k->noinstr_end },
		{ "__entry_text_start", &k->entry_start },
		{ "__entry_text_end", &k->entry_end },
	};
	/*
	 * Left alone by name. The BPF interpreter has computed gotos, at whose
	 * labels flags may be live. machine_kexec clears the base of gs before
	 * its last call, and recording needs it.
	 */
	static const char *const barred[] = { "___bpf_prog_run", "machine_kexec" };
	int i, err = find_lookup();

	BUILD_BUG_ON(ARRAY_SIZE(barred) > ARRAY_SIZE(k->barred));
	for (i = 0; !err && i < ARRAY_SIZE(wanted); i++)
		err = find(wanted[i].name, wanted[i].place);
	/* A kernel without one of these has no such function to leave alone. */
	for (i = 0; !err && i < ARRAY_SIZE(barred); i++)
		k->barred[i] = k->lookup_name(barred[i]);
	return err;
}

/* Why there is nothing to promote under this mitigation, or NULL. */
static const char *no_retpolines(int mitigation)
{
	switch (mitigation) {
	case SPECTRE_V2_NONE:
		return "spectre_v2 mitigations are off: indirect calls are plain, and there is nothing to gain";
	case SPECTRE_V2_LFENCE:
	case SPECTRE_V2_EIBRS_LFENCE:
		return "the kernel runs with lfence instead of retpolines: its indirect calls were replaced at boot";
	case SPECTRE_V2_EIBRS:
	case SPECTRE_V2_IBRS:
		return "the kernel is protected by (enhanced) IBRS, not by retpolines: its indirect calls are plain; boot with spectre_v2=retpoline to use the module";
	case SPECTRE_V2_RETPOLINE:
	case SPECTRE_V2_EIBRS_RETPOLINE:
		return NULL;
	default:
		return "the kernel uses a spectre_v2 mitigation that the module does not know";
	}
}

int relpoline_check_kernel(void)
{
	const char *why = no_retpolines(*relpoline_kernel.spectre_v2);
	const char *built_for = UTS_RELEASE;

	/* Compared as a string, not in pieces that the compiler made of it: the test alters the string. */
	OPTIMIZER_HIDE_VAR(built_for);
	if (strcmp(init_utsname()->release, built_for)) {
		pr_err("refused: built for Linux %s, and this is %s; build it for this kernel\n",
		       built_for, init_utsname()->release);
		return -ENOEXEC;
	}
	if (why) {
		pr_err("refused: %s\n", why);
		return -EOPNOTSUPP;
	}
	if (!boot_cpu_has(X86_FEATURE_RETPOLINE) || boot_cpu_has(X86_FEATURE_RETPOLINE_LFENCE)) {
		pr_err("refused: the kernel has not turned its retpolines on\n");
		return -EOPNOTSUPP;
	}
#ifdef X86_FEATURE_IBT
	if (boot_cpu_has(X86_FEATURE_IBT) && (IS_ENABLED(CONFIG_X86_KERNEL_IBT))) {
		pr_err("refused: the kernel runs with indirect branch tracking, which the module has not been tested with; boot with ibt=off\n");
		return -EOPNOTSUPP;
	}
#endif
	if (security_locked_down(LOCKDOWN_DEBUGFS)) {
		pr_err("refused: the kernel is locked down, and neither its text nor debugfs may be touched\n");
		return -EPERM;
	}
	return 0;
}
