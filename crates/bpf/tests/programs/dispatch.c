/* A program per protocol, found by a computed index: the number is the packet's own byte. */
#include "bpf.h"

int icmp(u8 *packet);
int tcp(u8 *packet);
int udp(u8 *packet);

struct {
    NUMBER(type, PROG_ARRAY);
    NUMBER(max_entries, 256);
    NUMBER(key_size, sizeof(u32));
    int (*values[])(u8 *);
} protocols SEC(".maps") = {
    .values = {[1] = (void *)&icmp, [6] = (void *)&tcp, [17] = (void *)&udp},
};

SEC("xdp")
int classify(u8 *packet) {
    u8 protocol;
    if (load_bytes(packet, 23, &protocol, 1))
        return -1;
    tail_call(packet, &protocols, protocol);
    return 0;
}

SEC("xdp")
int icmp(u8 *packet) { return 1; }

SEC("xdp")
int tcp(u8 *packet) { return 6; }

SEC("xdp")
int udp(u8 *packet) { return 17; }
