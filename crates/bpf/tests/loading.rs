//! Objects as people have them: programs that can run here beside those that cannot, what sections say, maps per CPU.

mod support;

use relpoline_bpf::{
    ContextKind, Engine, Expects, Invocation, MapError, Mode, Object, ObjectError, Options, PacketBuffer, Runtime,
    TrapKind, slots,
};
use std::sync::Barrier;

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Compiled];

fn load(runtime: &Runtime, name: &str) -> Object {
    Object::load(runtime, &support::object(name), Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What cannot be loaded is left out, with its reason, and the rest runs.
#[test]
fn what_cannot_run_is_left_out_and_said() {
    let runtime = Runtime::new().unwrap();
    let object = load(&runtime, "mixed");
    let run = |name: &str| object.program(name).unwrap().run(&mut [0; 64]).map(|r0| r0 as i32);
    assert_eq!(run("fine"), Ok(2));
    assert_eq!(run("chooses"), Ok(2));
    // Its slot was to hold a program that is left out.
    assert_eq!(run("chooses_nothing"), Ok(9));
    // BPF_F_RDONLY_PROG: minus EPERM.
    assert_eq!(run("updates"), Ok(-1));
    let refused: Vec<_> = object.refused().iter().map(|(name, why)| (name.as_str(), why.to_string())).collect();
    let why = |name: &str| &refused.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{name} runs")).1;
    assert!(why("needs_helper").ends_with("there is no helper 9999"), "{}", why("needs_helper"));
    for name in ["needs_map", "storage"] {
        assert!(why(name).ends_with("maps of kind sk_storage are not supported"), "{}", why(name));
    }
    assert!(why("needs_type").contains("CO-RE relocation against 'task_struct'"), "{}", why("needs_type"));
    assert!(why("needs_function").ends_with("'outside' is not defined in the file"), "{}", why("needs_function"));
    assert_eq!(refused.len(), 5, "{refused:?}");
    assert!(object.map("constants").unwrap().set(&[1; 4], &[1; 4], Mode::Any).is_ok(), "the host may");
}

/// Members of what programs and kernel agree on lie where the compiler says.
#[test]
fn members_of_contexts_need_no_relocation() {
    let runtime = Runtime::new().unwrap();
    let object = load(&runtime, "mixed");
    let mut buffer = PacketBuffer::new(100).unwrap();
    for engine in ENGINES {
        buffer.put(&[0; 77], ContextKind::Xdp);
        assert_eq!(object.program("reads_context").unwrap().invoke(buffer.invocation().engine(engine)), Ok(77));
    }
}

#[test]
fn sections_say_what_programs_expect() {
    let runtime = Runtime::new().unwrap();
    let (mixed, contexts) = (load(&runtime, "mixed"), load(&runtime, "contexts"));
    assert_eq!(mixed.program("fine").unwrap().expects(), Expects::Context(ContextKind::Xdp));
    assert_eq!(mixed.program("traces").unwrap().expects(), Expects::Elsewhere("tracing"));
    assert_eq!(contexts.program("dispatch").unwrap().expects(), Expects::Context(ContextKind::Skb));
}

/// A program whose map has wider values would write its neighbour's.
#[test]
fn a_map_that_differs_is_not_shared() {
    let runtime = Runtime::new().unwrap();
    let old = load(&runtime, "counts");
    let bytes = support::object("counts_wide");
    let error = Object::load_sharing(&runtime, &bytes, Options::default(), old.maps()).unwrap_err();
    assert!(matches!(&error, ObjectError::Shared { map, .. } if map == "counters"), "{error}");
    assert_eq!(
        error.to_string(),
        "map counters is to be shared, but is Array of 4 entries with keys of 4 and values of 8 bytes, and not Array of \
         4 entries with keys of 4 and values of 16 bytes"
    );
    let same = Object::load_sharing(&runtime, &support::object("counts"), Options::default(), old.maps()).unwrap();
    assert_eq!(same.program("count").unwrap().run(&mut [0; 8]), Ok(2));
    assert_eq!(old.map("counters").unwrap().get(&[0; 4]).unwrap(), [1, 0, 0, 0, 0, 0, 0, 0]);
}

/// Values of a per-CPU map as numbers, one for each slot.
fn numbers(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())).collect()
}

