// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Symbols that the kernel does not export, and the reasons for which the module
 * does not load. Each reason is one sentence; `relpoline kernel load` shows it.
 *
 * A kernel is known by what it has, not by its version: what is missing, or lies
 * otherwise than expected, is a reason not to load.
 */
#define pr_fmt(fmt) "relpoline: " fmt

#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/utsname.h>
#include <generated/utsrelease.h>
#include <asm/cpufeature.h>
#include <asm/nospec-branch.h>
#include "relpoline.h"

struct relpoline_kernel relpoline_kernel;

/* What can be told without a symbol. Looking for symbols is deadly with IBT, so this comes first. */
int relpoline_check_machine(void)
{
	const char *built_for = UTS_RELEASE;
	const char *why = NULL;

	/* Compared as a string, not in pieces that the compiler made of it: the test alters the string. */
	OPTIMIZER_HIDE_VAR(built_for);
	if (strcmp(init_utsname()->release, built_for)) {
		pr_err("refused: built for Linux %s, and this is %s; build it for this kernel\n",
		       built_for, init_utsname()->release);
		return -ENOEXEC;
	}
#ifdef X86_FEATURE_IBT
	if (boot_cpu_has(X86_FEATURE_IBT) && IS_ENABLED(CONFIG_X86_KERNEL_IBT))
		why = "the kernel runs with indirect branch tracking, which the module has not been tested with; boot with ibt=off";
#endif
#ifdef X86_FEATURE_CALL_DEPTH
	if (boot_cpu_has(X86_FEATURE_CALL_DEPTH))
		why = "the kernel tracks the depth of calls (retbleed=stuff or its=stuff), and its indirect calls go by other thunks";
#endif
	if (boot_cpu_has(X86_FEATURE_XENPV))
		why = "the kernel runs as a Xen PV guest, whose text the module has not been tested with";
	if (why) {
		pr_err("refused: %s\n", why);
		return -EOPNOTSUPP;
	}
	return 0;
}

/* kallsyms_lookup_name is not exported, but a probe on it finds its address. */
static int find_lookup(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int err = register_kprobe(&probe);

	if (err) {
		pr_err("refused: no probe can be set on kallsyms_lookup_name (error %d); the kernel needs CONFIG_KPROBES\n",
		       err);
		return err;
	}
	relpoline_kernel.lookup_name = (void *)probe.addr;
	unregister_kprobe(&probe);
	return 0;
}

/* The first of several names that a symbol had in the course of time. */
static int find(const char *const *names, void *place)
{
	unsigned long at = 0;
	int i;

	for (i = 0; !at && names[i]; i++)
		at = relpoline_kernel.lookup_name(names[i]);
	if (!at) {
		pr_err("refused: this kernel has no symbol %s; it is not one that the module knows\n", names[0]);
		return -ENOENT;
	}
	*(unsigned long *)place = at;
	return 0;
}

/* The kernel's thunks by the numbers of their registers: each must begin with the call of a retpoline. */
static int find_thunks(void)
{
	static const char *const names[16] = {
		"rax", "rcx", "rdx", "rbx", NULL /* rsp */, "rbp", "rsi", "rdi",
		"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
	};
	u64 *thunks = relpoline_kernel.thunks;
	char name[32];
	int i;

	for (i = 0; i < ARRAY_SIZE(names); i++) {
		if (!names[i])
			continue;
		snprintf(name, sizeof(name), "__x86_indirect_thunk_%s", names[i]);
		thunks[i] = relpoline_kernel.lookup_name(name);
		if (!thunks[i] || *(u8 *)thunks[i] != 0xe8) {
			pr_err("refused: %s is not a retpoline; it is not a kernel that the module knows\n", name);
			return -EOPNOTSUPP;
		}
	}
	/* Nothing is called through rsp; where the kernel has a thunk for it, it lies between two others. */
	thunks[4] = thunks[3] + (thunks[5] - thunks[3]) / 2;
	return 0;
}

int relpoline_find_symbols(void)
{
	struct relpoline_kernel *k = &relpoline_kernel;
	struct { const char *const names[3]; void *place; } wanted[] = {
		{ { "kallsyms_lookup_size_offset" }, &k->lookup_size_offset },
		{ { "__module_text_address" }, &k->module_text_address },
		{ { "text_poke" }, &k->text_poke },
		{ { "text_poke_queue", "smp_text_poke_batch_add" }, &k->text_poke_queue },
		{ { "text_poke_finish", "smp_text_poke_batch_finish" }, &k->text_poke_finish },
		{ { "get_kprobe" }, &k->get_kprobe },
		{ { "text_mutex" }, &k->text_mutex },
		{ { "module_mutex" }, &k->module_mutex },
		{ { "kprobe_mutex" }, &k->kprobe_mutex },
		{ { "modules" }, &k->modules },
		{ { "spectre_v2_enabled" }, &k->spectre_v2 },
		{ { "_stext" }, &k->stext },
		{ { "_etext" }, &k->etext },
		{ { "__noinstr_text_start" }, &k->noinstr_start },
		{ { "__noinstr_text_end" }, &k->noinstr_end },
		{ { "__entry_text_start" }, &k->entry_start },
		{ { "__entry_text_end" }, &k->entry_end },
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
		err = find(wanted[i].names, wanted[i].place);
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

	if (!why && (!boot_cpu_has(X86_FEATURE_RETPOLINE) || boot_cpu_has(X86_FEATURE_RETPOLINE_LFENCE)))
		why = "the kernel has not turned its retpolines on";
	if (why) {
		pr_err("refused: %s\n", why);
		return -EOPNOTSUPP;
	}
	return find_thunks();
}
