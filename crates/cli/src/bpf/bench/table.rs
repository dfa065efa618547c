//! The outcome for people.

use std::fmt::{self, Write};

use super::{CHAIN, Figures, Line};
use crate::workbench::sample::Sample;

/// The whole table.
pub fn render(figures: &Figures) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = machine(&mut out, figures)
        .and_then(|()| hops(&mut out, figures))
        .and_then(|()| lookups(&mut out, figures))
        .and_then(|()| updates(&mut out, figures));
    for line in &figures.missing {
        let _ = writeln!(out, "\nnot measured: {line}");
    }
    out
}

fn machine(out: &mut String, figures: &Figures) -> fmt::Result {
    let machine = &figures.machine;
    writeln!(out, "{}, {} CPUs, Linux {}", machine.cpu, machine.cpus, machine.kernel)?;
    writeln!(out, "kernel's own branches: {}", machine.spectre_v2)?;
    writeln!(out, "{} rounds in turns; median, lowest and highest", figures.rounds)
}

fn range(sample: &Sample) -> String {
    format!("[{:.0}, {:.0}]", sample.min, sample.max)
}

fn hops(out: &mut String, figures: &Figures) -> fmt::Result {
    let width = figures.hops.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
    let first = &figures.hops.first().map_or(0.0, |line| line.hops_33_ns.median);
    writeln!(
        out,
        "\n{:<width$} {:>9} {:>15} {:>8} {:>7} {:>9} {:>13}",
        "nanoseconds", "33 hops", "", "per hop", "ratio", "run alone", "64-byte sum"
    )?;
    for Line { name, hops_33_ns: hops, run_ns, sum_ns } in &figures.hops {
        let sum = sum_ns.as_ref().map_or_else(|| "-".into(), |sum| format!("{:.0}", sum.median));
        let per_hop = hops.median / f64::from(CHAIN);
        writeln!(
            out,
            "{name:<width$} {:>9.1} {:>15} {per_hop:>8.2} {:>7.1} {:>9.1} {sum:>13}",
            hops.median,
            range(hops),
            hops.median / first.max(f64::MIN_POSITIVE),
            run_ns.median,
        )?;
    }
    Ok(())
}

fn lookups(out: &mut String, figures: &Figures) -> fmt::Result {
    writeln!(
        out,
        "\n{:<22} {:>9} {:>15} {:>9} {:>15} {:>7} {:>12}",
        "nanoseconds a look-up", "here", "", "kernel", "", "ratio", "interpreter"
    )?;
    let range = |sample: &Sample| format!("[{:.1}, {:.1}]", sample.min, sample.max);
    for line in &figures.lookups {
        let (here, interpreter) = (&line.here_ns, &line.interpreter_ns);
        write!(out, "{:<22} {:>9.1} {:>15} ", line.map, here.median, range(here))?;
        match (&line.kernel_ns, &line.ratio) {
            (Some(kernel), Some(ratio)) => {
                write!(out, "{:>9.1} {:>15} {:>7.2}", kernel.median, range(kernel), ratio.median)?;
            }
            _ => write!(out, "{:>9} {:>15} {:>7}", "-", "", "-")?,
        }
        writeln!(out, " {:>12.1}", interpreter.median)?;
    }
    Ok(())
}

fn updates(out: &mut String, figures: &Figures) -> fmt::Result {
    for updates in &figures.updates {
        writeln!(
            out,
            "\nupdates, {}: microseconds, {} thread(s) at {:.0} runs per second meanwhile",
            updates.name, updates.threads, updates.runs_per_second
        )?;
        let rows = [
            ("replace a slot", Some(&updates.replace_us)),
            ("remove a slot", Some(&updates.remove_us)),
            ("insert a slot", Some(&updates.insert_us)),
            ("swap all 33 at once", updates.swap_us.as_ref()),
        ];
        for (name, sample) in rows {
            match sample {
                Some(sample) => {
                    writeln!(out, "{name:<22} {:>10.1}  [{:.1}, {:.0}]", sample.median, sample.min, sample.max)?;
                }
                None => writeln!(out, "{name:<22} {:>10}", "none")?,
            }
        }
    }
    Ok(())
}
