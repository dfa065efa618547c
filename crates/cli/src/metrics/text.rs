//! Prometheus' text format, version 0.0.4: for each metric a line of help, its type, and a line per process.

use std::fmt::{Display, Write};

use relpoline_stats::Header;

use crate::live::process::user_name;
use crate::live::{Engine, clock};
use crate::report::digest::string;
use crate::shown::label;

/// One metric: name, type, help, value of a process.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Header) -> f64,
}

#[expect(clippy::cast_precision_loss, reason = "the format's numbers are floating point")]
const METRICS: [Metric; 13] = [
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
        name: "relpoline_calls_retpolined_total",
        kind: "counter",
        help: "Calls that took the retpoline, as far as they are counted",
        value: |header| header.calls_retpolined as f64,
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
pub fn render(engines: &[Engine]) -> String {
    let mut out = String::new();
    let labelled: Vec<(String, Header, u64)> = engines
        .iter()
        .map(|engine| {
            let stats = engine.stats();
            let sites = stats.objects().map(|object| u64::from(object.sites)).sum();
            (labels(engine, stats.header()), *stats.header(), sites)
        })
        .collect();
    metric(&mut out, "relpoline_engines", "gauge", "Processes with an engine", [("", engines.len())].into_iter());
    let sites = labelled.iter().map(|(labels, _, sites)| (&**labels, *sites));
    metric(&mut out, "relpoline_sites", "gauge", "Sites found", sites);
    for one in &METRICS {
        let values = labelled.iter().map(|(labels, header, _)| (&**labels, (one.value)(header)));
        metric(&mut out, one.name, one.kind, one.help, values);
    }
    out
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
    }
}
