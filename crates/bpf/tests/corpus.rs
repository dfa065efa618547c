//! Objects as people have them: what loads, and whether the results are the kernel's.
//!
//! `RELPOLINE_BPF_CORPUS` names a folder of objects (`clang -O2 -g -target bpf -c`), none of which is in this repository;
//! without it the test says so and passes; `cargo xtask bpf-corpus FOLDER` sets it. Types of the kernel are this machine's. Each program for packets runs over generated packets, interpreted and compiled,
//! and, where the caller is root and has libbpf-dev, in the kernel's test run. The table goes to stderr, and the test fails when
//! a result or a packet differs from the kernel's, unless `RELPOLINE_BPF_CORPUS_DIFFERS` says how many programs may differ.

mod support;

use relpoline_bpf::{Around, ContextKind, Engine, Expects, Object, ObjectError, Options, PacketBuffer, Runtime};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use support::kernel::Kernel;

/// Ethernet, with what may be in it: IPv4 and IPv6, TCP, UDP, ICMP, tags, ARP, cut off, of all lengths.
fn packets() -> Vec<Vec<u8>> {
    let mut state = 1u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut packets = Vec::new();
    for _ in 0..135 {
        let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if random(6) == 0 {
            packet.extend([0x81, 0, 0, random(4) as u8]);
        }
        let protocol = [6, 17, 1, 58, 4, 47][random(6) as usize];
        match random(8) {
            0..4 => {
                packet.extend([8, 0, 0x45, 0, 0, 60, 0, 1, 0, 0, 64 - random(64) as u8, protocol, 0, 0]);
                packet.extend([10, 0, 0, random(3) as u8, 10, 0, 1, random(3) as u8]);
            }
            4..6 => {
                packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
                packet.extend((0..32).map(|_| random(3) as u8));
            }
            6 => packet.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]),
            _ => packet.extend([random(256) as u8, random(256) as u8]),
        }
        let ports = [80, 443, 53, 9876, 22, 1234];
        for _ in 0..2 {
            packet.extend((ports[random(6) as usize] as u16).to_be_bytes());
        }
        packet.extend([8, 0, 0, 0, 0, 0, 0, 0, 0x50, random(64) as u8]);
        packet.extend((0..random(200)).map(|i| i as u8));
        if random(10) == 0 {
            packet.truncate(14 + random(30) as usize);
        }
        packets.push(packet);
    }
    packets
}

