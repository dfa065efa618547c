//! Who keeps whom alive, and what is refused.

mod support;

use relpoline_bpf::{
    Engine, Invocation, LoadErrorKind, Map, MapHandle, MapKind, MapSpec, Options, ProgArray, Runtime, Transaction,
    TrapKind, UpdateError,
};
use support::{load, load_with};

const TO_0: &str = "ldmap %r2, 0\nmov %r3, 0\ncall 12\nmov %r0, 7\nexit";
const NINE: &str = "mov %r0, 9\nexit";

#[test]
fn a_program_that_calls_itself_does_not_live_for_ever() {
    let runtime = Runtime::new().unwrap();
    let empty = runtime.code_bytes();
    let array = ProgArray::new(&runtime, "self", 1).unwrap();
    let program = load(&runtime, "self", TO_0, &[MapHandle::Array(array.clone())]);
    array.update(0, Some(&program)).unwrap();
    drop(array);
    // The program's handle still holds the array.
    assert_eq!(program.run(&mut []).unwrap(), 7);
    drop(program);
    assert!(support::code_shrinks_to(&runtime, empty));
}

#[test]
fn a_slot_keeps_its_program() {
    let runtime = Runtime::new().unwrap();
    let array = ProgArray::new(&runtime, "array", 1).unwrap();
    let main = load(&runtime, "main", TO_0, &[MapHandle::Array(array.clone())]);
    array.update(0, Some(&load(&runtime, "nine", NINE, &[]))).unwrap();
    runtime.quiesce();
    assert_eq!(main.run(&mut []).unwrap(), 9);
    array.update(0, None).unwrap();
    assert_eq!(main.run(&mut []).unwrap(), 7);
}

#[test]
fn a_program_loaded_later_finds_the_slot_filled() {
    let runtime = Runtime::new().unwrap();
    let array = ProgArray::new(&runtime, "array", 1).unwrap();
    array.update(0, Some(&load(&runtime, "nine", NINE, &[]))).unwrap();
    let main = load(&runtime, "main", TO_0, &[MapHandle::Array(array.clone())]);
    assert_eq!(main.run(&mut []).unwrap(), 9);
}

#[test]
fn swaps_reach_through_several_arrays() {
    let runtime = Runtime::new().unwrap();
    let (a, b) = (ProgArray::new(&runtime, "a", 2).unwrap(), ProgArray::new(&runtime, "b", 1).unwrap());
    // Main calls through a to a program that calls through b.
    let main = load(&runtime, "main", TO_0, &[MapHandle::Array(a.clone())]);
    let middle = load(&runtime, "middle", TO_0, &[MapHandle::Array(b.clone())]);
    let [one, nine] = ["mov %r0, 1\nexit", NINE].map(|text| load(&runtime, "leaf", text, &[]));
    a.update(0, Some(&middle)).unwrap();
    let mut both = Transaction::new();
    both.set(&b, 0, Some(&one)).unwrap();
    both.commit().unwrap();
    for engine in [Engine::Interpreter, Engine::Compiled] {
        assert_eq!(main.invoke(Invocation::new(&mut []).engine(engine)).unwrap(), 1);
    }
    let mut both = Transaction::new();
    both.set(&a, 0, Some(&nine)).unwrap();
    both.set(&b, 0, None).unwrap();
    both.commit().unwrap();
    assert_eq!((main.run(&mut []).unwrap(), middle.run(&mut []).unwrap()), (9, 7));
    // Plain updates go on working in the new generation.
    a.update(0, Some(&middle)).unwrap();
    b.update(0, Some(&one)).unwrap();
    assert_eq!(main.run(&mut []).unwrap(), 1);
    b.update(0, None).unwrap();
    a.update(0, None).unwrap();
    assert_eq!(main.run(&mut []).unwrap(), 7);
    let names: Vec<_> = a.programs();
    assert_eq!(names, [None, None]);
}

#[test]
fn many_slots_in_one_update() {
    let runtime = Runtime::new().unwrap();
    let array = ProgArray::new(&runtime, "array", 3).unwrap();
    let main = load(&runtime, "main", TO_0, &[MapHandle::Array(array.clone())]);
    let nine = load(&runtime, "nine", NINE, &[]);
    array.update_all(&[(0, Some(&main)), (1, Some(&nine)), (0, Some(&nine))]).unwrap();
    assert_eq!(main.run(&mut []).unwrap(), 9);
    array.update_all(&[(0, None), (1, None), (2, None)]).unwrap();
    assert_eq!(main.run(&mut []).unwrap(), 7);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let (here, there) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let array = ProgArray::new(&here, "here", 2).unwrap();
    let stranger = load(&there, "stranger", NINE, &[]);
    assert_eq!(array.update(0, Some(&stranger)), Err(UpdateError::OtherRuntime));
    assert_eq!(array.update(2, None), Err(UpdateError::NoSlot(2)));
    let insns = support::asm::assemble(TO_0).unwrap();
    let maps = [MapHandle::Array(array)];
    let error = support::load_insns(&there, "lost", &insns, &maps, Options::default()).unwrap_err();
    assert_eq!(error.kind, LoadErrorKind::OtherRuntime);
}

