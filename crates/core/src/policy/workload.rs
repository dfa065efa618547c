//! Streams of calls to try the policy on: the traces on which it must hold.
//!
//! A [`Workload`] names a pattern and how much a program does between two calls; [`Workload::calls`] plays
//! it, deterministically, as an endless iterator. Phases that last milliseconds follow the nominal clock of
//! the stream ([`Call::at`]), so every contender sees the very same calls. Used by the tests and by
//! `relpoline bench policy`.

/// Cycles that a call is nominally taken to cost, for the stream's own clock.
const NOMINAL_CALL: u64 = 8;

/// Address of the first target; the others follow at [`SPACING`].
pub const BASE: u64 = 0x5555_6000_0000;

/// Distance between targets, in bytes.
pub const SPACING: u64 = 0x90;

/// The address of target number `n`.
#[must_use]
pub const fn target(n: u32) -> u64 {
    // Scattered, so that the order of addresses is not that of numbers.
    BASE + ((n as u64).wrapping_mul(0x9e5) & 0xffff) * SPACING
}

/// A small deterministic generator of random numbers (xorshift with a multiplication, 64 bits of state).
#[derive(Clone, Copy, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that depends on `seed` alone.
    #[must_use]
    pub const fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 32 random bits.
    pub fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A number below `n`; 0 for `n` = 0.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.bits()) * u64::from(n)) >> 32) as u32
    }
}

/// How targets follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// One target.
    Mono,
    /// Two targets in random order, the first in this many of 100 calls.
    Biased(u32),
    /// So many targets, all alike, in random order.
    Random(u32),
    /// So many targets in a repeating order.
    Periodic(u32),
    /// Each target half as often as the one before, in random order.
    Geometric,
    /// A loop over a program of `length` steps with `targets` different ones, of which one step in 16
    /// goes either of two ways at random: an interpreter's dispatch.
    Interpreter {
        /// Different targets.
        targets: u32,
        /// Steps of the loop.
        length: u32,
    },
    /// 90 % one target, 10 % another; another pair after so many ms, `sets` pairs in turn.
    Phases {
        /// Length of a phase by the stream's clock.
        ms: u32,
        /// Pairs of targets that take turns; 0 for a new one each time.
        sets: u32,
    },
    /// One target for so many calls, then another, then the first again.
    Flapping(u32),
    /// Loops of 24 steps in turn, each for so many calls, and each with twelve targets of its own, of which
    /// the next loop has six: threads or requests that share an interpreter.
    Turns {
        /// Calls until the next loop's turn.
        calls: u32,
        /// Loops.
        loops: u32,
    },
    /// Two threads at once, each with a target of its own.
    Opposite,
}

/// One call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// Where it goes.
    pub target: u64,
    /// Who calls: 0 or 1.
    pub thread: u16,
    /// Number of the phase, for patterns that have phases.
    pub phase: u32,
    /// Nominal clock reading before the call (cycles).
    pub at: u64,
}

/// A pattern and its surroundings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Workload {
    /// A short name.
    pub name: &'static str,
    /// How targets follow each other.
    pub pattern: Pattern,
    /// What the program does between two calls (cycles).
    pub work: u32,
    /// The clock's rate. Slower clocks make long phases affordable.
    pub cycles_per_ms: u32,
}

const RATE: u32 = 2_800_000;

const fn dense(name: &'static str, pattern: Pattern) -> Workload {
    Workload { name, pattern, work: 20, cycles_per_ms: RATE }
}

/// Phases of so many ms, by a clock that is slower than usual by a factor.
const fn sparse(name: &'static str, ms: u32, sets: u32, slower: u32) -> Workload {
    Workload { name, pattern: Pattern::Phases { ms, sets }, work: 2000, cycles_per_ms: RATE / slower }
}

