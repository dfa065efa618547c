//! `cargo xtask scaling`: what promotion costs and wins as something grows.
//!
//! One small program (workloads/scaling.c) calls through one hot site: from more and more threads, with
//! targets that change at longer and longer intervals, in children that live longer and longer, from
//! libraries that come and go. And programs of 1, 10 and 100 MB of code that do nothing show what starting
//! costs. Each point is measured in the retpoline build, the unprotected one and under the engine,
//! interleaved; values are processor time.

mod chart;
mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::engine::Engine;
use crate::machine::{self, Machine};
use crate::measure;
use crate::options;
use crate::place::Place;
use crate::stats::{self, Interval};
use crate::variant::{self, Toolchain, Variant};

/// Options of `cargo xtask scaling`.
#[derive(Args)]
pub struct Scaling {
    /// Measured rounds after one warm-up round
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    #[command(flatten)]
    kept: options::Programs,
    #[command(flatten)]
    tested: options::Tested,
}

const VARIANTS: [Variant; 3] = [Variant::Retpoline, Variant::Jmpthunk, Variant::Relpoline];
const LIMIT: Duration = Duration::from_secs(300);

/// One curve: a quantity that grows, and what is measured at each of its values.
struct Scale {
    name: &'static str,
    title: &'static str,
    /// The quantity and its unit.
    grows: &'static str,
    values: &'static [u64],
    unit: &'static str,
    load: Load,
}

#[derive(Clone, Copy)]
enum Load {
    /// A mode of scaling.c: nanoseconds per call.
    Calls(&'static str),
    /// The same with the library's path as its argument.
    Libraries,
    /// Starting and ending a program of so many megabytes of code: milliseconds.
    Start,
}

const SCALES: [Scale; 6] = [
    Scale {
        name: "threads",
        title: "One hot site, two targets, from N threads at once",
        grows: "threads",
        values: &[1, 2, 4, 16, 64],
        unit: "ns per call",
        load: Load::Calls("threads"),
    },
    Scale {
        name: "misses",
        title: "One site, a fifth of its calls to any of 256 targets, from N threads at once",
        grows: "threads",
        values: &[1, 2, 4, 16],
        unit: "ns per call",
        load: Load::Calls("misses"),
    },
    Scale {
        name: "phases",
        title: "Targets that change every so often",
        grows: "ms per phase",
        values: &[1, 10, 100, 1000],
        unit: "ns per call",
        load: Load::Calls("phases"),
    },
    Scale {
        name: "forks",
        title: "A process per connection",
        grows: "calls per child",
        values: &[100, 10_000, 100_000, 1_000_000],
        unit: "ns per call",
        load: Load::Calls("forks"),
    },
    Scale {
        name: "loads",
        title: "A library loaded, called 50,000 times and unloaded, 300 times",
        grows: "library",
        values: &[1],
        unit: "ns per call",
        load: Load::Libraries,
    },
    Scale {
        name: "start",
        title: "Starting a program that does nothing",
        grows: "MB of code",
        values: &[1, 10, 100],
        unit: "ms",
        load: Load::Start,
    },
];

/// One measured point of a curve.
#[derive(Serialize)]
pub struct Point {
    /// The value of what grows.
    pub value: u64,
    /// The median of each variant.
    pub medians: BTreeMap<Variant, f64>,
    /// Ratios to the retpoline build of the same round.
    pub ratios: BTreeMap<Variant, Interval>,
}

/// A measured curve.
#[derive(Serialize)]
pub struct Curve {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// What grows.
    pub grows: &'static str,
    /// The unit of the medians.
    pub unit: &'static str,
    /// Its points.
    pub points: Vec<Point>,
}

#[derive(Serialize)]
struct Results<'a> {
    schema: u32,
    date: String,
    machine: Machine,
    rounds: usize,
    load_average: f64,
    curves: &'a [Curve],
}

/// Builds, measures, and writes JSON, a table and a chart.
pub fn run(options: &Scaling) -> Result<()> {
    let place = options.kept.place()?;
    let binary = options.tested.built_engine(&place)?;
    let engine = Engine::new(&binary, place.run("scaling")?.join("reports"))?.silent();
    let built = build(&place)?;
    let mut curves = Vec::new();
    for scale in &SCALES {
        let mut points = Vec::new();
        for &value in scale.values {
            let point = point(&built, &engine, scale, value, options.rounds)?;
            eprintln!("xtask: {} {value} {}: {:.2?}", scale.name, scale.grows, point.medians);
            points.push(point);
        }
        curves.push(Curve { name: scale.name, title: scale.title, grows: scale.grows, unit: scale.unit, points });
    }
    let out = options.tested.out(&place);
    write(&out, &curves, options.rounds)?;
    println!("{}", table(&curves));
    Ok(())
}

