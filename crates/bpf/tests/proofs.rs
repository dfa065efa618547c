//! Accesses that are proved to be within bounds are: compiled code, which does not check them, does what the interpreter does,
//! which checks them all.
//!
//! With `RUSTFLAGS='--cfg relpoline_broken="proves-too-much"'` one byte more than was compared with the packet's end passes for
//! proved, with `"packets-stand-still"` what was proved of a packet that has moved since. Both are noticed here.

mod support;

use relpoline_bpf::insn::Insn;
use relpoline_bpf::{
    ContextKind, Engine, Invocation, Map, MapHandle, MapKind, MapSpec, Mode, Object, Options, PacketBuffer, Program,
    Runtime, Source, TrapKind, Why,
};

const PROVING: Options =
    Options { kernel_contexts: true, budget: Some(1 << 16), checks: CHECKED, count: false, proofs: true };
const CHECKED: relpoline_bpf::Checks = relpoline_bpf::Checks::on();

fn load(runtime: &Runtime, section: &str, insns: &[Insn], maps: &[MapHandle]) -> Program {
    Program::load(runtime, Source { name: "main", section, insns, maps }, PROVING).unwrap_or_else(|e| panic!("{e}"))
}

fn assembled(runtime: &Runtime, section: &str, text: &str, maps: &[MapHandle]) -> Program {
    load(runtime, section, &support::asm::assemble(text).unwrap(), maps)
}

fn array(runtime: &Runtime, value_size: u32) -> Map {
    let spec = MapSpec {
        name: "values".into(),
        kind: MapKind::Array,
        key_size: 4,
        value_size,
        max_entries: 4,
        read_only: false,
        hashes: 0,
    };
    Map::new(runtime, &spec).unwrap()
}

/// Which accesses are proved, in order.
fn proved(program: &Program) -> Vec<Option<Why>> {
    program.listing().lines.iter().filter_map(|line| line.access).collect()
}

/// Result of both engines, which have to agree.
fn run(program: &Program, buffer: &mut PacketBuffer, packet: &[u8], kind: ContextKind) -> Result<u64, TrapKind> {
    let results = [Engine::Interpreter, Engine::Compiled].map(|engine| {
        buffer.put(packet, kind);
        let result = program.invoke(buffer.invocation().engine(engine)).map_err(|trap| (trap.instruction, trap.kind));
        (result, buffer.packet().to_vec())
    });
    assert_eq!(results[0], results[1]);
    results[0].0.map_err(|(_, kind)| kind)
}

/// Reads as far as it has compared, and one byte farther.
const READS: &str = "
    mov %r0, 0
    ldxw %r2, [%r1+0]
    ldxw %r3, [%r1+4]
    mov %r4, %r2
    add %r4, 14
    jgt %r4, %r3, exit
    ldxb %r0, [%r2+13]
    ldxh %r0, [%r2+13]
    exit";

#[test]
fn a_packet_is_proved_as_far_as_it_was_compared() {
    let runtime = Runtime::new().unwrap();
    let program = assembled(&runtime, "xdp", READS, &[]);
    let context = Some(Why::Context);
    assert_eq!(proved(&program), [context, context, Some(Why::Packet), None]);
    let mut buffer = PacketBuffer::new(64).unwrap();
    assert_eq!(run(&program, &mut buffer, &[7; 13], ContextKind::Xdp), Ok(0));
    assert!(matches!(run(&program, &mut buffer, &[7; 14], ContextKind::Xdp), Err(TrapKind::OutOfBounds { .. })));
    assert_eq!(run(&program, &mut buffer, &[7; 15], ContextKind::Xdp), Ok(0x0707));
    // Without what it relies on it does not begin, whatever it is given.
    assert_eq!(run(&program, &mut buffer, &[7; 15], ContextKind::Skb), Err(TrapKind::WrongContext));
    for engine in [Engine::Interpreter, Engine::Compiled] {
        let trap = program.invoke(Invocation::new(&mut [0; 64]).engine(engine)).unwrap_err();
        assert_eq!((trap.kind, trap.instruction), (TrapKind::WrongContext, 0));
    }
    // Nothing is proved where nothing is promised.
    let source = support::asm::assemble(READS).unwrap();
    let source = Source { name: "main", section: "xdp", insns: &source, maps: &[] };
    assert_eq!(proved(&Program::load(&runtime, source, Options::default()).unwrap()), [None; 4]);
}