#[test]
fn an_update_from_within_a_run_is_refused() {
    use std::sync::{Arc, OnceLock};
    let slot: Arc<OnceLock<ProgArray>> = Arc::default();
    let inside = slot.clone();
    let helper = move |_: &mut relpoline_bpf::HelperCall<'_>| {
        let refused = inside.get().unwrap().update(0, None) == Err(UpdateError::InsideRun);
        Ok(u64::from(refused))
    };
    let runtime = Runtime::builder().helper(1000, helper).build().unwrap();
    let array = ProgArray::new(&runtime, "array", 1).unwrap();
    slot.set(array).unwrap();
    assert_eq!(load(&runtime, "calls", "call 1000\nexit", &[]).run(&mut []).unwrap(), 1);
}

#[test]
fn helpers_fail_and_panic_without_harm() {
    let runtime = Runtime::builder()
        .helper(1000, |call| call.read(call.args[0], 8).map(|b| u64::from(b[0])))
        .helper(1001, |_| panic!("a helper's bug"))
        .build()
        .unwrap();
    for engine in [Engine::Interpreter, Engine::Compiled] {
        let run = |text, input: &mut [u8]| load(&runtime, "p", text, &[]).invoke(Invocation::new(input).engine(engine));
        assert_eq!(run("call 1000\nexit", &mut [5; 8]).unwrap(), 5);
        let trap = run("mov %r0, 0\nmov %r1, 64\ncall 1000\nexit", &mut [5; 8]).unwrap_err();
        assert_eq!(trap.kind, TrapKind::OutOfBounds { address: 64, size: 8, write: false });
        assert_eq!(trap.instruction, 2);
        assert_eq!(run("call 1001\nexit", &mut []).unwrap_err().kind, TrapKind::Panicked);
        let trap = run("mov %r1, 5\ncall 1\nexit", &mut []).unwrap_err();
        assert_eq!(trap.kind, TrapKind::NotAMap { value: 5 });
    }
}

#[test]
fn loops_and_recursion_end() {
    let runtime = Runtime::new().unwrap();
    let options = Options { budget: Some(1000), ..Options::default() };
    let endless = load_with(&runtime, "endless", "L:\nmov %r0, 1\nja L\nexit", &[], options);
    for engine in [Engine::Interpreter, Engine::Compiled] {
        let trap = endless.invoke(Invocation::new(&mut []).engine(engine)).unwrap_err();
        assert_eq!(trap.to_string(), "program endless, instruction 1: the instruction budget is used up");
    }
    let refused = |text: &str| {
        let insns = support::asm::assemble(text).unwrap();
        support::load_insns(&runtime, "bad", &insns, &[], Options::default()).unwrap_err().to_string()
    };
    assert_eq!(
        refused("call local f\nexit\nf:\ncall local f\nexit"),
        "program bad, instruction 2: calls nest deeper than 8 functions, or for ever"
    );
    assert_eq!(refused("mov %r0, 0"), "program bad, instruction 0: execution runs off the end of the function");
    assert_eq!(refused("call 77\nexit"), "program bad, instruction 0: there is no helper 77");
    assert_eq!(
        refused("call 12\nexit"),
        "program bad, instruction 0: the program array of a tail call is not known when the program is loaded"
    );
    assert_eq!(
        refused("stdw [%r10-4], 1\nexit"),
        "program bad, instruction 0: stack access at r10-4 of 8 bytes is outside the frame of 512 bytes"
    );
}

#[test]
fn maps_in_their_life() {
    let runtime = Runtime::new().unwrap();
    let spec = |kind, max_entries| MapSpec {
        name: "map".into(),
        kind,
        key_size: 4,
        value_size: 8,
        max_entries,
        read_only: false,
        hashes: 0,
    };
    assert!(Map::new(&runtime, &spec(MapKind::Array, 0)).is_err());
    assert!(Map::new(&runtime, &spec(MapKind::RingBuf, 100)).is_err());
    for kind in [MapKind::Array, MapKind::PerCpuArray, MapKind::Hash, MapKind::LruHash, MapKind::RingBuf] {
        assert!(Map::new(&runtime, &spec(kind, u32::MAX)).is_err(), "{kind:?}");
        assert!(Map::new(&runtime, &spec(kind, 1 << 31)).is_err(), "{kind:?}");
    }
    assert!(ProgArray::new(&runtime, "array", u32::MAX).is_err());
    let lookup = "mov %r6, %r1\nstw [%r10-4], 0\nmov %r2, %r10\nadd %r2, -4\nldmap %r1, 0\ncall 1\nmov %r1, %r0\n\
                  jeq %r1, 0, exit\nldxdw %r0, [%r1+0]\nexit";
    let map = Map::new(&runtime, &spec(MapKind::Hash, 8)).unwrap();
    let program = load(&runtime, "lookup", lookup, &[MapHandle::Map(map.clone())]);
    assert_eq!(program.run(&mut []).unwrap(), 0);
    map.set(&[0; 4], &[3, 0, 0, 0, 0, 0, 0, 0], relpoline_bpf::Mode::Create).unwrap();
    assert_eq!(program.run(&mut []).unwrap(), 3);
    drop(map);
    // The program keeps it.
    assert_eq!(program.run(&mut []).unwrap(), 3);
}
