//! Objects as people have them: what loads, and whether the results are the kernel's.
//!
//! `RELPOLINE_BPF_CORPUS` names a folder of objects (`clang -O2 -g -target bpf -c`), none of which is in this repository;
//! without it the test says so and passes; `cargo xtask bpf-corpus FOLDER` sets it. Types of the kernel are this
//! machine's. Each program for packets runs over generated packets, interpreted and compiled, and, where the caller is root
//! and has libbpf-dev, in the kernel's test run. Results, packets and what maps hold afterwards are compared; which maps are
//! not is told. Socket filters get their packets as the test run gives them. The table goes to stderr, and the test fails when
//! something differs from the kernel's, unless `RELPOLINE_BPF_CORPUS_DIFFERS` says how many programs may differ.

mod support;

use relpoline_bpf::{
    Around, ContextKind, Engine, Expects, Map, MapError, MapKind, Object, ObjectError, Options, PacketBuffer, Runtime,
};
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

/// Entries of maps that are for the host to size; of `kernel.c`, too.
const ENTRIES: u32 = 2;

/// As for this machine's kernel, with nothing checked that is proved.
fn load(bytes: &[u8], wanted: &dyn Fn(&str) -> bool) -> Result<Object, ObjectError> {
    static TYPES: std::sync::LazyLock<Option<Vec<u8>>> =
        std::sync::LazyLock::new(|| std::fs::read("/sys/kernel/btf/vmlinux").ok());
    let options = Options { kernel_contexts: true, proofs: true, ..Options::default() };
    let load = |entries: &[(String, u32)], wanted: &dyn Fn(&str) -> bool| {
        let around = Around { types: TYPES.as_deref(), entries, ..Around::default() };
        Object::load_within(&Runtime::new().unwrap(), bytes, options, &around, wanted)
    };
    // Maps without entries are for the host to size.
    let unsized_map = |(name, why): &(String, ObjectError)| {
        matches!(why, ObjectError::Map { error: MapError::BadSize, .. }).then(|| (name.clone(), ENTRIES))
    };
    let entries: Vec<_> = load(&[], &|_| true)?.refused().iter().filter_map(unsized_map).collect();
    load(&entries, wanted)
}

/// What a program did: a line for each packet, as the kernel's tool writes it, and one for each map.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Outcome {
    packets: Vec<String>,
    maps: BTreeMap<String, String>,
    /// Maps that are not compared, with the reason.
    left_out: BTreeMap<String, &'static str>,
}

/// Maps with more entries are not looked through.
const MOST_ENTRIES: u32 = 65536;

/// Why a map is not compared.
fn left_out(map: &Map) -> Option<&'static str> {
    use MapKind as K;
    let spec = map.spec();
    match spec.kind {
        K::Array | K::PerCpuArray | K::Hash | K::PerCpuHash | K::LruHash | K::LruPerCpuHash | K::LpmTrie => {}
        _ => return Some("of a kind without values by key"),
    }
    let lru = matches!(spec.kind, K::LruHash | K::LruPerCpuHash);
    if spec.name.starts_with(".rodata") || spec.name.starts_with(".kconfig") {
        Some("read-only data")
    } else if spec.max_entries > MOST_ENTRIES {
        Some("of more than 65536 entries")
    } else if lru && map.keys().len() * 2 > spec.max_entries as usize {
        Some("an LRU map more than half full: which entries go is left to the kernel")
    } else {
        None
    }
}

fn sum_of(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()))
}