/// A context that a program has written over does not say where the packet is.
#[test]
fn the_context_is_not_believed() {
    let runtime = Runtime::new().unwrap();
    let program = assembled(&runtime, "xdp", &READS.replace("mov %r0, 0", "stw [%r1+4], -1\nmov %r0, 0"), &[]);
    let mut buffer = PacketBuffer::new(64).unwrap();
    assert_eq!(run(&program, &mut buffer, &[7; 13], ContextKind::Xdp), Ok(0));
    // Nor is one that whoever calls it makes up: a tail call brings 64 bytes at r10 for a context.
    let text = "mov %r1, %r10\nadd %r1, -64\nldmap %r2, 0\nmov %r3, 0\ncall 12\nmov %r0, 1\nexit";
    let array = relpoline_bpf::ProgArray::new(&runtime, "array", 1).unwrap();
    let caller = assembled(&runtime, "xdp", text, &[MapHandle::Array(array.clone())]);
    array.update(0, Some(&assembled(&runtime, "xdp", READS, &[]))).unwrap();
    assert_eq!(run(&caller, &mut buffer, &[7; 15], ContextKind::Xdp), Ok(0x0707));
    assert_eq!(run(&caller, &mut buffer, &[7; 15], ContextKind::Skb), Err(TrapKind::WrongContext));
}

/// After a helper that moves it, nothing is known of a packet; nor after a function that may call one.
#[test]
fn a_packet_that_moves_is_compared_anew() {
    const MOVES: &str = "
        mov %r6, %r1
        ldxw %r7, [%r1+0]
        ldxw %r3, [%r1+4]
        mov %r0, 0
        mov %r4, %r7
        add %r4, 40
        jgt %r4, %r3, exit
        mov %r2, -20
        CALL
        ldxb %r0, [%r7+39]
        exit";
    let runtime = Runtime::new().unwrap();
    let mut buffer = PacketBuffer::new(64).unwrap();
    let (direct, function) = ("call 65", "call local f\nldxb %r0, [%r7+39]\nexit\nf:\ncall 65");
    for call in [direct, function] {
        let program = assembled(&runtime, "xdp", &MOVES.replace("CALL", call), &[]);
        assert_eq!(proved(&program)[2], None);
        let result = run(&program, &mut buffer, &[7; 50], ContextKind::Xdp);
        assert!(matches!(result, Err(TrapKind::OutOfBounds { .. })), "{call}: {result:?}");
    }
    // One that leaves it alone changes nothing.
    let program = assembled(&runtime, "xdp", &MOVES.replace("CALL", "call 5"), &[]);
    assert_eq!(proved(&program)[2], Some(Why::Packet));
    assert_eq!(run(&program, &mut buffer, &[7; 50], ContextKind::Xdp), Ok(7));
}

#[test]
fn values_are_proved_once_they_were_compared_with_null() {
    const LOOKS: &str = "
        stw [%r10-4], KEY
        ldmap %r1, 0
        mov %r2, %r10
        add %r2, -4
        call 1
        mov %r6, %r0
        jeq %r0, 0, none
        mov %r1, 1
        lock fetch add [%r6+8], %r1
        ldxdw %r0, [%r6+8]
        ldxw %r1, [%r6+14]
        exit
        none:
        ldxb %r0, [%r6+0]
        exit";
    let runtime = Runtime::new().unwrap();
    let map = array(&runtime, 16);
    let load = |key: &str| assembled(&runtime, "", &LOOKS.replace("KEY", key), &[MapHandle::Map(map.clone())]);
    let known = Some(Why::Map);
    assert_eq!(proved(&load("1")), [Some(Why::Frame), known, known, None, None]);
    assert_eq!(load("1").run(&mut []), Ok(1));
    assert_eq!(load("1").interpret(&mut []), Ok(2));
    assert!(load("9").run(&mut []).is_err(), "null");
    // A look-up of the host's own gives what it likes.
    let runtime = Runtime::builder().helper(1, |_| Ok(8)).build().unwrap();
    let map = array(&runtime, 16);
    let program = assembled(&runtime, "", &LOOKS.replace("KEY", "1"), &[MapHandle::Map(map)]);
    assert_eq!(proved(&program)[1..], [None; 4]);
    assert!(program.run(&mut []).is_err());
}

