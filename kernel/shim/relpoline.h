/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the files of the shim share, and what it shares with the engine: the
 * other side of these declarations is ../src/ffi.rs.
 */
#ifndef RELPOLINE_H
#define RELPOLINE_H

#include <linux/build_bug.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/types.h>
#include "layout.h"

struct kprobe;
struct module;

/* What a processor records and counts. Its offsets are known to stubs.S. */
struct relpoline_cpu {
	u32 cursor;
	u32 unused[15];
	u32 misses[RLP_TREES];
	u64 calls[RLP_TREES];
	u64 records[RLP_RING];
	u32 cold[RLP_SITES];
};

DECLARE_PER_CPU(struct relpoline_cpu *, relpoline_cpu);

/* Shared with the engine. */

struct relpoline_places {
	u64 cold, recorders, trees;
	u64 thunks[16];
};

struct relpoline_text {
	u64 start, end;
	u64 barred[2][2];
	u64 owner;
};

struct relpoline_poke {
	u64 at, start;
	u8 old[5], new[5];
	bool done;
	u32 site;
};

struct relpoline_word {
	const char *at;
	u64 len;
};

struct relpoline_line {
	u64 address;
	struct relpoline_word kind, reg, phase, reason;
	u32 promotions, relearned;
	u64 calls, misses, plain;
	u64 before;
	u64 targets[4];
	u32 shares[4];
	u32 len, cold;
};

u64 relpoline_engine_memory(u32 which);
void relpoline_engine_furnish(const struct relpoline_places *places, void *sites,
			      void *records, u32 khz);
u64 relpoline_engine_text_comes(const struct relpoline_text *text);
void relpoline_engine_text_goes(u64 owner, u64 start, u64 end);
u32 relpoline_engine_tick(void);
void relpoline_engine_enable(void);
bool relpoline_engine_disable(void);
void relpoline_engine_relearn(void);
void relpoline_engine_count(bool on);
bool relpoline_engine_wants_grace(void);
void relpoline_engine_grace(bool ended);
bool relpoline_engine_set(u32 knob, u32 value);
bool relpoline_engine_knob(u32 knob, struct relpoline_word *name, u32 *value);
int relpoline_engine_line(u64 id, struct relpoline_line *line);
void relpoline_engine_figures(void (*each)(void *, struct relpoline_word, u64), void *with);

/* The engine's lock: everything above is called with it held. */
extern struct mutex relpoline_lock;

/* symbols.c: what of the kernel is not exported. */

extern struct relpoline_kernel {
	unsigned long (*lookup_name)(const char *name);
	int (*lookup_size_offset)(unsigned long at, unsigned long *size, unsigned long *offset);
	struct module *(*module_text_address)(unsigned long at);
	void *(*text_poke)(void *at, const void *bytes, size_t len);
	void (*text_poke_queue)(void *at, const void *bytes, size_t len, const void *emulate);
	void (*text_poke_finish)(void);
	struct kprobe *(*get_kprobe)(void *at);
	struct mutex *text_mutex;
	struct mutex *module_mutex;
	struct mutex *kprobe_mutex;
	struct list_head *modules;
	int *spectre_v2;
	u64 thunks[16];
	u64 stext, etext;
	u64 noinstr_start, noinstr_end, entry_start, entry_end;
	u64 barred[4];
} relpoline_kernel;

int relpoline_check_machine(void);
int relpoline_find_symbols(void);
int relpoline_check_kernel(void);

/* machine.c: what the engine asks of the kernel. */

int relpoline_check_stubs(void);
int relpoline_machine_start(void);
void relpoline_machine_stop(void);

/* watch.c: text that comes and goes. */

int relpoline_watch(void);
void relpoline_unwatch(void);

/* module.c: promoting, and with it holding the module. */

void relpoline_enable(void);
bool relpoline_disable(void);
void relpoline_wake(void);

/* device.c */

int relpoline_devices_create(void);
void relpoline_devices_remove(void);

#endif
