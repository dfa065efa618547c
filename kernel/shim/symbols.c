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

/* What a symbol must be. */
enum sort { FUNCTION, DATA, BOUNDARY };

struct wanted {
	enum sort sort;
	const char *const names[3];
	void *place;
};

/* A function begins in the kernel's text, and data lie behind it. */
static bool is_of_sort(unsigned long at, enum sort sort)
{
	const struct relpoline_kernel *k = &relpoline_kernel;
	bool is_text = at >= k->stext && at < k->etext;
	unsigned long size, offset;

	switch (sort) {
	case FUNCTION:
		return is_text && k->lookup_size_offset(at, &size, &offset) && !offset;
	case DATA:
		return at >= k->etext;
	default:
		return true;
	}
}

/* The first of several names that a symbol had in the course of time. */
static int find(const struct wanted *wanted)
{
	unsigned long at = 0;
	int i;

	for (i = 0; !at && i < ARRAY_SIZE(wanted->names) && wanted->names[i]; i++)
		at = relpoline_kernel.lookup_name(wanted->names[i]);
	if (!at) {
		pr_err("refused: this kernel has no symbol %s; it is not one that the module knows\n",
		       wanted->names[0]);
		return -ENOENT;
	}
#ifdef RLP_BROKEN_WRONG_SYMBOL /* a variant that must be refused: a function is taken for a mutex */
	if (wanted->place == &relpoline_kernel.text_mutex)
		at = relpoline_kernel.lookup_name("text_poke");
#endif
	/* Whether it is what we take it for is asked of a symbol by means of those before it. */
	*(unsigned long *)wanted->place = at;
	if (is_of_sort(at, wanted->sort))
		return 0;
	pr_err("refused: %s is not what the module takes it for; this kernel is not one that it knows\n",
	       wanted->names[0]);
	return -EOPNOTSUPP;
}

/*
 * Whether a retpoline of that register stands there: it calls over what is meant for
 * speculation only, to a move of the register onto the stack.
 */
static bool is_retpoline(u64 thunk, int reg)
{
	const u8 mov[] = { reg < 8 ? 0x48 : 0x4c, 0x89, 0x04 | (reg & 7) << 3, 0x24 };
	u64 to;

	if (thunk < relpoline_kernel.stext || thunk >= relpoline_kernel.etext || *(u8 *)thunk != 0xe8)
		return false;
	to = thunk + 5 + *(s32 *)(thunk + 1);
	return to > thunk && to < thunk + 32 && !memcmp((void *)to, mov, sizeof(mov));
}

/* The kernel's thunks by the numbers of their registers. */
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
#ifdef RLP_BROKEN_WRONG_THUNK /* a variant that must be refused: that of rdx is taken for rbx's */
		if (i == 3)
			thunks[i] = thunks[2];
#endif
		if (!is_retpoline(thunks[i], i)) {
			pr_err("refused: %s is not the retpoline of %s; it is not a kernel that the module knows\n",
			       name, names[i]);
			return -EOPNOTSUPP;
		}
	}
	/* Nothing is called through rsp; where the kernel has a thunk for it, it lies between two others. */
	thunks[4] = thunks[3] + (thunks[5] - thunks[3]) / 2;
	return 0;
}

#ifdef RLP_BROKEN_MISSING_SYMBOL /* a variant that must be refused */
#define KPROBE_MUTEX "kprobe_mutex_of_another_kernel"
#else
#define KPROBE_MUTEX "kprobe_mutex"
#endif

int relpoline_find_symbols(void)
{
	struct relpoline_kernel *k = &relpoline_kernel;
	/* The kernel's text first: by it the others are judged. */
	const struct wanted wanted[] = {
		{ BOUNDARY, { "_stext" }, &k->stext },
		{ BOUNDARY, { "_etext" }, &k->etext },
		{ BOUNDARY, { "__noinstr_text_start" }, &k->noinstr_start },
		{ BOUNDARY, { "__noinstr_text_end" }, &k->noinstr_end },
		{ BOUNDARY, { "__entry_text_start" }, &k->entry_start },
		{ BOUNDARY, { "__entry_text_end" }, &k->entry_end },
		{ FUNCTION, { "kallsyms_lookup_size_offset" }, &k->lookup_size_offset },
		{ FUNCTION, { "__module_text_address" }, &k->module_text_address },
		{ FUNCTION, { "text_poke" }, &k->text_poke },
		{ FUNCTION, { "text_poke_queue", "smp_text_poke_batch_add" }, &k->text_poke_queue },
		{ FUNCTION, { "text_poke_finish", "smp_text_poke_batch_finish" }, &k->text_poke_finish },
		{ FUNCTION, { "get_kprobe" }, &k->get_kprobe },
		{ DATA, { "text_mutex" }, &k->text_mutex },
		{ DATA, { "module_mutex" }, &k->module_mutex },
		{ DATA, { KPROBE_MUTEX }, &k->kprobe_mutex },
		{ DATA, { "modules" }, &k->modules },
		{ DATA, { "spectre_v2_enabled" }, &k->spectre_v2 },
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
		err = find(&wanted[i]);
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
