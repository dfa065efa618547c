//! Packets that move and go somewhere, and maps within maps.
//!
//! With `RUSTFLAGS='--cfg relpoline_broken="redirects-to-nowhere"'` a packet goes to an entry that is not there; with
//! `"holds-anything"` a map of maps takes any map. This notices both.

mod support;

use relpoline_bpf::{
    ContextKind, Engine, Map, MapError, MapKind, MapSpec, Mode, Object, ObjectError, Options, PacketBuffer, Redirect,
    Runtime, TrapKind, Way,
};
use std::sync::{Arc, Mutex};

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Compiled];
const XDP: ContextKind = ContextKind::Xdp;
const SKB: ContextKind = ContextKind::Skb;

fn load(runtime: &Runtime) -> Object {
    Object::load(runtime, &support::object("ways"), Options::default()).unwrap()
}

#[test]
fn redirected_packets_have_a_target() {
    let runtime = Runtime::new().unwrap();
    let object = load(&runtime);
    let mut buffer = PacketBuffer::new(100).unwrap();
    let (names, cpus) = (object.map("by_name").unwrap(), object.map("cpus").unwrap());
    let devices = object.map("devices").unwrap();
    let mut run = |name: &str, kind, engine| {
        buffer.put(&[0; 60], kind);
        let result = object.program(name).unwrap().invoke(buffer.invocation().engine(engine));
        (result.map_err(|trap| trap.kind), buffer.redirect())
    };
    for engine in ENGINES {
        let device = |ifindex, way| Some(Redirect::Device { ifindex, way });
        assert_eq!(run("to_device", XDP, engine), (Ok(4), device(7, Way::Egress)));
        assert_eq!(run("to_device_in", SKB, engine), (Ok(7), device(8, Way::Ingress)));
        assert_eq!(run("changes_its_mind", XDP, engine), (Ok(2), None));
        for name in ["through_devices", "through_names", "to_socket"] {
            assert_eq!(run(name, XDP, engine), (Ok(2), None), "{name}");
        }
        let number = |number: u32| number.to_le_bytes();
        devices.set(&number(1), &number(3), Mode::Any).unwrap();
        names.set(&number(1000), &number(4), Mode::Any).unwrap();
        cpus.set(&number(1), &number(192), Mode::Any).unwrap();
        assert_eq!(devices.set(&number(4), &number(3), Mode::Any), Err(MapError::BeyondEnd));
        let through = |map: &Map, key, value, exclude_ingress| {
            Some(Redirect::Map { map: map.handle(), kind: map.spec().kind, key, value, exclude_ingress })
        };
        assert_eq!(run("through_devices", XDP, engine), (Ok(4), through(devices, Some(1), 3, false)));
        assert_eq!(run("through_names", XDP, engine), (Ok(4), through(names, Some(1000), 4, false)));
        assert_eq!(run("to_cpu", XDP, engine), (Ok(4), through(cpus, Some(1), 192, false)));
        assert_eq!(run("to_all", XDP, engine), (Ok(4), through(devices, None, 0, true)));
        assert_eq!(run("sees_device", XDP, engine), (Ok(3), None));
        assert!(matches!(run("sets_device", XDP, engine).0, Err(TrapKind::OutOfBounds { write: true, .. })));
        assert!(matches!(run("through_counts", XDP, engine).0, Err(TrapKind::NotAMap { .. })));
        devices.delete(&number(1)).unwrap();
        names.delete(&number(1000)).unwrap();
    }
}

#[test]
fn redirected_packets_are_delivered() {
    let got: Arc<Mutex<Vec<(Redirect, usize)>>> = Arc::default();
    let deliver = {
        let got = got.clone();
        move |redirect: &Redirect, packet: &[u8]| got.lock().unwrap().push((*redirect, packet.len()))
    };
    let runtime = Runtime::builder().deliver(deliver).build().unwrap();
    let object = load(&runtime);
    let mut buffer = PacketBuffer::new(100).unwrap();
    for (name, kind) in [("to_device", XDP), ("copies", SKB), ("changes_its_mind", XDP)] {
        buffer.put(&[0; 60], kind);
        object.program(name).unwrap().invoke(buffer.invocation()).unwrap();
    }
    let device = |ifindex| Redirect::Device { ifindex, way: Way::Egress };
    assert_eq!(*got.lock().unwrap(), [(device(7), 60), (device(9), 60)]);
}

#[test]
fn packets_move_within_their_room() {
    let runtime = Runtime::new().unwrap();
    let object = load(&runtime);
    let mut buffer = PacketBuffer::new(100).unwrap();
    for engine in ENGINES {
        let mut run = |name: &str, kind| {
            buffer.put(&[1; 60], kind);
            let result = object.program(name).unwrap().invoke(buffer.invocation().engine(engine));
            (result.map_err(|trap| trap.kind), buffer.packet().to_vec())
        };
        let wrapped: Vec<u8> = [0xee; 8].into_iter().chain([1; 56]).collect();
        assert_eq!(run("wraps", XDP), (Ok(64), wrapped));
        // What lies behind the end is nobody's, whoever remembers that it once was the packet's.
        assert!(matches!(run("keeps_its_end", XDP).0, Err(TrapKind::OutOfBounds { write: false, .. })));
        assert_eq!(run("wrong_context", SKB).0, Err(TrapKind::WrongContext));
    }
}

