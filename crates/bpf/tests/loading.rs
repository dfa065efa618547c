//! Objects as people have them: programs that can run here beside those that cannot, what sections say, maps per CPU.

mod support;

use relpoline_bpf::{
    Around, ContextKind, Engine, Expects, Invocation, MapError, MapKind, Mode, Object, ObjectError, Options,
    PacketBuffer, Runtime, TrapKind, slots,
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

/// Maps of older files, by a structure each; of kinds that there are not here, too.
#[test]
fn maps_as_they_were_defined_once() {
    let runtime = Runtime::new().unwrap();
    let object = load(&runtime, "legacy");
    let (counts, rules) = (object.map("counts").unwrap(), object.map("rules").unwrap());
    assert_eq!((counts.spec().kind, counts.spec().max_entries, counts.spec().read_only), (MapKind::Array, 4, false));
    assert_eq!((rules.spec().kind, rules.spec().max_entries, rules.spec().read_only), (MapKind::Hash, 2, true));
    rules.set(&[7, 0, 0, 0], &[5, 0, 0, 0], Mode::Any).unwrap();
    let steps = object.array("steps").unwrap();
    steps.update(2, object.program("reads_rule")).unwrap();
    for (n, engine) in (1u8..).zip(ENGINES) {
        let run = |name: &str| {
            let program = object.program(name).unwrap();
            program.invoke(Invocation::new(&mut [0; 8]).engine(engine)).map(|r0| r0 as i32)
        };
        assert_eq!(run("counts_up"), Ok(2), "four entries, no more");
        assert_eq!(counts.get(&[3, 0, 0, 0]).unwrap(), u64::from(n).to_le_bytes());
        assert_eq!(run("reads_rule"), Ok(5));
        assert_eq!(run("writes_rule"), Ok(-1), "BPF_F_RDONLY_PROG");
        assert_eq!(run("steps_on"), Ok(5));
    }
    let refused: Vec<_> = object.refused().iter().map(|(name, why)| (name.as_str(), why.to_string())).collect();
    assert_eq!(refused.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["traced", "traces"]);
    for (name, why) in refused {
        assert!(why.ends_with("map traces: maps of kind stack_trace are not supported"), "{name}: {why}");
    }
}

/// Storage of tasks, sockets and other things of the kernel is refused by name, with the programs that want it.
#[test]
fn storage_of_things_of_the_kernel_is_refused_by_name() {
    let runtime = Runtime::new().unwrap();
    let object = load(&runtime, "storage");
    assert_eq!(object.program("none").unwrap().run(&mut [0; 8]), Ok(2));
    assert_eq!(object.programs().len(), 1);
    for (program, map, kind) in [
        ("sockets", "of_sockets", "sk_storage"),
        ("inodes", "of_inodes", "inode_storage"),
        ("tasks", "of_tasks", "task_storage"),
        ("groups", "of_groups", "cgrp_storage"),
    ] {
        for name in [program, map] {
            let (_, why) =
                object.refused().iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} is there"));
            let wanted = format!("map {map}: maps of kind {kind} are not supported");
            assert!(why.to_string().ends_with(&wanted), "{name}: {why}");
        }
    }
}

/// Questions about the machine around are the host's to answer, under the helper's own number.
#[test]
fn a_host_that_knows_routes_answers_itself() {
    // struct bpf_fib_lookup: the family first, the device at 8, the destination at 32; then both MAC addresses.
    let text = "mov %r6, %r1\nmov %r2, %r10\nadd %r2, -64\nstdw [%r10-64], 2\nstdw [%r10-56], 1\nstdw [%r10-48], 0\n\
                stdw [%r10-40], 0\nstdw [%r10-32], 0\nstw [%r10-32], 0x0100000a\nstdw [%r10-24], 0\nstdw [%r10-16], 0\n\
                stdw [%r10-8], 0\nmov %r3, 64\nmov %r4, 0\ncall 69\njne %r0, 0, out\nldxw %r0, [%r10-56]\n\
                ldxb %r1, [%r10-1]\nlsh %r1, 32\nor %r0, %r1\nout:\nexit";
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let answers = {
        let asked = asked.clone();
        move |c: &mut relpoline_bpf::HelperCall<'_>| {
            let (at, len) = (c.args[1], c.args[2]);
            let mut route = c.read(at, len)?;
            asked.lock().unwrap().push(route[32..36].to_vec());
            route[8] = 42;
            route[63] = 7;
            c.write(at, &route)?;
            Ok(0)
        }
    };
    for proofs in [false, true] {
        let options = Options { proofs, ..Options::default() };
        let runtime = Runtime::builder().helper(69, answers.clone()).build().unwrap();
        let program = support::load_with(&runtime, "routes", text, &[], options);
        let alone = support::load_with(&Runtime::new().unwrap(), "routes", text, &[], options);
        for engine in ENGINES {
            let run = |program: &relpoline_bpf::Program| program.invoke(Invocation::new(&mut [0; 8]).engine(engine));
            assert_eq!(run(&program), Ok(42 | 7 << 32));
            // BPF_FIB_LKUP_RET_FWD_DISABLED: nobody forwards anything.
            assert_eq!(run(&alone), Ok(5));
        }
    }
    assert_eq!(*asked.lock().unwrap(), vec![[10, 0, 0, 1]; 4]);
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

