//! The plot of a report: for each metric a group of bars, the retpoline build being the line at 1.
//!
//! SVG is written by hand; a bar chart is a handful of rectangles. Bars are horizontal, since the names of
//! workloads are long.

use std::fmt::Write as _;

use crate::report::{Report, Row};
use crate::variant::Variant;
use crate::workload::Better;

const BARS: [(Variant, &str, &str); 6] = [
    (Variant::Plain, "plain", "#9aa5b1"),
    (Variant::Jmpthunk, "unprotected thunk", "#4c78a8"),
    (Variant::Relpoline, "relpoline", "#e4572e"),
    (Variant::Pgo, "PGO", "#76b041"),
    (Variant::Bolt, "BOLT", "#b279a2"),
    (Variant::Lfence, "lfence", "#eeca3b"),
];

const LEFT: f64 = 250.0;
const WIDTH: f64 = 620.0;
const TOP: f64 = 66.0;
const BAR: f64 = 11.0;
const GAP: f64 = 14.0;

/// The whole picture.
pub fn svg(report: &Report) -> String {
    let groups: Vec<_> = report.rows.iter().map(|row| (row, present(row))).collect();
    let far = groups.iter().flat_map(|(row, bars)| bars.iter().map(|bar| row.variants[&bar.0].ratio.high));
    // A tenth of room beyond the longest bar, and never less than the retpoline line.
    let scale = WIDTH / (far.fold(1.0, f64::max) * 1.1);
    let below: f64 = groups.iter().map(|(_, bars)| height(bars.len())).sum();
    let (width, bottom) = (LEFT + WIDTH + 30.0, TOP + below);
    let mut picture = opening(width, bottom + 40.0, report);
    let mut y = TOP;
    for (row, bars) in &groups {
        group(&mut picture, row, bars, y, scale);
        y += height(bars.len());
    }
    axis(&mut picture, bottom, scale);
    picture + "</svg>\n"
}

type Bar = (Variant, &'static str, &'static str);

fn present(row: &Row) -> Vec<Bar> {
    BARS.into_iter().filter(|(variant, ..)| row.variants.contains_key(variant)).collect()
}

fn height(bars: usize) -> f64 {
    BAR * bars.max(2) as f64 + GAP
}

fn opening(width: f64, height: f64, report: &Report) -> String {
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"20\" font-size=\"14\">Ratio to the retpoline build = 1.00 (median and its interval: 95 % from 6 rounds on)</text>\n\
         <text x=\"12\" y=\"36\" fill=\"#555\">{}, {}</text>\n",
        escaped(&report.machine.cpu),
        report.date,
    );
    let used = |variant: Variant| report.rows.iter().any(|row| row.variants.contains_key(&variant));
    let mut x = LEFT;
    for (_, name, colour) in BARS.into_iter().filter(|bar| used(bar.0)) {
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"44\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"53\">{name}</text>",
            x + 15.0
        );
        // The square, and room for the letters of the name.
        x += 35.0 + 6.0 * name.len() as f64;
    }
    text
}

fn group(picture: &mut String, row: &Row, bars: &[Bar], y: f64, scale: f64) {
    let arrow = if row.better == Better::Less { "less is better" } else { "more is better" };
    let title = escaped(&format!("{} {}", row.program, row.workload));
    let right = LEFT - 8.0;
    let _ = writeln!(
        picture,
        "<text x=\"{right}\" y=\"{}\" text-anchor=\"end\">{title}</text>\
         <text x=\"{right}\" y=\"{}\" text-anchor=\"end\" fill=\"#777\" font-size=\"9\">{}, {arrow}</text>",
        y + 10.0,
        y + 21.0,
        escaped(&row.metric),
    );
    for (place, (variant, _, colour)) in bars.iter().enumerate() {
        bar(picture, &row.variants[variant].ratio, colour, y + BAR * place as f64, scale);
    }
}

fn bar(picture: &mut String, ratio: &crate::stats::Interval, colour: &str, y: f64, scale: f64) {
    let (end, low, high) = (LEFT + ratio.median * scale, LEFT + ratio.low * scale, LEFT + ratio.high * scale);
    let middle = y + BAR / 2.0;
    let _ = writeln!(
        picture,
        "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
         <path d=\"M{low:.1} {middle:.1}H{high:.1}\" stroke=\"black\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\">{:.2}</text>",
        end - LEFT,
        BAR - 1.0,
        high.max(end) + 4.0,
        middle + 3.0,
        ratio.median,
    );
}

/// Marks every quarter, and the retpoline build.
fn axis(picture: &mut String, bottom: f64, scale: f64) {
    let steps = (WIDTH / scale * 4.0).floor() as u32;
    for quarter in 0..=steps {
        let ratio = f64::from(quarter) / 4.0;
        let x = LEFT + ratio * scale;
        let line = if quarter == 4 { "stroke=\"black\" stroke-dasharray=\"4 3\"" } else { "stroke=\"#ddd\"" };
        let _ = writeln!(
            picture,
            "<path d=\"M{x:.1} {}V{bottom:.1}\" {line} opacity=\"0.7\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{ratio:.2}</text>",
            TOP - 6.0,
            bottom + 16.0,
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn a_bar_per_measured_variant_and_one_dashed_line() {
        let picture = svg(&report(&["a", "b & c"]));
        // Background, two legends, two bars in each of two groups.
        assert_eq!(picture.matches("<rect").count(), 1 + 2 + 4);
        assert_eq!(picture.matches("stroke-dasharray").count(), 1);
        assert!(picture.contains("b &amp; c") && picture.ends_with("</svg>\n"));
    }

    #[test]
    fn bars_are_as_long_as_their_ratios() {
        let picture = svg(&report(&["a"]));
        let scale = WIDTH / 1.1;
        assert!(picture.contains(&format!("width=\"{:.1}\"", 0.5 * scale)));
        assert!(picture.contains(&format!("width=\"{:.1}\"", 0.55 * scale)));
    }

    #[test]
    fn an_empty_report_is_still_a_picture() {
        assert!(svg(&report(&[])).ends_with("</svg>\n"));
    }
}