/// Entries, and a sum over them in the order of their keys; the values of all slots added up, by words.
fn content(map: &Map) -> String {
    let mut keys = map.keys();
    keys.sort();
    let size = map.spec().value_size as usize;
    let sum = keys.iter().fold(0, |sum, key| {
        let mut words = vec![0u64; size.div_ceil(8)];
        for value in map.get(key).unwrap().chunks(size) {
            for (word, bytes) in words.iter_mut().zip(value.chunks(8)) {
                let mut whole = [0; 8];
                whole[..bytes.len()].copy_from_slice(bytes);
                *word = word.wrapping_add(u64::from_le_bytes(whole));
            }
        }
        let value: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        sum_of(sum_of(sum, key), &value)
    });
    format!("{} {sum:08x}", keys.len())
}

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Offsets in `struct __sk_buff`, and of what a packet buffer's flow keys begin at.
const PKT_TYPE: usize = 4;
const PROTOCOL: usize = 16;
const FLOW_KEYS: usize = 192;

/// Puts a packet in as the kernel's test run shows it to socket filters: without its Ethernet header, of which the context tells
/// all the same.
fn put_for_socket(buffer: &mut PacketBuffer, packet: &[u8]) {
    let field = |buffer: &mut PacketBuffer, offset: usize| {
        let context = buffer.flow_keys().as_mut_ptr().wrapping_sub(FLOW_KEYS);
        context.wrapping_add(offset).cast::<u32>()
    };
    buffer.put(packet, ContextKind::Skb);
    let told = [PKT_TYPE, PROTOCOL].map(|offset| {
        let at = field(buffer, offset);
        // SAFETY: the context lies before the flow keys, in the buffer's own memory.
        (offset, unsafe { at.read() })
    });
    buffer.put(&packet[ETHERNET..], ContextKind::Skb);
    for (offset, value) in told {
        let at = field(buffer, offset);
        // SAFETY: as above.
        unsafe { at.write(value) };
    }
}

/// Runs one program, with maps of its own.
fn here(bytes: &[u8], name: &str, packets: &[&Vec<u8>], engine: Engine) -> Result<Outcome, String> {
    let object = load(bytes, &|one| one == name).map_err(|e| e.to_string())?;
    let Some(program) = object.program(name) else {
        return Err(object.refused().iter().find(|(n, _)| n == name).map_or(String::new(), |(_, why)| why.to_string()));
    };
    let kind = match program.expects() {
        Expects::Context(kind) => kind,
        // Names of sections that libbpf took once.
        Expects::Anything if program.section().starts_with("xdp") => ContextKind::Xdp,
        Expects::Anything if program.section().starts_with("tc") => ContextKind::Skb,
        Expects::Anything if matches!(program.section(), "filter" | "loadbalancer") => ContextKind::Skb,
        Expects::Anything if program.section() == "prog" => ContextKind::Xdp,
        _ => return Err("not for packets".into()),
    };
    let is_socket = program.section().starts_with("socket") || matches!(program.section(), "filter" | "loadbalancer");
    let mut buffer = PacketBuffer::new(4000).unwrap();
    let run = |packet: &&Vec<u8>| {
        if is_socket {
            put_for_socket(&mut buffer, packet);
        } else {
            buffer.put(packet, kind);
        }
        let result = program.invoke(buffer.invocation().engine(engine));
        let mut packet = if kind == ContextKind::Xdp { buffer.metadata().to_vec() } else { Vec::new() };
        // The test run gives zeroes back for what it took away.
        packet.resize(packet.len() + if is_socket { ETHERNET } else { 0 }, 0);
        packet.extend_from_slice(buffer.packet());
        match result {
            Ok(r0) => format!("{} {} {:08x}", r0 as u32 as i32, packet.len(), sum_of(0, &packet)),
            Err(trap) => trap.to_string(),
        }
    };
    let packets = packets.iter().map(run).collect();
    let (mut maps, mut out) = (BTreeMap::new(), BTreeMap::new());
    for (name, map) in object.maps().iter().filter_map(|(name, _)| Some((name.clone(), object.map(name)?))) {
        match left_out(map) {
            Some(why) => drop(out.insert(name, why)),
            None => drop(maps.insert(name, content(map))),
        }
    }
    Ok(Outcome { packets, maps, left_out: out })
}

