/* Stacks that are small and change: ucontext, and a switch written by hand. */
#include "check.h"
#include <sys/mman.h>
#include <ucontext.h>

#define COROUTINES 16
#define STACK 16384
#define ROUNDS 400

DISPATCHER(coroutine_site)
DISPATCHER(switched_site)

static char *new_stack(void) {
    char *memory = mmap(NULL, STACK + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mprotect(memory, 4096, PROT_NONE) == 0, "guard page");
    return memory + 4096;
}

static ucontext_t scheduler, coroutines[COROUTINES];

/* A callee that gives way while it is being called. */
static OPAQUE word give_way(word number) {
    swapcontext(&coroutines[number], &scheduler);
    return number * 7;
}
static word (*volatile way_pointer)(word) = give_way;

static void coroutine(int number) {
    for (word round = 0; round < ROUNDS; round++) {
        coroutine_site(number + round / 50, 1 + number % 3, 100);
        word got = way_pointer(number);
        CHECK(got == (word)number * 7, "coroutine %d came back as %lu", number, got / 7);
    }
}

static void with_ucontext(void) {
    for (int i = 0; i < COROUTINES; i++) {
        getcontext(&coroutines[i]);
        coroutines[i].uc_stack.ss_sp = new_stack();
        coroutines[i].uc_stack.ss_size = STACK;
        coroutines[i].uc_link = &scheduler;
        makecontext(&coroutines[i], (void (*)(void))coroutine, 1, i);
    }
    for (int round = 0; round <= ROUNDS; round++)
        for (int i = 0; i < COROUTINES; i++) swapcontext(&scheduler, &coroutines[i]);
}

/* switch_to(&mine, other): saves what a function must keep, and changes the stack. */
extern void switch_to(void **mine, void *other);
__asm__(".pushsection .text\nswitch_to: .cfi_startproc\n"
        " push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
        " mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
        " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n .cfi_endproc\n.popsection");

static void (*volatile switch_pointer)(void **, void *) = switch_to;
static void *main_stack, *stacks[COROUTINES];
static int current;

/* Entered by a return from switch_to; it is called through a promoted site, and so left through one. */
static void by_hand(void) {
    int number = current;
    for (word round = 0;; round++) {
        switched_site(number * 4 + round / 100, 2, 100);
        switch_pointer(&stacks[number], main_stack);
    }
}

static void with_own_switch(void) {
    for (int i = 0; i < COROUTINES; i++) {
        void **top = (void **)(new_stack() + STACK) - 2;
        *--top = by_hand;
        top -= 6;
        stacks[i] = top;
    }
    for (int round = 0; round < ROUNDS; round++)
        for (current = 0; current < COROUTINES; current++) switch_pointer(&main_stack, stacks[current]);
}

int main(void) {
    with_ucontext();
    with_own_switch();
    coroutine_site(1, 2, 300000);
    switched_site(1, 2, 300000);
    puts("coroutines done");
    return 0;
}
