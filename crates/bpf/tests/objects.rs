//! Object files: maps and data of all kinds, helpers, and files that are damaged.

mod support;

use proptest::prelude::*;
use relpoline_bpf::{ContextKind, Engine, Invocation, Object, ObjectError, Options, PacketBuffer, Runtime, TrapKind};
use std::sync::{Arc, Mutex};

/// An Ethernet, IPv4 and UDP header; `len` is the IP length.
fn packet(src: u8, protocol: u8, dport: u16, len: u16) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&len.to_be_bytes());
    bytes[23] = protocol;
    bytes[26..30].copy_from_slice(&[10, 0, 0, src]);
    bytes[30..34].copy_from_slice(&[10, 0, 0, 99]);
    bytes[34..36].copy_from_slice(&1234u16.to_be_bytes());
    bytes[36..38].copy_from_slice(&dport.to_be_bytes());
    bytes
}

#[test]
fn a_pipeline_with_everything() {
    for engine in [Engine::Interpreter, Engine::Compiled] {
        let printed: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = printed.clone();
        let runtime = Runtime::builder().printk(move |line| lines.lock().unwrap().push(line.into())).build().unwrap();
        let options = Options { count: true, ..Options::default() };
        let object = Object::load(&runtime, &support::object("pipeline"), options).unwrap();
        let main = object.program("parse_ethernet").unwrap();
        let run = |mut packet: [u8; 64]| main.invoke(Invocation::new(&mut packet).engine(engine)).unwrap() as i32;
        assert_eq!(run([0; 64]), 0);
        assert_eq!(run(packet(1, 6, 80, 100)), 1);
        for i in 0..6 {
            assert_eq!(run(packet(i, 17, 53, 100)), 17);
        }
        assert_eq!(run(packet(5, 17, 53, 100)), 17);
        // A packet too short for the load.
        assert_eq!(main.invoke(Invocation::new(&mut [0; 8]).engine(engine)).unwrap() as i32, -1);

        let flows = object.map("flows").unwrap();
        let mut counts: Vec<u8> = flows.keys().iter().map(|key| flows.get(key).unwrap()[0]).collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 1, 1, 1, 1, 2]);
        assert_eq!(object.map("recent").unwrap().keys().len(), 4, "the LRU map has room for 4");
        let totals = object.map("totals").unwrap().get(&[0; 4]).unwrap();
        let sum: u64 = totals.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).sum();
        assert_eq!(sum, 800);
        let mut events = 0;
        let taken = object.map("events").unwrap().consume(|event| {
            assert_eq!(event, [53, 0, 0, 0, 100, 0, 0, 0]);
            events += 1;
        });
        assert_eq!((taken, events), (7, 7));
        assert_eq!(printed.lock().unwrap()[0], "100 bytes to a000063");
        let hits: Vec<_> = object.programs().iter().map(|p| (p.name().to_string(), p.hits().unwrap())).collect();
        let hits_of = |name: &str| hits.iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!((hits_of("parse_ethernet"), hits_of("parse_ip"), hits_of("parse_udp")), (10, 8, 7));
    }
}

#[test]
fn contexts_of_the_kernel() {
    let runtime = Runtime::new().unwrap();
    let object = Object::load(&runtime, &support::object("contexts"), Options::default()).unwrap();
    let program = |name: &str| object.program(name).unwrap();
    object.array("next").unwrap().update(0, Some(program("keys"))).unwrap();
    let packet = packet(1, 17, 53, 100);
    let mut buffer = PacketBuffer::new(1500).unwrap();
    for engine in [Engine::Interpreter, Engine::Compiled] {
        buffer.put(&[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0, 99], ContextKind::Xdp);
        assert_eq!(program("reflect").invoke(buffer.invocation().engine(engine)).unwrap(), 3);
        assert_eq!(buffer.packet(), [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 8, 0, 99]);
        buffer.put(&[0; 13], ContextKind::Xdp);
        assert_eq!(program("reflect").invoke(buffer.invocation().engine(engine)).unwrap(), 1);
        let trap = program("careless").invoke(buffer.invocation().engine(engine)).unwrap_err();
        assert!(matches!(trap.kind, TrapKind::OutOfBounds { size: 1, write: false, .. }), "{trap}");
        buffer.put(&packet, ContextKind::Skb);
        assert_eq!(program("dispatch").invoke(buffer.invocation().engine(engine)).unwrap(), 0);
        assert_eq!(buffer.flow_keys()[..4], [64, 0, 8, 0]);
    }
}

#[test]
fn rodata_cannot_be_written() {
    let runtime = Runtime::new().unwrap();
    let object = Object::load(&runtime, &support::object("pipeline"), Options::default()).unwrap();
    let rodata = object.maps().iter().find(|(name, _)| name == ".rodata").unwrap();
    for engine in [Engine::Interpreter, Engine::Compiled] {
        let text = "lddw %r1, 0\nldxdw %r0, [%r1+0]\nstxdw [%r1+0], %r0\nexit";
        let mut insns = support::asm::assemble(text).unwrap();
        insns[0].src = 2;
        let program =
            support::load_insns(&runtime, "writes", &insns, std::slice::from_ref(&rodata.1), Options::default())
                .unwrap();
        let trap = program.invoke(Invocation::new(&mut []).engine(engine)).unwrap_err();
        assert_eq!(trap.instruction, 3, "{engine:?}: {trap}");
        assert!(trap.to_string().starts_with("program writes, instruction 3: write of 8 bytes"), "{trap}");
    }
}

#[test]
fn what_is_no_object_is_refused() {
    let runtime = Runtime::new().unwrap();
    let load = |bytes: &[u8]| Object::load(&runtime, bytes, Options::default()).unwrap_err();
    assert!(matches!(load(b""), ObjectError::Elf(_)));
    let own = std::fs::read("/proc/self/exe").unwrap();
    assert_eq!(load(&own), ObjectError::OtherMachine);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// A file with a few bytes changed, or cut off: an error, or programs that run to an end or a trap.
    #[test]
    fn damaged_objects_are_survived(
        which in 0..5usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        static FILES: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
        static RUNTIME: std::sync::OnceLock<Runtime> = std::sync::OnceLock::new();
        let names = ["direct", "variable", "subprog", "hierarchy", "pipeline"];
        let files = FILES.get_or_init(|| names.into_iter().map(support::object).collect());
        let runtime = RUNTIME.get_or_init(|| Runtime::new().unwrap());
        let mut bytes = files[which].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let options = Options { budget: Some(10_000), ..Options::default() };
        if let Ok(object) = Object::load(runtime, &bytes, options) {
            for program in object.programs() {
                let _ = program.run(&mut [8; 64]);
            }
        }
    }
}