/// Eight threads on however few processors: nobody writes another's slot while a packet is being processed.
#[test]
fn each_thread_has_a_slot_of_its_own() {
    let runtime = Runtime::new().unwrap();
    let object = load(&runtime, "percpu");
    let program = |name: &str| object.program(name).unwrap().clone();
    let begin = Barrier::new(8);
    let mut seen: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=8u8)
            .map(|me| {
                let (begin, exclusive, slot, counts) =
                    (&begin, program("exclusive"), program("slot"), program("counts"));
                scope.spawn(move || {
                    let own = slot.run(&mut [0]).unwrap();
                    // All at a time: a thread that has ended gives its slot to another.
                    begin.wait();
                    for engine in ENGINES {
                        for _ in 0..20 {
                            assert_eq!(exclusive.invoke(Invocation::new(&mut [me]).engine(engine)), Ok(2));
                            assert_eq!(counts.invoke(Invocation::new(&mut [3]).engine(engine)), Ok(2));
                            assert_eq!(slot.invoke(Invocation::new(&mut [0]).engine(engine)), Ok(own));
                        }
                    }
                    own
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let counted = numbers(&object.map("by_key").unwrap().get(&[3, 0, 0, 0]).unwrap());
    assert_eq!(counted.len(), slots());
    assert_eq!(counted.iter().sum::<u64>(), 8 * 40);
    assert!(seen.iter().all(|slot| counted[*slot as usize] == 40), "{seen:?} {counted:?}");
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 8);
}

#[test]
fn hashes_per_cpu() {
    let runtime = Runtime::new().unwrap();
    let object = load(&runtime, "percpu");
    let run = |name: &str, key: u8| object.program(name).unwrap().run(&mut [key]).unwrap();
    let (by_key, recent) = (object.map("by_key").unwrap(), object.map("recent").unwrap());
    // An entry that is made anew is zero in the other slots, whatever was there before.
    run("counts", 1);
    std::thread::scope(|scope| scope.spawn(|| (0..3).for_each(|_| assert_eq!(run("counts", 1), 2))).join().unwrap());
    let before = numbers(&by_key.get(&[1, 0, 0, 0]).unwrap());
    assert_eq!(before.iter().sum::<u64>(), 4);
    by_key.delete(&[1, 0, 0, 0]).unwrap();
    run("counts", 2);
    assert_eq!(numbers(&by_key.get(&[2, 0, 0, 0]).unwrap()).iter().sum::<u64>(), 1);
    for key in 3..=5 {
        assert_eq!(run("counts", key), 2);
    }
    assert_eq!(run("counts", 6), 1, "full");
    assert_eq!(by_key.set(&[7, 0, 0, 0], &[0; 8], Mode::Create), Err(MapError::Full));
    for key in 0..20 {
        assert_eq!(run("counts_recent", key), 2);
    }
    assert_eq!(recent.keys().len(), 2);
}

/// As many threads as there are slots, and one: that one's programs are trapped, not given somebody's slot.
#[test]
fn a_thread_without_a_slot_is_told() {
    let runtime = Runtime::new().unwrap();
    let object = load(&runtime, "percpu");
    let program = object.program("slot").unwrap();
    let all = Barrier::new(slots() + 20);
    let results: Vec<_> = std::thread::scope(|scope| {
        let run = || {
            let result = program.run(&mut [0]);
            all.wait();
            result
        };
        let threads: Vec<_> = (0..slots() + 20).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut got: Vec<_> = results.iter().filter_map(|result| result.clone().ok()).collect();
    assert!(results.iter().all(|result| result.as_ref().map_or_else(|trap| trap.kind == TrapKind::NoSlot, |_| true)));
    let many = got.len();
    got.sort_unstable();
    got.dedup();
    // Other tests have some meanwhile.
    assert!(got.len() == many && many <= slots(), "{got:?}");
}
