//! Look-ups in maps, which compiled code does in part by itself: as the interpreter does them, which always asks the helper.
//!
//! With `RUSTFLAGS='--cfg relpoline_broken="lookups-run-over"'` an array has one more entry than it has.

mod support;

use relpoline_bpf::{Engine, Invocation, Map, MapHandle, MapKind, MapSpec, Mode, Options, Runtime, TrapKind, slots};

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Compiled];

fn spec(kind: MapKind, value_size: u32, max_entries: u32) -> MapSpec {
    let key_size = if kind == MapKind::LpmTrie { 8 } else { 4 };
    MapSpec { name: "map".into(), kind, key_size, value_size, max_entries, read_only: false, hashes: 0 }
}

/// Looks up the key at the input's beginning: the value's first byte plus one, or 0. The key is copied to the stack, or not.
fn text(own: bool) -> &'static str {
    if own {
        "ldxdw %r3, [%r1+0]\nstxdw [%r10-8], %r3\nmov %r2, %r10\nadd %r2, -8\nldmap %r1, 0\ncall 1\n\
         jeq %r0, 0, out\nldxb %r0, [%r0+0]\nadd %r0, 1\nout:\nexit"
    } else {
        "mov %r2, %r1\nldmap %r1, 0\ncall 1\njeq %r0, 0, out\nldxb %r0, [%r0+0]\nadd %r0, 1\nout:\nexit"
    }
}

/// Values of all sizes, with keys on the stack and elsewhere; what is beyond the end is not there.
#[test]
fn arrays_end_where_they_end() {
    for kind in [MapKind::Array, MapKind::PerCpuArray] {
        for (value_size, entries) in [(1, 1), (4, 5), (8, 3), (24, 7), (100, 1000)] {
            let runtime = Runtime::new().unwrap();
            let map = Map::new(&runtime, &spec(kind, value_size, entries)).unwrap();
            let set = || {
                for n in 0..entries {
                    map.set(&n.to_le_bytes(), &vec![n as u8; value_size as usize], Mode::Any).unwrap();
                }
            };
            set();
            let programs =
                [true, false].map(|own| support::load(&runtime, "looks", text(own), &[MapHandle::Map(map.clone())]));
            let check = || {
                for (program, engine) in programs.iter().flat_map(|p| ENGINES.map(|engine| (p, engine))) {
                    let run = |n: u64| program.invoke(Invocation::new(&mut n.to_le_bytes()).engine(engine));
                    for n in 0..entries {
                        assert_eq!(run(n.into()), Ok(u64::from(n as u8) + 1), "{kind:?} {value_size} {n} {engine:?}");
                        // A key has four bytes.
                        assert_eq!(run(u64::from(n) | 7 << 32), Ok(u64::from(n as u8) + 1));
                    }
                    for n in [entries, entries + 1, 1 << 31, u32::MAX] {
                        assert_eq!(run(n.into()), Ok(0), "{kind:?} {value_size} {n} {engine:?}");
                    }
                }
            };
            check();
            if kind == MapKind::PerCpuArray {
                // Another thread has another slot, whose values are zero until it sets them.
                let zero = || {
                    let run = |engine| programs[0].invoke(Invocation::new(&mut [0; 8]).engine(engine));
                    ENGINES.into_iter().for_each(|engine| assert_eq!(run(engine), Ok(1)));
                };
                std::thread::scope(|scope| {
                    let other = scope.spawn(|| {
                        zero();
                        set();
                        check();
                    });
                    other.join().unwrap();
                });
                assert_eq!(map.get(&[0; 4]).unwrap().len(), slots() * value_size as usize);
            }
        }
    }
}

