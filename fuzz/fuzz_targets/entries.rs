//! Any bytes as a list of entries for a map of eBPF programs: refused in a sentence, or in the map, which shows them.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use relpoline_bpf::{Object, Options, Runtime};
use relpoline_cli::bpf::maps::{enter, find, shown};

/// Its map of values is called `values`.
const OBJECT: &[u8] = include_bytes!("../../crates/bpf/tests/programs/counts.o");

fuzz_target!(|bytes: &[u8]| {
    static LOADED: OnceLock<Object> = OnceLock::new();
    let object = LOADED.get_or_init(|| {
        let runtime = Runtime::new().expect("memory for code");
        Object::load(&runtime, OBJECT, Options::default()).expect("an object")
    });
    for (name, _) in object.maps() {
        let Ok(map) = find(object, name) else { continue };
        if let Err(error) = enter(object, map, bytes) {
            assert!(!format!("{error:#}").is_empty());
        }
        if let Ok(shown) = shown(object, map) {
            assert!(shown.is_array());
        }
    }
});
