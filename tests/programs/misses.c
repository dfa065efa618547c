/* A site that always misses some of its calls, on one stack or on two in turn, as two threads would. */
#include "check.h"

OPAQUE word missing_site(callee_t *callee, word x) { word got = callee(x); return got + 1; }

/* on_stack(top, site, callee, x): calls site(callee, x) with the stack at top. */
extern word on_stack(void *top, word (*site)(callee_t *, word), callee_t *callee, word x);
__asm__(".pushsection .text\non_stack: .cfi_startproc\n"
        " push %rbp\n mov %rsp, %rbp\n mov %rdi, %rsp\n mov %rsi, %rax\n mov %rdx, %rdi\n mov %rcx, %rsi\n"
        " call *%rax\n mov %rbp, %rsp\n pop %rbp\n ret\n .cfi_endproc\n.popsection");

/* Far from the other: threads are told apart by the megabyte that their stack pointer lies in. */
static char other[4 << 20] __attribute__((aligned(4096)));

int main(int count, char **argument) {
    int threads = count > 1 ? atoi(argument[1]) : 1;
    word state = 88172645463325252;
    for (word i = 0; i < 4000000; i++) {
        word random = next_random(&state) >> 20, n = random % 8 ? 0 : random / 8 % CALLEES;
        word got = i % 2 && threads == 2 ? on_stack(other + sizeof other - 4096, missing_site, callees[n], i)
                                         : missing_site(callees[n], i);
        CHECK(got == ANSWER(n, i) + 1, "callee %lu", n);
    }
    CHECK(entered == 4000000, "%lu calls", entered);
    return 0;
}
