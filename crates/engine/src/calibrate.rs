//! What calls cost on this processor, under this kernel: measured before the first judgement.
//!
//! A few loops of a thousand rounds each, the best of twelve runs: a direct call, a call through a retpoline, a
//! branch that a pseudo-random bit decides, compares and nodes in a row, of trees that keep flags and of others. Half a
//! millisecond in all. The policy weighs trees against retpolines with these, so another processor gets its own answer.
//!
//! On a busy machine a loop may be slow in each of its runs: the processor's other half works, or another machine has it. What
//! disturbs only ever adds. So the loops take turns, that none is disturbed alone; and before a site is left to its retpoline
//! since no tree would be faster, all is measured once more, and of everything that was ever measured the least counts.

use relpoline_core::policy::Costs;
use relpoline_text::broken;

const ROUNDS: u64 = 1024;
const RUNS: u32 = 12;
/// Times that all is measured, at most, in a process and its children …
const MOST: u32 = 8;
/// … after waits of which this is the first [cycles], some 2 ms, and each is twice the one before.
const WAIT: u64 = 1 << 22;
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

/// What is measured: `rounds` of something, with a number that looks random. Each loop is a function of its own, whose unwind
/// data is right at each of its instructions: the program's profiler may interrupt any. Within a function that the
/// compiler made it would not be, where a call moves the stack.
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

/// The loops.
const LOOPS: [Loop; 8] =
    [direct_calls, retpolined_calls, random_branches, no_branches, compares, nodes, kept_compares, kept_nodes];

/// What was measured so far.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The least cycles that each loop took.
    least: [u64; LOOPS.len()],
    times: u32,
    last: u64,
}

impl Measured {
    /// Nothing yet.
    pub const NOTHING: Measured = Measured { least: [u64::MAX; LOOPS.len()], times: 0, last: 0 };

    /// Nothing either, and nothing will be: for the model, in which time is not what it is.
    pub const NEVER: Measured = Measured { times: MOST, ..Measured::NOTHING };

    /// Whether nothing was measured yet.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.times == 0
    }

    /// Whether it is time to measure once more, when that could change what is about to be decided.
    #[must_use]
    pub fn may_be_wrong(&self, now: u64) -> bool {
        // The broken variant that the tests must catch: what was measured once is believed.
        !broken!("measured-once") && self.times < MOST && now.saturating_sub(self.last) >= WAIT << self.times
    }

    /// Measures all loops, in turn.
    #[inline(never)]
    pub fn measure(&mut self) {
        // Noted first: a handler may never come back from it, again and again.
        self.times += 1;
        self.last = now();
        for _ in 0..RUNS {
            for (body, least) in LOOPS.iter().zip(&mut self.least) {
                let (seed, start) = (seed(), now());
                // SAFETY: loops of this module, which need neither more stack than their return addresses nor anything else.
                unsafe { body(ROUNDS, seed) };
                *least = now().wrapping_sub(start).min(*least);
            }
        }
        // Changes nothing by itself: a machine that is busy for as long as compares are measured the first time.
        if broken!("busy-at-first") && self.times == 1 {
            self.least.iter_mut().skip(4).for_each(|least| *least *= 6);
        }
    }

    /// The costs. Implausible values (a virtual machine that stopped us) are replaced by typical ones.
    #[must_use]
    #[inline(never)]
    pub fn costs(&self) -> Costs {
        let typical = Costs::default();
        let plausible = |measured: u32, usual: u32| {
            if (usual / 4..=usual * 8).contains(&measured) { measured } else { usual }
        };
        // In 1/16 cycles a round.
        let rounds = self.least.map(|cycles| u32::try_from(cycles.saturating_mul(16) / ROUNDS).unwrap_or(u32::MAX));
        let [direct, retpoline, random, steady, compare, node, kept_compare, kept_node] = rounds;
        let branch = random.saturating_sub(steady).saturating_mul(2);
        Costs {
            direct: plausible(direct, typical.direct),
            retpoline: plausible(retpoline, typical.retpoline),
            mispredict: plausible(branch.saturating_add(LOAD), typical.mispredict),
            compare: plausible(compare / 8, typical.compare),
            node: plausible(node / 8, typical.node),
            kept_compare: plausible(kept_compare / 8, typical.kept_compare),
            kept_node: plausible(kept_node / 4, typical.kept_node),
            ..typical
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_disturbed_is_mended_by_what_was_not() {
        let mut measured = Measured::NOTHING;
        assert!(measured.is_nothing());
        measured.measure();
        let first = measured.costs();
        // As if somebody else had had the processor all the time.
        let mut disturbed = measured;
        disturbed.least.iter_mut().for_each(|least| *least *= 3);
        assert!(disturbed.costs().retpoline > first.retpoline || first.retpoline > 8 * Costs::TYPICAL.retpoline / 3);
        disturbed.measure();
        assert!(disturbed.least.iter().zip(&measured.least).all(|(now, before)| *now < 3 * before));
        assert_eq!(disturbed.times, 2);
    }

    #[test]
    fn it_is_measured_a_few_times_and_ever_more_rarely() {
        let mut measured = Measured { times: 1, last: 1000, ..Measured::NOTHING };
        assert!(!measured.may_be_wrong(1000 + WAIT) && measured.may_be_wrong(1000 + 2 * WAIT));
        assert!(!measured.may_be_wrong(0), "a clock that runs backwards");
        measured.times = MOST - 1;
        assert!(!measured.may_be_wrong(WAIT << 4) && measured.may_be_wrong(1000 + (WAIT << (MOST - 1))));
        measured.times = MOST;
        assert!(!measured.may_be_wrong(u64::MAX));
    }
}
