//! Any bytes as an object file: refused with a reason, or programs that run to an end or a trap.
//!
//! A useful corpus to start from: `cp crates/bpf/tests/programs/*.o fuzz/corpus/bpf_loader/`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_bpf::{Engine, Invocation, Object, Options, Runtime};

fuzz_target!(|bytes: &[u8]| {
    // Fresh, so that nothing depends on earlier inputs.
    let runtime = Runtime::new().expect("memory for code");
    let options = Options { budget: Some(10_000), count: true, ..Options::default() };
    match Object::load(&runtime, bytes, options) {
        // Every refusal has words.
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(object) => {
            for program in object.programs() {
                for engine in [Engine::Interpreter, Engine::Compiled] {
                    let _ = program.invoke(Invocation::new(&mut [8; 64]).engine(engine).clear_stack());
                }
                let _ = program.listing();
            }
        }
    }
});