/// What was kept on the stack may be gone after a store that can go anywhere, and after a helper that writes.
#[test]
fn what_the_stack_keeps_is_lost_by_stores_that_are_not_known() {
    const KEEPS: &str = "
        ldxw %r2, [%r1+0]
        ldxw %r3, [%r1+4]
        mov %r0, 0
        mov %r4, %r2
        add %r4, 14
        jgt %r4, %r3, exit
        stxdw [%r10-8], %r2
        STORE
        ldxdw %r5, [%r10-8]
        ldxb %r0, [%r5+0]
        exit";
    let runtime = Runtime::new().unwrap();
    let mut buffer = PacketBuffer::new(64).unwrap();
    // -8 in a way that is not followed: 8 bytes of the packet are subtracted.
    let far = "ldxb %r6, [%r2+0]\nmov %r7, %r10\nsub %r7, %r6\nstdw [%r7+0], 5";
    for (store, last, result) in [
        ("mov %r6, 1", Some(Why::Packet), Ok(8)),
        ("stb [%r2+13], 1", Some(Why::Packet), Ok(8)),
        ("stb [%r10-9], 1", Some(Why::Packet), Ok(8)),
        ("stb [%r10-1], 0", None, Ok(8)),
        (far, None, Err(())),
    ] {
        let program = assembled(&runtime, "xdp", &KEEPS.replace("STORE", store), &[]);
        assert_eq!(*proved(&program).last().unwrap(), last, "{store}");
        assert_eq!(run(&program, &mut buffer, &[8; 20], ContextKind::Xdp).map_err(|_| ()), result, "{store}");
    }
}

/// A header whose length the packet says, as programs of clang parse it.
#[test]
fn real_programs_are_proved_for_the_most_part() {
    for (name, least) in [("pipeline", 60), ("contexts", 60), ("hierarchy", 50)] {
        let runtime = Runtime::new().unwrap();
        let object = Object::load(&runtime, &support::object(name), PROVING).unwrap();
        let all: Vec<_> = object.programs().iter().flat_map(proved).collect();
        let many = all.iter().filter(|why| why.is_some()).count();
        println!("{name}: {many} of {} accesses proved", all.len());
        assert!(100 * many >= least * all.len(), "{name}: {many} of {}", all.len());
    }
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.roll(from.len() as u64) as usize]
    }
}