/// Some files leave it to their host how many entries a map has.
#[test]
fn a_host_decides_how_many_entries_there_are() {
    let runtime = Runtime::new().unwrap();
    let load = |entries: u32| {
        let entries = [("counters".to_string(), entries)];
        let around = Around { entries: &entries, ..Around::default() };
        Object::load_within(&runtime, &support::object("counts"), Options::default(), &around, |_| true)
    };
    let object = load(9).unwrap();
    assert_eq!(object.map("counters").unwrap().spec().max_entries, 9);
    assert_eq!(object.program("count").unwrap().run(&mut [0; 8]), Ok(2));
    let why = load(0).unwrap_err().to_string();
    assert!(why.contains("map counters: key, value or entry sizes that a map of this kind cannot have"), "{why}");
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

/// What a kernel has where the programs of `core` expect other things: see `core_target.c`.
fn kernels_state() -> [u8; 64] {
    let mut bytes = [0; 64];
    for (at, word) in [(12, 77u32), (32, 1234), (52, 0), (56, 55), (60, 66)] {
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    // wide at 36; then 7 bits of nothing, and -3 in 9 bits, within the 16 bits at 38.
    bytes[36..38].copy_from_slice(&4321u16.to_le_bytes());
    bytes[38..40].copy_from_slice(&((-3i16 as u16 & 0x1ff) << 7).to_le_bytes());
    bytes
}

/// Offsets, sizes, signs, bit fields, existence, values of enumerations are those of the types that were given.
#[test]
fn relocations_are_resolved_against_given_types() {
    let runtime = Runtime::new().unwrap();
    let (bytes, types) = (support::object("core"), support::object("core_target"));
    let around = Around { types: Some(&types), ..Around::default() };
    let object = Object::load_within(&runtime, &bytes, Options::default(), &around, |_| true).unwrap();
    assert_eq!(object.refused(), []);
    for engine in ENGINES {
        let run = |name: &str| {
            let mut input = kernels_state();
            let program = object.program(name).unwrap_or_else(|| panic!("no {name}"));
            program.invoke(Invocation::new(&mut input).engine(engine)).map(|r0| r0 as i32).map_err(|trap| trap.kind)
        };
        assert_eq!(run("number"), Ok(1234), "through a union without a name");
        assert_eq!(run("wide"), Ok(4321), "two bytes are read where there were eight");
        assert_eq!(run("nested"), Ok(55));
        assert_eq!(run("element"), Ok(77));
        assert_eq!(run("second"), Ok(64 + 32));
        assert_eq!(run("exists"), Ok(1));
        assert_eq!(run("gone"), Ok(5));
        assert_eq!(run("reads_gone"), Err(TrapKind::Unresolved));
        assert_eq!(run("sizes"), Ok(2 | 32 << 8));
        assert_eq!(run("bits"), Ok(-3));
        assert_eq!(run("types"), Ok(1 | 4 | 16 << 8));
        assert_eq!(run("values"), Ok(300 | 1 << 16));
        assert_eq!(run("no_value"), Err(TrapKind::Unresolved));
        assert_eq!(run("no_type"), Err(TrapKind::Unresolved));
    }
    // Without types they are refused, each by name.
    let error = Object::load(&runtime, &bytes, Options::default()).unwrap_err();
    assert!(error.to_string().contains("CO-RE relocation against 'state'"), "{error}");
    // What is no type information is said to be none, however it is damaged.
    for len in [0, 3, 24, 100] {
        let around = Around { types: Some(&types[..len]), ..Around::default() };
        assert!(Object::load_within(&runtime, &bytes, Options::default(), &around, |_| true).is_err(), "{len}");
    }
}

/// A structure: its name and size, whether members may be bit fields, and its members with name, type and bits.
type Structure<'a> = (&'a str, u32, bool, &'a [(&'a str, u32, u32)]);

