"""What profile feedback is trained on: the common parts of the language, none of the programs that are measured."""
import collections
import json
import re


class Node:
    """A binary search tree."""

    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def insert(self, key):
        at = self
        while True:
            side = "left" if key < at.key else "right"
            below = getattr(at, side)
            if below is None:
                setattr(at, side, Node(key))
                return
            at = below

    def __iter__(self):
        if self.left:
            yield from self.left
        yield self.key
        if self.right:
            yield from self.right


def collatz(limit):
    best = (0, 0)
    for start in range(1, limit):
        n, length = start, 1
        while n != 1:
            n = 3 * n + 1 if n & 1 else n >> 1
            length += 1
        best = max(best, (length, start))
    return best


def mandelbrot(size):
    total = 0
    for y in range(size):
        for x in range(size):
            z, c, k = 0j, complex(3.0 * x / size - 2, 2.0 * y / size - 1), 0
            while abs(z) < 2 and k < 40:
                z, k = z * z + c, k + 1
            total += k
    return total


def ledger(entries):
    book = collections.defaultdict(list)
    for i in range(entries):
        book["account-%d" % (i % 53)].append({"amount": i * 17 % 301, "memo": f"entry {i:05d}"})
    text = json.dumps(book)
    memo = re.compile(r'"memo": "entry (\d+)"')
    sums = {name: sum(e["amount"] for e in rows) for name, rows in json.loads(text).items()}
    return len(memo.findall(text)), sorted(sums.items(), key=lambda pair: -pair[1])[:3]


tree = Node(5000)
for i in range(20000):
    tree.insert(i * 7919 % 10007)
print(sum(tree))
print(collatz(6000))
print(mandelbrot(60))
print(ledger(12000))
