//! Any bytes as an object file: refused with a reason, or programs that run to an end or a trap.
//!
//! What to start from: `cargo +nightly fuzz run bpf_loader fuzz/corpus/bpf_loader crates/bpf/tests/programs -- -max_len=21000`; from
//! nothing it hardly gets past the ELF header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_bpf::{Around, Engine, Invocation, Object, Options, Runtime};

fuzz_target!(|bytes: &[u8]| {
    // Fresh, so that nothing depends on earlier inputs.
    let runtime = Runtime::new().expect("memory for code");
    let options = Options { budget: Some(10_000), count: true, ..Options::default() };
    // Its types as a kernel's, too: then its relocations are resolved against them.
    let around = Around { types: Some(bytes), ..Around::default() };
    let _ = Object::load_within(&runtime, bytes, options, &around, |_| true);
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
