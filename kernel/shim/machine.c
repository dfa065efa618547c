// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * What the engine asks of the kernel: the clock, rings and counters, symbols, and
 * changes of text. The declarations on the other side are in ../src/ffi.rs.
 */
#define pr_fmt(fmt) "relpoline: " fmt

#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/kprobes.h>
#include <linux/memory.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <asm/tsc.h>
#include "relpoline.h"

u64 relpoline_clock(void);
u32 relpoline_drain(void (*take)(void *, u32, u64), void *with);
u32 relpoline_cold_calls(u32 site);
u32 relpoline_misses(u32 tree);
u64 relpoline_calls(u32 tree);
void relpoline_write(u64 at, const void *bytes, u64 len);
void relpoline_poke(struct relpoline_poke *batch, u64 count);
bool relpoline_is_entry(u64 address);
bool relpoline_function(u64 address, u64 *start, u64 *end);
bool relpoline_is_barred(u64 start);

extern char relpoline_cold_stubs[], relpoline_recorders[], relpoline_trees[];

/* Of a processor that has ever been online since we were loaded: what it counted stays. */
DEFINE_PER_CPU(struct relpoline_cpu *, relpoline_cpu);

static void *sites, *records;
static int hotplug;

/* Clock and counters */

#define for_each_relpoline_cpu(cpu, p)							\
	for_each_possible_cpu(cpu)							\
		if (!(p = READ_ONCE(per_cpu(relpoline_cpu, cpu)))) { } else

u64 relpoline_clock(void)
{
	return rdtsc_ordered();
}

u32 relpoline_cold_calls(u32 site)
{
	struct relpoline_cpu *p;
	u32 sum = 0;
	int cpu;

	if (site >= RLP_SITES)
		return 0;
	for_each_relpoline_cpu(cpu, p)
		sum += READ_ONCE(p->cold[site]);
	return sum;
}

u32 relpoline_misses(u32 tree)
{
	struct relpoline_cpu *p;
	u32 sum = 0;
	int cpu;

	if (tree >= RLP_TREES)
		return 0;
	for_each_relpoline_cpu(cpu, p)
		sum += READ_ONCE(p->misses[tree]);
	return sum;
}

u64 relpoline_calls(u32 tree)
{
	struct relpoline_cpu *p;
	u64 sum = 0;
	int cpu;

	if (tree >= RLP_TREES)
		return 0;
	for_each_relpoline_cpu(cpu, p)
		sum += READ_ONCE(p->calls[tree]);
	return sum;
}

/*
 * Empties the rings. A record that is still being written is found next time, in
 * the same place; a cursor whose owner wins the race against its reset goes over
 * empty places once more.
 */
u32 relpoline_drain(void (*take)(void *, u32, u64), void *with)
{
	struct relpoline_cpu *p;
	u32 lost = 0;
	int cpu;

	for_each_relpoline_cpu(cpu, p) {
		u32 count = READ_ONCE(p->cursor), i;

		if (!count)
			continue;
		if (count > RLP_RING) {
			lost += count - RLP_RING;
			count = RLP_RING;
		}
		for (i = 0; i < count; i++) {
			u64 record = xchg(&p->records[i], 0);

			if (record)
				take(with, cpu, record);
		}
		WRITE_ONCE(p->cursor, 0);
	}
	return lost;
}

/* Symbols */

bool relpoline_function(u64 address, u64 *start, u64 *end)
{
	unsigned long size, offset;

	/* Once for each site of a text that comes; in a module, each time through all of its symbols. */
	cond_resched();
	if (!relpoline_kernel.lookup_size_offset(address, &size, &offset))
		return false;
	*start = address - offset;
	*end = *start + size;
	return true;
}

static bool is_module_text(u64 address)
{
	struct module *mod;
	bool found;

	preempt_disable();
	mod = relpoline_kernel.module_text_address(address);
	found = mod && mod != THIS_MODULE && mod->state != MODULE_STATE_GOING &&
		within_module_core(address, mod);
	preempt_enable();
	return found;
}

bool relpoline_is_entry(u64 address)
{
	unsigned long size, offset;

	if (!(address >= relpoline_kernel.stext && address < relpoline_kernel.etext) &&
	    !is_module_text(address))
		return false;
	return relpoline_kernel.lookup_size_offset(address, &size, &offset) && !offset;
}

bool relpoline_is_barred(u64 start)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(relpoline_kernel.barred); i++)
		if (relpoline_kernel.barred[i] == start)
			return true;
	return false;
}

/* Text */

void relpoline_write(u64 at, const void *bytes, u64 len)
{
	mutex_lock(relpoline_kernel.text_mutex);
	while (len) {
		/* The kernel's function maps two pages at most. */
		u64 n = min_t(u64, len, PAGE_SIZE - offset_in_page(at));

		relpoline_kernel.text_poke((void *)at, bytes, n);
		at += n;
		bytes += n;
		len -= n;
	}
	mutex_unlock(relpoline_kernel.text_mutex);
}

/*
 * Whether a kprobe is registered that has a copy of an instruction in start..end,
 * armed or not: it would go on to execute its copy, whatever we put in the text.
 * An optimised probe has copies of what follows it, up to the 20 bytes that the
 * kernel allows for. The caller holds kprobe_mutex.
 */
static bool is_probed(u64 start, u64 end)
{
	u64 at;

#ifdef RLP_BROKEN_IGNORES_PROBES /* a variant that the test must catch */
	return false;
#endif
	for (at = start - (MAX_OPTIMIZED_LENGTH - 1); at < end; at++)
		if (relpoline_kernel.get_kprobe((void *)at))
			return true;
	return false;
}

