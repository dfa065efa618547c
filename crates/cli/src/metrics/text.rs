//! Prometheus' text format, version 0.0.4: for each metric a line of help, its type, and a line per process.

use std::fmt::{Display, Write};

use relpoline_stats::Header;

use crate::live::process::user_name;
use crate::live::{Engine, clock};
use crate::report::digest::string;
use crate::report::{Report, now};
use crate::shown::label;
use crate::symbols::Symbols;

/// What there is to say of one process.
///
/// No more is kept of it than what is shown: statistics are megabytes.
pub struct Look {
    labels: String,
    header: Header,
    sites: u64,
    sums: [Option<f64>; SUMS.len()],
}

/// One metric: name, type, help, value of a process; none where it is not known.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Header) -> f64,
}

/// Likewise, of what its sites say together.
struct Sum {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Report) -> Option<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "the format's numbers are floating point")]
const SUMS: [Sum; 8] = [
    Sum {
        name: "relpoline_calls_direct_total",
        kind: "counter",
        help: "Calls that took direct jumps; absent where the process does not count them (run --count)",
        value: |report| report.engine.counts.then_some(report.calls_direct as f64),
    },
    Sum {
        name: "relpoline_calls_retpolined_total",
        kind: "counter",
        help: "Calls that took the retpoline, as far as they are counted: all but refused sites' with --count",
        value: |report| Some(retpolined(report)),
    },
    Sum {
        name: "relpoline_calls_counted",
        kind: "gauge",
        help: "1 where all calls of all sites but refused ones are counted",
        value: |report| Some(f64::from(u8::from(report.engine.counts))),
    },
    Sum {
        name: "relpoline_coverage_ratio",
        kind: "gauge",
        help: "Share of the calls that were direct; an upper bound where sites are refused; absent without --count",
        value: |report| report.coverage,
    },
    Sum {
        name: "relpoline_sites_refused",
        kind: "gauge",
        help: "Sites left as they were found, whose calls nobody counts",
        value: |report| Some(report.sites_uncounted as f64),
    },
    Sum {
        name: "relpoline_saved_seconds_estimate",
        kind: "gauge",
        help: "Processor time that direct jumps have saved so far, estimated",
        value: |report| Some(report.seconds_saved),
    },
    Sum {
        name: "relpoline_lost_seconds_estimate",
        kind: "gauge",
        help: "Processor time that retpolines still cost so far, estimated; at least, where sites are refused",
        value: |report| Some(report.seconds_lost),
    },
    Sum {
        name: "relpoline_processor_seconds_total",
        kind: "counter",
        help: "Processor time of the process",
        value: |report| report.processor_seconds,
    },
];

/// Calls that were counted and took the retpoline.
#[expect(clippy::cast_precision_loss, reason = "as above")]
fn retpolined(report: &Report) -> f64 {
    report.calls_counted_retpolined() as f64
}

