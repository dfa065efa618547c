"""Mixed interpreter load, second input: other algorithms, other types, other library code than b.py."""
import collections
import functools
import heapq
import itertools
import struct


def queens(n):
    """Count placements by backtracking over bit masks."""

    def place(cols, left, right):
        if cols == full:
            return 1
        found, free = 0, full & ~(cols | left | right)
        while free:
            bit = free & -free
            free ^= bit
            found += place(cols | bit, (left | bit) << 1, (right | bit) >> 1)
        return found

    full = (1 << n) - 1
    return place(0, 0, 0)


def life(size, turns):
    """A torus of cells kept as a set of tuples."""
    cells = {(x, y) for x in range(size) for y in range(size) if (x * 7 + y * 13) % 5 < 2}
    for _ in range(turns):
        near = collections.Counter(
            ((x + dx) % size, (y + dy) % size)
            for x, y in cells
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
            if dx or dy
        )
        cells = {c for c, k in near.items() if k == 3 or (k == 2 and c in cells)}
    return len(cells)


def shortest(n):
    """Dijkstra over an implicit graph, with a heap of tuples."""
    dist, heap = {0: 0}, [(0, 0)]
    while heap:
        d, u = heapq.heappop(heap)
        if d > dist[u]:
            continue
        for v, w in (((u * 3 + 1) % n, u % 17 + 1), ((u + 7) % n, 5), ((u * u + 2) % n, 11)):
            if d + w < dist.get(v, 1 << 30):
                dist[v] = d + w
                heapq.heappush(heap, (d + w, v))
    return sum(dist.values())


@functools.total_ordering
class Fraction2:
    """A number type of our own: operator slots, __slots__, comparison."""

    __slots__ = ("n", "d")

    def __init__(self, n, d=1):
        self.n, self.d = n, d

    def __add__(self, other):
        return Fraction2((self.n * other.d + other.n * self.d) % 10007, self.d * other.d % 10007 or 1)

    def __mul__(self, other):
        return Fraction2(self.n * other.n % 10007, self.d * other.d % 10007 or 1)

    def __eq__(self, other):
        return self.n * other.d == other.n * self.d

    def __lt__(self, other):
        return self.n * other.d < other.n * self.d

    def __hash__(self):
        return hash((self.n, self.d))


def fractions(n):
    items = [Fraction2(i * 37 % 101, i % 13 + 1) for i in range(n)]
    total = Fraction2(0)
    for a, b in zip(items, reversed(items)):
        total = total + a * b
    items.sort()
    return total.n, total.d, items[n // 2].n, len(set(items))


def packed(n):
    """bytes, bytearray, struct and memoryview."""
    out = bytearray()
    for i in range(n):
        out += struct.pack("<IHB", i * 2654435761 & 0xFFFFFFFF, i & 0xFFFF, i & 0xFF)
    view, check = memoryview(out), 0
    for a, b, c in struct.iter_unpack("<IHB", view):
        check = (check * 31 + a + b + c) & 0xFFFFFFFF
    return check, bytes(view[::7]).count(b"\x07")


def sentences(n):
    """str.format, split, join, translate, exceptions, generators."""
    table = str.maketrans("aeiou", "eioua")
    bad, lines = 0, []
    for i in range(n):
        line = "{0:>6}|{1:<8}|{2:.3f}".format(i, "item%d" % (i % 97), i / 7).translate(table)
        try:
            lines.append(int(line.split("|")[1].strip()[4:]) + len(line))
        except ValueError:
            bad += 1
    return bad, sum(lines), max(map(len, itertools.permutations("abcdef", 5)))


@functools.lru_cache(maxsize=None)
def edits(a, b):
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return edits(a[1:], b[1:])
    return 1 + min(edits(a[1:], b), edits(a, b[1:]), edits(a[1:], b[1:]))


print(queens(8))
print(life(48, 30))
print(shortest(50000))
print(fractions(30000))
print(packed(100000))
print(sentences(70000))
print(edits("retpoline" * 12, "relpoline" * 11))
