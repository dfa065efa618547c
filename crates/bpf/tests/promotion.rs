//! Tail calls with computed indexes: hot ones are promoted, and no promotion outlives what it was made for.
//!
//! With `RUSTFLAGS='--cfg relpoline_broken="tail-call-tree"'` trees believe that they know all targets: most of these
//! tests fail then, and so do two of `concurrent`.

mod support;

use relpoline_bpf::{
    Engine, IndirectBranches, Invocation, MapHandle, Options, ProgArray, Program, Reason, Runtime, VariableCall,
};
use std::time::{Duration, Instant};

/// Tail-calls the slot that the first byte names; 255 when there is nothing.
const DISPATCH: &str = "ldxb %r3, [%r1+0]\nldmap %r2, 0\ncall 12\nmov %r0, 255\nexit";

struct Dispatch {
    runtime: Runtime,
    array: ProgArray,
    main: Program,
}

fn dispatch_in(runtime: Runtime, slots: u32) -> Dispatch {
    let array = ProgArray::new(&runtime, "handlers", slots).unwrap();
    let options = Options { count: true, ..Options::default() };
    let main = support::load_with(&runtime, "main", DISPATCH, &[MapHandle::Array(array.clone())], options);
    Dispatch { runtime, array, main }
}

impl Dispatch {
    /// All slots filled: each returns its number.
    fn new(slots: u32) -> Dispatch {
        let dispatch = dispatch_in(Runtime::new().unwrap(), slots);
        for slot in 0..slots {
            dispatch.put(slot, slot);
        }
        dispatch
    }

    /// A program that returns `answer`, known to its slot alone.
    fn put(&self, slot: u32, answer: u32) {
        let program = support::load(&self.runtime, &format!("p{answer}"), &format!("mov %r0, {answer}\nexit"), &[]);
        self.array.update(slot, Some(&program)).unwrap();
    }

    fn call(&self, slot: u8) -> u64 {
        self.main.run(&mut [slot]).unwrap()
    }

    fn known(&self) -> VariableCall {
        self.main.variable_calls().remove(0)
    }

    /// Calls `slots` over and over until `done`; at most for some seconds.
    fn until(&self, slots: &[u8], done: impl Fn(&VariableCall) -> bool) -> VariableCall {
        let begin = Instant::now();
        loop {
            for slot in slots.iter().cycle().take(1000.max(slots.len())) {
                assert_eq!(self.call(*slot), u64::from(*slot));
            }
            let known = self.known();
            if done(&known) || begin.elapsed() > Duration::from_secs(20) {
                return known;
            }
        }
    }
}

fn names(known: &VariableCall) -> Vec<String> {
    known.targets.iter().map(|t| t.program.as_deref().unwrap_or("?").to_string()).collect()
}

#[test]
fn hot_targets_become_direct_jumps() {
    let dispatch = Dispatch::new(8);
    assert_eq!((dispatch.known().promoted, dispatch.known().reason), (false, Reason::Cold));
    let known = dispatch.until(&[3], |known| known.promoted);
    assert!(known.promoted, "{known:?}");
    assert_eq!((known.array.as_str(), known.reason), ("handlers", Reason::Promoted));
    assert_eq!(names(&known), ["p3"]);
    let before = dispatch.known().through_trees.unwrap();
    for _ in 0..100 {
        dispatch.call(3);
    }
    assert_eq!(dispatch.known().through_trees.unwrap(), before + 100);
}

#[test]
fn a_repeating_order_is_promoted_too() {
    let dispatch = Dispatch::new(8);
    let known = dispatch.until(&[0, 5, 2, 5], |known| known.promoted && known.targets.len() == 3);
    let mut names = names(&known);
    names.sort();
    assert_eq!(names, ["p0", "p2", "p5"], "{known:?}");
}

#[test]
fn what_cannot_be_foreseen_is_left_alone_and_says_so() {
    let dispatch = Dispatch::new(250);
    // All slots alike, in an order without pattern.
    let mut x = 12345u32;
    let mut random = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        (x % 250) as u8
    };
    let slots: Vec<u8> = (0..200_000).map(|_| random()).collect();
    let known = dispatch
        .until(&slots, |known| matches!(known.reason, Reason::Unpredictable | Reason::Megamorphic | Reason::NoGain));
    assert!(!known.promoted, "{known:?}");
    assert!(matches!(known.reason, Reason::Unpredictable | Reason::Megamorphic | Reason::NoGain), "{known:?}");
}

#[test]
fn a_replaced_program_is_never_seen_again() {
    let dispatch = Dispatch::new(4);
    assert!(dispatch.until(&[1], |known| known.promoted).promoted);
    for answer in 100..200 {
        dispatch.put(1, answer);
        assert_eq!(dispatch.call(1), u64::from(answer));
        assert_eq!(dispatch.main.interpret(&mut [1]).unwrap(), u64::from(answer));
    }
    // The new one becomes hot in its turn. Whoever was replaced may be compared with for a while, and is
    // nobody.
    dispatch.put(1, 1);
    let is_there = |known: &VariableCall| known.promoted && names(known).iter().any(|name| name == "p1");
    let known = dispatch.until(&[1], is_there);
    assert!(is_there(&known) && names(&known).iter().all(|name| ["p1", "?"].contains(&name.as_str())), "{known:?}");
    assert_eq!(dispatch.call(1), 1);
}

