//! How long each broken engine goes unnoticed: by `relpoline torture`, and if that does not notice within
//! `RELPOLINE_TORTURE_SECONDS` (60), by its own test. Takes up to ten minutes; arguments are the variants to try, instead of all.

use std::time::Instant;

use relpoline_tests::broken::{TESTED, TORTURED, noticed, tortured};
use relpoline_tests::tool;

fn main() {
    let seconds = std::env::var("RELPOLINE_TORTURE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let others = TESTED.iter().map(|(name, ..)| (*name, &[] as &[&str]));
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    for (variant, options) in TORTURED.into_iter().chain(others).filter(|(name, _)| is_wanted(name)) {
        // Built before the clock starts.
        let _ = (tool::broken_engine(variant), tool::relpoline());
        let begun = Instant::now();
        let seen = tortured(variant, seconds, options);
        println!("{}", row(variant, "torture", begun, seen.as_deref()));
        if seen.is_none() {
            let begun = Instant::now();
            let seen = noticed(variant);
            println!("{}", row(variant, "its own test", begun, seen.as_deref()));
            assert!(seen.is_some(), "{variant} goes unnoticed");
        }
    }
}

fn row(variant: &str, by: &str, begun: Instant, seen: Option<&str>) -> String {
    let seen = seen.and_then(|text| text.lines().next()).unwrap_or("unnoticed");
    format!("| `{variant}` | {by} | {:.1} s | {seen} |", begun.elapsed().as_secs_f64())
}
