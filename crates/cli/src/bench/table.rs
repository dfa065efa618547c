//! The outcome for people.

use std::fmt::{self, Write};

use super::figures::{Figures, TraceFigure};
use super::verdict::Verdict;
use crate::shown::cut;
use crate::workbench::sample::Sample;

pub fn render(figures: &Figures) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = machine(&mut out, figures)
        .and_then(|()| micro(&mut out, figures))
        .and_then(|()| traces(&mut out, figures))
        .and_then(|()| starts(&mut out, figures))
        .and_then(|()| engine(&mut out, figures))
        .and_then(|()| verdicts(&mut out, figures));
    out
}

fn machine(out: &mut String, figures: &Figures) -> fmt::Result {
    let machine = &figures.machine;
    writeln!(out, "{}, {} CPUs, Linux {}", machine.cpu, machine.cpus, machine.kernel)?;
    writeln!(out, "{}; cycles of the {:.0} MHz clock", cut(&machine.compiler, 60), figures.clock_mhz)
}

fn micro(out: &mut String, figures: &Figures) -> fmt::Result {
    writeln!(out, "\n{:<28}{:>10}{:>17}", "cycles per call, with loop", "median", "spread")?;
    for line in &figures.micro {
        writeln!(out, "{:<28}{:>10.2}{:>17}", line.name, line.cycles.median, spread(&line.cycles))?;
    }
    Ok(())
}

fn traces(out: &mut String, figures: &Figures) -> fmt::Result {
    writeln!(
        out,
        "\n{:<21}{:>6}{:>6}{:>7}{:>15}{:>6}  {:<14}{:>8}  in the end",
        "trace", "retp.", "unpr.", "ratio", "spread", "cold", "best tree", "again µs"
    )?;
    figures.traces.iter().try_for_each(|trace| trace_line(out, trace))?;
    writeln!(out, "ratio: relpoline / retpoline, learned; cold: the first 10 ms; unpr.: thunks that only jump")?;
    writeln!(out, "best tree: relpoline / best of the retpoline and the 1 … 16 hottest targets known beforehand")
}

fn trace_line(out: &mut String, trace: &TraceFigure) -> fmt::Result {
    let again = trace.repromoted_us.map_or(String::new(), |us| format!("{:.0}", us.median));
    let best = format!("{:.2} {}", trace.ratio_to_best, trace.best_fixed);
    let relearned = if trace.relearned > 0 { format!(", again {}×", trace.relearned) } else { String::new() };
    writeln!(
        out,
        "{:<21}{:>6.1}{:>6.1}{:>7.3}{:>15}{:>6.2}  {:<14}{:>8}  {} {}{}",
        trace.name,
        trace.retpoline.median,
        trace.unprotected.median,
        trace.ratio.median,
        spread(&trace.ratio),
        trace.cold_ratio,
        best,
        again,
        trace.state,
        trace.targets,
        relearned
    )
}

fn spread(sample: &Sample) -> String {
    format!("{:.2} – {:.2}", sample.min, sample.max)
}

fn starts(out: &mut String, figures: &Figures) -> fmt::Result {
    writeln!(out, "\n{:<28}{:>10}{:>10}{:>21}", "starts, ms each", "without", "more", "spread of that")?;
    figures.starts.iter().try_for_each(|start| {
        let more = format!("{:.3} – {:.3}", start.more_ms.min, start.more_ms.max);
        let (plain, median) = (start.plain_ms.median, start.more_ms.median);
        writeln!(out, "{:<28}{plain:>10.3}{median:>10.3}{more:>21}  {}", start.name, start.of)
    })
}

fn engine(out: &mut String, figures: &Figures) -> fmt::Result {
    let engine = &figures.engine;
    writeln!(
        out,
        "\nin {:.0} s: {} judgements, {} patches (at most {} in a second), {} links",
        engine.lived_s, engine.judgements, engine.patches, engine.patches_per_s_max, engine.links
    )
}

fn verdicts(out: &mut String, figures: &Figures) -> fmt::Result {
    writeln!(out)?;
    figures.verdicts.iter().try_for_each(|verdict| verdict_line(out, verdict))?;
    if figures.noisy {
        let percent = figures.spread * 100.0;
        writeln!(out, "\nThis machine is noisy: rounds differ by {percent:.0} %. Take the verdicts with care.")?;
    }
    Ok(())
}

fn verdict_line(out: &mut String, verdict: &Verdict) -> fmt::Result {
    let Verdict { measured, limit, unit, .. } = verdict;
    let word = if verdict.pass { "PASS  " } else { "MISSED" };
    write!(out, "{word} {:<44}{measured:>8.3} {unit:<2} ≤ {limit:>6}", verdict.budget)?;
    if let Some([min, max]) = verdict.spread {
        write!(out, " ({min:.2} – {max:.2})")?;
    }
    if !verdict.pass {
        write!(out, ", by {:.0} %", (measured / limit - 1.0) * 100.0)?;
    }
    writeln!(out, "  {}", verdict.of)
}
