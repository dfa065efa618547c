/* Programs that run here beside those that cannot: by a helper, a kind of map, a type or a function of the kernel. */
#include "bpf.h"

#define SK_STORAGE 24
#define PRESERVE __attribute__((preserve_access_index))

static long (*const kernel_only)(void *ctx) = (void *)9999;
static void *(*const storage_get)(void *map, void *socket, void *value, u64 flags) = (void *)107;
long outside(void *ctx) SEC(".ksyms");

struct {
    NUMBER(type, SK_STORAGE);
    NUMBER(map_flags, 1);
    NUMBER(key_size, sizeof(u32));
    NUMBER(value_size, sizeof(u32));
} storage SEC(".maps");

struct {
    NUMBER(type, HASH);
    NUMBER(max_entries, 2);
    TYPE(key, u32);
    TYPE(value, u32);
    NUMBER(map_flags, 1 | 1 << 7);
} constants SEC(".maps");

int needs_helper(void *ctx);
int fine(void *ctx);

struct {
    NUMBER(type, PROG_ARRAY);
    NUMBER(max_entries, 2);
    NUMBER(key_size, sizeof(u32));
    int (*values[])(void *);
} steps SEC(".maps") = {
    .values = {[0] = (void *)&fine, [1] = (void *)&needs_helper},
};

/* One that the kernel has, one whose members lie where they always lay. */
struct task_struct___old {
    u32 padding[37];
    u32 pid;
} PRESERVE;
struct xdp_md {
    u32 data;
    u32 data_end;
} PRESERVE;

SEC("xdp") int fine(void *ctx) { return 2; }
SEC("xdp") int updates(void *ctx) {
    u32 key = 1;
    return map_update(&constants, &key, &key, 0);
}
SEC("xdp") int chooses(void *ctx) {
    tail_call(ctx, &steps, 0);
    return 9;
}
SEC("xdp") int chooses_nothing(void *ctx) {
    tail_call(ctx, &steps, 1);
    return 9;
}
SEC("xdp") int reads_context(struct xdp_md *ctx) { return ctx->data_end - ctx->data; }
SEC("xdp") int needs_helper(void *ctx) { return kernel_only(ctx); }
SEC("xdp") int needs_map(void *ctx) { return storage_get(&storage, ctx, 0, 0) != 0; }
SEC("xdp") int needs_type(struct task_struct___old *task) { return task->pid; }
SEC("xdp") int needs_function(void *ctx) { return outside(ctx); }
SEC("kprobe/do_exit") int traces(void *ctx) { return 1; }
