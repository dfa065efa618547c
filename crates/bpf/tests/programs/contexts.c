/* Programs with the kernel's contexts: xdp_md and __sk_buff, as far as they are used here. */
#include "bpf.h"

struct xdp_md {
    u32 data, data_end, data_meta, rest[3];
};

struct skb {
    u32 len, unused[3], protocol, more[14], data, data_end, others[15];
    u64 flow_keys;
};

_Static_assert(__builtin_offsetof(struct skb, flow_keys) == 144, "layout of __sk_buff");

PROGS(next, 1);

/* Swaps the addresses of an Ethernet header. */
SEC("xdp")
int reflect(struct xdp_md *ctx) {
    u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    if (data + 14 > end)
        return 1;
    for (int i = 0; i < 6; i++) {
        u8 byte = data[i];
        data[i] = data[i + 6];
        data[i + 6] = byte;
    }
    return 3;
}

/* Reads past the end without asking. */
SEC("xdp")
int careless(struct xdp_md *ctx) { return *(u8 *)(long)ctx->data_end; }

SEC("tc")
int keys(struct skb *skb) {
    u16 *keys = (void *)(long)skb->flow_keys;
    keys[0] = skb->len;
    keys[1] = skb->protocol;
    return 0;
}

SEC("tc")
int dispatch(struct skb *skb) {
    tail_call(skb, &next, 0);
    return 5;
}
