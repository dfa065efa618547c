<?php
// Mixed load for the PHP interpreter: numbers, arrays, objects, closures, generators, strings.

function sieve(int $n): int {
    $composite = []; $count = 0;
    for ($i = 2; $i < $n; $i++) {
        if (!isset($composite[$i])) {
            $count++;
            for ($j = $i * $i; $j < $n; $j += $i) $composite[$j] = true;
        }
    }
    return $count;
}

interface Shape { function area(): int; }
class Box implements Shape {
    function __construct(private int $w, private int $h) {}
    function area(): int { return $this->w * $this->h; }
}
class Disc implements Shape {
    function __construct(private int $r) {}
    function area(): int { return 3 * $this->r * $this->r; }
}

function shapes(int $n): int {
    $list = []; $total = 0;
    for ($i = 0; $i < $n; $i++) $list[] = $i % 3 ? new Box($i % 7, $i % 5) : new Disc($i % 10);
    for ($k = 0; $k < 8; $k++) foreach ($list as $shape) $total += $shape->area();
    return $total;
}

function text(int $n): string {
    $parts = [];
    for ($i = 0; $i < $n; $i++) $parts[] = ($i % 89) . ':' . str_repeat('x', $i % 4);
    $tally = [];
    foreach (explode(',', implode(',', $parts)) as $part) {
        [$number, $tail] = explode(':', $part);
        $tally[$number] = ($tally[$number] ?? 0) + strlen($tail);
    }
    ksort($tally);
    return md5(json_encode_plain($tally));
}

function json_encode_plain(array $all): string {
    $out = [];
    foreach ($all as $key => $value) $out[] = "\"$key\":$value";
    return '{' . implode(',', $out) . '}';
}

function matrix(int $n): float {
    $a = $b = [];
    for ($i = 0; $i < $n; $i++) for ($j = 0; $j < $n; $j++) {
        $a[$i][$j] = ($i * $j) % 11;
        $b[$i][$j] = ($i + $j) % 7 + 0.5;
    }
    $trace = 0.0;
    for ($i = 0; $i < $n; $i++) for ($j = 0; $j < $n; $j++) {
        $sum = 0.0;
        for ($k = 0; $k < $n; $k++) $sum += $a[$i][$k] * $b[$k][$j];
        if ($i == $j) $trace += $sum;
    }
    return $trace;
}

function walk(int $n, int $step): Generator { for ($i = 0; $i < $n; $i++) yield $i * $step; }

function produced(int $n): int {
    $total = 0;
    $two = walk($n, 2);
    foreach (walk($n, 1) as $one) {
        $total = ($total + ($one ^ $two->current())) & 0xffffff;
        $two->next();
    }
    return $total;
}

function fib(int $n): int { return $n < 2 ? $n : fib($n - 1) + fib($n - 2); }

function composed(int $n): int {
    $f = fn($x) => $x;
    for ($i = 1; $i <= 8; $i++) { $g = $f; $f = fn($x) => ($g($x) * $i + 1) % 10007; }
    $sum = 0;
    for ($i = 0; $i < $n; $i++) $sum += $f($i);
    return $sum;
}

function sorted(int $n): int {
    $seed = 1; $all = [];
    for ($i = 0; $i < $n; $i++) { $seed = ($seed * 1103515245 + 12345) & 0x7fffffff; $all[] = $seed; }
    usort($all, fn($x, $y) => $x <=> $y);
    return $all[intdiv($n, 2)];
}

echo sieve(2000000), "\n", shapes(120000), "\n", text(200000), "\n", matrix(150), "\n";
echo produced(500000), "\n", fib(30), "\n", composed(120000), "\n", sorted(80000), "\n";
