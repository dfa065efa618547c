//! The protocol: all variants of a workload in every round, in alternating order, after one round that does
//! not count.
//!
//! The first round fills caches (files, byte code, the engine's own start) and shows whether all variants
//! answer alike. The order turns around in every round and starts one variant later every other one, so that
//! no variant always follows the same neighbour.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::engine::{Engine, Promotion};
use crate::machine;
use crate::memory::{self, Memory};
use crate::place::Place;
use crate::programs::Program;
use crate::report::{Numbers, Report, Row};
use crate::stats;
use crate::variant::Variant;
use crate::workload::{Sample, Setting, Workload};

/// How to measure.
pub struct Protocol {
    /// Rounds that count.
    pub rounds: usize,
    /// Short server runs.
    pub quick: bool,
    /// What to compare.
    pub variants: Vec<Variant>,
    /// The engine's binary.
    pub engine: Option<PathBuf>,
    /// Whether to go on without a variant or workload that failed.
    pub keep_going: bool,
}

impl Protocol {
    /// Uses the engine if its binary is there, and drops its variant with a word if not.
    pub fn take_engine(&mut self, binary: PathBuf) {
        if !self.variants.contains(&Variant::Relpoline) {
            return;
        }
        match binary.canonicalize() {
            Ok(binary) => self.engine = Some(binary),
            Err(error) => {
                eprintln!("xtask: variant relpoline left out: {}: {error}", binary.display());
                self.variants.retain(|variant| *variant != Variant::Relpoline);
            }
        }
    }
}

/// Measures all workloads of a program; returns how many things failed, which is an error unless told to go
/// on.
pub fn measure_program(
    place: &Place,
    program: &dyn Program,
    protocol: &Protocol,
    report: &mut Report,
) -> Result<usize> {
    let mut failures = 0;
    for load in program.workloads() {
        let mut series = Series::new(place, program, load.as_ref(), protocol)?;
        match series.measure(protocol) {
            Ok(()) => series.rows(protocol)?.into_iter().for_each(|row| report.add(row)),
            Err(error) if protocol.keep_going => {
                eprintln!("xtask: {} {}: {error:#}; going on", program.name(), load.name());
                failures += 1;
            }
            Err(error) => return Err(error.context(format!("{} {}", program.name(), load.name()))),
        }
        failures += series.failed;
    }
    Ok(failures)
}

/// One workload in all its variants.
struct Series<'a> {
    place: &'a Place,
    program: &'a dyn Program,
    load: &'a dyn Workload,
    engine: Option<Engine>,
    variants: Vec<Variant>,
    samples: BTreeMap<Variant, Vec<Sample>>,
    promotion: Option<Promotion>,
    memory: Option<Memory>,
    failed: usize,
}

