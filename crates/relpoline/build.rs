//! Decides whether this build patches code (`cfg(patched)`) or falls back to atomics and plain calls.

use std::env;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(patched)");
    println!("cargo::rerun-if-changed=build.rs");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|v| v == value);
    let able = is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_OS", "linux");
    let forbidden = ["CARGO_FEATURE_NO_PATCH", "CARGO_CFG_MIRI", "CARGO_CFG_LOOM"];
    if able && is("CARGO_CFG_TARGET_POINTER_WIDTH", "64") && forbidden.iter().all(|f| env::var_os(f).is_none()) {
        println!("cargo::rustc-cfg=patched");
    }
}
