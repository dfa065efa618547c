//! Libraries that come and go, and are each other's targets.

use std::path::{Path, PathBuf};

use relpoline_tests::{Program, Run};

/// The libraries by number: each of another size, so that they do not fit each other's places.
fn plugin(number: usize) -> PathBuf {
    let variant = format!("-DVARIANT={number}");
    let padding = format!("-DPADDING={}", 1 + number * 50_000);
    Program::retpolined("plugin.c").flags(&["-shared", "-fPIC", &variant, &padding]).build()
}

#[test]
fn loading_and_unloading_from_many_threads() {
    let run = Run::new(Program::retpolined("libraries.c").build());
    let run = [0, 1, 2, 3, 64].into_iter().fold(run, |run, number| run.arg(plugin(number)));
    let outcome = run.same();
    let report = outcome.report();
    report.assert_promoted(&["executable_site", "plugin_dispatch", "plugin_calls"]);
    assert!(report.sites_in("plugin_calls").any(|site| site.state == "gone"), "{}", report.summary());
}

#[test]
fn a_library_found_through_the_callers_search_path() {
    let directory = tempfile::tempdir().expect("no temporary directory");
    let copy = |from: &Path, name: &str| std::fs::copy(from, directory.path().join(name)).expect("cannot copy");
    copy(&plugin(0), "libplugin0.so");
    for flags in ["-Wl,-rpath,$ORIGIN", "-Wl,--disable-new-dtags,-rpath,$ORIGIN"] {
        copy(&Program::retpolined("finder.c").flags(&[flags]).build(), "finder");
        let outcome = Run::new(directory.path().join("finder")).same();
        outcome.report().assert_promoted(&["plugin_calls"]);
    }
}