/// Type information as in a `.BTF` section. Type 1 is an integer of `int` bytes, and the first structure is type 2.
fn types(int: u32, structures: &[Structure<'_>]) -> Vec<u8> {
    let mut strings = vec![0];
    let mut string = |name: &str| {
        let at = strings.len() as u32;
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
        at
    };
    let mut words = vec![string("int"), 1 << 24, int, 1 << 24 | 32];
    for (name, size, has_fields, members) in structures {
        let info = u32::from(*has_fields) << 31 | 4 << 24 | members.len() as u32;
        words.extend([string(name), info, *size]);
        words.extend(members.iter().flat_map(|(name, kind, bits)| [string(name), *kind, *bits]));
    }
    let len = 4 * words.len() as u32;
    let header = [0x1_eb9f, 24, 0, len, len, strings.len() as u32];
    [header.iter().chain(&words).copied().flat_map(u32::to_le_bytes).collect(), strings].concat()
}

/// Types that were made to keep a search busy, or to make numbers too large.
#[test]
fn hostile_types_are_refused_in_time() {
    let runtime = Runtime::new().unwrap();
    let load = |types: &[u8]| {
        let around = Around { types: Some(types), ..Around::default() };
        Object::load_within(&runtime, &support::object("core"), Options::default(), &around, |_| true).unwrap()
    };
    let run = |object: &Object, name: &str| {
        let program = object.program(name).unwrap_or_else(|| panic!("{name}: {:?}", object.refused()));
        program.run(&mut kernels_state()).map_err(|trap| trap.kind)
    };

    // A structure of eight without names that are it again: 8 to the power of how deep they are followed.
    let object = load(&types(4, &[("state", 8, false, &[("", 2, 0); 8])]));
    for name in ["number", "exists", "gone"] {
        let why = &object.refused().iter().find(|(other, _)| other == name).unwrap().1.to_string();
        assert!(why.contains("CO-RE relocation against 'state' that takes too long to look for"), "{why}");
    }
    assert_eq!(run(&object, "no_type"), Err(TrapKind::Unresolved), "others are not concerned");
    // As many of one name as never are.
    let object = load(&types(4, &vec![("state", 8, false, &[][..]); 1 << 17]));
    assert!(object.refused().iter().any(|(name, why)| name == "number" && why.to_string().contains("too long")));

    // A bit field that ends behind the last bit that there is a number for.
    let far: &[_] = &[("", 3, u32::MAX - 15)];
    let object = load(&types(4, &[("state", 8, false, far), ("", 8, true, &[("high", 1, 255 << 24 | 14)])]));
    assert_eq!(run(&object, "bits"), Err(TrapKind::Unresolved));
    // Numbers of so many bytes that there is no number for their bits.
    for bytes in [1 << 29, 1 << 30, 1 << 31, u32::MAX, 0] {
        let object = load(&types(bytes, &[("state", 8, true, &[("high", 1, 9 << 24 | 5), ("wide", 1, 0)])]));
        let _ = run(&object, "bits").is_ok() || run(&object, "sizes").is_ok();
    }
}

/// The kernel's configuration as it is given; what it does not say is zero for weak externals, and refused for others.
#[test]
fn externals_have_the_values_that_are_given() {
    const CONFIG: &str = "# a comment\nCONFIG_HZ=250\nCONFIG_SMP=y\nCONFIG_VETH=m\nCONFIG_LETTER=n\nCONFIG_NAME=\"relpoline\"\n\
                          CONFIG_BELOW=-2\nCONFIG_MODULE=m\n";
    let runtime = Runtime::new().unwrap();
    let load = |config: &str| {
        let around = Around { config: Some(config), ..Around::default() };
        Object::load_within(&runtime, &support::object("config"), Options::default(), &around, |_| true).unwrap()
    };
    let object = load(CONFIG);
    let program = |name: &str| object.program(name).unwrap_or_else(|| panic!("{name}: {:?}", object.refused()));
    let run = |name: &str| program(name).run(&mut [0; 8]).map(u64::cast_signed).map_err(|trap| trap.kind);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-', '\n']).map(|n| n.parse::<i64>().unwrap_or(0));
    assert_eq!(run("version").unwrap() >> 8, numbers.next().unwrap() << 8 | numbers.next().unwrap());
    assert_eq!(run("hz"), Ok(250));
    assert_eq!(run("small"), Ok(i64::from(1 | 1 << 1 | u32::from(b'n') << 8 | u32::from(b'l') << 16)));
    assert_eq!(run("below"), Ok(-2));
    assert_eq!(run("asks"), Ok(3), "a weak function that nobody has is null");
    assert_eq!(run("calls"), Err(TrapKind::Unresolved));
    assert!(matches!(run("writes"), Err(TrapKind::OutOfBounds { write: true, .. })));
    let refused = |name: &str| object.refused().iter().find(|(n, _)| n == name).unwrap().1.to_string();
    assert!(refused("missing").contains("'CONFIG_MISSING' of .kconfig has no value"), "{}", refused("missing"));
    assert!(refused("module").contains("'m' does not fit its type"), "{}", refused("module"));
    assert_eq!(load("LINUX_KERNEL_VERSION=0x60100").program("version").unwrap().run(&mut [0; 8]), Ok(0x6_0100));
}

/// An object of `count` functions, all the same, with names in a string of `length` bytes, and `copies` sections that are one.
fn repeated(count: u32, length: usize, copies: u32) -> Vec<u8> {
    let mut file = vec![0; 64];
    // r0 = 0; exit
    file.extend([0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]);
    let symbols_at = file.len();
    file.extend([0; 24]);
    for n in 0..count {
        file.extend((1 + n % 64).to_le_bytes());
        // A global function of section 1, at 0, of 16 bytes.
        file.extend([0x12, 0, 1, 0]);
        file.extend([0_u64, 16].map(u64::to_le_bytes).concat());
    }
    let names_at = file.len();
    file.push(0);
    file.extend(vec![b'f'; length]);
    file.push(0);
    let section_names_at = file.len();
    file.extend(b"\0xdp\0.symtab\0.strtab\0.data.x\0");
    file.resize(file.len().next_multiple_of(8), 0);
    let sections_at = file.len() as u64;
    let mut section = |name: u32, kind: u32, flags: u64, at: usize, size: usize, link: u32| {
        file.extend([name, kind].map(u32::to_le_bytes).concat());
        file.extend([flags, 0, at as u64, size as u64].map(u64::to_le_bytes).concat());
        file.extend([link, 1].map(u32::to_le_bytes).concat());
        file.extend([1_u64, if kind == 2 { 24 } else { 0 }].map(u64::to_le_bytes).concat());
    };
    section(0, 0, 0, 0, 0, 0);
    section(1, 1, 6, 64, 16, 0);
    section(5, 2, 0, symbols_at, names_at - symbols_at, 3);
    section(13, 3, 0, names_at, length + 2, 0);
    section(0, 3, 0, section_names_at, 29, 0);
    for _ in 0..copies {
        section(21, 1, 3, symbols_at, names_at - symbols_at, 0);
    }
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    // ET_REL, eBPF, version.
    file[16..24].copy_from_slice(&[1, 0, 247, 0, 1, 0, 0, 0]);
    file[40..48].copy_from_slice(&sections_at.to_le_bytes());
    let counts = [64, 0, 0, 64, 5 + u16::try_from(copies).unwrap(), 4];
    file[52..64].copy_from_slice(&counts.map(u16::to_le_bytes).concat());
    file
}

/// What is larger in memory than in the file, each byte of it many times over.
#[test]
fn small_files_that_stand_for_much_are_refused() {
    let runtime = Runtime::new().unwrap();
    let why = |bytes: &[u8]| Object::load(&runtime, bytes, Options::default()).unwrap_err().to_string();
    let fine = Object::load(&runtime, &repeated(100, 500, 0), Options::default()).unwrap();
    assert_eq!(fine.programs().len(), 100);
    // 20,000 names of up to a MiB: 20 GB.
    let long = why(&repeated(20_000, 1 << 20, 0));
    assert!(long.contains("more than 512 bytes"), "{long}");
    // 8,000 maps that begin with the same 480 kB: 4 GB, and as much again.
    let overlapping = why(&repeated(20_000, 500, 8000));
    assert!(overlapping.contains("overlap"), "{overlapping}");
    let sections = why(&repeated(1, 500, 9000));
    assert!(sections.contains("sections"), "{sections}");
    let symbols = why(&repeated(70_000, 500, 0));
    assert!(symbols.contains("symbols"), "{symbols}");
    assert!(why(&[repeated(1, 500, 0), vec![0; 1 << 24]].concat()).contains("larger than"));
}