#[test]
fn maps_within_maps() {
    let runtime = Runtime::new().unwrap();
    let object = load(&runtime);
    let (outer, by_key) = (object.map("outer").unwrap(), object.map("by_key").unwrap());
    let count = |map: &Map| u64::from_le_bytes(map.get(&[1, 0, 0, 0]).unwrap().try_into().unwrap());
    let run = |byte: u8, engine| {
        let mut buffer = PacketBuffer::new(100).unwrap();
        buffer.put(&[byte], XDP);
        object.program("counts_within").unwrap().invoke(buffer.invocation().engine(engine))
    };
    for engine in ENGINES {
        for (byte, result) in [(0, 2), (1, 1), (2, 2), (2, 2), (9, 1)] {
            assert_eq!(run(byte, engine), Ok(result), "{byte}");
        }
    }
    assert_eq!((count(object.map("first").unwrap()), count(object.map("second").unwrap())), (2, 4));
    // Another one, of another length; none of another size, nor one that holds maps itself.
    let spec = |value_size| MapSpec {
        name: "new".into(),
        kind: MapKind::Array,
        key_size: 4,
        value_size,
        max_entries: 10,
        read_only: false,
        hashes: 0,
    };
    let new = Map::new(&runtime, &spec(8)).unwrap();
    let other = Map::new(&runtime, &spec(4)).unwrap();
    let nine = 9u64.to_le_bytes();
    assert_eq!(by_key.put(&nine, &other, Mode::Any), Err(MapError::OtherInner));
    assert_eq!(by_key.put(&nine, outer, Mode::Any), Err(MapError::OtherInner));
    assert_eq!(by_key.put(&nine, &new, Mode::Any), Ok(()));
    assert_eq!(outer.put(&[4, 0, 0, 0], &new, Mode::Any), Err(MapError::BeyondEnd));
    assert_eq!(run(9, Engine::Compiled), Ok(2));
    assert_eq!(count(&new), 1);
    assert_eq!(by_key.entry(&nine).unwrap().handle(), new.handle());
    // The outer map keeps it.
    drop(new);
    runtime.quiesce();
    assert_eq!(run(9, Engine::Interpreter), Ok(2));
    by_key.delete(&nine).unwrap();
    runtime.quiesce();
    assert_eq!(run(9, Engine::Compiled), Ok(1));
    let result = object.program("replaces_within").unwrap().run(&mut [0]);
    assert_eq!(result, Ok((-22i64).cast_unsigned()));
}

/// A Bloom filter has as many hashes as its definition says, up to the kernel's most; other maps have none.
#[test]
fn bloom_filters_have_as_many_hashes_as_they_say() {
    let runtime = Runtime::new().unwrap();
    let object = load(&runtime);
    let spec = object.map("seen").unwrap().spec().clone();
    assert_eq!((spec.kind, spec.hashes), (MapKind::BloomFilter, 3));
    for engine in ENGINES {
        let mut buffer = PacketBuffer::new(60).unwrap();
        buffer.put(&[0; 60], XDP);
        assert_eq!(object.program("remembers").unwrap().invoke(buffer.invocation().engine(engine)), Ok(1));
    }
    for (hashes, fits) in [(0, true), (1, true), (15, true), (16, false)] {
        assert_eq!(Map::new(&runtime, &MapSpec { hashes, ..spec.clone() }).is_ok(), fits, "{hashes}");
    }
    let counts = object.map("counts").unwrap().spec().clone();
    assert_eq!(Map::new(&runtime, &MapSpec { hashes: 1, ..counts }).err(), Some(MapError::BadSize));
}

/// What programs push takes memory of the host's: no more than other maps may have.
#[test]
fn lines_are_as_large_as_other_maps() {
    let runtime = Runtime::new().unwrap();
    let queue = |kind, value_size, max_entries| {
        let spec =
            MapSpec { name: "q".into(), kind, key_size: 0, value_size, max_entries, read_only: false, hashes: 0 };
        Map::new(&runtime, &spec)
    };
    for kind in [MapKind::Queue, MapKind::Stack, MapKind::BloomFilter] {
        assert_eq!(queue(kind, 1 << 16, 1 << 16).err(), Some(MapError::BadSize), "{kind:?}");
        assert!(queue(kind, 8, 2).is_ok());
    }
    let stack = queue(MapKind::Stack, 2, 2).unwrap();
    for value in [[1; 2], [2; 2]] {
        stack.push(&value).unwrap();
    }
    assert_eq!(stack.push(&[3; 2]), Err(MapError::Full));
    assert_eq!((stack.pop(), stack.queued()), (Some(vec![2; 2]), vec![vec![1; 2]]));
}

/// A map that says so is one for all objects of a runtime, for as long as one of them has it.
#[test]
fn pinned_maps_are_shared() {
    let (runtime, other) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let handles = |runtime: &Runtime| {
        let objects = [load(runtime), load(runtime)];
        let handle = |name: &str, object: &Object| object.map(name).unwrap().handle();
        objects[0].map("kept").unwrap().set(&[0; 4], &[1; 8], Mode::Any).unwrap();
        assert_eq!(objects[1].map("kept").unwrap().get(&[0; 4]), Ok(vec![1; 8]));
        assert_eq!(handle("kept", &objects[0]), handle("kept", &objects[1]));
        assert_ne!(handle("counts", &objects[0]), handle("counts", &objects[1]));
        assert_eq!(load(&other).map("kept").unwrap().get(&[0; 4]), Err(MapError::NotFound));
    };
    handles(&runtime);
    assert_eq!(load(&runtime).map("kept").unwrap().get(&[0; 4]), Err(MapError::NotFound), "all are gone");
    let spec = MapSpec { value_size: 4, ..load(&runtime).map("kept").unwrap().spec().clone() };
    let wrong = Map::new(&runtime, &spec).unwrap();
    let shared = [("kept".to_string(), relpoline_bpf::MapHandle::Map(wrong))];
    let error = Object::load_sharing(&runtime, &support::object("ways"), Options::default(), &shared).unwrap_err();
    assert!(matches!(error, ObjectError::Shared { .. }), "{error}");
}