/// Memory accesses of an object's programs, and how many are proved to be within bounds.
fn proved(bytes: &[u8]) -> (usize, usize) {
    let Ok(object) = load(bytes, &|_| true) else { return (0, 0) };
    let lines = object.programs().iter().flat_map(|program| program.listing().lines);
    let all: Vec<_> = lines.filter_map(|line| line.access).collect();
    (all.len(), all.iter().filter(|why| why.is_some()).count())
}

/// The programs of an object, if all can be loaded; `why` is told what cannot.
fn names(bytes: &[u8], mut why: impl FnMut(&str)) -> Option<Vec<String>> {
    let object = match load(bytes, &|_| true) {
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
    let (mut maps_same, mut maps_left_out) = (0, BTreeMap::<&str, usize>::new());
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
            let said = said.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
            let (their_maps, theirs): (Vec<&str>, Vec<&str>) = said.iter().partition(|line| line.starts_with("map "));
            let in_kernel = theirs.len() == packets.len();
            // Some packets are too short for the kernel's test run.
            let ran = |at: &usize| !in_kernel || !theirs[*at].starts_with("not run");
            let given: Vec<_> = (0..packets.len()).filter(ran).map(|at| &packets[at]).collect();
            let run = |engine| here(&bytes, name, &given, engine);
            let mut ours = match run(Engine::Compiled) {
                Ok(ours) => ours,
                Err(why) => {
                    eprintln!("not run: {file} {name}: {why}");
                    continue;
                }
            };
            programs += 1;
            let again = run(Engine::Compiled).unwrap();
            if again.packets != ours.packets {
                // The time is in its packets, or chance.
                moody += 1;
                continue;
            }
            // In its maps, too.
            for (map, _) in ours.maps.clone().iter().filter(|(map, content)| again.maps.get(*map) != Some(content)) {
                ours.maps.remove(map);
                ours.left_out.insert(map.clone(), "not the same twice");
            }
            let mut interpreted = run(Engine::Interpreter).unwrap();
            interpreted.maps.retain(|map, _| ours.maps.contains_key(map));
            interpreted.left_out.clone_from(&ours.left_out);
            assert_eq!(ours, interpreted, "{file} {name}");
            if !in_kernel || given.len() < 100 {
                alone += 1;
                eprintln!("not in the kernel: {file} {name} {:?}", theirs.first());
                continue;
            }
            let theirs: Vec<_> = (0..packets.len()).filter(ran).map(|at| theirs[at]).collect();
            if let Some(at) = (0..theirs.len()).find(|at| ours.packets[*at] != theirs[*at]) {
                differing.push(format!("{file} {name}, packet {at}: kernel {}, here {}", theirs[at], ours.packets[at]));
                continue;
            }
            let their_maps: BTreeMap<&str, &str> =
                their_maps.iter().filter_map(|line| line.strip_prefix("map ")?.split_once(' ')).collect();
            let before = differing.len();
            for (map, content) in &ours.maps {
                match their_maps.get(map.as_str()) {
                    Some(theirs) if theirs == content => maps_same += 1,
                    Some(theirs) => {
                        differing.push(format!("{file} {name}, map {map}: kernel {theirs}, here {content}"));
                    }
                    None => *maps_left_out.entry("not in the kernel").or_default() += 1,
                }
            }
            ours.left_out.values().for_each(|why| *maps_left_out.entry(why).or_default() += 1);
            same += usize::from(differing.len() == before);
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
    eprintln!("{maps_same} maps hold the same afterwards; not compared:");
    maps_left_out.iter().for_each(|(why, count)| eprintln!("{count:>4}  {why}"));
    eprintln!("{proofs} of {accesses} memory accesses proved to be within bounds");
    for (why, files) in &reasons {
        eprintln!("{:>4}  {why}: {}", files.len(), files.iter().cloned().collect::<Vec<_>>().join(" "));
    }
    eprintln!("{}", differing.join("\n"));
    assert!(differing.len() <= allowed, "{} programs differ from the kernel", differing.len());
}
