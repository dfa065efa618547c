//! Crowds: programs in which many sites are equally warm, so that what one of them costs depends on its
//! neighbours.
//!
//! One program has all [`SITES`] sites, two in each of small functions; how many of them it walks through, in
//! which order, and how many targets they have, is told over a pipe. Under relpoline each kind of crowd has a
//! process of its own, which lives until it was measured: what it costs from the first call on stands beside
//! what it costs learned. Times are those that the process was running, so that a busy machine disturbs them
//! little.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::workbench::compiler::Compiler;
use crate::workbench::progress::progress;
use crate::workbench::sample::Sample;
use crate::workbench::variant::{self, Programs, Recipe, Variant, compile};

/// Sites of the program, of which a crowd is a part.
const SITES: usize = 8000;
/// Sites of crowds, ascending.
const SIZES: [usize; 4] = [300, 1000, 2000, SITES];
/// The crowd whose order and phases are varied.
const VARIED: usize = 2000;
/// Functions that are walked through as one, and again and again where there are phases.
const BLOCK: usize = 50;
/// Times that a block is walked through in a phase: a fraction of a millisecond.
const PHASE: u32 = 500;
/// Of the outcome: crowds whose sites share targets, those that do not, and all of them.
const LIMITS: [f64; 3] = [0.6, 1.05, 1.02];

/// In which order a crowd is walked through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// In that of addresses.
    Straight,
    /// In another one, always the same.
    Shuffled,
    /// Some sites for a while, then others.
    Phases,
}

/// A kind of crowd.
#[derive(Clone, Copy, Debug)]
struct Crowd {
    sites: usize,
    /// In all; as many as sites: each has one of its own.
    targets: usize,
    order: Order,
}

/// What was measured of one.
#[derive(Debug, Serialize)]
pub struct CrowdFigure {
    /// Sites that are equally warm.
    pub sites: usize,
    /// Their targets, all together.
    pub targets: usize,
    order: Order,
    /// Nanoseconds per call with retpolines.
    pub retpoline: Sample,
    /// With thunks that only jump.
    pub unprotected: Sample,
    /// Under relpoline, learned.
    pub relpoline: Sample,
    /// relpoline / retpoline, of the same round.
    pub ratio: Sample,
    /// relpoline / the better of retpoline and unprotected, of the same round.
    pub ratio_to_best: Sample,
    /// While it learned, from the first call on / retpoline.
    pub cold_ratio: f64,
}

/// A limit and the crowd that is farthest from keeping it.
#[derive(Debug, Serialize)]
pub struct CrowdVerdict {
    budget: &'static str,
    limit: f64,
    measured: f64,
    pass: bool,
    of: String,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Crowds {
    /// One for each crowd.
    pub crowds: Vec<CrowdFigure>,
    /// The limits.
    pub verdicts: Vec<CrowdVerdict>,
}

/// A short run has one size, and a program no larger than that.
fn sizes(quick: bool) -> &'static [usize] {
    if quick { &SIZES[1..2] } else { &SIZES }
}

fn crowds(quick: bool) -> Vec<Crowd> {
    let sizes = sizes(quick);
    let of = |sites, order| [1, 8, sites].map(|targets| Crowd { sites, targets, order });
    let mut all: Vec<_> = sizes.iter().flat_map(|&sites| of(sites, Order::Straight)).collect();
    if !quick {
        all.extend([Order::Shuffled, Order::Phases].into_iter().flat_map(|order| of(VARIED, order)));
    }
    all
}

