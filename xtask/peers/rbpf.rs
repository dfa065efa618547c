//! rbpf as a peer of `relpoline bpf bench`: for each line on stdin a line on stdout, nanoseconds of a run with 33 hops,
//! of one without, and of one that adds up 64 bytes.
//!
//! rbpf has no tail calls: 33 hops are 33 more runs that the host starts, each program telling it which is next.

use std::hint::black_box;
use std::io::BufRead;

const HOPS: u64 = 33;

/// r0 = next; exit
fn link(next: u8) -> Vec<u8> {
    vec![0xb7, 0, 0, 0, next, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]
}

/// Adds up the first 64 bytes of its input.
fn sum() -> Vec<u8> {
    [
        [0xb7, 0x00, 0, 0, 0, 0, 0, 0],
        [0xb7, 0x03, 0, 0, 64, 0, 0, 0],
        [0x71, 0x14, 0, 0, 0, 0, 0, 0],
        [0x0f, 0x40, 0, 0, 0, 0, 0, 0],
        [0x07, 0x01, 0, 0, 1, 0, 0, 0],
        [0x17, 0x03, 0, 0, 1, 0, 0, 0],
        [0x55, 0x03, 0xfb, 0xff, 0, 0, 0, 0],
        [0x95, 0x00, 0, 0, 0, 0, 0, 0],
    ]
    .concat()
}

fn vm(code: &[u8]) -> rbpf::EbpfVmRaw<'_> {
    let mut vm = rbpf::EbpfVmRaw::new(Some(code)).expect("a valid program");
    vm.jit_compile().expect("compiles");
    vm
}

fn run(vm: &rbpf::EbpfVmRaw<'_>, interpret: bool, input: &mut [u8]) -> u64 {
    if interpret {
        return vm.execute_program(input).expect("no error");
    }
    // SAFETY: the programs above touch 64 bytes of input at most, which there are.
    unsafe { vm.execute_program_jit(input) }.expect("no error")
}

/// Nanoseconds that this thread has had a CPU for.
fn cpu_time() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a clock that there is, and a place for its reading.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

fn time(runs: u32, mut run: impl FnMut() -> u64) -> f64 {
    let begin = cpu_time();
    for _ in 0..runs {
        black_box(run());
    }
    (cpu_time() - begin) / f64::from(runs)
}

fn main() {
    let interpret = std::env::args().nth(1).as_deref() == Some("interpreter");
    let codes: Vec<Vec<u8>> = (1..=HOPS as u8 + 1).map(link).collect();
    let vms: Vec<_> = codes.iter().map(|code| vm(code)).collect();
    let sum = sum();
    let adding = vm(&sum);
    let mut input = [1u8; 64];
    let runs = if interpret { 2_000 } else { 20_000 };
    for _ in std::io::stdin().lock().lines() {
        let with = time(runs, || {
            let mut at = 0;
            while at <= HOPS {
                at = run(&vms[at as usize], interpret, black_box(&mut input));
            }
            at
        });
        let without = time(runs, || run(&vms[0], interpret, black_box(&mut input)));
        let summing = time(runs, || run(&adding, interpret, black_box(&mut input)));
        println!("{with} {without} {summing}");
    }
}