/// The traces of the design, in its order, and some more.
pub const STANDARD: &[Workload] = &[
    dense("mono", Pattern::Mono),
    dense("90/10", Pattern::Biased(90)),
    dense("50/50 random", Pattern::Biased(50)),
    dense("period 2", Pattern::Periodic(2)),
    dense("period 4", Pattern::Periodic(4)),
    dense("period 8", Pattern::Periodic(8)),
    dense("period 16", Pattern::Periodic(16)),
    dense("period 64", Pattern::Periodic(64)),
    dense("random 4", Pattern::Random(4)),
    dense("random 8", Pattern::Random(8)),
    dense("random 16", Pattern::Random(16)),
    dense("random 64", Pattern::Random(64)),
    dense("random 1000", Pattern::Random(1000)),
    dense("geometric", Pattern::Geometric),
    dense("interpreter 12/60", Pattern::Interpreter { targets: 12, length: 60 }),
    dense("interpreter 40/300", Pattern::Interpreter { targets: 40, length: 300 }),
    dense("interpreter 60/1500", Pattern::Interpreter { targets: 60, length: 1500 }),
    sparse("phases 10 ms", 10, 2, 1),
    sparse("phases 10 ms, 8 sets", 10, 8, 1),
    sparse("phases 10 ms, all new", 10, 0, 1),
    sparse("phases 100 ms", 100, 4, 10),
    sparse("phases 1 s", 1000, 4, 100),
    dense("opposite threads", Pattern::Opposite),
    dense("flapping 100", Pattern::Flapping(100)),
    dense("flapping 1000", Pattern::Flapping(1000)),
    dense("flapping 3000", Pattern::Flapping(3000)),
    dense("flapping 30000", Pattern::Flapping(30_000)),
    dense("turns of 1000", Pattern::Turns { calls: 1000, loops: 3 }),
    dense("turns of 10000", Pattern::Turns { calls: 10_000, loops: 3 }),
];

impl Workload {
    /// Plays it from the beginning.
    #[must_use]
    pub const fn calls(&self, seed: u64) -> Calls {
        Calls { workload: *self, rng: Rng::new(seed), step: 0, at: 0, seed: seed as u32 }
    }
}

/// The calls of a [`Workload`], without end.
#[derive(Clone, Debug)]
pub struct Calls {
    workload: Workload,
    rng: Rng,
    step: u32,
    at: u64,
    seed: u32,
}

impl Calls {
    /// Number of the phase that the clock is in.
    fn clocked(&self, ms: u32) -> u32 {
        (self.at / (u64::from(ms.max(1)) * u64::from(self.workload.cycles_per_ms))) as u32
    }

    /// Target number and phase of the next call.
    fn choose(&mut self) -> (u32, u32) {
        match self.workload.pattern {
            Pattern::Mono => (0, 0),
            Pattern::Biased(percent) => (u32::from(self.rng.below(100) >= percent), 0),
            Pattern::Random(n) => (self.rng.below(n), 0),
            Pattern::Periodic(n) => (self.step % n.max(1), 0),
            Pattern::Geometric => (self.rng.bits().trailing_zeros().min(15), 0),
            Pattern::Interpreter { targets, length } => (self.interpret(targets, length.max(1)), 0),
            Pattern::Phases { ms, sets } => {
                let phase = self.clocked(ms);
                let set = if sets == 0 { phase } else { phase % sets };
                (2 * set + u32::from(self.rng.below(10) == 0), phase)
            }
            Pattern::Flapping(calls) => {
                let phase = self.step / calls.max(1);
                (phase % 2, phase)
            }
            Pattern::Turns { calls, loops } => {
                let (phase, place) = (self.step / calls.max(1), self.step % 24);
                let turn = phase % loops.max(1);
                (6 * turn + Rng::new(u64::from(turn * 24 + place)).below(12), phase)
            }
            Pattern::Opposite => (self.rng.below(2), 0),
        }
    }

    fn interpret(&mut self, targets: u32, length: u32) -> u32 {
        let place = self.step % length;
        let way = if place % 16 == 15 { self.rng.below(2) } else { 0 };
        // The program: fixed, but without pattern. Products favour small numbers, as opcodes are not alike.
        let op = Rng::new(u64::from(self.seed) << 32 | u64::from(place * 2 + way)).below(targets * targets);
        op.isqrt().min(targets.saturating_sub(1))
    }
}

impl Iterator for Calls {
    type Item = Call;

    fn next(&mut self) -> Option<Call> {
        let at = self.at;
        let (number, phase) = self.choose();
        let thread = if self.workload.pattern == Pattern::Opposite { number as u16 } else { 0 };
        self.step = self.step.wrapping_add(1);
        self.at += u64::from(self.workload.work) + NOMINAL_CALL;
        Some(Call { target: target(number), thread, phase, at })
    }
}