#[test]
fn an_emptied_slot_is_empty_at_once() {
    let dispatch = Dispatch::new(4);
    assert!(dispatch.until(&[2], |known| known.promoted).promoted);
    dispatch.array.update(2, None).unwrap();
    assert_eq!(dispatch.call(2), 255);
    assert_eq!(names(&dispatch.known()), ["?"]);
    // Its program is freed: a tree is no owner.
    dispatch.runtime.quiesce();
    for slot in 0..4 {
        dispatch.put(slot, u32::from(slot as u8) + 40);
    }
    for slot in 0..4 {
        assert_eq!(dispatch.call(slot), u64::from(slot) + 40);
    }
}

/// Programs of the same length take each other's place in code memory, so that trees name addresses where others live.
#[test]
fn addresses_come_to_belong_to_others() {
    let dispatch = Dispatch::new(2);
    let size = dispatch.runtime.code_bytes();
    assert!(dispatch.until(&[0, 1], |known| known.promoted).promoted);
    for round in 0..50 {
        for slot in [0, 1] {
            dispatch.array.update(slot, None).unwrap();
        }
        dispatch.runtime.quiesce();
        // In the other order, so that each gets the other's address.
        for slot in [1, 0] {
            dispatch.put(slot, 2 * round + slot);
        }
        for _ in 0..40 {
            for slot in [0u8, 1] {
                assert_eq!(dispatch.call(slot), u64::from(2 * round + u32::from(slot)));
            }
        }
    }
    assert!(dispatch.runtime.code_bytes() < size + (64 << 10), "trees leaked");
}

#[test]
fn trees_are_freed_with_their_programs() {
    let runtime = Runtime::new().unwrap();
    let before = runtime.code_bytes();
    let dispatch = dispatch_in(runtime.clone(), 4);
    for slot in 0..4 {
        dispatch.put(slot, slot);
    }
    assert!(dispatch.until(&[0], |known| known.promoted).promoted);
    drop(dispatch);
    assert!(support::code_shrinks_to(&runtime, before));
}

#[test]
fn a_new_generation_learns_for_itself() {
    let dispatch = Dispatch::new(4);
    assert!(dispatch.until(&[0], |known| known.promoted).promoted);
    let other = support::load(&dispatch.runtime, "p1", "mov %r0, 1\nexit", &[]);
    dispatch.array.swap([(0, Some(&other)), (1, None)]).unwrap();
    assert_eq!(dispatch.known().reason, Reason::Cold);
    assert_eq!((dispatch.call(0), dispatch.call(1)), (1, 255));
}

#[test]
fn flapping_neither_fills_memory_nor_goes_astray() {
    let dispatch = Dispatch::new(16);
    let before = dispatch.runtime.code_bytes();
    for round in 0..200u32 {
        let hot = (round % 16) as u8;
        for _ in 0..3000 {
            assert_eq!(dispatch.call(hot), u64::from(hot));
        }
    }
    assert!(dispatch.runtime.code_bytes() < before + (1 << 20), "trees leaked");
}

#[test]
fn other_jumps_on_request() {
    for branches in [IndirectBranches::Plain, IndirectBranches::Retpoline] {
        let dispatch = dispatch_in(Runtime::builder().indirect_branches(branches).build().unwrap(), 4);
        dispatch.put(1, 1);
        for _ in 0..5000 {
            assert_eq!((dispatch.call(1), dispatch.call(2)), (1, 255));
        }
        assert_eq!((dispatch.known().promoted, dispatch.known().reason), (false, Reason::Disabled));
    }
}

/// r0 to r9 are the same behind each way that a gate can lead.
#[test]
fn registers_survive_learning() {
    let runtime = Runtime::new().unwrap();
    let array = ProgArray::new(&runtime, "array", 1).unwrap();
    let sum = "add %r0, %r1\nadd %r0, %r2\nadd %r0, %r3\nadd %r0, %r4\nadd %r0, %r5\nexit";
    array.update(0, Some(&support::load(&runtime, "sum", sum, &[]))).unwrap();
    let main = "mov %r6, 6\nmov %r9, 9\nldxb %r3, [%r1+0]\nmov %r0, 1000\nmov %r1, 100\nldmap %r2, 0\nmov %r4, 10\n\
                mov %r5, 1\ncall 12\nexit";
    let main = support::load(&runtime, "main", main, &[MapHandle::Array(array)]);
    let wanted = main.interpret(&mut [0]).unwrap();
    for _ in 0..20_000 {
        assert_eq!(main.run(&mut [0]).unwrap(), wanted);
    }
    assert!(main.variable_calls()[0].promoted);
}

/// Branches in generated code, but for the gate's word and patch sites.
#[test]
fn there_is_no_plain_indirect_branch() {
    use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, OpKind};
    let dispatch = Dispatch::new(2);
    let listing = dispatch.main.listing();
    assert_eq!(listing.gates.len(), 1);
    let mut decoder = Decoder::with_ip(64, &listing.code, listing.address, DecoderOptions::NONE);
    let mut seen = 0;
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let flow = instruction.flow_control();
        assert!(!matches!(flow, FlowControl::IndirectBranch | FlowControl::IndirectCall), "{instruction}");
        assert_ne!(instruction.code(), Code::INVALID);
        if flow == FlowControl::UnconditionalBranch {
            assert_eq!(instruction.op0_kind(), OpKind::NearBranch64);
            seen += 1;
        }
    }
    assert!(seen > 1);
}

#[test]
fn the_interpreter_agrees_while_sites_change() {
    let dispatch = Dispatch::new(3);
    for round in 0..30_000u32 {
        let slot = [0, 0, 1, 0, 2, 7][(round / 7 % 6) as usize];
        let engine = if round % 3 == 0 { Engine::Interpreter } else { Engine::Compiled };
        let wanted = if slot < 3 { u64::from(slot) } else { 255 };
        assert_eq!(dispatch.main.invoke(Invocation::new(&mut [slot]).engine(engine)).unwrap(), wanted);
    }
}
