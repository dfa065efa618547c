/* Code that runs with another thread pointer than libc's: none, one that leads nowhere, one whose block is not laid out like
   libc's. Set by a system call or by an instruction; in the first thread and in another one. The arguments say which. */
#include "check.h"
#include <asm/prctl.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define BARE __attribute__((noinline, noclone, optimize("no-stack-protector")))

typedef word step_t(word);
/* No thread-local variables in here: those of check.h are. */
#define STEP(n) static BARE word step_##n(word x) { return x * 3 + n; }
STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7)
static step_t *volatile steps[8] = { step_0, step_1, step_2, step_3, step_4, step_5, step_6, step_7 };

static BARE word guest_site(word x, word first, word of, word calls) {
    for (word i = 0; i < calls; i++) x = steps[first + i % of](x);
    return x;
}

static BARE word reckoned(word x, word first, word of, word calls) {
    for (word i = 0; i < calls; i++) x = x * 3 + first + i % of;
    return x;
}

static int by_instruction;
static BARE void set_pointer(word to) {
    if (by_instruction) {
        __asm__ volatile("wrfsbase %0" : : "r"(to) : "memory");
        return;
    }
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "0"(SYS_arch_prctl), "D"(ARCH_SET_FS), "S"(to) : "rcx", "r11", "memory");
    if (result) __builtin_trap();
}

static word own, guest_pointer;
static BARE word as_guest(void) {
    set_pointer(guest_pointer);
    word x = 1;
    for (word phase = 0; phase < 60; phase++) x = guest_site(x, phase % 5, 1 + phase % 4, 20000);
    set_pointer(own);
    return x;
}

static void *work(void *unused) {
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_FS, &own) == 0, "no thread pointer");
    word x = 1, got = as_guest();
    for (word phase = 0; phase < 60; phase++) x = reckoned(x, phase % 5, 1 + phase % 4, 20000);
    CHECK(got == x, "%lx instead of %lx", got, x);
    return unused;
}

int main(int count, char **arguments) {
    CHECK(count == 4, "three arguments");
    by_instruction = !strcmp(arguments[2], "instruction");
    if (by_instruction && !(getauxval(AT_HWCAP2) & 2)) {
        puts("skipped: the kernel keeps wrfsbase to itself");
        return 0;
    }
    static word block[64];
    if (!strcmp(arguments[1], "own")) guest_pointer = (word)&block[32];
    if (!strcmp(arguments[1], "nowhere")) {
        void *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(page != MAP_FAILED, "no page");
        guest_pointer = (word)page;
    }
    if (!strcmp(arguments[3], "thread")) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, work, NULL) == 0, "no thread");
        pthread_join(thread, NULL);
    } else
        work(NULL);
    puts("the guest was right");
    return 0;
}
