/* Every helper with every kind of argument that the kernel's verifier lets through: tests/helpers.rs runs each program here,
   tests/kernel.c in the kernel's test run, and results and packets have to be the same. */
#include "bpf.h"

struct xdp_md {
    u32 data, data_end, data_meta, rest[3];
};

struct skb {
    u32 len, pkt_type, mark, queue, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex, ifindex,
        tc_index, cb[5], hash, tc_classid, data, data_end, others[15];
    u64 flow_keys;
};

#define MAP(name, kind, entries, k, v, flags)                                                                          \
    struct {                                                                                                           \
        NUMBER(type, kind);                                                                                            \
        NUMBER(max_entries, entries);                                                                                  \
        NUMBER(key_size, k);                                                                                           \
        NUMBER(value_size, v);                                                                                         \
        NUMBER(map_flags, flags);                                                                                      \
    } name SEC(".maps")
#define UNKEYED(name, kind, entries, v)                                                                                \
    struct {                                                                                                           \
        NUMBER(type, kind);                                                                                            \
        NUMBER(max_entries, entries);                                                                                  \
        NUMBER(value_size, v);                                                                                         \
    } name SEC(".maps")

MAP(array, ARRAY, 4, 4, 8, 0);
MAP(percpu_array, PERCPU_ARRAY, 4, 4, 8, 0);
MAP(hash, HASH, 4, 4, 8, 0);
MAP(percpu_hash, 5, 4, 4, 8, 0);
MAP(lru, LRU_HASH, 4, 4, 8, 0);
MAP(lru_percpu, 10, 4, 4, 8, 0);
MAP(lpm, 11, 2, 8, 8, 1);
MAP(devices, 14, 4, 4, 4, 0);
MAP(devices_hash, 25, 4, 4, 4, 0);
MAP(cpus, 16, 2, 4, 4, 0);
MAP(sockets, 17, 4, 4, 4, 0);
MAP(events, 4, 2, 4, 4, 0);
UNKEYED(queue, 22, 2, 8);
UNKEYED(stack, 23, 2, 8);
UNKEYED(bloom, 30, 100, 8);
struct {
    NUMBER(type, RINGBUF);
    NUMBER(max_entries, 4096);
} ring SEC(".maps");

#define HELPER(number, result, name, ...) static result (*const name)(__VA_ARGS__) = (void *)number
HELPER(9, long, skb_store, void *, u32, const void *, u32, u64);
HELPER(10, long, l3_replace, void *, u32, u64, u64, u64);
HELPER(11, long, l4_replace, void *, u32, u64, u64, u64);
HELPER(18, long, vlan_push, void *, u16, u16);
HELPER(19, long, vlan_pop, void *);
HELPER(23, long, redirect, u32, u64);
HELPER(25, long, event, void *, void *, u64, void *, u64);
HELPER(28, long, csum_diff, void *, u32, void *, u32, u32);
HELPER(32, long, change_type, void *, u32);
HELPER(38, long, change_tail, void *, u32, u64);
HELPER(39, long, pull, void *, u32);
HELPER(40, long, csum_update, void *, u32);
HELPER(43, long, change_head, void *, u32, u64);
HELPER(44, long, adjust_head, void *, int);
HELPER(50, long, adjust_room, void *, int, u32, u64);
HELPER(51, long, redirect_map, void *, u64, u64);
HELPER(54, long, adjust_meta, void *, int);
HELPER(65, long, adjust_tail, void *, int);
HELPER(68, long, load_relative, void *, u32, void *, u32, u32);
HELPER(87, long, push, void *, void *, u64);
HELPER(88, long, pop, void *, void *);
HELPER(89, long, peek, void *, void *);
HELPER(105, long, strtol, const char *, u64, u64, long *);
HELPER(106, long, strtoul, const char *, u64, u64, u64 *);
HELPER(130, long, ring_output, void *, void *, u64, u64);
HELPER(133, void, ring_discard, void *, u64);
HELPER(134, u64, ring_query, void *, u64);
HELPER(152, long, redirect_neigh, u32, void *, int, u64);
HELPER(155, long, redirect_peer, u32, u64);
HELPER(165, long, snprintf, char *, u32, const char *, u64 *, u32);
HELPER(182, long, compare, const char *, u32, const char *);
HELPER(188, u64, length, void *);
HELPER(189, long, xdp_load, void *, u32, void *, u32);
HELPER(190, long, xdp_store, void *, u32, void *, u32);

#define X(name, ...)                                                                                                  \
    SEC("xdp") int x_##name(struct xdp_md *c) {                                                                        \
        __VA_ARGS__; \
    }
#define T(name, ...)                                                                                                  \
    SEC("tc") int t_##name(struct skb *c) {                                                                            \
        __VA_ARGS__; \
    }

/* Sums. */
#define BYTES                                                                                                          \
    u32 a[4] = {0x12345678, 0xffffffff, 0x80007fff, 7}, b[4] = {0xdeadbeef, 0, 0xffff0000, 0x11};                      \
    BARRIER
