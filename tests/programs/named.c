// A program whose functions have names that can be replaced by others of the same length.
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

typedef long (*function)(long);
#define first AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA

__attribute__((noinline)) long first(long x) { return x * 3 + 1; }
__attribute__((noinline)) long second(long x) { return x * 5 + 7; }
static function volatile table[2] = {first, second};

__attribute__((noinline)) long caller(long n) {
    long sum = 0;
    for (long i = 0; i < n; i++) sum += table[i % 7 == 0](i);
    return sum;
}

int main(void) {
    if (getenv("HOSTILE_NAME")) prctl(PR_SET_NAME, getenv("HOSTILE_NAME"));
    printf("%ld\n", caller(400000));
    return 0;
}
