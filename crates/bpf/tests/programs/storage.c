/* Maps that belong to things of the kernel, and have no entries here: each is refused by name, with its program. */
#include "bpf.h"

#define STORAGE(name, kind)                                                                                            \
    struct {                                                                                                           \
        NUMBER(type, kind);                                                                                            \
        NUMBER(map_flags, 1);                                                                                          \
        NUMBER(key_size, sizeof(u32));                                                                                 \
        NUMBER(value_size, sizeof(u64));                                                                               \
    } name SEC(".maps")

STORAGE(of_sockets, 24);
STORAGE(of_inodes, 28);
STORAGE(of_tasks, 29);
STORAGE(of_groups, 32);

static void *(*const sk_storage_get)(void *map, void *socket, void *value, u64 flags) = (void *)107;
static void *(*const inode_storage_get)(void *map, void *inode, void *value, u64 flags) = (void *)145;
static void *(*const task_storage_get)(void *map, void *task, void *value, u64 flags) = (void *)156;
static void *(*const group_storage_get)(void *map, void *group, void *value, u64 flags) = (void *)210;

SEC("xdp") int none(void *ctx) { return 2; }
SEC("xdp") int sockets(void *ctx) { return sk_storage_get(&of_sockets, ctx, 0, 1) != 0; }
SEC("xdp") int inodes(void *ctx) { return inode_storage_get(&of_inodes, ctx, 0, 1) != 0; }
SEC("xdp") int tasks(void *ctx) { return task_storage_get(&of_tasks, ctx, 0, 1) != 0; }
SEC("xdp") int groups(void *ctx) { return group_storage_get(&of_groups, ctx, 0, 1) != 0; }
