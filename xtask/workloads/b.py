"""Mixed interpreter load, first input: numbers, objects, text and containers, with a checksum at the end."""
import json
import re


def bodies(steps):
    """A small gravity simulation: float arithmetic on lists."""
    pos = [[0.0, 0.0, 0.0], [4.8, -1.1, -0.1], [8.3, 4.1, -0.4], [12.9, -15.1, -0.2], [15.4, -25.9, 0.18]]
    vel = [[0.0, 0.0, 0.0], [0.6, 2.8, -0.02], [-1.0, 1.8, 0.008], [1.1, 0.87, -0.01], [0.98, 0.59, -0.03]]
    mass = [39.5, 0.038, 0.011, 0.0017, 0.002]
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    for _ in range(steps):
        for i, j in pairs:
            a, b = pos[i], pos[j]
            dx, dy, dz = a[0] - b[0], a[1] - b[1], a[2] - b[2]
            pull = 0.01 / ((dx * dx + dy * dy + dz * dz) ** 1.5)
            mi, mj = mass[i] * pull, mass[j] * pull
            u, v = vel[i], vel[j]
            u[0] -= dx * mj
            u[1] -= dy * mj
            u[2] -= dz * mj
            v[0] += dx * mi
            v[1] += dy * mi
            v[2] += dz * mi
        for p, v in zip(pos, vel):
            p[0] += 0.01 * v[0]
            p[1] += 0.01 * v[1]
            p[2] += 0.01 * v[2]
    return round(sum(sum(p) for p in pos), 6)


def flips(n):
    """The largest number of prefix reversals over a run of permutations of n numbers."""
    perm, count, most, sign, total = list(range(n)), list(range(n)), 0, 1, 0
    while True:
        first = perm[0]
        if first:
            q, done = perm[:], 0
            while first:
                q[: first + 1] = q[first::-1]
                first = q[0]
                done += 1
            most = max(most, done)
            total += sign * done
        if sign == 1:
            perm[0], perm[1] = perm[1], perm[0]
            sign = -1
        else:
            perm[1], perm[2] = perm[2], perm[1]
            sign = 1
            for r in range(2, n):
                if count[r]:
                    count[r] -= 1
                    break
                count[r] = r
                if r == n - 1:
                    return most, total
                perm.insert(r + 1, perm.pop(0))


class Task:
    """One runnable of the scheduler below."""

    def __init__(self, name, budget):
        self.name, self.budget, self.done = name, budget, 0

    def step(self, box):
        raise NotImplementedError

    @property
    def alive(self):
        return self.done < self.budget


class Producer(Task):
    def step(self, box):
        self.done += 1
        box.append((self.name, self.done * 7 % 31))


class Consumer(Task):
    def __init__(self, name, budget):
        super().__init__(name, budget)
        self.seen = {}

    def step(self, box):
        self.done += 1
        if box:
            who, value = box.pop()
            self.seen[who] = self.seen.get(who, 0) + value


class Idler(Task):
    def step(self, box):
        self.done += 2 if len(box) % 2 else 1


def schedule(rounds):
    """Round-robin over objects of three classes: method calls, attributes, dicts."""
    tasks = [Producer("p%d" % i, rounds) for i in range(3)]
    tasks += [Consumer("c%d" % i, rounds) for i in range(3)] + [Idler("i", rounds)]
    box, turns = [], 0
    while any(t.alive for t in tasks):
        for t in tasks:
            if t.alive:
                t.step(box)
                turns += 1
    return turns, sum(sum(t.seen.values()) for t in tasks if isinstance(t, Consumer))


def words(repeat):
    """Regular expressions, str methods and counting."""
    text = "The quick brown fox, 42 years old, met 7 lazy dogs & said: hello@example.org! " * 20
    token = re.compile(r"(?P<mail>\w+@[\w.]+)|(?P<num>\d+)|(?P<word>[A-Za-z]+)")
    tally = {}
    for _ in range(repeat):
        for m in token.finditer(text):
            key = m.lastgroup + ":" + m.group().lower()
            tally[key] = tally.get(key, 0) + 1
    return sorted(tally.items())


def documents(repeat):
    """JSON to text and back, with a generator and comprehensions over the result."""
    rows = [{"id": i, "name": "n%d" % i, "tags": ["a", "b", str(i)], "score": i / 3} for i in range(150)]
    total = 0.0
    for _ in range(repeat):
        back = json.loads(json.dumps(rows, sort_keys=True))
        total += sum(r["score"] for r in back if r["id"] % 3)
        total += len({t for r in back for t in r["tags"]})
    return round(total, 4)


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


print(bodies(10000))
print(flips(8))
print(schedule(50000))
print(words(90))
print(documents(110))
print(fib(25))
