//! The curves as small charts beside each other: the retpoline build is the line at 1.

use std::fmt::Write as _;

use super::{Curve, Point};
use crate::variant::Variant;

const LINES: [(Variant, &str, &str); 2] =
    [(Variant::Jmpthunk, "unprotected thunk", "#4c78a8"), (Variant::Relpoline, "relpoline", "#e4572e")];

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 170.0;
const MARGIN: f64 = 46.0;

/// All charts, two in a row.
pub fn svg(curves: &[Curve]) -> String {
    let rows = curves.len().div_ceil(2) as f64;
    let (width, height) = (2.0 * (WIDTH + 2.0 * MARGIN), rows * (HEIGHT + 2.0 * MARGIN) + 30.0);
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"18\" font-size=\"13\">Processor time, retpoline build = 1 (median; bars: 95 % interval)</text>\n"
    );
    for (place, (_, name, colour)) in LINES.into_iter().enumerate() {
        let x = 12.0 + 150.0 * place as f64;
        // Writing to a String cannot fail.
        let _ = writeln!(
            picture,
            "<rect x=\"{x}\" y=\"27\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"36\">{name}</text>",
            x + 15.0
        );
    }
    for (place, curve) in curves.iter().enumerate() {
        let left = (place % 2) as f64 * (WIDTH + 2.0 * MARGIN) + MARGIN;
        let top = (place / 2) as f64 * (HEIGHT + 2.0 * MARGIN) + 30.0 + MARGIN;
        chart(&mut picture, curve, left, top);
    }
    picture + "</svg>\n"
}

fn chart(picture: &mut String, curve: &Curve, left: f64, top: f64) {
    let highs = curve.points.iter().flat_map(|point| point.ratios.values().map(|ratio| ratio.high));
    let most = highs.fold(1.0, f64::max) * 1.1;
    let y = |ratio: f64| top + HEIGHT * (1.0 - ratio / most);
    let x = |place: usize| left + WIDTH * (place as f64 + 0.5) / curve.points.len() as f64;
    let (bottom, right) = (top + HEIGHT, left + WIDTH);
    let _ = writeln!(
        picture,
        "<text x=\"{left}\" y=\"{}\">{}</text>\n\
         <path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#999\"/>\n\
         <path d=\"M{left} {one}H{right}\" stroke=\"#bbb\" stroke-dasharray=\"4 3\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#555\">1</text>",
        top - 10.0,
        curve.title,
        left - 6.0,
        y(1.0) + 4.0,
        one = y(1.0),
    );
    for (place, point) in curve.points.iter().enumerate() {
        let (at, value) = (x(place), point.value);
        let _ = writeln!(
            picture,
            "<text x=\"{at}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{value}</text>",
            bottom + 15.0
        );
    }
    let _ = writeln!(
        picture,
        "<text x=\"{right}\" y=\"{}\" text-anchor=\"end\" fill=\"#555\">{}</text>",
        bottom + 29.0,
        curve.grows
    );
    for (variant, _, colour) in LINES {
        line(picture, curve, variant, colour, &x, &y);
    }
}

fn line(
    picture: &mut String,
    curve: &Curve,
    variant: Variant,
    colour: &str,
    x: &dyn Fn(usize) -> f64,
    y: &dyn Fn(f64) -> f64,
) {
    let known = |(place, point): (usize, &Point)| Some((x(place), *point.ratios.get(&variant)?));
    let points: Vec<_> = curve.points.iter().enumerate().filter_map(known).collect();
    let path: Vec<_> = points.iter().map(|(at, ratio)| format!("{at:.1},{:.1}", y(ratio.median))).collect();
    let _ = writeln!(
        picture,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
        path.join(" ")
    );
    for (at, ratio) in points {
        let _ = writeln!(
            picture,
            "<circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>\
             <path d=\"M{at:.1} {:.1}V{:.1}\" stroke=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" font-size=\"9\">{:.2}</text>",
            y(ratio.median),
            y(ratio.low),
            y(ratio.high),
            at + 5.0,
            y(ratio.median) - 4.0,
            ratio.median,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Interval;

    #[test]
    fn a_curve_shows_each_of_its_points_on_both_lines() {
        let ratio = Interval { median: 0.5, low: 0.4, high: 0.6, confidence: 0.98 };
        let ratios = [(Variant::Jmpthunk, ratio), (Variant::Relpoline, ratio)].into();
        let point = Point { value: 64, medians: Default::default(), ratios };
        let curve = Curve { name: "n", title: "t", grows: "g", unit: "u", points: vec![point] };
        let picture = svg(&[curve]);
        assert_eq!(picture.matches("<circle").count(), 2);
        assert!(picture.contains(">64</text>") && picture.ends_with("</svg>\n"));
    }
}
