//! The report as a flame graph in SVG: program, object, function, site, and where its calls went. Widths are
//! calls, counted or estimated. In a browser a click zooms, and `/` searches (`page/flame.js`).
//!
//! Calls that hit, and those of sites that are left alone, are counted with `--count` only, else estimated;
//! the heading says which.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Report;
use super::schema::Site;
use crate::shown::{cut, markup};

const WIDTH: f64 = 1200.0;
const ROW: f64 = 18.0;
const TOP: f64 = 46.0;
/// Frames that are narrower are left out.
const NARROWEST: f64 = 0.4;
/// Width of a letter.
const LETTER: f64 = 6.6;

/// A frame and those on top of it.
#[derive(Default)]
struct Frame {
    calls: f64,
    colour: &'static str,
    inner: BTreeMap<String, Frame>,
}

impl Frame {
    /// Adds calls along a path of names, each frame with its colour.
    fn add(&mut self, path: &[(&str, &'static str)], calls: f64) {
        self.calls += calls;
        if let Some(((name, colour), rest)) = path.split_first() {
            let inner = self.inner.entry((*name).to_owned()).or_default();
            inner.colour = colour;
            inner.add(rest, calls);
        }
    }

    fn depth(&self) -> usize {
        1 + self.inner.values().map(Self::depth).max().unwrap_or(0)
    }
}

/// Search and zoom, for who opens it in a browser.
const SCRIPT: &str = include_str!("page/flame.js");

const PLACE: &str = "#d9c7a0";
const SITE: &str = "#c9b37e";
const DIRECT: &str = "#7bc27b";
const RETPOLINE: &str = "#e07a6a";

/// The graph.
pub fn render(report: &Report) -> String {
    let mut root = Frame { colour: PLACE, ..Frame::default() };
    // Of a run with several processes: all of them.
    for site in report.family.as_ref().map_or(&report.sites, |family| &family.sites) {
        add_site(&mut root, site);
    }
    let depth = root.depth();
    #[expect(clippy::cast_precision_loss, reason = "a handful of rows")]
    let height = TOP + depth as f64 * ROW + 10.0;
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"monospace\" font-size=\"11\">"
    );
    let counted = match (report.engine.counts, report.coverage_is_bound) {
        (true, false) => "all calls of sites",
        (true, true) => "all calls but those of sites that were refused",
        (false, false) => "calls of sites, estimated (--count counts)",
        (false, true) => "calls of sites, estimated (--count counts), without those that were refused",
    };
    let _ = writeln!(out, "<rect width=\"100%\" height=\"100%\" fill=\"#fffdf8\"/>");
    let heading = markup(&format!("{} (pid {}): {counted}", report.program, report.pid));
    let _ = writeln!(out, "<text x=\"8\" y=\"16\" font-size=\"14\">{heading}</text>");
    let _ = writeln!(
        out,
        "<text x=\"8\" y=\"34\" fill=\"{DIRECT}\">■ direct</text><text x=\"80\" y=\"34\" fill=\"{RETPOLINE}\">■ retpoline</text>"
    );
    let _ = writeln!(
        out,
        "<text id=\"search\" x=\"180\" y=\"34\" cursor=\"pointer\">[/ search]</text>\
         <text id=\"reset\" x=\"265\" y=\"34\" cursor=\"pointer\">[Esc all of it]</text>\
         <text id=\"matched\" x=\"380\" y=\"34\"></text>"
    );
    let total = root.calls;
    draw(&mut out, &report.program, &root, 0.0, WIDTH, TOP, total);
    // It holds no end of a section of this kind, and nothing of the report's.
    let _ = writeln!(out, "<script><![CDATA[\n{SCRIPT}]]></script>");
    out.push_str("</svg>\n");
    out
}

#[expect(clippy::cast_precision_loss, reason = "widths need no more than 53 bits")]
fn add_site(root: &mut Frame, site: &Site) {
    let object = site.object.as_deref().unwrap_or("unknown object");
    let function = site.name().split("+0x").next().unwrap_or_default().to_owned();
    let name = format!("{} ({})", site.name(), site.state);
    let place = [(object, PLACE), (&*function, PLACE), (&*name, SITE)];
    let mut add = |last: &str, colour, calls: f64| {
        if calls > 0.0 {
            root.add(&[place[0], place[1], place[2], (last, colour)], calls);
        }
    };
    let shares: f64 = site.targets.iter().map(|target| target.share).sum();
    for target in site.targets.iter().filter(|_| shares > 0.0) {
        let name = target.symbol.as_deref().unwrap_or(&target.address);
        add(name, DIRECT, site.direct() as f64 * target.share / shares);
    }
    if shares <= 0.0 {
        add("direct", DIRECT, site.direct() as f64);
    }
    add("retpoline", RETPOLINE, site.not_direct() as f64);
}

fn draw(out: &mut String, name: &str, frame: &Frame, x: f64, width: f64, y: f64, total: f64) {
    if width < NARROWEST || total <= 0.0 {
        return;
    }
    let share = frame.calls * 100.0 / total;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "letters that fit")]
    let letters = ((width - 6.0) / LETTER).max(0.0) as usize;
    let label = if letters < 3 { String::new() } else { markup(&cut(name, letters)) };
    let _ = writeln!(
        out,
        "<g class=\"frame\"><title>{}: {:.0} calls, {share:.2} %</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
         height=\"{:.1}\" fill=\"{}\" stroke=\"#fffdf8\"/><text x=\"{:.1}\" y=\"{:.1}\">{label}</text></g>",
        markup(name),
        frame.calls,
        ROW - 1.0,
        frame.colour,
        x + 3.0,
        y + 12.5
    );
    let mut inner: Vec<(&String, &Frame)> = frame.inner.iter().collect();
    inner.sort_by(|a, b| b.1.calls.total_cmp(&a.1.calls));
    let mut at = x;
    for (name, inner) in inner {
        let part = width * inner.calls / frame.calls;
        draw(out, name, inner, at, part, y + ROW, total);
        at += part;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::schema::Target;

    #[test]
    fn calls_are_divided_among_targets_and_the_retpoline() {
        let target = |name: &str, share| Target { symbol: Some(name.into()), address: "0x1".into(), share };
        let site = Site {
            symbol: Some("f<int>+0x4".into()),
            state: "linked".into(),
            hits: 900,
            misses: 100,
            targets: vec![target("a", 0.75), target("b", 0.25)],
            ..Site::default()
        };
        let svg = render(&Report { program: "/bin/p".into(), sites: vec![site], ..Report::default() });
        for part in
            ["a: 675 calls, 67.50 %", "b: 225 calls", "retpoline: 100 calls, 10.00 %", "f&lt;int&gt;+0x4 (linked)"]
        {
            assert!(svg.contains(part), "{part} in\n{svg}");
        }
        assert!(!svg.contains("f<int"));
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        let svg = render(&Report::default());
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN"));
    }
}