/*
 * A site is changed only where nobody else has its instruction. kprobe_mutex keeps
 * probes from coming meanwhile; the order of the locks is that of kprobes.
 */
void relpoline_poke(struct relpoline_poke *batch, u64 count)
{
	u64 i;

	mutex_lock(relpoline_kernel.kprobe_mutex);
	cpus_read_lock();
	mutex_lock(relpoline_kernel.text_mutex);
	for (i = 0; i < count; i++) {
		struct relpoline_poke *p = &batch[i];
		/* The cs with which compilers pad comes before the opcode. */
		bool is_ours = p->start == p->at || *(u8 *)p->start == 0x2e;

		p->done = is_ours && !memcmp((void *)p->at, p->old, sizeof(p->old)) &&
			  !is_probed(p->start, p->at + sizeof(p->old));
		if (p->done)
			relpoline_kernel.text_poke_queue((void *)p->at, p->new, sizeof(p->new), NULL);
	}
	relpoline_kernel.text_poke_finish();
	mutex_unlock(relpoline_kernel.text_mutex);
	cpus_read_unlock();
	mutex_unlock(relpoline_kernel.kprobe_mutex);
	cond_resched();
}

/* The shape of stubs.S as this kernel's macros made it. */

static bool is_stub(const u8 *at, u8 first, u32 jump)
{
	return at[0] == first && at[jump] == 0xe9;
}

int relpoline_check_stubs(void)
{
	const u8 *cold = (u8 *)relpoline_cold_stubs;
	const u8 *recorders = (u8 *)relpoline_recorders;
	const u8 *trees = (u8 *)relpoline_trees;
	u32 rsp = 4 * RLP_RECORDERS;
	bool sound = !(((u64)cold | (u64)recorders | (u64)trees) & 63);
	u32 i;

	for (i = 0; i < RLP_SITES; i++)
		sound &= is_stub(cold + i * RLP_COLD_STUB, 0x50, RLP_COLD_JUMP);
	for (i = 0; i < 16 * RLP_RECORDERS; i++) {
		const u8 *at = recorders + i * RLP_RECORDER;

		if (i < rsp || i >= rsp + RLP_RECORDERS)
			sound &= is_stub(at, 0x68, 5) && *(u32 *)(at + 1) == i;
	}
	for (i = 0; i < RLP_TREES; i++) {
		const u8 *at = trees + i * RLP_TREE;

		sound &= at[0] == 0x66 && at[RLP_MISS] == 0x50 && at[RLP_MISS_JUMP] == 0xe9 &&
			 at[RLP_COUNTED] == 0x50;
	}
	if (sound)
		return 0;
	pr_err("refused: the module's stubs do not lie where they should; this compiler or kernel is not one that the module knows\n");
	return -ENOEXEC;
}

/* Memory */

static int cpu_comes(unsigned int cpu)
{
	struct relpoline_cpu *p = per_cpu(relpoline_cpu, cpu);

	if (!p)
		p = kvzalloc_node(sizeof(*p), GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN,
				  cpu_to_node(cpu));
	WRITE_ONCE(per_cpu(relpoline_cpu, cpu), p);
	return p ? 0 : -ENOMEM;
}

static int allocate(void)
{
	gfp_t gfp = GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;
	int cpu, err = 0;

	BUILD_BUG_ON(offsetof(struct relpoline_cpu, cursor) != RLP_CPU_CURSOR);
	BUILD_BUG_ON(offsetof(struct relpoline_cpu, misses) != RLP_CPU_MISSES);
	BUILD_BUG_ON(offsetof(struct relpoline_cpu, calls) != RLP_CPU_CALLS);
	BUILD_BUG_ON(offsetof(struct relpoline_cpu, records) != RLP_CPU_RECORDS);
	BUILD_BUG_ON(offsetof(struct relpoline_cpu, cold) != RLP_CPU_COLD);
	sites = kvzalloc(relpoline_engine_memory(0), gfp);
	records = kvzalloc(relpoline_engine_memory(1), gfp);
	if (!sites || !records)
		return -ENOMEM;
	/*
	 * For a processor that comes, before it does; and for each that is online. By
	 * ourselves: until 2024, kernels did not call back for these at this state.
	 */
	hotplug = cpuhp_setup_state_nocalls(CPUHP_BP_PREPARE_DYN, "relpoline:prepare", cpu_comes, NULL);
	if (hotplug < 0)
		return hotplug;
	cpus_read_lock();
	for_each_online_cpu(cpu)
		err = err ?: cpu_comes(cpu);
	cpus_read_unlock();
	return err;
}

void relpoline_machine_stop(void)
{
	int cpu;

	if (hotplug > 0)
		cpuhp_remove_state_nocalls(hotplug);
	for_each_possible_cpu(cpu)
		kvfree(per_cpu(relpoline_cpu, cpu));
	kvfree(records);
	kvfree(sites);
}

int relpoline_machine_start(void)
{
	struct relpoline_places places = {
		.cold = (u64)relpoline_cold_stubs,
		.recorders = (u64)relpoline_recorders,
		.trees = (u64)relpoline_trees,
	};
	int err = allocate();

	if (err) {
		pr_err("refused: there is not enough memory (%llu KiB and %zu KiB for each processor are needed)\n",
		       (relpoline_engine_memory(0) + relpoline_engine_memory(1)) >> 10,
		       sizeof(struct relpoline_cpu) >> 10);
		relpoline_machine_stop();
		return err;
	}
	memcpy(places.thunks, relpoline_kernel.thunks, sizeof(places.thunks));
	relpoline_engine_furnish(&places, sites, records, tsc_khz);
	return 0;
}
