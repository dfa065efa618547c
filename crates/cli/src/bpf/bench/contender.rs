//! Who is measured.

use std::hint::black_box;

use anyhow::{Result, ensure};
use relpoline_bpf::{Engine, IndirectBranches, Invocation, Options, Program, Runtime};

use super::CHAIN;
use super::chain::{Chain, input, sum};

/// Nanoseconds per run in one round.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// With 33 hops.
    pub with_hops: f64,
    /// Without.
    pub without: f64,
    /// Of adding up 64 bytes.
    pub sum: Option<f64>,
}

/// Somebody who runs programs.
pub trait Contender {
    /// For the table.
    fn name(&self) -> String;
    /// One round.
    fn round(&mut self) -> Result<Round>;
}

/// Nanoseconds that this thread has had a CPU for: a busy machine disturbs it less than the clock on the
/// wall.
pub fn cpu_time() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// This runtime, in one of its ways.
pub struct Ours {
    name: &'static str,
    engine: Engine,
    chain: Chain,
    /// The same program with nowhere to go.
    alone: Chain,
    sum: Program,
}

impl Ours {
    /// All ways.
    pub fn all() -> Result<Vec<Box<dyn Contender>>> {
        use Engine::{Compiled, Interpreter};
        use IndirectBranches::{Plain, Promoted, Retpoline};
        let checked = Options::default();
        // SAFETY: the programs of the benchmark, which are its own, touch their stack alone.
        let checks = unsafe { relpoline_bpf::Checks::off() };
        let trusted = Options { checks, budget: None, ..checked };
        let ways = [
            ("relpoline, constant index", Promoted, true, Compiled, checked),
            ("relpoline, constant index, trusted", Promoted, true, Compiled, trusted),
            ("relpoline, computed index, promoted", Promoted, false, Compiled, checked),
            ("relpoline, computed index, retpoline", Retpoline, false, Compiled, checked),
            ("relpoline, computed index, plain jump", Plain, false, Compiled, checked),
            ("relpoline, constant index, interpreter", Promoted, true, Interpreter, checked),
            ("relpoline, computed index, interpreter", Promoted, false, Interpreter, checked),
        ];
        ways.into_iter()
            .map(|(name, branches, constant, engine, options)| {
                let runtime = Runtime::builder().indirect_branches(branches).build()?;
                let chain = Chain::new(&runtime, constant, options)?;
                let alone = Chain::new(&runtime, constant, options)?;
                alone.array.update(0, None)?;
                let ours = Ours { name, engine, chain, alone, sum: sum(&runtime, options)? };
                Ok(Box::new(ours) as Box<dyn Contender>)
            })
            .collect()
    }

    /// Nanoseconds per run; each must return `wanted`.
    fn time(&self, program: &Program, input: &mut [u8], wanted: u64) -> Result<f64> {
        let runs = if self.engine == Engine::Compiled { 100_000 } else { 5_000 };
        ensure!(program.invoke(Invocation::new(input).engine(self.engine))? == wanted, "a wrong result");
        let begin = cpu_time();
        for _ in 0..runs {
            black_box(program.invoke(Invocation::new(black_box(&mut *input)).engine(self.engine))?);
        }
        Ok((cpu_time() - begin) / f64::from(runs))
    }
}

impl Contender for Ours {
    fn name(&self) -> String {
        self.name.into()
    }

    fn round(&mut self) -> Result<Round> {
        let (mut indexes, mut ones) = (input(), [1; 64]);
        Ok(Round {
            with_hops: self.time(&self.chain.entry, &mut indexes, u64::from(CHAIN))?,
            without: self.time(&self.alone.entry, &mut indexes, 0)?,
            sum: Some(self.time(&self.sum, &mut ones, 64)?),
        })
    }
}
