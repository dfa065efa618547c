//! What calls cost on this processor, under this kernel: measured once, before the first judgement.
//!
//! A few loops of two thousand rounds each, the best of six runs: a direct call, a call through a retpoline,
//! a branch that a pseudo-random bit decides, compares and nodes in a row, of trees that keep flags and of
//! others. Half a millisecond in all. The policy weighs trees against retpolines with these, so another
//! processor gets its own answer.

use relpoline_core::policy::Costs;

const ROUNDS: u64 = 2048;
const RUNS: u32 = 6;
/// A mistake is noticed only when the target has been loaded, mostly through two dependent loads: their
/// latency is lost with it [1/16 cycle].
const LOAD: u32 = 12 * 16;

/// The time-stamp counter.
#[cfg(not(relpoline_model))]
#[must_use]
pub fn now() -> u64 {
    // SAFETY: rdtsc is unprivileged unless a program forbids it by prctl(PR_SET_TSC), which kills it anyway.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(relpoline_model)]
pub use relpoline_text::sync::now;

/// Cycles of `body` per round, in 1/16 cycles: the least of a few runs.
#[inline(never)]
fn per_round(body: Loop) -> u32 {
    (0..RUNS)
        .map(|_| {
            let (seed, start) = (seed(), now());
            // SAFETY: loops of this module, which need neither more stack than their return addresses nor
            // anything else.
            unsafe { body(ROUNDS, seed) };
            now().wrapping_sub(start)
        })
        .min()
        .map_or(0, |cycles| u32::try_from(cycles * 16 / ROUNDS).unwrap_or(u32::MAX))
}

/// What is measured: `rounds` of something, with a number that looks random. Each loop is a function of its
/// own, whose unwind data is right at each of its instructions: the program's profiler may interrupt any.
/// Within a function that the compiler made it would not be, where a call moves the stack.
type Loop = unsafe extern "C" fn(rounds: u64, random: u64);

/// Calls a `ret` of its own.
#[unsafe(naked)]
unsafe extern "C" fn direct_calls(rounds: u64, random: u64) {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "2:",
        "call 3f",
        "dec rdi",
        "jnz 2b",
        "ret",
        "3:",
        ".cfi_adjust_cfa_offset 8",
        "ret",
        ".cfi_endproc",
    )
}

/// The same through a retpoline.
#[unsafe(naked)]
unsafe extern "C" fn retpolined_calls(rounds: u64, random: u64) {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "lea rax, [rip + 3f]",
        "2:",
        "call 5f",
        "dec rdi",
        "jnz 2b",
        "ret",
        "3:",
        ".cfi_adjust_cfa_offset 8",
        "ret",
        "5:",
        "call 7f",
        ".cfi_adjust_cfa_offset 8",
        "6:",
        "pause",
        "lfence",
        "jmp 6b",
        "7:",
        "mov [rsp], rax",
        "ret",
        ".cfi_endproc",
    )
}

/// Half of these branches go the other way than any predictor can know: a xorshift generator decides. It is
/// stepped behind the branch, on either side, so that nothing useful is done before the mistake is noticed.
#[unsafe(naked)]
unsafe extern "C" fn random_branches(rounds: u64, random: u64) {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "2:",
        "test sil, 1",
        "jz 3f",
        "mov rax, rsi",
        "shl rax, 13",
        "xor rsi, rax",
        "mov rax, rsi",
        "shr rax, 7",
        "xor rsi, rax",
        "mov rax, rsi",
        "shl rax, 17",
        "xor rsi, rax",
        "dec rdi",
        "jnz 2b",
        "ret",
        "3:",
        "mov rax, rsi",
        "shl rax, 13",
        "xor rsi, rax",
        "mov rax, rsi",
        "shr rax, 7",
        "xor rsi, rax",
        "mov rax, rsi",
        "shl rax, 17",
        "xor rsi, rax",
        "dec rdi",
        "jnz 2b",
        "ret",
        ".cfi_endproc",
    )
}

/// The same without the branch.
#[unsafe(naked)]
unsafe extern "C" fn no_branches(rounds: u64, random: u64) {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "2:",
        "test sil, 1",
        "mov rax, rsi",
        "shl rax, 13",
        "xor rsi, rax",
        "mov rax, rsi",
        "shr rax, 7",
        "xor rsi, rax",
        "mov rax, rsi",
        "shl rax, 17",
        "xor rsi, rax",
        "dec rdi",
        "jnz 2b",
        "ret",
        ".cfi_endproc",
    )
}

static CONSTANT: u64 = 1;

/// Compares in a row, as in a chain: eight to a round, none of them taken.
#[unsafe(naked)]
unsafe extern "C" fn compares(rounds: u64, random: u64) {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "lea rdx, [rip + {constant}]", "mov ecx, 2",
        "2:",
        "cmp rcx, [rdx]", "je 3f", "cmp rcx, [rdx]", "je 3f", "cmp rcx, [rdx]", "je 3f", "cmp rcx, [rdx]", "je 3f",
        "cmp rcx, [rdx]", "je 3f", "cmp rcx, [rdx]", "je 3f", "cmp rcx, [rdx]", "je 3f", "cmp rcx, [rdx]", "je 3f",
        "dec rdi", "jnz 2b",
        "3:", "ret",
        ".cfi_endproc",
        constant = sym CONSTANT,
    )
}

