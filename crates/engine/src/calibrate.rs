//! What calls cost on this processor, under this kernel: measured once, before the first judgement.
//!
//! A few loops of two thousand rounds each, the best of six runs: a direct call, a call through a retpoline, a
//! branch that a pseudo-random bit decides, compares and nodes in a row, of trees that keep flags and of others. Half a
//! millisecond in all. The policy weighs trees against retpolines with these, so another processor gets its own answer.

use core::arch::asm;
use relpoline_core::policy::Costs;

const ROUNDS: u64 = 2048;
const RUNS: u32 = 6;
/// A mistake is noticed only when the target has been loaded, mostly through two dependent loads: their latency
/// is lost with it [1/16 cycle].
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
fn per_round(body: fn()) -> u32 {
    (0..RUNS)
        .map(|_| {
            let start = now();
            body();
            now().wrapping_sub(start)
        })
        .min()
        .map_or(0, |cycles| u32::try_from(cycles * 16 / ROUNDS).unwrap_or(u32::MAX))
}

fn direct_calls() {
    // SAFETY: calls a `ret` of its own; the red zone is avoided by moving the stack pointer.
    unsafe {
        asm!(
            "sub rsp, 128", "2:", "call 3f", "dec {n}", "jnz 2b", "jmp 4f", "3:", "ret", "4:", "add rsp, 128",
            n = inout(reg) ROUNDS => _,
        );
    }
}

fn retpolined_calls() {
    // SAFETY: as above, with a retpoline to the same `ret`.
    unsafe {
        asm!(
            "sub rsp, 128",
            "lea {target}, [rip + 3f]",
            "2:", "call 5f", "dec {n}", "jnz 2b", "jmp 4f",
            "5:", "call 7f", "6:", "pause", "lfence", "jmp 6b", "7:", "mov [rsp], {target}", "ret",
            "3:", "ret",
            "4:", "add rsp, 128",
            n = inout(reg) ROUNDS => _, target = out(reg) _,
        );
    }
}

/// Half of these branches go the other way than any predictor can know: a xorshift generator decides. It is
/// stepped behind the branch, on either side, so that nothing useful is done before the mistake is noticed.
fn random_branches() {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "2:", "test {x:l}, 1", "jz 3f",
            "mov {t}, {x}", "shl {t}, 13", "xor {x}, {t}",
            "mov {t}, {x}", "shr {t}, 7", "xor {x}, {t}",
            "mov {t}, {x}", "shl {t}, 17", "xor {x}, {t}",
            "dec {n}", "jnz 2b", "jmp 4f",
            "3:",
            "mov {t}, {x}", "shl {t}, 13", "xor {x}, {t}",
            "mov {t}, {x}", "shr {t}, 7", "xor {x}, {t}",
            "mov {t}, {x}", "shl {t}, 17", "xor {x}, {t}",
            "dec {n}", "jnz 2b",
            "4:",
            n = inout(reg) ROUNDS => _, x = inout(reg_abcd) seed() => _, t = out(reg) _,
        );
    }
}

/// The same without the branch.
fn no_branches() {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "2:", "test {x:l}, 1",
            "mov {t}, {x}", "shl {t}, 13", "xor {x}, {t}",
            "mov {t}, {x}", "shr {t}, 7", "xor {x}, {t}",
            "mov {t}, {x}", "shl {t}, 17", "xor {x}, {t}",
            "dec {n}", "jnz 2b",
            n = inout(reg) ROUNDS => _, x = inout(reg_abcd) seed() => _, t = out(reg) _,
        );
    }
}

/// Compares in a row, as in a chain: eight to a round, none of them taken.
fn compares() {
    let constant = 1u64;
    // SAFETY: registers and one load.
    unsafe {
        asm!(
            "2:",
            "cmp {x}, [{c}]", "je 3f", "cmp {x}, [{c}]", "je 3f", "cmp {x}, [{c}]", "je 3f", "cmp {x}, [{c}]", "je 3f",
            "cmp {x}, [{c}]", "je 3f", "cmp {x}, [{c}]", "je 3f", "cmp {x}, [{c}]", "je 3f", "cmp {x}, [{c}]", "je 3f",
            "dec {n}", "jnz 2b", "3:",
            n = inout(reg) ROUNDS => _, x = in(reg) 2u64, c = in(reg) &raw const constant,
        );
    }
}

/// Nodes of a search tree in a row: eight to a round, each with a branch that is not taken and one that is.
fn nodes() {
    let constant = 1u64;
    // SAFETY: registers and one load.
    unsafe {
        asm!(
            "2:",
            "cmp {x}, [{c}]", "je 3f", "ja 4f", "int3", "4:", "cmp {x}, [{c}]", "je 3f", "ja 4f", "int3", "4:",
            "cmp {x}, [{c}]", "je 3f", "ja 4f", "int3", "4:", "cmp {x}, [{c}]", "je 3f", "ja 4f", "int3", "4:",
            "cmp {x}, [{c}]", "je 3f", "ja 4f", "int3", "4:", "cmp {x}, [{c}]", "je 3f", "ja 4f", "int3", "4:",
            "cmp {x}, [{c}]", "je 3f", "ja 4f", "int3", "4:", "cmp {x}, [{c}]", "je 3f", "ja 4f", "int3", "4:",
            "dec {n}", "jnz 2b", "3:",
            n = inout(reg) ROUNDS => _, x = in(reg) 2u64, c = in(reg) &raw const constant,
        );
    }
}

/// Compares of a chain that keeps flags: eight to a round.
fn kept_compares() {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "2:", "lea rcx, [{x} + 8]", "jrcxz 3f",
            "lea rcx, [rcx + 8]", "jrcxz 3f", "lea rcx, [rcx + 8]", "jrcxz 3f", "lea rcx, [rcx + 8]", "jrcxz 3f",
            "lea rcx, [rcx + 8]", "jrcxz 3f", "lea rcx, [rcx + 8]", "jrcxz 3f", "lea rcx, [rcx + 8]", "jrcxz 3f",
            "lea rcx, [rcx + 8]", "jrcxz 3f",
            "dec {n}", "jnz 2b", "3:",
            n = inout(reg) ROUNDS => _, x = in(reg) 2u64, out("rcx") _,
        );
    }
}

/// Nodes of a search tree that keeps flags: four to a round, each with a jump over the other side's.
fn kept_nodes() {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "2:",
            "movabs rcx, -1", "lea rcx, [rcx + {x}]", "jrcxz 3f", "bswap rcx", "movzx ecx, cl", "jrcxz 4f", "int3", "4:",
            "movabs rcx, -1", "lea rcx, [rcx + {x}]", "jrcxz 3f", "bswap rcx", "movzx ecx, cl", "jrcxz 4f", "int3", "4:",
            "movabs rcx, -1", "lea rcx, [rcx + {x}]", "jrcxz 3f", "bswap rcx", "movzx ecx, cl", "jrcxz 4f", "int3", "4:",
            "movabs rcx, -1", "lea rcx, [rcx + {x}]", "jrcxz 3f", "bswap rcx", "movzx ecx, cl", "jrcxz 4f", "int3", "4:",
            "dec {n}", "jnz 2b", "3:",
            n = inout(reg) ROUNDS => _, x = in(reg) 2u64, out("rcx") _,
        );
    }
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
    Costs { direct, retpoline, mispredict, compare, node, kept_compare, kept_node, ..typical }
}