/// A key that is not there to be read is a trap, whoever looks it up; and each look-up costs.
#[test]
fn keys_are_checked_and_lookups_are_charged() {
    for kind in [MapKind::Array, MapKind::PerCpuArray, MapKind::Hash] {
        let runtime = Runtime::new().unwrap();
        let map = MapHandle::Map(Map::new(&runtime, &spec(kind, 8, 4)).unwrap());
        for (text, at) in [
            ("mov %r2, 4096\nldmap %r1, 0\ncall 1\nexit", Some(4096)),
            ("lddw %r2, 0xfffffffffffffffe\nldmap %r1, 0\ncall 1\nexit", Some(u64::MAX - 1)),
            // Half of it is beyond the frame, and beyond the stack.
            ("mov %r2, %r10\nadd %r2, -2\nldmap %r1, 0\ncall 1\nexit", None),
            ("ldxb %r3, [%r1+0]\nadd %r2, -2\nadd %r1, 6\nmov %r2, %r1\nldmap %r1, 0\ncall 1\nexit", None),
        ] {
            let program = support::load(&runtime, "looks", text, std::slice::from_ref(&map));
            let traps = ENGINES.map(|engine| {
                // The first look-up of a thread takes another way.
                let run = || program.invoke(Invocation::new(&mut [0; 8]).engine(engine)).unwrap_err();
                assert_eq!(run().instruction, run().instruction);
                run()
            });
            for trap in &traps {
                let TrapKind::OutOfBounds { address, size: 4, write: false } = trap.kind else { panic!("{trap}") };
                assert!(at.is_none_or(|at| at == address), "{trap}");
            }
            assert_eq!(traps[0].instruction, traps[1].instruction);
        }
        let looks = |budget| {
            let options = Options { budget: Some(budget), ..Options::default() };
            let text = "stw [%r10-4], 1\n".to_string()
                + &"mov %r2, %r10\nadd %r2, -4\nldmap %r1, 0\ncall 1\n".repeat(10)
                + "mov %r0, 7\nexit";
            support::load_with(&runtime, "looks", &text, std::slice::from_ref(&map), options)
        };
        let (enough, short) = (looks(160), looks(159));
        for engine in ENGINES {
            assert_eq!(enough.invoke(Invocation::new(&mut []).engine(engine)), Ok(7));
            let trap = short.invoke(Invocation::new(&mut []).engine(engine)).unwrap_err();
            assert_eq!((trap.kind, trap.instruction), (TrapKind::Budget, 50), "{kind:?} {engine:?}");
        }
    }
}

/// After a look-up r1 to r5 are zero, as after every call; r6 to r9 are what they were.
#[test]
fn registers_are_as_after_every_call() {
    for kind in [MapKind::Array, MapKind::PerCpuArray, MapKind::Hash, MapKind::LruHash, MapKind::LpmTrie] {
        let runtime = Runtime::new().unwrap();
        let map = MapHandle::Map(Map::new(&runtime, &spec(kind, 8, 4)).unwrap());
        for key in [1, 9] {
            let text = format!(
                "stdw [%r10-8], {key}\nmov %r6, 1\nmov %r7, 2\nmov %r8, 4\nmov %r9, 8\nmov %r3, 3\nmov %r4, 4\nmov %r5, 5\n\
                 mov %r2, %r10\nadd %r2, -8\nldmap %r1, 0\ncall 1\nmov %r0, %r6\nadd %r0, %r7\nadd %r0, %r8\n\
                 add %r0, %r9\nor %r1, %r2\nor %r1, %r3\nor %r1, %r4\nor %r1, %r5\nlsh %r1, 8\nor %r0, %r1\nexit"
            );
            let program = support::load(&runtime, "looks", &text, std::slice::from_ref(&map));
            for engine in ENGINES {
                for _ in 0..2 {
                    assert_eq!(program.invoke(Invocation::new(&mut []).engine(engine)), Ok(15), "{kind:?} {engine:?}");
                }
            }
        }
    }
}

/// A map that is only known when the program runs, and a helper that the host has put in place of ours.
#[test]
fn others_ask_the_helper() {
    let runtime = Runtime::new().unwrap();
    let maps = [1u8, 2].map(|value| {
        let map = Map::new(&runtime, &spec(MapKind::Array, 8, 2)).unwrap();
        map.set(&[1, 0, 0, 0], &[value; 8], Mode::Any).unwrap();
        MapHandle::Map(map)
    });
    let text = "stw [%r10-4], 1\nmov %r2, %r10\nadd %r2, -4\nldxb %r3, [%r1+0]\nldmap %r1, 0\njeq %r3, 0, there\n\
                ldmap %r1, 1\nthere:\ncall 1\nldxb %r0, [%r0+0]\nexit";
    let program = support::load(&runtime, "looks", text, &maps);
    for engine in ENGINES {
        for which in [0, 1] {
            let run = program.invoke(Invocation::new(&mut [which]).engine(engine));
            assert_eq!(run, Ok(u64::from(which) + 1));
        }
    }
    let own = Runtime::builder().helper(1, |_| Ok(99)).build().unwrap();
    let map = MapHandle::Map(Map::new(&own, &spec(MapKind::Array, 8, 2)).unwrap());
    let text = "stw [%r10-4], 1\nmov %r2, %r10\nadd %r2, -4\nldmap %r1, 0\ncall 1\nexit";
    let program = support::load(&own, "looks", text, &[map]);
    for engine in ENGINES {
        assert_eq!(program.invoke(Invocation::new(&mut []).engine(engine)), Ok(99));
    }
}