/// Builds every variant of the programs; returns the directory that holds `VARIANT/scaling` and so on.
fn build(place: &Place) -> Result<PathBuf> {
    let dir = place.work.join("build/scaling");
    for variant in VARIANTS.into_iter().filter(|variant| variant.binaries() == *variant) {
        let into = dir.join(variant.name());
        fs::create_dir_all(&into)?;
        let header = into.join("thunks.h");
        fs::write(&header, variant.thunk_body().map(variant::thunks).unwrap_or_default())?;
        let flags = variant.flags(Toolchain::Gcc, &header.to_string_lossy());
        let compile = |output: &str, more: &[&str], source: &Path| -> Result<()> {
            let mut command = Command::new("gcc");
            command.args(flags.split(' ')).args(more).arg(source).arg("-o").arg(into.join(output));
            measure::run(command.args(["-ldl", "-lpthread"]), LIMIT).map(drop)
        };
        let source = place.workload("scaling.c");
        compile("scaling", &[], &source)?;
        compile("library.so", &["-shared", "-fPIC", "-DLIBRARY"], &source)?;
        for megabytes in [1, 10, 100] {
            let name = format!("start-{megabytes}");
            if into.join(&name).exists() {
                continue;
            }
            let source = into.join(format!("{name}.s"));
            fs::write(&source, text::assembly(megabytes, variant))?;
            compile(&name, &["-x", "assembler"], &source)?;
            fs::remove_file(source)?;
        }
    }
    Ok(dir)
}

/// All variants in every round, in alternating order, after one round that does not count.
fn point(built: &Path, engine: &Engine, scale: &Scale, value: u64, rounds: usize) -> Result<Point> {
    let mut samples: BTreeMap<Variant, Vec<f64>> = BTreeMap::new();
    for round in 0..=rounds {
        let mut order = VARIANTS;
        if round % 2 == 1 {
            order.reverse();
        }
        for variant in order {
            let sample = once(&built.join(variant.binaries().name()), engine, scale, value, variant)
                .with_context(|| format!("{} {value}, {}", scale.name, variant.name()))?;
            if round > 0 {
                samples.entry(variant).or_default().push(sample);
            }
        }
    }
    let base = samples.get(&Variant::Retpoline).context("the base is measured")?;
    let medians = samples.iter().filter_map(|(&variant, all)| Some((variant, stats::median(all)?))).collect();
    let ratio = |(&variant, all): (&Variant, &Vec<f64>)| Some((variant, stats::interval(&stats::ratios(all, base))?));
    let ratios = samples.iter().filter_map(ratio).collect();
    Ok(Point { value, medians, ratios })
}

fn once(dir: &Path, engine: &Engine, scale: &Scale, value: u64, variant: Variant) -> Result<f64> {
    let mut words: Vec<PathBuf> = match variant {
        Variant::Relpoline => engine.prefix(),
        _ => Vec::new(),
    };
    let number = PathBuf::from(value.to_string());
    match scale.load {
        Load::Calls(mode) => words.extend([dir.join("scaling"), mode.into(), number]),
        Load::Libraries => words.extend([dir.join("scaling"), "loads".into(), dir.join("library.so")]),
        Load::Start => words.push(dir.join(format!("start-{value}"))),
    }
    let mut command = Command::new(&words[0]);
    let done = measure::run(command.args(&words[1..]), LIMIT)?;
    if let Load::Start = scale.load {
        return Ok(1e3 * done.processor);
    }
    let text = String::from_utf8_lossy(&done.stdout);
    let (calls, nanoseconds) = text.trim().split_once(' ').context("scaling prints two numbers")?;
    let (calls, nanoseconds) = (calls.parse::<f64>()?, nanoseconds.parse::<f64>()?);
    ensure!(calls > 0.0, "no calls were made");
    Ok(nanoseconds / calls)
}

fn write(out: &Path, curves: &[Curve], rounds: usize) -> Result<()> {
    let (date, machine) = (machine::today(), Machine::here());
    fs::create_dir_all(out)?;
    let path = out.join(format!("{date}-{}-scaling.json", machine.host));
    let results = Results { schema: 1, date, machine, rounds, load_average: machine::load_average(), curves };
    fs::write(path, serde_json::to_string_pretty(&results)? + "\n")?;
    fs::write(out.join("scaling.md"), markdown(&results))?;
    Ok(fs::write(out.join("scaling.svg"), chart::svg(curves))?)
}

/// The table, and what it was measured on.
fn markdown(results: &Results<'_>) -> String {
    let Results { date, machine, rounds, load_average, curves, .. } = results;
    format!(
        "Measured {date} on {machine}; `cargo xtask scaling`.\n\n\
         Processor time: the median of the retpoline build, and medians of the ratios to it in {rounds} interleaved rounds;\n\
         in brackets the interval that holds the true median with at least 95 %. Load average at the end: {load_average:.1}.\n\n{}",
        table(curves)
    )
}

fn table(curves: &[Curve]) -> String {
    let mut text = String::from(
        "| | | retpoline | unprotected thunk / retpoline | relpoline / retpoline [95 %] |\n|---|---|---|---|---|\n",
    );
    for curve in curves {
        for point in &curve.points {
            let ratio = |variant: Variant| point.ratios.get(&variant);
            let base = point.medians.get(&Variant::Retpoline).copied().unwrap_or(f64::NAN);
            let bare = ratio(Variant::Jmpthunk).map_or(f64::NAN, |ratio| ratio.median);
            let ours = ratio(Variant::Relpoline);
            let ours = ours.map_or(String::new(), |r| format!("{:.3} [{:.3}, {:.3}]", r.median, r.low, r.high));
            let (title, grows, unit, value) = (curve.title, curve.grows, curve.unit, point.value);
            text += &format!("| {title} | {value} {grows} | {base:.2} {unit} | {bare:.3} | {ours} |\n");
        }
    }
    text
}