#define DIFF(name, from, to, seed)                                                                                     \
    X(diff_##name, BYTES; return csum_diff(from ? (void *)a : 0, from, to ? (void *)b : 0, to, seed))
DIFF(4_4, 4, 4, 0)
DIFF(16_16, 16, 16, 0)
DIFF(16_8, 16, 8, 1)
DIFF(0_16, 0, 16, 0)
DIFF(0_16_seed, 0, 16, 0x1234abcd)
DIFF(16_0, 16, 0, 0)
DIFF(12_0_seed, 12, 0, 0xffff)
DIFF(8_0_ones, 8, 0, 0xffffffff)
DIFF(0_0, 0, 0, 0)
DIFF(0_0_seed, 0, 0, 0xabcd1234)
X(diff_same, BYTES; return csum_diff(a, 16, a, 16, 0))
X(diff_zero, u32 a[2] = {}; return csum_diff(a, 8, a, 4, 0))
#define REPLACE(layer, name, offset, from, to, flags)                                                                  \
    T(layer##_##name, return layer##_replace(c, offset, from, to, flags))
#define REPLACES(layer)                                                                                                \
    REPLACE(layer, two, 24, 0x1817, 0xffee, 2)                                                                         \
    REPLACE(layer, four, 24, 0x11223344, 0xcafebabe, 4)                                                                \
    REPLACE(layer, by, 24, 0, 0x87654321, 0)                                                                           \
    REPLACE(layer, by_from, 24, 1, 0x87654321, 0)                                                                      \
    REPLACE(layer, odd, 25, 1, 2, 2)                                                                                   \
    REPLACE(layer, last, 62, 1, 2, 2)                                                                                  \
    REPLACE(layer, cut, 63, 1, 2, 2)                                                                                   \
    REPLACE(layer, behind, 64, 1, 2, 2)                                                                                \
    REPLACE(layer, far, 0x10000, 1, 2, 2)                                                                              \
    REPLACE(layer, negative, -2, 1, 2, 2)                                                                              \
    REPLACE(layer, three, 24, 1, 2, 3)                                                                                 \
    REPLACE(layer, flag_10, 24, 0x1817, 0xffee, 0x12)                                                                  \
    REPLACE(layer, flag_20, 24, 0x1817, 0xffee, 0x22)                                                                  \
    REPLACE(layer, flag_40, 24, 0x1817, 0xffee, 0x42)                                                                  \
    REPLACE(layer, flag_80, 24, 0x1817, 0xffee, 0x82)                                                                  \
    REPLACE(layer, flag_100, 24, 0x1817, 0xffee, 0x102)                                                                \
    REPLACE(layer, wide, 24, 0x100001817, 0xffeeddccbb, 4)
REPLACES(l3)
REPLACES(l4)
T(l4_mangled, u16 zero = 0; skb_store(c, 24, &zero, 2, 0); return l4_replace(c, 24, 1, 2, 0x22))
T(l4_enforced, u16 zero = 0; skb_store(c, 24, &zero, 2, 0); return l4_replace(c, 24, 1, 2, 0x62))
T(l4_to_zero, u16 sum = 0; skb_store(c, 24, &sum, 2, 0); return l4_replace(c, 24, 0xffff, 0, 0x62))
T(csum_update, return csum_update(c, 5))

/* Bytes. */
#define LOAD(name, offset, len)                                                                                        \
    T(load_##name, u8 to[64] = {1, 1}; long r = load_bytes(c, offset, to, len); return r * 1000 + to[0] + to[1])       \
    X(load_##name, u8 to[64] = {1, 1}; long r = xdp_load(c, offset, to, len); return r * 1000 + to[0] + to[1])         \
    T(load_mac_##name, u8 to[64] = {1, 1}; long r = load_relative(c, offset, to, len, 0); return r * 1000 + to[0])     \
    T(load_net_##name, u8 to[64] = {1, 1}; long r = load_relative(c, offset, to, len, 1); return r * 1000 + to[0])
LOAD(0_4, 0, 4)
LOAD(60_4, 60, 4)
LOAD(61_4, 61, 4)
LOAD(64_1, 64, 1)
LOAD(0_64, 0, 64)
LOAD(46_4, 46, 4)
LOAD(47_4, 47, 4)
LOAD(1000_4, 1000, 4)
LOAD(far, 0x10000, 4)
LOAD(minus, -1, 4)
T(load_other, u8 to[4] = {1, 1}; long r = load_relative(c, 0, to, 4, 2); return r * 1000 + to[0])
#define STORE(name, offset, len, flags)                                                                                \
    T(store_##name, u8 from[64] = {9, 8, 7}; return skb_store(c, offset, from, len, flags))                            \
    X(store_##name, u8 from[64] = {9, 8, 7}; return xdp_store(c, offset, from, len))
STORE(0_4, 0, 4, 0)
STORE(60_4, 60, 4, 0)
STORE(61_4, 61, 4, 0)
STORE(64_1, 64, 1, 0)
STORE(far, 0x10000, 4, 0)
STORE(minus, -1, 4, 0)
STORE(flag_1, 30, 4, 1)
STORE(flag_2, 30, 4, 2)
STORE(flag_4, 30, 4, 4)
STORE(flag_wide, 30, 4, 1ULL << 32)
X(length, return length(c))

/* Both ends. The verifier lets pointers be subtracted from each other and from nothing else. */
#define BETWEEN(from, to)                                                                                              \
    ({                                                                                                                 \
        long between = (long)c->to - (long)c->from;                                                                    \
        __asm__ volatile("" : "+r"(between));                                                                          \
        between;                                                                                                       \
    })
#define ENDS(name, by)                                                                                                 \
    X(head_##name, long r = adjust_head(c, by); return r * 100000 + BETWEEN(data, data_end))                             \
    X(tail_##name, long r = adjust_tail(c, by); return r * 100000 + BETWEEN(data, data_end))                             \
    X(meta_##name, long r = adjust_meta(c, by); return r * 100000 + BETWEEN(data_meta, data))                            \
    X(meta_head_##name, adjust_meta(c, -16); long r = adjust_head(c, by);                                              \
      return r * 100000 + BETWEEN(data_meta, data) * 1000 + BETWEEN(data, data_end))
ENDS(0, 0)
ENDS(1, 1)
ENDS(4, 4)
ENDS(14, 14)
ENDS(50, 50)
ENDS(51, 51)
ENDS(m1, -1)
ENDS(m4, -4)
ENDS(m5, -5)
ENDS(m14, -14)
ENDS(m50, -50)
ENDS(m51, -51)
ENDS(m200, -200)
ENDS(m201, -201)
ENDS(m204, -204)
ENDS(m216, -216)
ENDS(m217, -217)
ENDS(m256, -256)
ENDS(1000, 1000)
ENDS(far, 0x7fffffff)
ENDS(mfar, -0x7fffffff - 1)
X(head_twice, adjust_head(c, -100); long r = adjust_head(c, -116); return r * 1000 + BETWEEN(data, data_end))
X(head_back, adjust_head(c, 14); long r = adjust_head(c, -14); return r * 1000 + BETWEEN(data, data_end))
X(tail_back, adjust_tail(c, -20); long r = adjust_tail(c, 20); return r * 1000 + BETWEEN(data, data_end))
X(head_store, adjust_head(c, -8); u64 x = 0x1122334455667788; return xdp_store(c, 0, &x, 8))
X(tail_most, long r = adjust_tail(c, 3456); return r * 10000 + BETWEEN(data, data_end))
X(tail_more, long r = adjust_tail(c, 3457); return r * 10000 + BETWEEN(data, data_end))

#define LEN(name, call) T(name, long r = call; return r * 100000 + c->len)
LEN(change_tail_0, change_tail(c, 0, 0))
LEN(change_tail_13, change_tail(c, 13, 0))
LEN(change_tail_14, change_tail(c, 14, 0))
LEN(change_tail_40, change_tail(c, 40, 0))
LEN(change_tail_64, change_tail(c, 64, 0))
LEN(change_tail_200, change_tail(c, 200, 0))
LEN(change_tail_16065, change_tail(c, 16065, 0))
LEN(change_tail_minus, change_tail(c, -1, 0))
LEN(change_tail_flag, change_tail(c, 100, 1))
LEN(change_head_0, change_head(c, 0, 0))
LEN(change_head_14, change_head(c, 14, 0))
LEN(change_head_100, change_head(c, 100, 0))
LEN(change_head_16065, change_head(c, 16065, 0))
LEN(change_head_minus, change_head(c, -1, 0))
LEN(change_head_flag, change_head(c, 14, 1))
LEN(pull_0, pull(c, 0))
LEN(pull_64, pull(c, 64))
LEN(pull_65, pull(c, 65))
LEN(pull_minus, pull(c, -1))
#define KIND(n) T(change_type_##n, long r = change_type(c, n); return r * 100 + c->pkt_type)
KIND(0) KIND(1) KIND(2) KIND(3) KIND(4) KIND(7)
T(type, return c->pkt_type)
T(ifindex, return c->ifindex)
T(ingress, return c->ingress_ifindex)
X(ingress, return c->rest[0])
T(protocol, return c->protocol)
#define ROOM(name, by, mode, flags) LEN(room_##name, adjust_room(c, by, mode, flags))
ROOM(net_8, 8, 0, 0)
ROOM(mac_8, 8, 1, 0)
ROOM(mac_20, 20, 1, 0)
ROOM(mode_2, 8, 2, 0)
ROOM(net_m8, -8, 0, 0)
ROOM(mac_m8, -8, 1, 0)
ROOM(mac_m30, -30, 1, 0)
ROOM(mac_m31, -31, 1, 0)
ROOM(mac_m50, -50, 1, 0)
ROOM(mac_0, 0, 1, 0)
ROOM(most, 0xfff, 1, 0)
ROOM(more, 0x1000, 1, 0)
ROOM(fixed, 8, 1, 1)
ROOM(ipv4, 20, 1, 2)
ROOM(ipv6, 40, 1, 4)
ROOM(both, 40, 1, 6)
ROOM(gre, 24, 1, 2 | 8)
ROOM(udp, 28, 1, 2 | 16)
ROOM(gre_udp, 28, 1, 2 | 8 | 16)
ROOM(udp_only, 28, 1, 16)
ROOM(no_csum, 8, 1, 32)
ROOM(shrink_encap, -8, 1, 2)
ROOM(decap_grow, 8, 1, 128)
ROOM(decap4, -20, 1, 128)
ROOM(decap6, -8, 1, 256)
ROOM(decap_both, -8, 1, 128 | 256)
ROOM(bit_9, 8, 1, 512)
ROOM(bit_32, 8, 1, 1ULL << 32)
T(room_protocol, adjust_room(c, 40, 1, 4); return c->protocol)
T(vlan, long r = vlan_push(c, 0x0081, 5); return r * 100000 + c->vlan_present * 10000 + c->vlan_tci)
T(vlan_proto, vlan_push(c, 0x0081, 5); return c->vlan_proto)
T(vlan_other, vlan_push(c, 0x1234, 5); return c->vlan_proto)
T(vlan_provider, vlan_push(c, 0xa888, 5); return c->vlan_proto)
T(vlan_twice, vlan_push(c, 0x0081, 5); long r = vlan_push(c, 0x0081, 6); return r * 100000 + c->len * 100 + c->vlan_tci)
T(vlan_twice_protocol, vlan_push(c, 0x0081, 5); vlan_push(c, 0x0081, 6); return c->protocol)
T(vlan_pop_none, long r = vlan_pop(c); return r * 1000 + c->len)
T(vlan_pop_one, vlan_push(c, 0x0081, 5); long r = vlan_pop(c); return r * 1000 + c->len + c->vlan_present)
T(vlan_pop_two, vlan_push(c, 0x0081, 5); vlan_push(c, 0x0081, 6); long r = vlan_pop(c);
  return r * 100000 + c->len * 100 + c->vlan_present * 10 + c->vlan_tci)
T(vlan_pop_all, vlan_push(c, 0x0081, 5); vlan_push(c, 0x0081, 6); vlan_pop(c); long r = vlan_pop(c);
  return r * 100000 + c->len * 100 + c->vlan_present)

/* Ways. */
X(redirect, return redirect(1, 0))
X(redirect_flag, return redirect(1, 1))
T(redirect_flag_2, return redirect(1, 2))
T(redirect_flag_wide, return redirect(1, 1ULL << 40))
T(peer_flag, return redirect_peer(1, 1))
T(neigh_short, u8 p[20] = {}; return redirect_neigh(1, p, 8, 0))
T(neigh_flag, return redirect_neigh(1, 0, 0, 1))
#define WAYS(map)                                                                                                      \
    X(map##_none, return redirect_map(&map, 1, 0))                                                                     \
    X(map##_pass, return redirect_map(&map, 1, 2))                                                                     \
    X(map##_tx, return redirect_map(&map, 1, 3))                                                                       \
    X(map##_bad, return redirect_map(&map, 1, 4))                                                                      \
    X(map##_all, return redirect_map(&map, 1, 8))                                                                      \
    X(map##_others, return redirect_map(&map, 1, 8 | 16))                                                              \
    X(map##_exclude, return redirect_map(&map, 1, 16 | 2))                                                             \
    X(map##_beyond, return redirect_map(&map, 100, 2))                                                                 \
    X(map##_wide, return redirect_map(&map, 1ULL << 40, 2))                                                            \
    X(map##_bit_5, return redirect_map(&map, 1, 32))                                                                   \
    X(map##_bit_40, return redirect_map(&map, 1, 1ULL << 40))
WAYS(devices)
WAYS(devices_hash)
WAYS(cpus)
WAYS(sockets)

/* Maps. */
#define UPDATE(map, name, key, flags)                                                                                  \
    X(map##_update_##name, u32 k[2] = {key, 7}; u64 v = 5; return map_update(&map, k, &v, flags))                      \
    X(map##_again_##name, u32 k[2] = {key, 7}; u64 v = 5; map_update(&map, k, &v, 0);                                  \
      return map_update(&map, k, &v, flags))
#define UPDATES(map)                                                                                                   \
    UPDATE(map, any, 1, 0)                                                                                             \
    UPDATE(map, create, 1, 1)                                                                                          \
    UPDATE(map, replace, 1, 2)                                                                                         \
    UPDATE(map, three, 1, 3)                                                                                           \
    UPDATE(map, lock, 1, 4)                                                                                            \
    UPDATE(map, lock_create, 1, 5)                                                                                     \
    UPDATE(map, lock_three, 1, 7)                                                                                      \
    UPDATE(map, eight, 1, 8)                                                                                           \
    UPDATE(map, wide, 1, 1ULL << 40)                                                                                   \
    UPDATE(map, beyond_any, 100, 0)                                                                                    \
    UPDATE(map, beyond_create, 100, 1)                                                                                 \
    UPDATE(map, beyond_replace, 100, 2)                                                                                \
    UPDATE(map, beyond_lock, 100, 4)                                                                                   \
    UPDATE(map, beyond_eight, 100, 8)                                                                                  \
    UPDATE(map, most, -1, 0)                                                                                           \
    X(map##_delete_none, u32 k[2] = {1, 7}; return map_delete(&map, k))                                                \
    X(map##_delete_beyond, u32 k[2] = {100, 7}; return map_delete(&map, k))                                            \
    X(map##_delete_one, u32 k[2] = {1, 7}; u64 v = 5; map_update(&map, k, &v, 0); return map_delete(&map, k))          \
    X(map##_lookup_none, u32 k[2] = {100, 7}; return map_lookup(&map, k) ? 1 : 0)                                      \
    X(map##_full, u32 k[2] = {0, 7}; u64 v = 5; long r = 0; for (int i = 0; i < 6; i++) {                              \
          k[0] = i;                                                                                                    \
          r = r * 3 + map_update(&map, k, &v, 0);                                                                      \
      } return r)
UPDATES(array)
UPDATES(percpu_array)
UPDATES(hash)
UPDATES(percpu_hash)
UPDATES(lru)
UPDATES(lru_percpu)
UPDATES(lpm)
#define PREFIX(name, length, bits)                                                                                     \
    X(lpm_find_##name, u32 k[2] = {8, 0x0000000a}; u64 v = 1; map_update(&lpm, k, &v, 0); k[0] = 16; k[1] = 0x0000ff0a; \
      v = 2; map_update(&lpm, k, &v, 0); k[0] = length; k[1] = bits; u64 *f = map_lookup(&lpm, k); return f ? *f : 0)
PREFIX(both, 32, 0x0201ff0a)
PREFIX(one, 32, 0x0201010a)
PREFIX(none, 32, 0x0201010b)
PREFIX(short, 12, 0x0000ff0a)
PREFIX(exact, 16, 0x0000ff0a)
PREFIX(shorter, 7, 0x0000ff0a)
PREFIX(long, 33, 0x0201ff0a)
X(lpm_same, u32 k[2] = {8, 0x0102030a}; u64 v = 1; map_update(&lpm, k, &v, 0); k[1] = 0x0908070a;
  return map_update(&lpm, k, &v, 1))
X(lpm_delete_other, u32 k[2] = {8, 0x0102030a}; u64 v = 1; map_update(&lpm, k, &v, 0); k[0] = 9;
  return map_delete(&lpm, k))
#define PUSH(map, name, flags) X(map##_push_##name, u64 v = 5; return push(&map, &v, flags))
#define LINES(map)                                                                                                     \
    PUSH(map, any, 0)                                                                                                  \
    PUSH(map, create, 1)                                                                                               \
    PUSH(map, replace, 2)                                                                                              \
    PUSH(map, three, 3)                                                                                                \
    PUSH(map, wide, 1ULL << 40)                                                                                        \
    X(map##_pop_none, u64 v = 9; long r = pop(&map, &v); return r * 100 + v)                                           \
    X(map##_peek_none, u64 v = 9; long r = peek(&map, &v); return r * 100 + v)                                         \
    X(map##_order, u64 v = 1; push(&map, &v, 0); v = 2; push(&map, &v, 0); peek(&map, &v); u64 p = v; pop(&map, &v);   \
      u64 q = v; pop(&map, &v); return p * 100 + q * 10 + v)                                                           \
    X(map##_full, u64 v = 1; push(&map, &v, 0); push(&map, &v, 0); return push(&map, &v, 0))                           \
    X(map##_full_replace, u64 v = 1; push(&map, &v, 0); v = 2; push(&map, &v, 0); v = 3; long r = push(&map, &v, 2);   \
      pop(&map, &v); u64 p = v; pop(&map, &v); return r * 100 + p * 10 + v)
LINES(queue)
LINES(stack)
PUSH(bloom, any, 0)
PUSH(bloom, create, 1)
PUSH(bloom, replace, 2)
X(bloom_has, u64 v = 7; push(&bloom, &v, 0); return peek(&bloom, &v))
X(bloom_has_not, u64 v = 7; return peek(&bloom, &v))

/* Records. */
#define EVENT(name, flags) X(event_##name, u64 v = 5; return event(c, &events, flags, &v, 8))
EVENT(flag_52, 1ULL << 52)
EVENT(flag_63, 1ULL << 63 | 0xffffffff)
EVENT(context_65, 65ULL << 32 | 0xffffffff)
EVENT(index_2, 2)
EVENT(index_beyond, 100)
#define OUTPUT(name, size, flags) X(ring_output_##name, u64 v[16] = {5}; return ring_output(&ring, v, size, flags))
OUTPUT(8, 8, 0)
OUTPUT(0, 0, 0)
OUTPUT(3, 3, 1)
OUTPUT(both, 8, 3)
OUTPUT(flag_4, 8, 4)
OUTPUT(wide, 8, 1ULL << 40)
#define RESERVE(name, size, flags)                                                                                     \
    X(ring_reserve_##name, void *r = ring_reserve(&ring, size, flags); if (r) {                                        \
        ring_discard(r, 0);                                                                                            \
        return 1;                                                                                                      \
    } return 0)
RESERVE(0, 0, 0)
RESERVE(8, 8, 0)
RESERVE(4080, 4080, 0)
RESERVE(4081, 4081, 0)
RESERVE(4088, 4088, 0)
RESERVE(4096, 4096, 0)
RESERVE(4097, 4097, 0)
RESERVE(flag, 8, 1)
RESERVE(much, 0x40000000, 0)
#define COUNT(size)                                                                                                    \
    X(ring_count_##size, u64 v[16] = {5}; int n = 0; for (int i = 0; i < 600; i++) if (!ring_output(&ring, v, size, 0)) \
          n++;                                                                                                         \
      return n)
COUNT(1)
COUNT(8)
COUNT(9)
COUNT(48)
COUNT(56)
COUNT(100)
#define QUERY(n) X(ring_query_##n, u64 v = 1; ring_output(&ring, &v, 8, 0); return ring_query(&ring, n))
QUERY(0) QUERY(1) QUERY(2) QUERY(3) QUERY(4) QUERY(0x100000000)

/* Text. */
#define PARSE(name, text, base)                                                                                        \
    X(strtol_##name, static const char t[] = text; long v = 77; long r = strtol(t, sizeof t - 1, base, &v);            \
      return r * 10000 + v)                                                                                            \
    X(strtoul_##name, static const char t[] = text; u64 v = 77; long r = strtoul(t, sizeof t - 1, base, &v);           \
      return r * 10000 + v)
PARSE(plain, "123", 0)
PARSE(spaces, " \t\n12 ", 0)
PARSE(negative, "-12", 0)
PARSE(plus, "+12", 0)
PARSE(minus, "-", 0)
PARSE(blank, "   ", 0)
PARSE(hex, "0x1f", 0)
PARSE(hex_16, "0X1f", 16)
PARSE(hex_bare, "1fg", 16)
PARSE(octal, "017", 0)
PARSE(octal_8, "017", 8)
PARSE(octal_9, "019", 0)
PARSE(zero, "0", 0)
PARSE(zero_x, "0x", 0)
PARSE(zero_xg, "0xg", 16)
PARSE(base_2, "101", 2)
PARSE(base_36, "zz", 36)
PARSE(flag, "12", 32)
PARSE(wide, "12", 1ULL << 40)
PARSE(letters, "abc", 0)
PARSE(tail, "12abc", 10)
PARSE(most, "9223372036854775807", 10)
PARSE(over, "9223372036854775808", 10)
PARSE(least, "-9223372036854775808", 10)
PARSE(under, "-9223372036854775809", 10)
PARSE(most_u, "18446744073709551615", 10)
PARSE(over_u, "18446744073709551616", 10)
PARSE(long, "0000000000000000000000000000000000000000000000000000000000000000000000000012", 10)
#define PRINT(name, text, a, b, d) X(print_##name, static const char t[] = text; return printk(t, sizeof t, a, b, d))
PRINT(plain, "hello", 0, 0, 0)
PRINT(three, "%d %u %x", -5, 6, 255)
PRINT(long, "%ld %lu %lx", -5LL, 6LL, 255LL)
PRINT(llong, "%lld %llu %llX", -5LL, 6LL, 255LL)
PRINT(four, "%d%d%d%d", 1, 2, 3)
PRINT(width, "%10d|%5x|%3u", 1, 2, 3)
PRINT(flags, "%-5d|%05d|%+d", 1, 2, 3)
PRINT(per_cent, "100%%", 0, 0, 0)
PRINT(ends, "100%", 0, 0, 0)
PRINT(char, "%c%c", 65, 66, 0)
PRINT(o, "%o", 8, 0, 0)
PRINT(n, "%n", 8, 0, 0)
PRINT(h, "%hd", 8, 0, 0)
PRINT(hash, "%#x", 8, 0, 0)
PRINT(dot, "%.3d", 8, 0, 0)
PRINT(lll, "%llld", 8, 0, 0)
PRINT(ls, "%ls", 8, 0, 0)
PRINT(control, "a\x01", 0, 0, 0)
PRINT(newline, "a\n\t", 0, 0, 0)
PRINT(high, "a\xe4", 0, 0, 0)
PRINT(pointer, "%px|%p", 8, 9, 0)
PRINT(pz, "%pz", 8, 0, 0)
PRINT(p4, "%pI4|%pi4", "\x0a\x00\x01\xff", "\x0a\x00\x01\xff", 0)
PRINT(p6, "%pI6|%pi6", "0123456789abcdef", "0123456789abcdef", 0)
PRINT(p5, "%pI5", "0123456789abcdef", 0, 0)
X(print_no_end, static const char t[] = "abc"; return printk(t, 3))
#define FORMAT(name, text, size, ...)                                                                                  \
    X(format_##name, static const char t[] = text; u64 a[] = {__VA_ARGS__}; char to[32] = {};                          \
      long r = snprintf(to, size, t, a, sizeof a); u32 sum = 0; for (int i = 0; i < 32; i++) sum = sum * 31 + to[i];   \
      return r * 7 + sum)
FORMAT(plain, "abc", 32, 0)
FORMAT(cut, "abcdefgh", 4, 0)
FORMAT(one, "abc", 1, 0)
FORMAT(numbers, "%d,%u,%x", 32, -1, 2, 0xabc)
FORMAT(longs, "%lld %llx", 32, -1, 0xabcdef012345)
FORMAT(width, "%8d|%-4u|%04x", 32, -1, 2, 0xab)
FORMAT(zeros, "%05d|%+d|% d", 32, -12, 3, 4)
FORMAT(left_zeros, "%-05d|", 32, -12)
FORMAT(zero_width, "%0d|%00x", 32, 1, 2)
FORMAT(hex, "%X%x", 32, 0xabcd, 0xabcd)
FORMAT(letter, "%c|%3c|%-3c|", 32, 65, 66, 67)
FORMAT(per_cent, "%%%d%%", 32, 1)
#define COMPARE(name, a, b, n)                                                                                         \
    X(compare_##name, char x[8] = a; static const char y[] = b; BARRIER; return compare(x, n, y))
COMPARE(same, "abc", "abc", 8)
COMPARE(less, "abb", "abc", 8)
COMPARE(more, "abd", "abc", 8)
COMPARE(prefix, "abcd", "abce", 3)
COMPARE(shorter, "ab", "abc", 8)

/* Tunnels. */
struct tunnel {
    u32 id, remote[4];
    unsigned char tos, ttl;
    u16 ext;
    u32 label, local[4];
};
HELPER(20, long, tunnel_key, void *, void *, u32, u64);
HELPER(21, long, set_tunnel_key, void *, void *, u32, u64);
#define TUNNEL                                                                                                         \
    struct tunnel k = {7, {0x0a000001, 2, 3, 4}, 5, 6, 0, 0, {0x0a000009, 8, 7, 6}}, g = {1, {1}};                     \
    unsigned char *seen = (void *)&g;                                                                                  \
    u32 sum = 0;                                                                                                       \
    BARRIER
#define SUM                                                                                                            \
    BARRIER;                                                                                                           \
    _Pragma("unroll") for (int i = 0; i < 44; i++) sum = sum * 31 + seen[i]
#define TUNNEL_SET(name, size, flags) T(tunnel_set_##name, TUNNEL; return set_tunnel_key(c, &k, size, flags))
TUNNEL_SET(plain, 44, 0)
TUNNEL_SET(wide, 44, 1)
TUNNEL_SET(all, 44, 1 | 2 | 4 | 8 | 16)
TUNNEL_SET(more, 44, 32)
TUNNEL_SET(flag, 44, 64)
TUNNEL_SET(flag_wide, 44, 1ULL << 32)
TUNNEL_SET(8, 8, 0)
TUNNEL_SET(22, 22, 0)
TUNNEL_SET(24, 24, 0)
TUNNEL_SET(28, 28, 0)
TUNNEL_SET(12, 12, 0)
TUNNEL_SET(43, 43, 0)
T(tunnel_set_label, TUNNEL; k.label = 1; BARRIER; return set_tunnel_key(c, &k, 44, 0))
T(tunnel_set_label_6, TUNNEL; k.label = 1; BARRIER; return set_tunnel_key(c, &k, 44, 1))
T(tunnel_set_ext, TUNNEL; k.ext = 1; BARRIER; return set_tunnel_key(c, &k, 44, 1))
#define TUNNEL_GET(name, set, size, flags)                                                                             \
    T(tunnel_get_##name, TUNNEL; k.label = set & 1 ? 0x12345678 : 0; BARRIER; set_tunnel_key(c, &k, 44, set);          \
      long r = tunnel_key(c, &g, size, flags); SUM; return r * 7 + sum)
TUNNEL_GET(plain, 0, 44, 0)
TUNNEL_GET(wide, 1, 44, 1)
TUNNEL_GET(other, 0, 44, 1)
TUNNEL_GET(other_6, 1, 44, 0)
TUNNEL_GET(flags, 0, 44, 16)
TUNNEL_GET(flags_all, 1 | 2 | 4 | 8 | 16, 44, 17)
TUNNEL_GET(flag, 0, 44, 2)
TUNNEL_GET(8, 0, 8, 0)
TUNNEL_GET(8_6, 1, 8, 1)
TUNNEL_GET(22, 0, 22, 0)
TUNNEL_GET(24, 0, 24, 16)
TUNNEL_GET(28, 0, 28, 0)
TUNNEL_GET(30, 0, 30, 0)
T(tunnel_get_none, TUNNEL; long r = tunnel_key(c, &g, 44, 0); SUM; return r * 7 + sum)
T(tunnel_get_none_8, TUNNEL; long r = tunnel_key(c, &g, 8, 0); SUM; return r * 7 + sum)

/* Protocols, and the mark of congestion. */
HELPER(31, long, change_proto, void *, u16, u64);
HELPER(97, long, mark_congested, void *);
T(proto_6, return change_proto(c, 0xdd86, 0))
T(proto_4, return change_proto(c, 0x0008, 0))
T(proto_arp, return change_proto(c, 0x0608, 0))
T(proto_flag, return change_proto(c, 0xdd86, 1))
T(proto_back, change_proto(c, 0xdd86, 0); return change_proto(c, 0x0008, 0))
T(proto_twice, change_proto(c, 0xdd86, 0); return change_proto(c, 0xdd86, 0))
T(proto_is, change_proto(c, 0xdd86, 0); return c->protocol)
#define MARK(name, tos)                                                                                                \
    T(mark_##name, unsigned char b = tos; skb_store(c, 15, &b, 1, 0); return mark_congested(c))                        \
    T(mark_##name##_6, unsigned char b = tos; change_proto(c, 0xdd86, 0); skb_store(c, 15, &b, 1, 0);                   \
      return mark_congested(c))
MARK(none, 0) MARK(one, 1) MARK(two, 2) MARK(three, 3) MARK(high_one, 0xfd) MARK(high_two, 0xfe) MARK(high_four, 0x10)
MARK(high_six, 0x20) MARK(all, 0xff)
#define MARK_SUM(name, sum)                                                                                            \
    T(mark_sum_##name, u16 s = sum; unsigned char b = 1; skb_store(c, 15, &b, 1, 0); skb_store(c, 24, &s, 2, 0);        \
      return mark_congested(c))
MARK_SUM(zero, 0) MARK_SUM(one, 1) MARK_SUM(edge, 0x200) MARK_SUM(over, 0x201) MARK_SUM(over_2, 0x202) MARK_SUM(ones, 0xffff)
T(mark_short, change_tail(c, 33, 0); unsigned char b = 1; skb_store(c, 15, &b, 1, 0); return mark_congested(c))
T(mark_just, change_tail(c, 34, 0); unsigned char b = 1; skb_store(c, 15, &b, 1, 0); return mark_congested(c))

/* Widths. */
HELPER(163, long, check_mtu, void *, u32, u32 *, int, u64);
#define MTU(name, device, len, difference, flags)                                                                      \
    X(mtu_##name, u32 l = len; BARRIER; long r = check_mtu(c, device, &l, difference, flags); return r * 7 + l)        \
    T(mtu_##name, u32 l = len; BARRIER; long r = check_mtu(c, device, &l, difference, flags); return r * 7 + l)
MTU(plain, 0, 0, 0, 0)
MTU(one, 1, 0, 0, 0)
MTU(nobody, 99, 0, 0, 0)
MTU(nobody_flag, 99, 0, 0, 2)
MTU(just, 0, 65536, 0, 0)
MTU(over, 0, 65537, 0, 0)
MTU(over_minus, 0, 65537, -1, 0)
MTU(plus, 0, 0, 65486, 0)
MTU(plus_over, 0, 0, 65487, 0)
MTU(wraps, 0, 0x7fffffff, 0, 0)
MTU(wraps_down, 0, 1, -0x7fffffff, 0)
MTU(segments, 0, 0, 0, 1)
MTU(segments_len, 0, 1, 0, 1)
MTU(segments_by, 0, 0, 1, 1)
MTU(flag, 0, 0, 0, 2)

/* Packets as classic filters read them; the compiler has names for it. */
long classic_b(void *, u64) __asm__("llvm.bpf.load.byte");
long classic_h(void *, u64) __asm__("llvm.bpf.load.half");
long classic_w(void *, u64) __asm__("llvm.bpf.load.word");
#define CLASSIC(name, offset)                                                                                          \
    T(classic_b_##name, return classic_b(c, offset))                                                                   \
    T(classic_h_##name, return classic_h(c, offset) + 1)                                                               \
    T(classic_w_##name, return classic_w(c, offset) + 1)                                                               \
    T(classic_r_##name, u64 at = c->len - 64 + (offset); BARRIER; return classic_h(c, at) + 1)
CLASSIC(first, 0) CLASSIC(proto, 12) CLASSIC(last, 63) CLASSIC(two, 62) CLASSIC(three, 61) CLASSIC(four, 60)
CLASSIC(beyond, 64) CLASSIC(far, 0x7fffffff) CLASSIC(net, -0x100000) CLASSIC(net_9, -0x100000 + 9)
CLASSIC(net_end, -0x100000 + 48) CLASSIC(net_over, -0x100000 + 50) CLASSIC(link, -0x200000) CLASSIC(link_12, -0x200000 + 12)
CLASSIC(extension, -0x1000) CLASSIC(below, -0x200001) CLASSIC(least, -1)
NOINLINE int classic_inner(struct skb *c) { return classic_w(c, 1000) + 5; }
T(classic_in_function, return classic_inner(c) + 3)

/* Values of other CPUs' slots: the one that the program is on, and one that nobody has. */
HELPER(195, void *, lookup_percpu, void *, void *, u32);
HELPER(8, u32, cpu, void);
#define PERCPU(map)                                                                                                    \
    X(map##_own, u32 k = 1; u64 v = 5; map_update(&map, &k, &v, 0); u64 *f = lookup_percpu(&map, &k, cpu());           \
      return f ? *f : 77)                                                                                              \
    X(map##_absent, u32 k = 100; return lookup_percpu(&map, &k, cpu()) ? 1 : 0)                                        \
    X(map##_nobodys, u32 k = 1; u64 v = 5; map_update(&map, &k, &v, 0); return lookup_percpu(&map, &k, 100000) ? 1 : 0) \
    X(map##_minus, u32 k = 1; u64 v = 5; map_update(&map, &k, &v, 0); return lookup_percpu(&map, &k, -1) ? 1 : 0)
PERCPU(percpu_array)
PERCPU(percpu_hash)
PERCPU(lru_percpu)

/* Maps within maps. */
struct inner_map {
    NUMBER(type, ARRAY);
    NUMBER(max_entries, 2);
    NUMBER(key_size, 4);
    NUMBER(value_size, 8);
} inner SEC(".maps");
#define OUTER(name, kind, k)                                                                                           \
    struct {                                                                                                           \
        NUMBER(type, kind);                                                                                            \
        NUMBER(max_entries, 3);                                                                                        \
        NUMBER(key_size, k);                                                                                           \
        struct inner_map *values[];                                                                                    \
    } name SEC(".maps") = {.values = {[1] = &inner}}
OUTER(outer_array, 12, 4);
OUTER(outer_hash, 13, 4);
#define WITHIN(map, name, first, second)                                                                               \
    X(map##_##name, u32 a = first, b = second; void *i = map_lookup(&map, &a); if (!i) return 100;                     \
      u64 *v = map_lookup(i, &b); if (!v) return 200; *v += 3; v = map_lookup(i, &b); return v ? *v : 300)
#define WITHINS(map)                                                                                                   \
    WITHIN(map, there, 1, 1)                                                                                           \
    WITHIN(map, empty, 0, 1)                                                                                           \
    WITHIN(map, beyond, 3, 1)                                                                                          \
    WITHIN(map, inner_beyond, 1, 2)                                                                                    \
    X(map##_twice, u32 a = 1, b = 0; u64 n = 9; void *i = map_lookup(&map, &a); if (!i) return 100;                    \
      long r = map_update(i, &b, &n, 0); u64 *v = map_lookup(&inner, &b); return v ? r * 100 + *v : 300)               \
    X(map##_create, u32 a = 1, b = 0; u64 n = 9; void *i = map_lookup(&map, &a); if (!i) return 100;                   \
      return map_update(i, &b, &n, 1))                                                                                 \
    X(map##_delete, u32 a = 1, b = 0; void *i = map_lookup(&map, &a); if (!i) return 100; return map_delete(i, &b))
WITHINS(outer_array)
WITHINS(outer_hash)

/* Copies that are sent; nobody has these devices. */
HELPER(13, long, clone_redirect, void *, u32, u64);
T(clone_nobody, return clone_redirect(c, 9999, 0))
T(clone_none, return clone_redirect(c, 0, 0))
T(clone_nobody_in, return clone_redirect(c, 9999, 1))
T(clone_flag, return clone_redirect(c, 1, 2))
T(clone_flags, return clone_redirect(c, 1, 3))
T(clone_flag_wide, return clone_redirect(c, 1, 1ULL << 32))

/* Hashes of packets: what one is does not matter, but that it stays, and what was set. */
HELPER(34, u32, hash_of, void *);
HELPER(41, void, forget_hash, void *);
HELPER(48, long, set_hash, void *, u32);
T(hash_before, return c->hash)
T(hash_stays, u32 h = hash_of(c); return h == hash_of(c))
T(hash_set, long r = set_hash(c, 0x12345); return r * 1000000 + hash_of(c))
T(hash_set_read, set_hash(c, 0x12345); return c->hash)
T(hash_set_zero, long r = set_hash(c, 0); return r * 100 + c->hash)
T(hash_forgotten, set_hash(c, 0x12345); forget_hash(c); return c->hash)
T(hash_forgotten_twice, set_hash(c, 0x12345); forget_hash(c); forget_hash(c); set_hash(c, 7); return hash_of(c))

/* What the machine around says: control groups' classes, realms, memory nodes, routes, sockets, clocks. */
HELPER(17, u32, classid, void *);
HELPER(24, u32, realm, void *);
HELPER(42, long, node, void);
T(classid, return classid(c))
T(realm, return realm(c))
T(node, return node())
X(node, return node())
HELPER(69, long, fib_lookup, void *, void *, int, u32);
struct route {
    unsigned char family, protocol;
    u16 sport, dport, len;
    u32 device, flowinfo, source[4], destination[4];
    u16 tags[2];
    unsigned char macs[12];
};
#define ROUTE(name, f, d, size, flags)                                                                                 \
    X(route_##name, struct route r = {.family = f, .device = d, .destination = {0x0100007f}}; BARRIER;                 \
      return fib_lookup(c, &r, size, flags))                                                                           \
    T(route_##name, struct route r = {.family = f, .device = d, .destination = {0x0100007f}}; BARRIER;                 \
      return fib_lookup(c, &r, size, flags))
ROUTE(family_0, 0, 1, 64, 0)
ROUTE(family_3, 3, 1, 64, 0)
ROUTE(nobody, 2, 9999, 64, 0)
ROUTE(nobody_6, 10, 9999, 64, 0)
ROUTE(nobody_out, 2, 9999, 64, 2)
ROUTE(nobody_direct, 2, 9999, 64, 1)
ROUTE(flag, 2, 1, 64, 64)
ROUTE(flag_high, 2, 1, 64, 1u << 31)
ROUTE(short, 2, 1, 63, 0)
HELPER(84, void *, lookup_tcp, void *, void *, u32, u64, u64);
HELPER(85, void *, lookup_udp, void *, void *, u32, u64, u64);
HELPER(86, long, release, void *);
HELPER(99, void *, skc_lookup_tcp, void *, void *, u32, u64, u64);
#define SOCKET(name, lookup, size, network, flags)                                                                     \
    X(socket_##name, u32 t[9] = {0x01020304, 0x05060708, 0x00010002}; BARRIER;                                         \
      void *s = lookup(c, t, size, network, flags); if (s) {                                                           \
          release(s);                                                                                                  \
          return 1;                                                                                                    \
      } return 0)                                                                                                      \
    T(socket_##name, u32 t[9] = {0x01020304, 0x05060708, 0x00010002}; BARRIER;                                         \
      void *s = lookup(c, t, size, network, flags); if (s) {                                                           \
          release(s);                                                                                                  \
          return 1;                                                                                                    \
      } return 0)
#define SOCKETS(name, lookup)                                                                                          \
    SOCKET(name##_4, lookup, 12, -1, 0)                                                                                \
    SOCKET(name##_6, lookup, 36, -1, 0)                                                                                \
    SOCKET(name##_odd, lookup, 13, -1, 0)                                                                              \
    SOCKET(name##_flag, lookup, 12, -1, 1)                                                                             \
    SOCKET(name##_network, lookup, 12, 7, 0)
SOCKETS(tcp, lookup_tcp)
SOCKETS(udp, lookup_udp)
SOCKETS(skc, skc_lookup_tcp)
HELPER(118, u64, jiffies, void);
HELPER(125, u64, boot_ns, void);
HELPER(160, u64, coarse_ns, void);
#define CLOCK(name) X(clock_##name, u64 a = name(); BARRIER; u64 b = name(); return a > 1000 && b >= a && b - a < 1000000000)
CLOCK(jiffies)
CLOCK(boot_ns)
CLOCK(coarse_ns)

/* Lines with their arguments in an array. */
HELPER(177, long, vprintk, const char *, u32, void *, u32);
#define VPRINT(name, text, ...)                                                                                        \
    X(vprint_##name, static const char t[] = text; u64 a[] = {__VA_ARGS__}; return vprintk(t, sizeof t, a, sizeof a))
VPRINT(one, "%d", 1)
VPRINT(many, "%d %u %x %ld %lx", -1, 2, 3, 4, 5)
VPRINT(few, "%d %d", 1)
VPRINT(over, "%d", 1, 2)
VPRINT(plain, "abc", 1)
VPRINT(width, "%5d|%-5d|%05x", 1, 2, 3)
VPRINT(ends, "a%", 1)
VPRINT(q, "%q", 1)
VPRINT(control, "a\x01%d", 1)
X(vprint_none, static const char t[] = "abc"; return vprintk(t, sizeof t, 0, 0))
X(vprint_odd, static const char t[] = "%d"; u64 a[2] = {1, 2}; return vprintk(t, sizeof t, a, 12))
X(vprint_no_end, static const char t[] = "abc"; u64 a[1] = {1}; return vprintk(t, 3, a, 8))

char gpl[] SEC("license") = "GPL";
