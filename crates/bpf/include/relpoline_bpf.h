/* eBPF in user space, for C: load what clang makes (clang -O2 -g -target bpf -c), run it, and change which programs its
 * tail calls lead to while it runs. In the shape of ubpf's interface; include this instead of ubpf.h and its names mean these
 * functions (not with RELPOLINE_BPF_ONLY_OWN_NAMES). What differs: docs/bpf-migration.md.
 *
 *     cargo rustc --release -p relpoline-bpf --features c --crate-type staticlib
 *     cc program.c -I crates/bpf/include target/release/librelpoline_bpf.a -lpthread -ldl -lm
 *
 * Messages are strings for free(). Where a function can fail, it returns 0 or -1, or NULL. A machine may be run by any number
 * of threads at a time; whoever changes it is alone meanwhile. A relpoline_bpf_* call of a helper's must not change the machine
 * that calls the helper.
 */
#ifndef RELPOLINE_BPF_H
#define RELPOLINE_BPF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A machine: helpers, and what is loaded. */
struct relpoline_bpf;

/* A helper. What it is given are the program's registers: addresses among them are not checked. */
typedef uint64_t (*relpoline_bpf_function)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
/* The loaded program as a function: r0, or UINT64_MAX where it could not go on. */
typedef uint64_t (*relpoline_bpf_compiled)(void *memory, size_t len);

struct relpoline_bpf *relpoline_bpf_create(void);
/* NULL is nothing to destroy. */
void relpoline_bpf_destroy(struct relpoline_bpf *machine);

/* Adds a helper under a number, instead of the built-in one of that number (bpf-helpers(7)); calls of an undefined function of
 * that name in an object become calls of it. Not for number 12, the tail call; not while something is loaded. */
int relpoline_bpf_register(struct relpoline_bpf *machine, unsigned number, const char *name,
                           relpoline_bpf_function function);
/* Whether memory accesses of what is loaded from now on are checked; returns whether they were. Without, the caller vouches
 * for the program as for its own code. */
bool relpoline_bpf_toggle_bounds_check(struct relpoline_bpf *machine, bool on);
/* Instructions that a run may spend on loops and calls, 0 for any number; not while something is loaded. */
int relpoline_bpf_set_instruction_limit(struct relpoline_bpf *machine, uint32_t limit, uint32_t *before);

/* Instructions, of 8 bytes each. `message` may be NULL. */
int relpoline_bpf_load(struct relpoline_bpf *machine, const void *code, uint32_t len, char **message);
/* An object file; runs begin with its first program. */
int relpoline_bpf_load_elf(struct relpoline_bpf *machine, const void *file, size_t len, char **message);
/* ... or with the one of this name, or in the section of this name. */
int relpoline_bpf_load_elf_ex(struct relpoline_bpf *machine, const void *file, size_t len, const char *program,
                              char **message);
void relpoline_bpf_unload_code(struct relpoline_bpf *machine);

/* Runs the loaded program, compiled, over `len` bytes at `memory`: r1 is their address, r2 their number. */
int relpoline_bpf_exec(const struct relpoline_bpf *machine, void *memory, size_t len, uint64_t *result);
/* ... and says why it could not go on. */
int relpoline_bpf_exec_told(const struct relpoline_bpf *machine, void *memory, size_t len, uint64_t *result,
                            char **message);
/* The same as a function, until the machine is unloaded or destroyed. At most 64 machines have one at a time. Programs are
 * compiled without it, too. */
relpoline_bpf_compiled relpoline_bpf_compile(struct relpoline_bpf *machine, char **message);

/* Values of maps, by the map's name. Of a map per CPU, the first slot's. */
int relpoline_bpf_map_update(const struct relpoline_bpf *machine, const char *map, const void *key, const void *value);
int relpoline_bpf_map_lookup(const struct relpoline_bpf *machine, const char *map, const void *key, void *value);
/* What a slot of a program array leads to; NULL empties it. Runs that go on meanwhile see the old program or the new one. */
int relpoline_bpf_array_update(const struct relpoline_bpf *machine, const char *array, uint32_t slot,
                               const char *program, char **message);

#ifdef __cplusplus
}
#endif

#ifndef RELPOLINE_BPF_ONLY_OWN_NAMES
#define ubpf_vm relpoline_bpf
#define ubpf_create relpoline_bpf_create
#define ubpf_destroy relpoline_bpf_destroy
#define ubpf_register relpoline_bpf_register
#define ubpf_toggle_bounds_check relpoline_bpf_toggle_bounds_check
#define ubpf_set_instruction_limit relpoline_bpf_set_instruction_limit
#define ubpf_load relpoline_bpf_load
#define ubpf_load_elf relpoline_bpf_load_elf
#define ubpf_load_elf_ex relpoline_bpf_load_elf_ex
#define ubpf_unload_code relpoline_bpf_unload_code
#define ubpf_exec relpoline_bpf_exec
#define ubpf_compile relpoline_bpf_compile
typedef relpoline_bpf_function external_function_t;
typedef relpoline_bpf_compiled ubpf_jit_fn;
#define as_external_function_t(function) ((external_function_t)(function))
#endif

#endif
