//! The kernel's flow dissector, a pipeline of 7 programs with 53 tail calls, against the kernel's own run of it.
//!
//! Nothing of it is in this repository. `RELPOLINE_BPF_FLOW` names its source, `tools/testing/selftests/bpf/progs/
//! bpf_flow.c` of a Linux tree, which is compiled with clang (and libbpf's headers), or an object made of it. Without it
//! the test says so and passes.
//!
//! `flow_keys.txt` is what Linux 6.18 said: made by `kernel_flow_keys.py` beside this file, as root on a machine where
//! `bpf()` works; `RELPOLINE_BPF_FLOW_KEYS` names a file made elsewhere.

mod support;

use relpoline_bpf::{ContextKind, Engine, Object, Options, PacketBuffer, Runtime};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of `struct bpf_flow_keys`.
const KEYS: usize = 56;
const ETHERNET: u16 = 14;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// What the kernel sets before the run: `nhoff`, `thoff`, `n_proto`.
fn begin(keys: &mut [u8], packet: &[u8]) {
    keys[..2].copy_from_slice(&ETHERNET.to_le_bytes());
    keys[2..4].copy_from_slice(&ETHERNET.to_le_bytes());
    keys[10..12].copy_from_slice(&packet[12..14]);
}

/// What the kernel does to the result: offsets are brought into the packet.
fn end(keys: &mut [u8], len: usize) {
    let field = |keys: &[u8], at: usize| u16::from_le_bytes([keys[at], keys[at + 1]]);
    let len = len as u16;
    let network = field(keys, 0).clamp(ETHERNET, len);
    let transport = field(keys, 2).clamp(network, len);
    keys[..2].copy_from_slice(&network.to_le_bytes());
    keys[2..4].copy_from_slice(&transport.to_le_bytes());
}

/// The object, compiled first if it is C.
fn object(path: &Path) -> Vec<u8> {
    if path.extension().is_none_or(|e| e != "c") {
        return std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let out = std::env::temp_dir().join(format!("relpoline-bpf-flow-{}.o", std::process::id()));
    // The headers of the C library ask for the machine's word size, which the target does not say.
    let status = Command::new("clang")
        .args(["-O2", "-g", "-target", "bpf", "-D__x86_64__", "-I/usr/include/x86_64-linux-gnu", "-c", "-o"])
        .args([&out, path])
        .status()
        .unwrap_or_else(|e| panic!("clang: {e}"));
    assert!(status.success(), "clang does not compile {} (are libbpf's headers there?)", path.display());
    let bytes = std::fs::read(&out).unwrap();
    let _ = std::fs::remove_file(out);
    bytes
}

#[test]
fn the_same_keys_as_the_kernel() {
    let Some(path) = std::env::var_os("RELPOLINE_BPF_FLOW").map(PathBuf::from) else {
        eprintln!("skipped: RELPOLINE_BPF_FLOW names no bpf_flow.c or bpf_flow.o of the kernel's selftests");
        return;
    };
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flow_keys.txt");
    let expected = std::env::var_os("RELPOLINE_BPF_FLOW_KEYS").map_or(recorded, PathBuf::from);
    let runtime = Runtime::new().unwrap();
    let options = Options { count: true, ..Options::default() };
    let object = Object::load(&runtime, &object(&path), options).unwrap();
    let programs = (0..6).map(|i| (i, object.program(&format!("flow_dissector_{i}")))).collect::<Vec<_>>();
    object.array("jmp_table").unwrap().update_all(&programs).unwrap();
    let main = object.program("_dissect").unwrap();
    let sites: usize = object.programs().iter().map(|p| p.listing().sites.len()).sum();
    let mut buffer = PacketBuffer::new(2048).unwrap();
    let expected = std::fs::read_to_string(expected).unwrap();
    for engine in [Engine::Interpreter, Engine::Compiled] {
        for (number, line) in expected.lines().enumerate() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let packet = hex(fields[0]);
            buffer.put(&packet, ContextKind::Skb);
            begin(buffer.flow_keys(), &packet);
            let result =
                main.invoke(buffer.invocation().engine(engine)).unwrap_or_else(|t| panic!("packet {number}: {t}"));
            let keys = buffer.flow_keys();
            end(keys, packet.len());
            assert_eq!(keys[..KEYS], hex(fields[1]), "{engine:?}, packet {number}: {}", fields[0]);
            assert_eq!(result.to_string(), fields[2], "{engine:?}, packet {number}");
        }
    }
    let hits: Vec<_> = object.programs().iter().map(|p| (p.name(), p.hits().unwrap())).collect();
    eprintln!("{} packets, {sites} patch sites, starts: {hits:?}", expected.lines().count());
    assert!(hits.iter().all(|(_, n)| *n > 0), "a program never ran: {hits:?}");
}
