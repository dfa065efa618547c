//! The tail-call scenarios of the kernel's selftests, from our own C, for both engines.

mod support;

use relpoline_bpf::{Engine, Invocation, Mode, Object, Options, Program, Runtime};

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Compiled];

struct Scene {
    object: Object,
    engine: Engine,
}

impl Scene {
    fn new(name: &str, engine: Engine) -> Scene {
        let runtime = Runtime::new().unwrap();
        let object =
            Object::load(&runtime, &support::object(name), Options::default()).unwrap_or_else(|e| panic!("{e}"));
        Scene { object, engine }
    }

    fn program(&self, name: &str) -> &Program {
        self.object.program(name).unwrap_or_else(|| panic!("no program {name}"))
    }

    /// Runs `name` with a first word of `len`.
    fn run_with(&self, name: &str, len: u32) -> i32 {
        let mut input = [0; 64];
        input[..4].copy_from_slice(&len.to_le_bytes());
        let result = self.program(name).invoke(Invocation::new(&mut input).engine(self.engine));
        result.unwrap_or_else(|trap| panic!("{:?}: {trap}", self.engine)) as i32
    }

    fn run(&self, name: &str) -> i32 {
        self.run_with(name, 1)
    }

    fn put(&self, array: &str, index: u32, program: Option<&str>) {
        let array = self.object.array(array).unwrap();
        array.update(index, program.map(|name| self.program(name))).unwrap();
    }

