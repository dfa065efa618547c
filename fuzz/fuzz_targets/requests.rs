//! Any bytes as requests to a run of eBPF programs: refused in a sentence, or done.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use relpoline_bpf::{Object, Options, Runtime};
use relpoline_cli::bpf::control::Server;

/// Its array is called `protocols`.
const OBJECT: &[u8] = include_bytes!("../../crates/bpf/tests/programs/dispatch.o");

fuzz_target!(|bytes: &[u8]| {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let runtime = Runtime::new().expect("memory for code");
        let object = Object::load(&runtime, OBJECT, Options::default()).expect("an object");
        Server::new(runtime, object, Options::default())
    });
    match server.answer(bytes) {
        Ok(reply) => assert!(reply.starts_with("ok")),
        Err(error) => assert!(!format!("{error:#}").is_empty()),
    }
    server.forget_unused();
});
