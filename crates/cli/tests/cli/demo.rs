//! The demo, short.

use serde_json::Value;

use crate::started::{output, relpoline};

#[test]
fn its_figures_follow_the_schema() {
    let said = output(&mut relpoline(&["demo", "--json", "--rounds", "1"]));
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(said.stderr.is_empty(), "no progress bar off a terminal");
    let figures: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&figures["schema"], &figures["report"]["schema"]), (&1.into(), &1.into()));
    for variant in ["plain", "retpoline", "relpoline", "unprotected"] {
        assert!(figures["variants"][variant]["user_s"].as_f64().unwrap() > 0.0, "{variant}");
    }
    assert_eq!(figures["outputs_equal"], true);
    // Far below what it reaches, since tests run beside it.
    assert!(figures["recovered"].as_f64().unwrap() > 0.5, "{figures:#}");
    assert!(figures["report"]["sites_promoted"].as_u64().unwrap() > 3);
}

#[test]
fn without_a_compiler_it_says_what_to_do() {
    let said = output(&mut relpoline(&["demo", "--cc", "/no/such/cc"]));
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(text.starts_with("relpoline: the C compiler /no/such/cc") && text.contains("--cc"), "{text}");
}