/// As for this machine's kernel, with nothing checked that is proved.
fn load(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Object, ObjectError> {
    static TYPES: std::sync::LazyLock<Option<Vec<u8>>> =
        std::sync::LazyLock::new(|| std::fs::read("/sys/kernel/btf/vmlinux").ok());
    let around = Around { types: TYPES.as_deref(), ..Around::default() };
    let options = Options { kernel_contexts: true, proofs: true, ..Options::default() };
    Object::load_within(&Runtime::new().unwrap(), bytes, options, &around, wanted)
}

/// Lines as the kernel's tool writes them, for one program.
fn here(bytes: &[u8], name: &str, packets: &[Vec<u8>], engine: Engine) -> Result<Vec<String>, String> {
    let object = load(bytes, |one| one == name).map_err(|e| e.to_string())?;
    let Some(program) = object.program(name) else {
        return Err(object.refused().iter().find(|(n, _)| n == name).map_or(String::new(), |(_, why)| why.to_string()));
    };
    let kind = match program.expects() {
        Expects::Context(kind) => kind,
        // Names of sections that libbpf took once.
        Expects::Anything if program.section().starts_with("xdp") => ContextKind::Xdp,
        Expects::Anything if program.section().starts_with("tc") => ContextKind::Skb,
        _ => return Err("not for packets".into()),
    };
    if program.section().starts_with("socket") {
        // The test run takes the Ethernet header away from them, and gives zeroes back for it.
        return Err("not comparable".into());
    }
    let mut buffer = PacketBuffer::new(4000).unwrap();
    let run = |packet: &Vec<u8>| {
        buffer.put(packet, kind);
        let result = program.invoke(buffer.invocation().engine(engine));
        let mut packet = if kind == ContextKind::Xdp { buffer.metadata().to_vec() } else { Vec::new() };
        packet.extend_from_slice(buffer.packet());
        let sum = packet.iter().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
        match result {
            Ok(r0) => format!("{} {} {sum:08x}", r0 as u32 as i32, packet.len()),
            Err(trap) => trap.to_string(),
        }
    };
    Ok(packets.iter().map(run).collect())
}

/// Memory accesses of an object's programs, and how many are proved to be within bounds.
fn proved(bytes: &[u8]) -> (usize, usize) {
    let Ok(object) = load(bytes, |_| true) else { return (0, 0) };
    let lines = object.programs().iter().flat_map(|program| program.listing().lines);
    let all: Vec<_> = lines.filter_map(|line| line.access).collect();
    (all.len(), all.iter().filter(|why| why.is_some()).count())
}

/// The programs of an object, if all can be loaded; `why` is told what cannot.
fn names(bytes: &[u8], mut why: impl FnMut(&str)) -> Option<Vec<String>> {
    let object = match load(bytes, |_| true) {
        Ok(object) => object,
        Err(error) => {
            why(&error.to_string());
            return None;
        }
    };
    // Maps that no program uses do no harm.
    let is_map = |e: &ObjectError| matches!(e, ObjectError::Map { .. } | ObjectError::MapDefinition { .. });
    let refused: Vec<_> = object.refused().iter().filter(|(_, e)| !is_map(e)).collect();
    refused.iter().for_each(|(_, error)| why(&error.to_string()));
    refused.is_empty().then(|| object.programs().iter().map(|program| program.name().to_string()).collect())
}

#[test]
fn objects_of_other_people() {
    let Some(root) = std::env::var_os("RELPOLINE_BPF_CORPUS").map(PathBuf::from) else {
        eprintln!("skipped: RELPOLINE_BPF_CORPUS names no folder of objects");
        return;
    };
    let allowed = std::env::var("RELPOLINE_BPF_CORPUS_DIFFERS").map_or(0, |n| n.parse().unwrap());
    let kernel = Kernel::build();
    let packets = packets();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "o"));
    files.sort();
    let (mut loaded, mut programs, mut same, mut differing, mut alone, mut moody) = (0, 0, 0, Vec::new(), 0, 0);
    let mut reasons: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut accesses, mut proofs) = (0, 0);
    eprintln!("programs  as in the kernel  accesses  proved  object");
    for path in &files {
        let bytes = std::fs::read(path).unwrap();
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        let mut said: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let output = kernel.run(&bytes, &packets);
        output.lines().filter_map(|line| line.split_once(' ')).for_each(|(n, r)| said.entry(n).or_default().push(r));
        let names = match names(&bytes, |why| {
            reasons.entry(why.rsplit(": ").next().unwrap_or("").into()).or_default().insert(file.clone());
        }) {
            Some(names) => names,
            None => continue,
        };
        loaded += 1;
        let before = (programs, same);
        for name in &names {
            let Ok(ours) = here(&bytes, name, &packets, Engine::Compiled) else { continue };
            programs += 1;
            if here(&bytes, name, &packets, Engine::Compiled).as_ref() != Ok(&ours) {
                // The time is in its packets, or chance.
                moody += 1;
                continue;
            }
            assert_eq!(Ok(&ours), here(&bytes, name, &packets, Engine::Interpreter).as_ref(), "{file} {name}");
            let theirs = said.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
            // Some packets are too short for the kernel's test run.
            let ran = |at: &usize| !theirs[*at].starts_with("not run");
            if theirs.len() != packets.len() || (0..packets.len()).filter(ran).count() < 100 {
                alone += 1;
                eprintln!("not in the kernel: {file} {name} {:?}", theirs.first());
            } else if let Some(at) = (0..packets.len()).filter(ran).find(|at| ours[*at] != theirs[*at]) {
                differing.push(format!("{file} {name}, packet {at}: kernel {}, here {}", theirs[at], ours[at]));
            } else {
                same += 1;
            }
        }
        let (all, proved) = proved(&bytes);
        (accesses, proofs) = (accesses + all, proofs + proved);
        let (ran, equal) = (programs - before.0, same - before.1);
        eprintln!("{ran:>8}  {equal:>16}  {all:>8}  {proved:>6}  {file}");
    }
    eprintln!("{loaded} of {} objects load with all their programs", files.len());
    eprintln!(
        "{programs} programs run; {same} as in the kernel, {alone} that it does not load, {moody} not the same twice"
    );
    eprintln!("{proofs} of {accesses} memory accesses proved to be within bounds");
    for (why, files) in &reasons {
        eprintln!("{:>4}  {why}: {}", files.len(), files.iter().cloned().collect::<Vec<_>>().join(" "));
    }
    eprintln!("{}", differing.join("\n"));
    assert!(differing.len() <= allowed, "{} programs differ from the kernel", differing.len());
}