/// A program of what parsers of packets consist of, in any order.
fn random(dice: &mut Dice) -> String {
    let mut text = String::from("mov %r6, %r1\nldxw %r7, [%r6+0]\nldxw %r8, [%r6+4]\nmov %r9, %r7\nmov %r0, 1\n");
    let registers = ["%r2", "%r3", "%r4", "%r5", "%r7", "%r9"];
    let mut labels = 0;
    let mut open: Vec<String> = Vec::new();
    for _ in 0..dice.roll(40) + 5 {
        let (a, b) = (dice.pick(&registers), dice.pick(&registers));
        let small = dice.roll(48) as i64 - 8;
        let size = dice.pick(&["b", "h", "w", "dw"]);
        let line = match dice.roll(24) {
            0 => format!("ldxw {a}, [%r6+0]"),
            1 => "ldxw %r8, [%r6+4]".to_string(),
            2 | 3 => format!("mov {a}, {b}"),
            4 | 5 => format!("add {a}, {small}"),
            6 => format!("and {a}, {}", dice.pick(&["15", "60", "255", "-1"])),
            7 => format!("add {a}, {b}"),
            8 => format!("lsh {a}, {}", dice.roll(4)),
            9 => format!("rsh {a}, {}", dice.roll(4)),
            10..=12 => {
                let jump = dice.pick(&["jgt", "jge", "jlt", "jle", "jeq", "jne"]);
                labels += 1;
                open.push(format!("l{labels}"));
                let (left, right) = if dice.roll(2) == 0 { (a, "%r8") } else { ("%r8", a) };
                format!("{jump} {left}, {right}, l{labels}")
            }
            13 => {
                labels += 1;
                open.push(format!("l{labels}"));
                format!(
                    "{} {a}, {}, l{labels}",
                    dice.pick(&["jgt", "jlt", "jsgt", "jeq", "jle32", "jne"]),
                    small.max(0)
                )
            }
            14 if !open.is_empty() => format!("{}:", open.remove(dice.roll(open.len() as u64) as usize)),
            14 => format!("sub {a}, {small}"),
            15 => format!("ldx{size} {a}, [{b}{small:+}]"),
            16 | 20..24 => {
                // As it is done mostly; what is read may lie a little beyond what was compared.
                labels += 1;
                open.push(format!("l{labels}"));
                let bytes = dice.roll(24);
                let compare =
                    dice.pick(&["jgt %r1, %r8", "jgt %r1, %r8", "jge %r1, %r8", "jlt %r8, %r1", "jeq %r1, %r8"]);
                let at = dice.roll(bytes + 2);
                format!("mov %r1, {b}\nadd %r1, {bytes}\n{compare}, l{labels}\nldx{size} {a}, [{b}+{at}]")
            }
            17 => format!("stxdw [%r10-{}], {a}", 8 * (1 + dice.roll(3))),
            18 => format!("ldxdw {a}, [%r10-{}]", 8 * (1 + dice.roll(3))),
            _ => match dice.roll(6) {
                0 => "mov %r1, %r6\nmov %r2, -9\ncall 65".to_string(),
                1 => "mov %r1, %r6\nmov %r2, 6\ncall 44".to_string(),
                2 => "call 5".to_string(),
                3 => format!("st{size} [{a}{small:+}], 3"),
                4 => {
                    // The key that is written over a word of the stack.
                    format!(
                        "stw [%r10-8], {}\nldmap %r1, 0\nmov %r2, %r10\nadd %r2, -8\ncall 1\n\
                         jeq %r0, 0, +1\nldx{size} {a}, [%r0+{}]",
                        dice.roll(6),
                        dice.roll(24)
                    )
                }
                _ => format!("mov {a}, %r10\nadd {a}, {}", -(dice.roll(40) as i64)),
            },
        };
        text += &line;
        text.push('\n');
    }
    open.iter().for_each(|label| text += &format!("{label}:\n"));
    // A step back now and then: what is known has to hold the second time, too.
    if dice.roll(3) == 0 {
        text += "ldxdw %r1, [%r10-256]\nadd %r1, 1\nstxdw [%r10-256], %r1\njlt %r1, 3, -1000\n";
    }
    text + "mov %r0, %r9\nexit\n"
}

/// Random programs over random packets: engine that checks and engine that does not agree in result, trap and packet.
#[test]
fn both_engines_agree_about_what_was_proved() {
    let cases = std::env::var("RELPOLINE_BPF_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let mut buffer = PacketBuffer::new(96).unwrap();
    let (mut many, mut traps, mut ends) = (0, 0, 0);
    let runtime = Runtime::new().unwrap();
    for seed in 0..cases {
        let mut dice = Dice(seed * 7919 + 11);
        let text = random(&mut dice);
        let mut insns = support::asm::assemble(&text.replace(", -1000", ", +0")).unwrap();
        // The step back goes behind the first five instructions.
        if text.contains("-1000") {
            let at = insns.len() - 3;
            insns[at].offset = -(at as i16) + 4;
        }
        let map = array(&runtime, 16);
        map.set(&[1, 0, 0, 0], &[9; 16], Mode::Any).unwrap();
        let program = load(&runtime, "xdp", &insns, &[MapHandle::Map(map)]);
        many += proved(&program).iter().filter(|why| **why == Some(Why::Packet)).count();
        for _ in 0..4 {
            let packet: Vec<u8> = (0..14 + dice.roll(50)).map(|_| dice.roll(70) as u8).collect();
            let results = [Engine::Interpreter, Engine::Compiled].map(|engine| {
                buffer.put(&packet, ContextKind::Xdp);
                let invocation = buffer.invocation().engine(engine).clear_stack();
                let result = program.invoke(invocation).map_err(|trap| (trap.instruction, trap.kind));
                (result, buffer.packet().to_vec())
            });
            assert_eq!(results[0], results[1], "seed {seed}:\n{text}");
            *if results[0].0.is_ok() { &mut ends } else { &mut traps } += 1;
        }
    }
    println!("{many} accesses of packets proved; {ends} runs ended, {traps} were trapped");
    // That it says something.
    assert!(cases < 600 || many > 100 && traps > 300 && ends > 300, "{many}, {traps}, {ends}");
}
