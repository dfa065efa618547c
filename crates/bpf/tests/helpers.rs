//! Every helper with every kind of argument, as the kernel answers.
//!
//! `programs/helpers.c` has a program for each case; `helpers.txt` has what each returned in the kernel's own test run
//! (Linux 6.18), and which packet it left: its length and a sum. With `RELPOLINE_BPF_KERNEL=1`, root and libbpf-dev, the
//! kernel is asked anew, by `kernel.c`; with `RELPOLINE_BPF_KERNEL=write` the file is written from what it says.
//!
//! With `RUSTFLAGS='--cfg relpoline_broken="redirects-to-nowhere"'` packets are redirected to entries that are not there,
//! which this notices.

mod support;

use relpoline_bpf::{ContextKind, Engine, Expects, Object, Options, PacketBuffer, Runtime};
use std::collections::BTreeMap;
use std::path::Path;

/// What the kernel says of a program that it does not load, and we might.
const REFUSED: &str = "refused";

/// Where this runtime deliberately differs from the kernel's test run.
const DIFFERENT: [&str; 0] = [];

/// Result and packet of each program.
type Results = BTreeMap<String, String>;

fn parse(text: &str) -> Results {
    let pair = |line: &str| line.split_once(' ').map(|(name, result)| (name.to_string(), result.to_string()));
    text.lines().filter(|line| !line.starts_with('#')).filter_map(pair).collect()
}

fn here(bytes: &[u8], engine: Engine) -> Results {
    let mut packet: [u8; 64] = std::array::from_fn(|i| i as u8);
    packet[12..15].copy_from_slice(&[8, 0, 0x45]);
    let names: Vec<String> = {
        let object = Object::load(&Runtime::new().unwrap(), bytes, Options::default()).unwrap();
        assert!(object.refused().is_empty(), "{:?}", object.refused());
        object.programs().iter().map(|program| program.name().to_string()).collect()
    };
    let mut buffer = PacketBuffer::new(2000).unwrap();
    let run = |name: &String| {
        // Maps as they are at first.
        let load = Object::load_only(&Runtime::new().unwrap(), bytes, Options::default(), &[], |one| one == name);
        let object = load.unwrap();
        let program = object.program(name).unwrap();
        let xdp = program.expects() == Expects::Context(ContextKind::Xdp);
        buffer.put(&packet, if xdp { ContextKind::Xdp } else { ContextKind::Skb });
        let result = match program.invoke(buffer.invocation().engine(engine)) {
            Ok(r0) => {
                // The test run gives both in one piece.
                let mut packet = buffer.metadata().to_vec();
                packet.extend_from_slice(buffer.packet());
                let sum = packet.iter().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
                format!("{} {} {sum:08x}", r0 as u32 as i32, packet.len())
            }
            Err(trap) => trap.to_string(),
        };
        (name.clone(), result)
    };
    names.iter().map(run).collect()
}

fn compare(kernel: &Results, bytes: &[u8]) {
    for engine in [Engine::Interpreter, Engine::Compiled] {
        let ours = here(bytes, engine);
        assert_eq!(kernel.len(), ours.len(), "helpers.txt is of other programs: write it anew");
        let differs = |name: &String| {
            let (theirs, ours) = (&kernel[name], &ours[name]);
            let known = theirs == REFUSED || DIFFERENT.contains(&name.as_str());
            (theirs != ours && !known).then(|| format!("{name}: kernel {theirs}, here {ours}"))
        };
        let wrong: Vec<_> = ours.keys().filter_map(differs).collect();
        assert!(wrong.is_empty(), "{} of {} differ, {engine:?}:\n{}", wrong.len(), ours.len(), wrong.join("\n"));
        let ran = kernel.values().filter(|result| *result != REFUSED).count();
        assert!(ran * 10 > ours.len() * 9, "the kernel ran only {ran}");
    }
}

#[test]
fn helpers_answer_as_the_kernel_does() {
    let recorded = std::fs::read_to_string(folder().join("helpers.txt")).unwrap();
    compare(&parse(&recorded), &support::object("helpers"));
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
}

#[test]
fn the_kernel_still_answers_so() {
    let Ok(how) = std::env::var("RELPOLINE_BPF_KERNEL") else {
        eprintln!("skipped: RELPOLINE_BPF_KERNEL is not set");
        return;
    };
    let bytes = support::object("helpers");
    let said = support::kernel::Kernel::build().run(&bytes, &[]);
    assert!(said.lines().count() > 100, "{said}");
    if how == "write" {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let head = format!("# What programs/helpers.c did in the kernel's test run: Linux {}", release.trim());
        std::fs::write(folder().join("helpers.txt"), format!("{head}\n{said}")).unwrap();
    }
    compare(&parse(&said), &bytes);
}
