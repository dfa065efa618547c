/* A large program that does nothing: three megabytes of code, three thousand functions with an indirect call, and as many
 * without, in which three quarters of the code are, as in PHP. It is started, and ends. What fills the functions has the
 * lengths that compilers' instructions have. Each adds another number, so that no compiler makes one of them. */

#define FILL(times)                                                                                          \
    __asm__ volatile(".rept " #times "\n"                                                                    \
                     "mov %0, %%rcx\n lea 24(%0,%%rcx,4), %%rdx\n cmp $100, %%edx\n jne 1f\n"                \
                     "movzbl %%cl, %%eax\n add $0x1234, %%rdx\n mov %%rdx, -40(%%rsp)\n test %%eax, %%eax\n" \
                     "je 1f\n movsd -40(%%rsp), %%xmm1\n xor %%ecx, %%ecx\n imul %%rdx, %%rcx\n1:\n.endr"    \
                     : "+r"(x) : : "rax", "rcx", "rdx", "xmm1", "cc", "memory");

typedef long (*target)(long);

#define F(n)                                                                                                 \
    static long f##n(target g, long x) { FILL(6) return g(x) + n; }                                          \
    __attribute__((used)) static long p##n(long x) { FILL(16) return x + n; }
#define TEN(n) F(n##0) F(n##1) F(n##2) F(n##3) F(n##4) F(n##5) F(n##6) F(n##7) F(n##8) F(n##9)
#define HUNDRED(n) TEN(n##0) TEN(n##1) TEN(n##2) TEN(n##3) TEN(n##4) TEN(n##5) TEN(n##6) TEN(n##7) TEN(n##8) TEN(n##9)
#define THOUSAND(n)                                                                                          \
    HUNDRED(n##0) HUNDRED(n##1) HUNDRED(n##2) HUNDRED(n##3) HUNDRED(n##4)                                    \
    HUNDRED(n##5) HUNDRED(n##6) HUNDRED(n##7) HUNDRED(n##8) HUNDRED(n##9)
#define ALL THOUSAND(1) THOUSAND(2) THOUSAND(3)
ALL
#undef F
#define F(n) f##n,
static long (*volatile const all[])(target, long) = { ALL };

static long own(long x) { return x + 1; }

int main(int argc, char **argv) {
    (void)argv;
    /* One of them, so that none is left out; and not when it is started as it is measured. */
    return argc > 1 ? (int)all[argc](own, argc) & 1 : 0;
}