#[expect(clippy::cast_precision_loss, reason = "the format's numbers are floating point")]
const METRICS: [Metric; 12] = [
    Metric {
        name: "relpoline_enabled",
        kind: "gauge",
        help: "1 while promotion is on",
        value: |header| f64::from(header.enabled),
    },
    Metric {
        name: "relpoline_sites_promoted",
        kind: "gauge",
        help: "Sites whose calls take direct jumps",
        value: |header| f64::from(header.sites_promoted),
    },
    Metric {
        name: "relpoline_sites_learning",
        kind: "gauge",
        help: "Sites whose calls are being recorded",
        value: |header| f64::from(header.sites_learning),
    },
    Metric {
        name: "relpoline_sites_retpolined",
        kind: "gauge",
        help: "Sites that were judged and left to their retpoline",
        value: |header| f64::from(header.sites_retpolined),
    },
    Metric {
        name: "relpoline_patches_total",
        kind: "counter",
        help: "Times a site was sent somewhere else",
        value: |header| header.patches as f64,
    },
    Metric {
        name: "relpoline_links_total",
        kind: "counter",
        help: "One-byte links written into program text",
        value: |header| header.links as f64,
    },
    Metric {
        name: "relpoline_links_refused_total",
        kind: "counter",
        help: "One-byte links that the system refused",
        value: |header| header.links_refused as f64,
    },
    Metric {
        name: "relpoline_judgements_total",
        kind: "counter",
        help: "Judgements made",
        value: |header| header.judgements as f64,
    },
    Metric {
        name: "relpoline_learning_seconds_total",
        kind: "counter",
        help: "Processor time spent judging, building and linking",
        value: |header| header.learn_cycles as f64 / clock::rate(),
    },
    Metric {
        name: "relpoline_startup_seconds_total",
        kind: "counter",
        help: "Processor time spent finding and re-pointing sites",
        value: |header| header.startup_cycles as f64 / clock::rate(),
    },
    Metric {
        name: "relpoline_code_bytes",
        kind: "gauge",
        help: "Memory of generated code",
        value: |header| header.arena_bytes as f64,
    },
    Metric {
        name: "relpoline_uptime_seconds",
        kind: "gauge",
        help: "Time since the engine was started",
        value: |header| clock::seconds(header.start_tsc, clock::now()),
    },
];

/// The metrics of these engines.
pub fn render(looks: &[Look]) -> String {
    let mut out = String::new();
    metric(&mut out, "relpoline_engines", "gauge", "Processes with an engine", [("", looks.len())].into_iter());
    let sites = looks.iter().map(|look| (&*look.labels, look.sites));
    metric(&mut out, "relpoline_sites", "gauge", "Sites found", sites);
    for one in &METRICS {
        let values = looks.iter().map(|look| (&*look.labels, (one.value)(&look.header)));
        metric(&mut out, one.name, one.kind, one.help, values);
    }
    for (at, one) in SUMS.iter().enumerate() {
        let values = looks.iter().filter_map(|look| Some((&*look.labels, look.sums.get(at).copied()??)));
        metric(&mut out, one.name, one.kind, one.help, values);
    }
    out
}

/// The names of all metrics, for the test of the dashboard.
#[must_use]
pub fn names() -> Vec<&'static str> {
    let own = ["relpoline_engines", "relpoline_sites"];
    own.into_iter().chain(METRICS.iter().map(|one| one.name)).chain(SUMS.iter().map(|one| one.name)).collect()
}

/// Of a process whose statistics have been read as a whole.
pub fn look(engine: &Engine) -> Look {
    let stats = engine.stats();
    // Names of sites are not shown: no file is looked into for them.
    let report = now::report(engine, &mut Symbols::none());
    Look {
        labels: labels(engine, stats.header()),
        header: *stats.header(),
        sites: stats.objects().map(|object| u64::from(object.sites)).sum(),
        sums: SUMS.each_ref().map(|sum| (sum.value)(&report)),
    }
}

fn metric<'a, V: Display>(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    values: impl Iterator<Item = (&'a str, V)>,
) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

fn labels(engine: &Engine, header: &Header) -> String {
    let process = &engine.process;
    format!(
        "{{pid=\"{}\",user=\"{}\",name=\"{}\",program=\"{}\"}}",
        process.pid,
        label(&user_name(process.user)),
        label(&process.name),
        label(&string(&header.program))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_help_and_type_and_names_follow_the_rules() {
        let text = render(&[]);
        assert!(text.contains("# TYPE relpoline_engines gauge\nrelpoline_engines 0\n"));
        for one in &METRICS {
            assert_eq!(one.name.ends_with("_total"), one.kind == "counter", "{}", one.name);
            assert!(text.contains(&format!("# HELP {} ", one.name)));
        }
        for one in &SUMS {
            assert_eq!(one.name.ends_with("_total"), one.kind == "counter", "{}", one.name);
            assert!(text.contains(&format!("# HELP {} ", one.name)));
        }
    }
}
