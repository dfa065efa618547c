//! The figures for people, in 80 columns.

use std::fmt::{self, Write};

use super::figures::{Figures, Taken, percent};
use super::outputs::Compared;

/// Everything but the JSON.
pub fn render(figures: &Figures) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut out, figures);
    out
}

fn write(out: &mut String, figures: &Figures) -> fmt::Result {
    if figures.rounds > 0 {
        table(out, figures)?;
        details(out, figures)?;
        writeln!(out)?;
    }
    for sentence in &figures.verdict {
        writeln!(out, "{sentence}")?;
    }
    Ok(())
}

fn table(out: &mut String, figures: &Figures) -> fmt::Result {
    writeln!(out, "{:<22}{:>12}{:>10}{:>10}{:>10}{:>16}", "seconds", "processor", "", "user", "system", "clock")?;
    let rows = [
        ("without relpoline", &figures.without),
        ("with relpoline", &figures.with),
        ("unprotected thunks", &figures.unprotected),
    ];
    for (name, taken) in rows {
        let Some(Taken { processor_s, user_s, system_s, wall_s, .. }) = taken else { continue };
        let spread = |reach: f64, median: f64| percent(if median > 0.0 { reach / median } else { 0.0 });
        writeln!(
            out,
            "{name:<22}{:>12.4}{:>10}{user_s:>10.4}{system_s:>10.4}{:>8.3}{:>8}",
            processor_s.median,
            format!("± {}", spread(processor_s.reach(), processor_s.median)),
            wall_s.median,
            format!("± {}", spread(wall_s.reach(), wall_s.median)),
        )?;
    }
    Ok(())
}

fn details(out: &mut String, figures: &Figures) -> fmt::Result {
    let confidence = figures.saved.map_or(0.0, |saved| saved.confidence);
    let rounds = counted(figures.rounds, "round");
    writeln!(out, "\nmedians of {rounds}; ± covers the median with {:.0} % probability", confidence * 100.0)?;
    let promotion = &figures.promotion;
    let files = counted(promotion.files.len(), "file");
    writeln!(out, "sites       {} in {files}; {} promoted in the first run", promotion.sites, promotion.promoted)?;
    let output = &figures.output;
    let all = [("stdout", output.stdout), ("stderr", output.stderr), ("exit status", output.status)];
    let named = |wanted| all.iter().filter(|(_, found)| *found == wanted).map(|(name, _)| *name).collect::<Vec<_>>();
    let mut parts = Vec::new();
    for (compared, words) in [
        (Compared::Same, "the same in all runs"),
        (Compared::Varies, "not the same from run to run without relpoline either"),
        (Compared::Differs, "DIFFERENT WITH RELPOLINE ONLY"),
    ] {
        let names = named(compared);
        if !names.is_empty() {
            parts.push(format!("{}: {words}", names.join(", ")));
        }
    }
    writeln!(out, "output      {}", parts.join("\n            "))?;
    let thunks = counted(figures.twin.thunks, "thunk");
    match (&figures.twin.missing, figures.twin.way) {
        (Some(why), _) => writeln!(out, "retpolines  what they cost was not measured: {why}"),
        (None, Some("found")) => writeln!(
            out,
            "retpolines  measured by copies of the executable and of libraries that LD_LIBRARY_PATH finds:\n            \
             {thunks}; what is loaded otherwise keeps its own"
        ),
        _ => writeln!(out, "retpolines  measured by copies with plain jumps in {thunks}"),
    }
}

/// So many of something.
fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
