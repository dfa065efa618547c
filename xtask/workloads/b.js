// Mixed load for a JavaScript engine: numbers, arrays, classes, closures, generators, strings, maps, sorting.

function sieve(n) {
  const composite = new Uint8Array(n);
  let count = 0;
  for (let i = 2; i < n; i++) {
    if (composite[i]) continue;
    count++;
    for (let j = i * i; j < n; j += i) composite[j] = 1;
  }
  return count;
}

class Box {
  constructor(w, h) { this.w = w; this.h = h; }
  area() { return this.w * this.h; }
}
class Disc {
  constructor(r) { this.r = r; }
  area() { return 3 * this.r * this.r; }
}

function shapes(n) {
  const list = [];
  let total = 0;
  for (let i = 0; i < n; i++) list.push(i % 3 ? new Box(i % 7, i % 5) : new Disc(i % 10));
  for (let k = 0; k < 8; k++) for (const shape of list) total += shape.area();
  return total;
}

function text(n) {
  const parts = [], tally = new Map();
  for (let i = 0; i < n; i++) parts.push(`${i % 89}:${"x".repeat(i % 4)}`);
  for (const part of parts.join(",").split(",")) {
    const [number, tail] = part.split(":");
    tally.set(number, (tally.get(number) ?? 0) + tail.length);
  }
  return [...tally].map(([key, value]) => `${key}=${value}`).sort().join(" ").toUpperCase().length;
}

function matrix(n) {
  const a = [], b = [];
  for (let i = 0; i < n; i++) {
    a.push([]); b.push([]);
    for (let j = 0; j < n; j++) { a[i].push((i * j) % 11); b[i].push(((i + j) % 7) + 0.5); }
  }
  let trace = 0;
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
    let sum = 0;
    for (let k = 0; k < n; k++) sum += a[i][k] * b[k][j];
    if (i === j) trace += sum;
  }
  return trace;
}

function* walk(n, step) { for (let i = 0; i < n; i++) yield i * step; }

function produced(n) {
  const two = walk(n, 2);
  let total = 0;
  for (const one of walk(n, 1)) total = (total + (one ^ two.next().value)) & 0xffffff;
  return total;
}

function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

function composed(n) {
  let f = (x) => x;
  for (let i = 1; i <= 8; i++) { const g = f; f = (x) => (g(x) * i + 1) % 10007; }
  let sum = 0;
  for (let i = 0; i < n; i++) sum += f(i);
  return sum;
}

function sorted(n) {
  let seed = 1;
  const all = [];
  for (let i = 0; i < n; i++) { seed = (seed * 69069 + 1) % 2147483647; all.push(seed); }
  all.sort((x, y) => x - y);
  return all[n >> 1];
}

[sieve(2000000), shapes(60000), text(80000), matrix(110), produced(120000), fib(26), composed(60000), sorted(60000)].join(" ");