    /// The 32-bit variable at `offset` of `section`.
    fn word(&self, section: &str, offset: usize) -> u32 {
        let bytes = self.object.map(section).unwrap().get(&[0; 4]).unwrap();
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    fn set_words(&self, section: &str, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.object.map(section).unwrap().set(&[0; 4], &bytes, Mode::Any).unwrap();
    }
}

#[test]
fn one_slot_after_the_other() {
    for engine in ENGINES {
        let scene = Scene::new("direct", engine);
        assert_eq!(scene.run("one_by_one"), 3);
        for (i, name) in ["step_0", "step_1", "step_2"].into_iter().enumerate() {
            scene.put("jumps", i as u32, Some(name));
        }
        for i in 0..3 {
            assert_eq!(scene.run("one_by_one"), i);
            scene.put("jumps", i as u32, None);
        }
        assert_eq!(scene.run("one_by_one"), 3);
        // In the other order, each slot alone.
        for (i, name) in ["step_2", "step_1", "step_0"].into_iter().enumerate() {
            scene.put("jumps", i as u32, Some(name));
            assert_eq!(scene.run("one_by_one"), 2 - i as i32);
            scene.put("jumps", i as u32, None);
            scene.put("jumps", i as u32, None);
            assert_eq!(scene.run("one_by_one"), 3);
        }
    }
}

#[test]
fn a_chain_of_programs() {
    for engine in ENGINES {
        let scene = Scene::new("direct", engine);
        for (i, name) in ["link_0", "link_1", "link_2"].into_iter().enumerate() {
            scene.put("chain", i as u32, Some(name));
        }
        assert_eq!(scene.run("chained"), 2);
        scene.put("chain", 2, None);
        assert_eq!(scene.run("chained"), 1);
        scene.put("chain", 1, None);
        assert_eq!(scene.run("chained"), 0);
        scene.put("chain", 0, None);
        assert_eq!(scene.run("chained"), 3);
        scene.put("chain", 0, Some("link_2"));
        assert_eq!(scene.run("chained"), 2);
    }
}

#[test]
fn thirty_three_and_no_more() {
    for engine in ENGINES {
        let scene = Scene::new("direct", engine);
        assert_eq!(scene.run("looping"), 0);
        scene.put("loop", 0, Some("again"));
        assert_eq!(scene.run("looping"), 1);
        assert_eq!(scene.word(".bss", 0), 33, "{engine:?}");
        scene.put("loop", 0, None);
        assert_eq!(scene.run("looping"), 0);
    }
}

#[test]
fn indexes_known_at_run_time() {
    for engine in ENGINES {
        for entry in ["by_number", "by_key", "by_branch"] {
            let scene = Scene::new("variable", engine);
            let keys = if entry == "by_number" { [0, 1, 2] } else { [1111, 1234, 5678] };
            for (i, key) in keys.into_iter().enumerate() {
                set_selector(&scene, key);
                assert_eq!(scene.run(entry), 3, "{entry} {key}");
                scene.put("jumps", i as u32, Some(["step_0", "step_1", "step_2"][i]));
                assert_eq!(scene.run(entry), i as i32, "{entry} {key}");
                scene.put("jumps", i as u32, None);
                assert_eq!(scene.run(entry), 3, "{entry} {key}");
            }
        }
    }
}

/// `selector` and `count` in some order; both are zero so far.
fn set_selector(scene: &Scene, value: u32) {
    scene.set_words(".bss", &[value, value]);
}

#[test]
fn an_index_beyond_the_array() {
    for engine in ENGINES {
        let scene = Scene::new("variable", engine);
        scene.put("jumps", 0, Some("step_0"));
        for index in [3, 4, 1 << 16, u32::MAX] {
            set_selector(&scene, index);
            assert_eq!(scene.run("by_number"), 3);
        }
        set_selector(&scene, 0);
        assert_eq!(scene.run("by_number"), 0);
        // The limit holds for this way too.
        scene.put("jumps", 0, Some("counting"));
        assert_eq!(scene.run("by_number"), 4);
        assert_eq!(scene.word(".bss", 0) + scene.word(".bss", 4), 33);
    }
}

#[test]
fn functions_whose_place_a_program_takes() {
    for engine in ENGINES {
        let scene = Scene::new("subprog", engine);
        assert_eq!(scene.run_with("returns", 7), 14 + 21);
        scene.put("jumps", 0, Some("step_0"));
        assert_eq!(scene.run_with("returns", 7), 10 + 21);
        scene.put("jumps", 1, Some("step_1"));
        assert_eq!(scene.run_with("returns", 7), 10 + 200);
        scene.put("jumps", 0, None);
        assert_eq!(scene.run_with("returns", 7), 14 + 200);
    }
}

#[test]
fn the_limit_through_functions() {
    for engine in ENGINES {
        let scene = Scene::new("subprog", engine);
        scene.put("jumps", 2, Some("limited_step"));
        assert_eq!(scene.run("limited"), 1);
        assert_eq!(scene.word(".bss", 0) + scene.word(".bss", 4), 33, "{engine:?}");
    }
}

#[test]
fn stacks_of_functions_and_programs() {
    for engine in ENGINES {
        let scene = Scene::new("subprog", engine);
        assert_eq!(scene.run("stack_main"), 196 * 1000 + 36);
        scene.put("jumps", 3, Some("stack_step"));
        assert_eq!(scene.run("stack_main"), 255 * 1000 + 36);
    }
}

#[test]
fn functions_in_functions_with_and_without_helpers() {
    for engine in ENGINES {
        for noise in [false, true] {
            let scene = Scene::new("subprog", engine);
            if noise {
                // `noise` is one of the two words; the other counts from there.
                scene.set_words(".bss", &[1000, 1000]);
            }
            scene.put("jumps", 1, Some("deep_step"));
            assert_eq!(scene.run_with("deep", 54), 54);
            let before = if noise { 2000 } else { 0 };
            assert_eq!(scene.word(".bss", 0) + scene.word(".bss", 4) - before, 33, "{engine:?}");
            let values = scene.object.map("values").unwrap().get(&[0; 4]).unwrap();
            // Once at each step, and once in each function that tail-calls, the last included.
            assert_eq!(u32::from_le_bytes(values.try_into().unwrap()), if noise { 33 + 34 } else { 0 });
        }
    }
}

#[test]
fn registers_survive_functions_whose_place_was_taken() {
    for engine in ENGINES {
        let scene = Scene::new("subprog", engine);
        assert_eq!(scene.run_with("keeps", 4), 4 * 10000 + 5 * 100 + 11);
        scene.put("jumps", 0, Some("keep_step"));
        assert_eq!(scene.run_with("keeps", 4), (20 + 60 + 67) * 10000 + 5 * 100 + 11);
    }
}

fn counts(scene: &Scene) -> Vec<u32> {
    (0..3).map(|i| scene.word(".bss", 4 * i)).collect()
}

#[test]
fn the_limit_holds_for_the_whole_tree_of_calls() {
    for engine in ENGINES {
        let scene = Scene::new("hierarchy", engine);
        scene.put("jumps", 0, Some("twice"));
        assert_eq!(scene.run("twice"), 1);
        // The first run and 33 tail calls, in whatever branch.
        assert_eq!(counts(&scene).iter().sum::<u32>(), 34, "{engine:?}");
    }
    for engine in ENGINES {
        let scene = Scene::new("hierarchy", engine);
        scene.put("jumps", 0, Some("left"));
        scene.put("jumps", 1, Some("right"));
        scene.run("both");
        // The left tree uses up all of them.
        let mut all = counts(&scene);
        all.sort_unstable();
        assert_eq!(all, [0, 0, 33], "{engine:?}");
    }
    for engine in ENGINES {
        let scene = Scene::new("hierarchy", engine);
        scene.put("jumps", 0, Some("alternating"));
        scene.put("jumps", 1, Some("alternating"));
        scene.run("alternating");
        assert_eq!(counts(&scene).iter().sum::<u32>(), 34, "{engine:?}");
    }
}
