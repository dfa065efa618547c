#!/usr/bin/env python3
"""What the kernel's own run of its flow dissector says about generated packets.

Usage: kernel_flow_keys.py BPF_FLOW.o PACKETS > flow_keys.txt     (as root, with bpftool; recorded: 600)

Each line of the result: the packet, the flow keys, both in hex, and the program's return value. The packets come
from a fixed seed: IPv4, IPv6 with extension headers and fragments, VLAN tags, MPLS, GRE, IP in IP, TCP, UDP, ICMP,
some cut short, some with random bytes changed.
"""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

PIN = f"/sys/fs/bpf/relpoline-flow-{os.getpid()}"


def bpftool(*arguments):
    return subprocess.run(["bpftool", "-j", *arguments], check=True, capture_output=True, text=True).stdout


def ipv4(r, payload, protocol):
    options = bytes(4 * r.choice([0, 0, 0, 1, 3]))
    fragment = r.choice([0] * 8 + [0x2000, 0x2010, 0x0100])
    head = struct.pack("!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(payload), 1, fragment, 64, protocol, 0,
                       r.randbytes(4), r.choice([r.randbytes(4), bytes([127, 0, 0, 127])]))
    return head + options + payload


def ipv6(r, payload, following):
    for _ in range(r.choice([0, 0, 1, 2])):
        kind = r.choice([0, 60, 44])
        if kind == 44:
            payload = struct.pack("!BBHI", following, 0, r.choice([0, 1, 0x0100]), 7) + payload
        else:
            more = r.choice([0, 1])
            payload = struct.pack("!BB", following, more) + bytes(6 + 8 * more) + payload
        following = kind
    return struct.pack("!IHBB", 0x60000000 | r.getrandbits(20), len(payload), following, 64) + r.randbytes(32) + payload


def transport(r):
    ports = struct.pack("!HH", r.getrandbits(16), r.getrandbits(16))
    return r.choice([
        (6, ports + bytes(8) + bytes([r.choice([0x50, 0x50, 0x60, 0x20]), 0]) + bytes(10)),
        (17, ports + bytes(8)),
        (136, ports + bytes(8)),
        (1, bytes(8)),
        (99, bytes(8)),
    ])


def inner(r, depth):
    """Protocol number and bytes of what an IP header carries."""
    kind = r.choice(["transport"] * 4 + ["gre", "ipip", "ip6"]) if depth < 3 else "transport"
    if kind == "transport":
        return transport(r)
    if kind == "gre":
        flags = r.choice([0, 0x8000, 0x2000, 0x3000, 0x0001])
        optional = bytes(4 * bin(flags & 0xb000).count("1"))
        protocol, payload = network(r, depth + 1)
        if r.random() < 0.3:
            protocol, payload = 0x6558, bytes(12) + struct.pack("!H", protocol) + payload
        return 47, struct.pack("!HH", flags, protocol) + optional + payload
    carried, payload = inner(r, depth + 1)
    return (4, ipv4(r, payload, carried)) if kind == "ipip" else (41, ipv6(r, payload, carried))


def network(r, depth=0):
    """Ethernet type and bytes."""
    kind = r.choice(["4"] * 4 + ["6"] * 4 + ["vlan", "qinq", "mpls", "other"])
    if kind in "46":
        carried, payload = inner(r, depth)
        return (0x0800, ipv4(r, payload, carried)) if kind == "4" else (0x86DD, ipv6(r, payload, carried))
    if kind == "mpls":
        return 0x8847, r.randbytes(4)
    if kind == "other":
        return 0x1234, r.randbytes(20)
    protocol, payload = network(r, depth + 1) if depth < 3 else (0x0800, b"")
    if kind == "vlan":
        return 0x8100, struct.pack("!HH", 5, protocol) + payload
    return 0x88A8, struct.pack("!HHHH", 6, 0x8100, 5, protocol) + payload


def packet(r):
    protocol, payload = network(r)
    data = bytearray(r.randbytes(12) + struct.pack("!H", protocol) + payload)
    if r.random() < 0.2:
        del data[r.randrange(14, len(data) + 1):]
    if r.random() < 0.2 and len(data) > 14:
        for _ in range(r.randrange(1, 4)):
            data[r.randrange(14, len(data))] = r.getrandbits(8)
    # The kernel takes no packet without something behind the Ethernet header.
    return bytes(data) + bytes(max(0, 15 - len(data)))


def main():
    path, count = sys.argv[1], int(sys.argv[2])
    r = random.Random(2020)
    bpftool("prog", "loadall", path, PIN, "type", "flow_dissector", "pinmaps", PIN)
    try:
        for index in range(6):
            bpftool("map", "update", "pinned", f"{PIN}/jmp_table", "key", *[str(b) for b in struct.pack("<I", index)],
                    "value", "pinned", f"{PIN}/flow_dissector_{index}")
        with tempfile.TemporaryDirectory() as folder:
            given, taken = f"{folder}/in", f"{folder}/out"
            for _ in range(count):
                data = packet(r)
                with open(given, "wb") as file:
                    file.write(data)
                answer = bpftool("prog", "run", "pinned", f"{PIN}/_dissect", "data_in", given, "data_out", taken)
                with open(taken, "rb") as file:
                    print(data.hex(), file.read().hex(), json.loads(answer)["retval"])
    finally:
        for name in os.listdir(PIN):
            os.unlink(f"{PIN}/{name}")
        os.rmdir(PIN)


main()
