//! `include/relpoline.h` is what cbindgen makes of `src/c.rs`, and what `src/c/macros.h` adds.
//!
//! After a change there, `RELPOLINE_BLESS=1 cargo test -p relpoline --test header` writes it anew.
#![cfg(not(miri))]

use std::path::Path;

const OPENING: &str = "\
/* Relpoline for C and C++: static keys, static calls and dynamic calls, patched into the running program.
 *
 * Generated from crates/relpoline/src/c.rs and src/c/macros.h; do not edit. C11 with GNU extensions, or C++11;
 * gcc 8 or clang 9 and later. Link with librelpoline.a or librelpoline.so:
 *
 *     cargo rustc --release -p relpoline --features c --crate-type staticlib
 *
 * Elsewhere than on x86-64 Linux, and with RELPOLINE_NO_PATCH defined, the same source compiles to loads and
 * plain calls. Definitions stand outside of functions. A key or call can be used in the module (executable or
 * library) that defines it; names are those of C, also in C++ namespaces, so they are unique in a module. Not
 * to be compiled with -flto: the assembly names symbols.
 */";

fn generated() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect(path);
    let config = cbindgen::Config {
        language: cbindgen::Language::C,
        cpp_compat: true,
        include_guard: Some(String::from("RELPOLINE_H")),
        header: Some(String::from(OPENING)),
        trailer: Some(read("src/c/macros.h")),
        documentation_style: cbindgen::DocumentationStyle::C99,
        usize_is_size_t: true,
        style: cbindgen::Style::Type,
        line_length: 120,
        ..cbindgen::Config::default()
    };
    let mut written = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join("src/c.rs"))
        .generate()
        .expect("cbindgen reads src/c.rs")
        .write(&mut written);
    String::from_utf8(written).expect("text")
}

#[test]
fn the_header_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/relpoline.h");
    let generated = generated();
    if std::env::var_os("RELPOLINE_BLESS").is_some() {
        std::fs::write(&path, &generated).expect("written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == generated, "include/relpoline.h is out of date: run this test with RELPOLINE_BLESS=1");
}
