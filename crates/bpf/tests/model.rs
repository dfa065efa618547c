//! Random updates, swaps and runs against a model: an array is a list of answers, and every run sees it as it is.

mod support;

use proptest::prelude::*;
use relpoline_bpf::{Engine, Invocation, MapHandle, ProgArray, Program, Runtime, Transaction};

const SLOTS: usize = 4;
/// Programs to choose from; each returns its number.
const PROGRAMS: usize = 6;
/// What the callers return when a slot is empty.
const EMPTY: u64 = 255;

#[derive(Clone, Debug)]
enum Step {
    /// Changes of slots, in place.
    Update(Vec<(usize, Option<usize>)>),
    /// The same, at once for every run.
    Swap(Vec<(usize, Option<usize>)>),
    /// Runs of a slot: enough in a row to make it hot.
    Call(usize, u16),
    /// The programs themselves are replaced by others that return the same.
    Renew,
}

fn changes() -> impl Strategy<Value = Vec<(usize, Option<usize>)>> {
    prop::collection::vec((0..SLOTS, prop::option::of(0..PROGRAMS)), 1..5)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => changes().prop_map(Step::Update),
        2 => changes().prop_map(Step::Swap),
        6 => (0..SLOTS, 1..1200u16).prop_map(|(slot, times)| Step::Call(slot, times)),
        1 => Just(Step::Renew),
    ]
}

struct World {
    runtime: Runtime,
    array: ProgArray,
    /// A caller with a computed index, and one per slot with a constant one.
    computed: Program,
    constant: Vec<Program>,
    leaves: Vec<Program>,
    model: [Option<usize>; SLOTS],
}

fn leaves(runtime: &Runtime) -> Vec<Program> {
    let leaf = |n: usize| support::load(runtime, "leaf", &format!("mov %r0, {n}\nexit"), &[]);
    (0..PROGRAMS).map(leaf).collect()
}

impl World {
    fn new() -> World {
        let runtime = Runtime::new().unwrap();
        let array = ProgArray::new(&runtime, "array", SLOTS as u32).unwrap();
        let maps = [MapHandle::Array(array.clone())];
        let caller = |index: &str| {
            support::load(&runtime, "caller", &format!("{index}\nldmap %r2, 0\ncall 12\nmov %r0, {EMPTY}\nexit"), &maps)
        };
        let computed = caller("ldxb %r3, [%r1+0]");
        let constant = (0..SLOTS).map(|slot| caller(&format!("mov %r3, {slot}"))).collect();
        let leaves = leaves(&runtime);
        World { runtime, array, computed, constant, leaves, model: [None; SLOTS] }
    }

    fn change(&mut self, changes: &[(usize, Option<usize>)], at_once: bool) {
        let named: Vec<_> = changes.iter().map(|(slot, n)| (*slot as u32, n.map(|n| &self.leaves[n]))).collect();
        if at_once {
            let mut transaction = Transaction::new();
            for (slot, program) in named {
                transaction.set(&self.array, slot, program).unwrap();
            }
            transaction.commit().unwrap();
        } else {
            self.array.update_all(&named).unwrap();
        }
        for (slot, n) in changes {
            self.model[*slot] = *n;
        }
    }

    fn check(&self, slot: usize, engine: Engine) {
        let wanted = self.model[slot].map_or(EMPTY, |n| n as u64);
        let run = |program: &Program| program.invoke(Invocation::new(&mut [slot as u8]).engine(engine)).unwrap();
        assert_eq!((run(&self.computed), run(&self.constant[slot])), (wanted, wanted), "slot {slot}, {engine:?}");
    }

    fn check_all(&self) {
        for slot in 0..SLOTS {
            self.check(slot, Engine::Compiled);
            self.check(slot, Engine::Interpreter);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arrays_are_what_the_model_says(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Update(changes) => world.change(&changes, false),
                Step::Swap(changes) => world.change(&changes, true),
                Step::Call(slot, times) => (0..times).for_each(|_| world.check(slot, Engine::Compiled)),
                Step::Renew => {
                    // What only slots hold lives on; the rest is freed, and its addresses are used again.
                    world.leaves = leaves(&world.runtime);
                    world.runtime.quiesce();
                }
            }
            world.check_all();
        }
    }
}