impl<'a> Series<'a> {
    fn new(
        place: &'a Place,
        program: &'a dyn Program,
        load: &'a dyn Workload,
        protocol: &Protocol,
    ) -> Result<Series<'a>> {
        let reports = place.run(program.name())?.join("reports");
        let engine = protocol
            .engine
            .as_deref()
            .map(|binary: &Path| Engine::new(binary, reports))
            .transpose()?
            .map(Engine::silent);
        let mut variants = protocol.variants.clone();
        variants.retain(|variant| program.has(*variant));
        // Everything is compared with it, so it is measured whether asked for or not.
        if !variants.contains(&Variant::Retpoline) {
            variants.insert(0, Variant::Retpoline);
        }
        let samples = BTreeMap::new();
        Ok(Series { place, program, load, engine, variants, samples, promotion: None, memory: None, failed: 0 })
    }

    fn measure(&mut self, protocol: &Protocol) -> Result<()> {
        for round in 0..=protocol.rounds {
            for variant in in_order(&self.variants, round) {
                match self.once(variant, protocol) {
                    Ok(sample) => self.samples.entry(variant).or_default().push(sample),
                    Err(error) if protocol.keep_going && variant != Variant::Retpoline => {
                        self.leave_out(variant, &error)
                    }
                    Err(error) => return Err(error.context(format!("variant {}", variant.name()))),
                }
            }
            self.progress(round, protocol.rounds);
        }
        self.count_calls(protocol)?;
        // The warm-up round has done its work.
        self.samples.values_mut().for_each(|samples| drop(samples.remove(0)));
        Ok(())
    }

    fn once(&mut self, variant: Variant, protocol: &Protocol) -> Result<Sample> {
        let mut setting = Setting::direct(self.place, self.program.name(), variant)?;
        setting.quick = protocol.quick;
        setting.engine = self.engine.as_ref().filter(|_| variant == Variant::Relpoline);
        let sample = self.load.run(&setting)?;
        if let Some(known) = self.samples.values().flatten().next() {
            let (is, should) = (&sample.answer, &known.answer);
            ensure!(is == should, "the answer differs from that of the other variants: {is}, not {should}");
        }
        Ok(sample)
    }

    /// Three more runs that are not timed. One with a report: what the engine did. One with calls counted:
    /// what it covers, and what it leaves; and one without the engine, both with a look at memory.
    fn count_calls(&mut self, protocol: &Protocol) -> Result<()> {
        let Some(binary) = protocol.engine.as_deref().filter(|_| self.variants.contains(&Variant::Relpoline)) else {
            return Ok(());
        };
        let reports = self.place.run(self.program.name())?.join("reports");
        let reporting = Engine::new(binary, reports.clone())?;
        let mut setting = Setting::direct(self.place, self.program.name(), Variant::Relpoline)?;
        (setting.quick, setting.engine) = (protocol.quick, Some(&reporting));
        reporting.forget();
        self.load.run(&setting).context("reporting")?;
        self.promotion = reporting.promotion();
        let engine = Engine::new(binary, reports)?.with_options(&["--count"]);
        setting.engine = Some(&engine);
        engine.forget();
        let programs = self.place.work.join("build");
        let (counted, with) = memory::watch(&programs, || self.load.run(&setting));
        counted.context("counting calls")?;
        setting.engine = None;
        let (bare, without) = memory::watch(&programs, || self.load.run(&setting));
        bare.context("watching memory")?;
        self.memory = with.zip(without).map(|(with, without)| Memory { without, with });
        if let (Some(counted), Some(kept)) = (engine.promotion(), self.promotion.as_mut()) {
            (kept.coverage, kept.left) = (counted.coverage, counted.left);
        }
        Ok(())
    }

    fn leave_out(&mut self, variant: Variant, error: &anyhow::Error) {
        let (program, load) = (self.program.name(), self.load.name());
        eprintln!("xtask: {program} {load} without {}: {error:#}", variant.name());
        self.variants.retain(|other| *other != variant);
        self.samples.remove(&variant);
        self.failed += 1;
    }

    fn progress(&self, round: usize, rounds: usize) {
        let last = |variant: &Variant| self.samples.get(variant)?.last()?.values.first().copied();
        let value = |variant: &Variant| Some(format!("{} {:.3}", variant.name(), last(variant)?));
        let values: Vec<_> = self.variants.iter().filter_map(value).collect();
        let name = if round == 0 { "warm-up".to_owned() } else { format!("round {round}/{rounds}") };
        eprintln!("xtask: {} {} {name}: {}", self.program.name(), self.load.name(), values.join("  "));
    }

    fn rows(&self, protocol: &Protocol) -> Result<Vec<Row>> {
        (0..self.load.metrics().len()).map(|place| self.row(place, protocol)).collect()
    }

    /// The values of one metric, round by round.
    fn values(&self, variant: Variant, place: usize) -> Vec<f64> {
        let samples = self.samples.get(&variant).into_iter().flatten();
        samples.filter_map(|sample| sample.values.get(place).copied()).collect()
    }

    fn row(&self, place: usize, protocol: &Protocol) -> Result<Row> {
        let metric = self.load.metrics()[place];
        let of = |variant| self.values(variant, place);
        let base = of(Variant::Retpoline);
        let numbers = |variant: &Variant| Some((*variant, Numbers::new(&of(*variant), &base)?));
        let known = self.samples.values().flatten().next().context("no samples")?;
        let source = self.program.source();
        let version = source.version(self.place).unwrap_or_default();
        Ok(Row {
            program: self.program.name().to_owned(),
            package: format!("{} {version}", source.name()),
            workload: self.load.name().to_owned(),
            metric: metric.name.to_owned(),
            unit: metric.unit.to_owned(),
            better: metric.better,
            taken: machine::now(),
            load_average: machine::load_average(),
            rounds: protocol.rounds,
            quick: protocol.quick,
            answer: known.answer.clone(),
            commands: self.variants.iter().map(|variant| (*variant, self.command(*variant))).collect(),
            variants: self.variants.iter().filter_map(numbers).collect(),
            won_back: stats::won_back(&base, &of(Variant::Jmpthunk), &of(Variant::Relpoline)),
            promotion: self.promotion.clone(),
            memory: self.memory,
        })
    }

    fn command(&self, variant: Variant) -> String {
        let example = self.load.example(self.place, self.program.name(), variant);
        let engine = self.engine.as_ref().filter(|_| variant == Variant::Relpoline);
        let prefix = engine.into_iter().flat_map(Engine::prefix).map(|word| word.to_string_lossy().into_owned());
        prefix.chain([example]).collect::<Vec<_>>().join(" ")
    }
}

/// The variants in the order of a round.
fn in_order(variants: &[Variant], round: usize) -> Vec<Variant> {
    let mut order = variants.to_vec();
    if !order.is_empty() {
        let shift = round / 2 % order.len();
        order.rotate_left(shift);
    }
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_all_variants_and_orders_alternate() {
        let all = [Variant::Retpoline, Variant::Plain, Variant::Jmpthunk];
        let orders: Vec<_> = (0..6).map(|round| in_order(&all, round)).collect();
        assert_eq!(orders[0], all);
        assert_eq!(orders[1], [Variant::Jmpthunk, Variant::Plain, Variant::Retpoline]);
        assert_ne!(orders[0], orders[2]);
        for mut order in orders {
            order.sort();
            assert_eq!(order.len(), 3);
            order.dedup();
            assert_eq!(order.len(), 3);
        }
    }

    #[test]
    fn a_missing_engine_drops_its_variant_only() {
        let variants = vec![Variant::Retpoline, Variant::Relpoline];
        let mut protocol = Protocol { rounds: 1, quick: true, variants, engine: None, keep_going: false };
        protocol.take_engine(PathBuf::from("/no/such/file"));
        assert_eq!(protocol.variants, [Variant::Retpoline]);
        assert!(protocol.engine.is_none());
    }
}