/// Builds the program and measures it: minutes, or some 10 seconds.
///
/// # Errors
/// When the program cannot be compiled or started.
pub fn measure(compiler: &Compiler, directory: &Path, quick: bool) -> anyhow::Result<Crowds> {
    let programs = variant::build(compiler, directory, &[("crowd.c", &source(sizes(quick)))], one)?;
    let (learn_ms, slice_ms, rounds) = if quick { (500, 20, 5) } else { (2000, 40, 5) };
    let mut retpoline = Player::start(Variant::Retpoline, &programs)?;
    let mut unprotected = Player::start(Variant::Unprotected, &programs)?;
    let crowds = crowds(quick);
    let bar = progress(crowds.len() as u64);
    let mut figures = Vec::new();
    for crowd in crowds {
        bar.set_message(format!("{} sites", crowd.sites));
        let mut relpoline = Player::start(Variant::Relpoline, &programs)?;
        let cold = relpoline.play(crowd, learn_ms)?;
        let [mut r, mut u, mut p] = [const { Vec::new() }; 3];
        for round in 0..=rounds {
            let each = [
                retpoline.play(crowd, slice_ms)?,
                unprotected.play(crowd, slice_ms)?,
                relpoline.play(crowd, slice_ms)?,
            ];
            // The first brings the program back into the caches.
            if round > 0 {
                r.push(each[0]);
                u.push(each[1]);
                p.push(each[2]);
            }
        }
        let best: Vec<_> = r.iter().zip(&u).map(|(r, u)| r.min(*u)).collect();
        let over = Sample::of(&r).median;
        figures.push(CrowdFigure {
            sites: crowd.sites,
            targets: crowd.targets,
            order: crowd.order,
            retpoline: Sample::of(&r),
            unprotected: Sample::of(&u),
            relpoline: Sample::of(&p),
            ratio: Sample::of_ratios(&p, &r),
            ratio_to_best: Sample::of_ratios(&p, &best),
            cold_ratio: if over > 0.0 { cold / over } else { 0.0 },
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Crowds { verdicts: verdicts(&figures), crowds: figures })
}

fn verdicts(figures: &[CrowdFigure]) -> Vec<CrowdVerdict> {
    let shares = |it: &CrowdFigure| it.targets < it.sites;
    let worst = |budget, limit, of: &dyn Fn(&CrowdFigure) -> Option<f64>| {
        let each = figures.iter().filter_map(|figure| Some((of(figure)?, figure)));
        each.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(measured, figure)| CrowdVerdict {
            budget,
            limit,
            measured,
            pass: measured <= limit,
            of: format!("{} sites, {} targets, {}", figure.sites, figure.targets, figure.order.name()),
        })
    };
    let [shared, apart, all] = LIMITS;
    [
        worst("crowd with shared targets / retpoline", shared, &|it| shares(it).then_some(it.ratio.median)),
        worst("crowd without / best of retpoline, unprotected", apart, &|it| {
            (!shares(it)).then_some(it.ratio_to_best.median)
        }),
        worst("any crowd, learned / retpoline", all, &|it| Some(it.ratio.median)),
        worst("any crowd, while it learns / retpoline", all, &|it| Some(it.cold_ratio)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Order {
    const fn name(self) -> &'static str {
        match self {
            Self::Straight => "in order",
            Self::Shuffled => "shuffled",
            Self::Phases => "in phases",
        }
    }
}

/// For people.
pub fn render(crowds: &Crowds) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "\n{:>5}{:>9}  {:<10}{:>7}{:>7}{:>9}{:>15}{:>9}{:>8}",
        "sites", "targets", "", "retp.", "unpr.", "ratio", "spread", "to best", "cold"
    );
    for it in &crowds.crowds {
        let spread = format!("{:.2} – {:.2}", it.ratio.min, it.ratio.max);
        let _ = writeln!(
            out,
            "{:>5}{:>9}  {:<10}{:>7.1}{:>7.1}{:>9.3}{spread:>15}{:>9.2}{:>8.2}",
            it.sites,
            it.targets,
            it.order.name(),
            it.retpoline.median,
            it.unprotected.median,
            it.ratio.median,
            it.ratio_to_best.median,
            it.cold_ratio
        );
    }
    let _ = writeln!(out, "nanoseconds per call; ratio: relpoline / retpoline, learned; cold: while it learned\n");
    for it in &crowds.verdicts {
        let word = if it.pass { "PASS  " } else { "MISSED" };
        let _ = writeln!(out, "{word} {:<48}{:>8.3} ×  ≤ {:>6}  {}", it.budget, it.measured, it.limit, it.of);
    }
    out
}

fn one(compiler: &Compiler, directory: &Path, recipe: &Recipe<'_>) -> anyhow::Result<PathBuf> {
    let program = directory.join(format!("crowd-{}", recipe.name));
    // Nobody plays that one.
    if recipe.name != Variant::Plain.name() {
        let mut command = compiler.command(recipe.flags);
        command.args(["-O1", "crowd.c", "-o"]).arg(&program).args(recipe.thunks);
        compile(command.current_dir(directory), recipe.name)?;
    }
    Ok(program)
}

/// The program: `g`s with two sites each, called by blocks, called by walks; one answer for each line that it
/// reads.
fn source(sizes: &[usize]) -> String {
    let most = sizes.iter().copied().max().unwrap_or(0);
    let functions = most / 2;
    let mut text = String::from(include_str!("../../bench/crowd.h"));
    let _ = writeln!(text, "TARGETS(\"{most}\")\nF p[{most}];");
    for i in 0..functions {
        let (a, b) = (2 * i, 2 * i + 1);
        let _ = writeln!(text, "NO static uint64_t g{i}(uint64_t x) {{ return p[{a}](x) + p[{b}](x + {i}) * {i}; }}");
    }
    let mut shuffled: Vec<usize> = (0..functions).collect();
    let mut start = 0;
    for &size in sizes {
        shuffle(&mut shuffled[start..size / 2]);
        start = size / 2;
    }
    let in_order: Vec<usize> = (0..functions).collect();
    for (name, order) in [("in_order", in_order), ("shuffled", shuffled)] {
        for (n, block) in order.chunks(BLOCK).enumerate() {
            let _ = writeln!(text, "NO static uint64_t {name}{n}(uint64_t x) {{");
            for g in block {
                let _ = write!(text, "x ^= g{g}(x);");
            }
            let _ = writeln!(text, "return x; }}");
        }
        for &size in sizes {
            let _ = writeln!(text, "static uint64_t {name}_{size}(uint64_t x, int times) {{");
            for n in 0..size / 2 / BLOCK {
                let _ = writeln!(text, "for (int k = 0; k < times; k++) x ^= {name}{n}(x);");
            }
            let _ = writeln!(text, "return x; }}");
        }
    }
    let _ = writeln!(text, "static uint64_t walk(int sites, int is_shuffled, uint64_t x, int times) {{");
    for &size in sizes {
        let _ = writeln!(
            text,
            "if (sites == {size}) return is_shuffled ? shuffled_{size}(x, times) : in_order_{size}(x, times);"
        );
    }
    let _ = writeln!(text, "return x; }}\nMAIN({most})");
    text
}

/// Always the same.
fn shuffle(order: &mut [usize]) {
    let mut state = 1u64;
    for left in (1..order.len()).rev() {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        order.swap(left, (state >> 33) as usize % (left + 1));
    }
}

/// A variant, alive.
struct Player {
    variant: Variant,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Player {
    fn start(variant: Variant, programs: &Programs) -> anyhow::Result<Self> {
        let mut command = variant.command(programs, &[])?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("the {variant} variant cannot be started"))?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take().context("no pipe")?);
        Ok(Self { variant, child, orders, answers: BufReader::new(answers) })
    }

    /// Nanoseconds per call.
    fn play(&mut self, crowd: Crowd, ms: u32) -> anyhow::Result<f64> {
        let is_shuffled = u8::from(crowd.order == Order::Shuffled);
        let times = if crowd.order == Order::Phases { PHASE } else { 1 };
        let order = format!("{} {} {is_shuffled} {times} {ms}\n", crowd.sites, crowd.targets);
        self.orders.as_mut().context("no pipe")?.write_all(order.as_bytes())?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "the {} variant of the program with crowds ended early", self.variant);
        line.trim().parse().context("no figure")
    }
}

impl Drop for Player {
    /// The pipe's end ends it.
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}
