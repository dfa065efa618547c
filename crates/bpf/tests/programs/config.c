/* Externals: the kernel's configuration and functions, as libbpf gives them. */
#include "bpf.h"

enum libbpf_tristate { TRI_NO, TRI_YES, TRI_MODULE };
#define KCONFIG __attribute__((section(".kconfig")))
#define WEAK __attribute__((weak))

extern unsigned LINUX_KERNEL_VERSION KCONFIG;
extern unsigned long long CONFIG_HZ KCONFIG;
extern _Bool CONFIG_SMP KCONFIG;
extern char CONFIG_LETTER KCONFIG;
extern enum libbpf_tristate CONFIG_VETH KCONFIG;
extern const char CONFIG_NAME[8] KCONFIG;
extern int CONFIG_BELOW KCONFIG;
extern int CONFIG_NOWHERE KCONFIG WEAK;
extern int CONFIG_MISSING KCONFIG;
extern _Bool CONFIG_MODULE KCONFIG;
long perhaps(void *ctx) SEC(".ksyms") WEAK;

SEC("raw") long version(void *in) { return LINUX_KERNEL_VERSION; }
SEC("raw") long hz(void *in) { return CONFIG_HZ; }
SEC("raw") long small(void *in) {
    return CONFIG_SMP | (CONFIG_VETH == TRI_MODULE) << 1 | CONFIG_LETTER << 8 | CONFIG_NAME[2] << 16 | CONFIG_NOWHERE << 2;
}
SEC("raw") long below(void *in) { return CONFIG_BELOW; }
SEC("raw") long missing(void *in) { return CONFIG_MISSING; }
SEC("raw") long module(void *in) { return CONFIG_MODULE; }
SEC("raw") long asks(void *in) { return &perhaps ? perhaps(in) : 3; }
SEC("raw") long calls(void *in) { return perhaps(in); }
SEC("raw") long writes(void *in) {
    *(volatile unsigned *)&LINUX_KERNEL_VERSION = 1;
    return 0;
}
