// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * What the engine asks of the kernel: the clock, rings and counters, symbols, and
 * changes of text. The declarations on the other side are in ../src/ffi.rs.
 */
#include <linux/memory.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
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

DEFINE_PER_CPU(struct relpoline_cpu *, relpoline_cpu);

static u32 cold_counters[RLP_SITES];
static void *sites, *records;

/* Clock and counters */

u64 relpoline_clock(void)
{
	return rdtsc_ordered();
}

u32 relpoline_cold_calls(u32 site)
{
	return site < RLP_SITES ? READ_ONCE(cold_counters[site]) : 0;
}

u32 relpoline_misses(u32 tree)
{
	u32 sum = 0;
	int cpu;

	if (tree < RLP_TREES)
		for_each_possible_cpu(cpu)
			sum += READ_ONCE(per_cpu(relpoline_cpu, cpu)->misses[tree]);
	return sum;
}

u64 relpoline_calls(u32 tree)
{
	u64 sum = 0;
	int cpu;

	if (tree < RLP_TREES)
		for_each_possible_cpu(cpu)
			sum += READ_ONCE(per_cpu(relpoline_cpu, cpu)->calls[tree]);
	return sum;
}

/*
 * Empties the rings. A record that is still being written is found next time, in
 * the same place; a cursor whose owner wins the race against its reset goes over
 * empty places once more.
 */
u32 relpoline_drain(void (*take)(void *, u32, u64), void *with)
{
	u32 lost = 0;
	int cpu;

	for_each_possible_cpu(cpu) {
		struct relpoline_cpu *p = per_cpu(relpoline_cpu, cpu);
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
	relpoline_kernel.text_poke_copy((void *)at, bytes, len);
}

void relpoline_poke(struct relpoline_poke *batch, u64 count)
{
	u64 i;

	mutex_lock(relpoline_kernel.text_mutex);
	for (i = 0; i < count; i++) {
		struct relpoline_poke *p = &batch[i];

		/* A kprobe, say, has its int3 there: not our bytes, not our change. */
		p->done = !memcmp((void *)p->at, p->old, sizeof(p->old));
		if (p->done)
			relpoline_kernel.text_poke_queue((void *)p->at, p->new, sizeof(p->new), NULL);
	}
	relpoline_kernel.text_poke_finish();
	mutex_unlock(relpoline_kernel.text_mutex);
	cond_resched();
}

/* Memory */

static int allocate(void)
{
	int cpu;

	BUILD_BUG_ON(offsetof(struct relpoline_cpu, cursor) != RLP_CPU_CURSOR);
	BUILD_BUG_ON(offsetof(struct relpoline_cpu, misses) != RLP_CPU_MISSES);
	BUILD_BUG_ON(offsetof(struct relpoline_cpu, calls) != RLP_CPU_CALLS);
	BUILD_BUG_ON(offsetof(struct relpoline_cpu, records) != RLP_CPU_RECORDS);
	sites = vzalloc(relpoline_engine_memory(0));
	records = vzalloc(relpoline_engine_memory(1));
	if (!sites || !records)
		return -ENOMEM;
	for_each_possible_cpu(cpu) {
		struct relpoline_cpu *p = vzalloc_node(sizeof(*p), cpu_to_node(cpu));

		if (!p)
			return -ENOMEM;
		per_cpu(relpoline_cpu, cpu) = p;
	}
	return 0;
}

void relpoline_machine_stop(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		vfree(per_cpu(relpoline_cpu, cpu));
	vfree(records);
	vfree(sites);
}

int relpoline_machine_start(void)
{
	struct relpoline_places places = {
		.cold = (u64)relpoline_cold_stubs,
		.cold_counters = (u64)cold_counters,
		.recorders = (u64)relpoline_recorders,
		.trees = (u64)relpoline_trees,
	};
	int i, err = allocate();

	if (err) {
		relpoline_machine_stop();
		return err;
	}
	for (i = 0; i < ARRAY_SIZE(places.thunks); i++)
		places.thunks[i] = relpoline_kernel.thunks + i * RETPOLINE_THUNK_SIZE;
	relpoline_engine_furnish(&places, sites, records, tsc_khz);
	return 0;
}
