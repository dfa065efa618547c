# Mixed load for awk: numbers, arrays, strings, functions, calls by name, regular expressions.

function sieve(n,    i, j, composite, count) {
    for (i = 2; i < n; i++) {
        if (!(i in composite)) {
            count++
            for (j = i * i; j < n; j += i) composite[j] = 1
        }
    }
    return count
}

function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2) }

function text(n,    i, parts, all, number, tally, pair, total) {
    for (i = 0; i < n; i++) all = all (i % 89) ":" substr("xxxx", 1, i % 4) ","
    number = split(all, parts, ",")
    for (i = 1; i < number; i++) {
        split(parts[i], pair, ":")
        tally[pair[1]] += length(pair[2])
        if (parts[i] ~ /^[0-9]+:xx+$/) total++
        gsub(/x/, "y", parts[i])
    }
    for (i = 0; i < 89; i++) total = (total * 31 + tally[i]) % 1000003
    return total
}

function matrix(n,    i, j, k, a, b, s, trace) {
    for (i = 0; i < n; i++) for (j = 0; j < n; j++) {
        a[i, j] = (i * j) % 11
        b[i, j] = (i + j) % 7 + 0.5
    }
    for (i = 0; i < n; i++) for (j = 0; j < n; j++) {
        s = 0
        for (k = 0; k < n; k++) s += a[i, k] * b[k, j]
        if (i == j) trace += s
    }
    return trace
}

function composed(n,    i, k, x, s) {
    for (i = 0; i < n; i++) {
        x = i
        for (k = 1; k <= 8; k++) x = (x * k + 1) % 10007
        s += int(sqrt(x)) + length(sprintf("%d-%s", x, "a"))
    }
    return s
}

BEGIN {
    print sieve(400000)
    print fib(25)
    print text(60000)
    print matrix(50)
    print composed(100000)
}
