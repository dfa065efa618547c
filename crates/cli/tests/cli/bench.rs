//! The benchmark, short. What it measures is not asserted: tests run beside it.

use serde_json::Value;

use crate::started::{output, relpoline};

fn has(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(!value[key].is_null(), "{key} is missing in {value:#}");
    }
}

#[test]
fn its_figures_follow_the_schema() {
    let said = output(&mut relpoline(&["bench", "--quick", "--json"]));
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(said.stderr.is_empty(), "no progress bar off a terminal");
    let figures: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&figures["schema"], &figures["quick"]), (&1.into(), &true.into()));
    has(
        &figures,
        &["machine", "clock_mhz", "spread", "noisy", "micro", "traces", "left_alone", "starts", "engine", "verdicts"],
    );
    for line in figures["micro"].as_array().unwrap() {
        has(line, &["name", "variant"]);
        assert!(line["cycles"]["median"].as_f64().unwrap() > 0.0, "{line:#}");
    }
    let keys = ["name", "retpoline", "relpoline", "unprotected", "cold_ratio", "best_fixed", "best_fixed_cycles"];
    for trace in figures["traces"].as_array().unwrap() {
        has(trace, &keys);
        has(trace, &["ratio", "ratio_to_best", "changes", "state", "reason", "targets", "relearned"]);
        assert!(trace["ratio"]["median"].as_f64().unwrap() > 0.0, "{trace:#}");
        assert_ne!(trace["state"], "", "the report knows the site of {}", trace["name"]);
    }
    let starts = figures["starts"].as_array().unwrap();
    assert!(starts.len() >= 2, "programs and children");
    for start in starts {
        has(start, &["name", "of", "more_ms"]);
        assert!(start["plain_ms"]["median"].as_f64().unwrap() > 0.0, "{start:#}");
    }
    has(&figures["engine"], &["patches", "patches_per_s_max", "judgements", "links", "learn_cycles"]);
    has(&figures["engine"], &["learning_share", "lived_s", "startup_ms"]);
    assert!(figures["verdicts"].as_array().unwrap().len() >= 6);
    for verdict in figures["verdicts"].as_array().unwrap() {
        has(verdict, &["budget", "limit", "measured", "unit", "pass", "of"]);
    }
}

/// The smallest crowds, in the shortest way: what they cost is for the bench to say.
#[test]
fn crowds_are_measured() {
    let said = output(&mut relpoline(&["bench", "--crowds", "--quick", "--json"]));
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let figures: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    let crowds = figures["crowds"].as_array().expect("crowds");
    assert!(!crowds.is_empty());
    for crowd in crowds {
        has(
            crowd,
            &["sites", "targets", "order", "retpoline", "unprotected", "relpoline", "cold_ratio", "ratio_to_best"],
        );
        assert!(crowd["ratio"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{crowd:#}");
    }
    assert!(!figures["verdicts"].as_array().expect("verdicts").is_empty());
}