/// Nodes of a search tree in a row: eight to a round, each with a branch that is not taken and one that is.
#[unsafe(naked)]
unsafe extern "C" fn nodes(rounds: u64, random: u64) {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "lea rdx, [rip + {constant}]", "mov ecx, 2",
        "2:",
        "cmp rcx, [rdx]", "je 3f", "ja 4f", "int3", "4:", "cmp rcx, [rdx]", "je 3f", "ja 4f", "int3", "4:",
        "cmp rcx, [rdx]", "je 3f", "ja 4f", "int3", "4:", "cmp rcx, [rdx]", "je 3f", "ja 4f", "int3", "4:",
        "cmp rcx, [rdx]", "je 3f", "ja 4f", "int3", "4:", "cmp rcx, [rdx]", "je 3f", "ja 4f", "int3", "4:",
        "cmp rcx, [rdx]", "je 3f", "ja 4f", "int3", "4:", "cmp rcx, [rdx]", "je 3f", "ja 4f", "int3", "4:",
        "dec rdi", "jnz 2b",
        "3:", "ret",
        ".cfi_endproc",
        constant = sym CONSTANT,
    )
}

/// Compares of a chain that keeps flags: eight to a round.
#[unsafe(naked)]
unsafe extern "C" fn kept_compares(rounds: u64, random: u64) {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "mov edx, 2",
        "2:",
        "lea rcx, [rdx + 8]",
        "jrcxz 3f",
        "lea rcx, [rcx + 8]",
        "jrcxz 3f",
        "lea rcx, [rcx + 8]",
        "jrcxz 3f",
        "lea rcx, [rcx + 8]",
        "jrcxz 3f",
        "lea rcx, [rcx + 8]",
        "jrcxz 3f",
        "lea rcx, [rcx + 8]",
        "jrcxz 3f",
        "lea rcx, [rcx + 8]",
        "jrcxz 3f",
        "lea rcx, [rcx + 8]",
        "jrcxz 3f",
        "dec rdi",
        "jnz 2b",
        "3:",
        "ret",
        ".cfi_endproc",
    )
}

/// Nodes of a search tree that keeps flags: four to a round, each with a jump over the other side's.
#[unsafe(naked)]
unsafe extern "C" fn kept_nodes(rounds: u64, random: u64) {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "mov edx, 2",
        "2:",
        "movabs rcx, -1",
        "lea rcx, [rcx + rdx]",
        "jrcxz 3f",
        "bswap rcx",
        "movzx ecx, cl",
        "jrcxz 4f",
        "int3",
        "4:",
        "movabs rcx, -1",
        "lea rcx, [rcx + rdx]",
        "jrcxz 3f",
        "bswap rcx",
        "movzx ecx, cl",
        "jrcxz 4f",
        "int3",
        "4:",
        "movabs rcx, -1",
        "lea rcx, [rcx + rdx]",
        "jrcxz 3f",
        "bswap rcx",
        "movzx ecx, cl",
        "jrcxz 4f",
        "int3",
        "4:",
        "movabs rcx, -1",
        "lea rcx, [rcx + rdx]",
        "jrcxz 3f",
        "bswap rcx",
        "movzx ecx, cl",
        "jrcxz 4f",
        "int3",
        "4:",
        "dec rdi",
        "jnz 2b",
        "3:",
        "ret",
        ".cfi_endproc",
    )
}

/// A fresh start for each run, or the predictor learns the sequence.
fn seed() -> u64 {
    now().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// Measures the costs. Implausible values (a virtual machine that stopped us) are replaced by typical ones.
#[must_use]
#[inline(never)]
pub fn measure() -> Costs {
    let typical = Costs::default();
    let plausible = |measured: u32, usual: u32| {
        if (usual / 4..=usual * 8).contains(&measured) { measured } else { usual }
    };
    let direct = plausible(per_round(direct_calls), typical.direct);
    let retpoline = plausible(per_round(retpolined_calls), typical.retpoline);
    let branch = per_round(random_branches).saturating_sub(per_round(no_branches)).saturating_mul(2);
    let mispredict = plausible(branch + LOAD, typical.mispredict);
    let compare = plausible(per_round(compares) / 8, typical.compare);
    let node = plausible(per_round(nodes) / 8, typical.node);
    let kept_compare = plausible(per_round(kept_compares) / 8, typical.kept_compare);
    let kept_node = plausible(per_round(kept_nodes) / 4, typical.kept_node);
    let crowd = crowd(typical.crowd);
    Costs { direct, retpoline, mispredict, compare, node, kept_compare, kept_node, crowd, ..typical }
}

/// Sites of a crowd whose trees this processor holds beside each other. To measure that would take half a
/// megabyte of code; so it is told by the size of the first cache for instructions, where that was tried:
/// with 64 KiB (Granite Rapids) a thousand sites with targets of their own take 0.24 of their retpolines'
/// time and two thousand 0.79, eight thousand 1.35; with 32 KiB (Zen 4) two thousand took 1.0. Other
/// processors do not say (leaf 4 is Intel's) or were not tried, and get the `usual`.
fn crowd(usual: u32) -> u32 {
    const LARGE: u32 = 64 << 10;
    const ROOMY: u32 = 2560;
    // SAFETY: every x86-64 processor has this instruction.
    #[allow(unused_unsafe, reason = "newer compilers know that")]
    let ask = |leaf, part| unsafe { core::arch::x86_64::__cpuid_count(leaf, part) };
    if cfg!(relpoline_model) || ask(0, 0).eax < 4 {
        return usual;
    }
    let instructions = (0..8).map(|n| ask(4, n)).find(|cache| cache.eax & 0xff == 0x22);
    let size = instructions.map_or(0, |cache| {
        let field = |low: u32, bits: u32| (cache.ebx >> low & ((1 << bits) - 1)) + 1;
        field(0, 12)
            .saturating_mul(field(12, 10))
            .saturating_mul(field(22, 10))
            .saturating_mul(cache.ecx.saturating_add(1))
    });
    if size >= LARGE { ROOMY } else { usual }
}
