// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a call costs by the module's trees, by the engine's for programs, by a retpoline, and directly: at
//! the processor's own speed, which an emulated kernel cannot show.
//!
//! Kernel addresses fit a sign-extended immediate, so the module compares with `cmp $imm32`. Addresses below
//! two gigabytes do, too: code that lies there has the module's instructions, byte for byte, but for the
//! sign. Code above has the engine's, which compare with constants in memory.
//!
//! ```console
//! $ cargo bench -p relpoline-kernel --bench trees [-- ROUNDS]
//! ```
//!
//! What this is not: a kernel. No system call, no page tables of another's, one site that is always warm.

use std::process::ExitCode;

use relpoline_core::arch::Reg;
use relpoline_core::tree::{self, CELL, Target, TreeSpec};

/// Of one place: callers, thunks, targets and trees.
const SIZE: usize = 64 << 10;
/// Below two gigabytes, and far above.
const LOW: usize = 0x5000_0000;
const HIGH: usize = 0x7000_0000_0000;
/// Calls of a measurement.
const CALLS: usize = 1 << 17;
/// Most targets of a list.
const TARGETS: usize = 8;

/// Offsets in a place.
const THUNK: usize = 0x100;
const FUNCTIONS: usize = 0x400;
const TREE: usize = 0x1000;
const BODY: usize = 0x1800;
const MISS: usize = 0x2000;
const MISSES: usize = 0x2100;

/// A piece of memory that holds code.
struct Place {
    at: usize,
}

/// What the loop calls.
#[derive(Clone, Copy)]
enum Callee {
    Direct,
    Thunk,
    Tree,
}

impl Place {
    fn map(at: usize) -> std::io::Result<Place> {
        let access = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: nothing lies there, or the kernel refuses.
        let mapped = unsafe { libc::mmap(at as *mut _, SIZE, access, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let place = Place { at };
        // A retpoline through rax, as the kernel's build makes it.
        place.put(THUNK, &[0xe8, 7, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0x48, 0x89, 0x04, 0x24, 0xc3]);
        for i in 0..TARGETS {
            place.put(FUNCTIONS + 64 * i, &[0xc3]);
        }
        Ok(place)
    }

    fn put(&self, offset: usize, code: &[u8]) {
        assert!(offset + code.len() <= SIZE);
        // SAFETY: within our mapping, in which nobody runs now.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), (self.at + offset) as *mut u8, code.len()) };
    }

    fn function(&self, i: usize) -> u64 {
        (self.at + FUNCTIONS + 64 * i) as u64
    }

    fn jump(&self, opcode: u8, from: usize, to: usize) {
        let far = (to as i32 - (from as i32 + 5)).to_le_bytes();
        self.put(from, &[opcode, far[0], far[1], far[2], far[3]]);
    }

    /// The tree for the first `targets` functions. Its misses are counted on the way to the thunk, as the
    /// module does.
    fn build(&self, targets: usize) {
        let listed: Vec<Target> =
            (0..targets).map(|i| Target { address: self.function(i), share: 65536 / targets as u32 }).collect();
        let spec = TreeSpec {
            reg: Reg::new(0).expect("rax"),
            targets: &listed,
            chain: targets,
            miss: (self.at + MISS) as u64,
            hits_counter: None,
            exits: None,
            keeps_flags: false,
        };
        let (mut head, mut body) = ([0xcc; CELL], [0xcc; 4 * CELL]);
        tree::emit(&spec, &mut head, (self.at + TREE) as u64, &mut body, (self.at + BODY) as u64)
            .expect("a tree of four targets can be built");
        self.put(TREE, &head);
        self.put(BODY, &body);
        // incl misses(%rip); jmp thunk
        let far = (MISSES as i32 - (MISS as i32 + 6)).to_le_bytes();
        self.put(MISS, &[0xff, 0x05, far[0], far[1], far[2], far[3]]);
        self.jump(0xe9, MISS + 6, THUNK);
    }

    /// Nanoseconds for each call of the functions in `list`, one after the other.
    fn measure(&self, callee: Callee, list: &[u64]) -> f64 {
        // push %rbx; push %rbp; mov %rdi, %rbx; mov %rsi, %rbp
        // loop: mov (%rbx), %rax; add $8, %rbx; call …; dec %rbp; jnz loop
        // pop %rbp; pop %rbx; ret
        self.put(0, &[0x53, 0x55, 0x48, 0x89, 0xfb, 0x48, 0x89, 0xf5, 0x48, 0x8b, 0x03, 0x48, 0x83, 0xc3, 0x08]);
        let to = match callee {
            Callee::Direct => FUNCTIONS,
            Callee::Thunk => THUNK,
            Callee::Tree => TREE,
        };
        self.jump(0xe8, 15, to);
        self.put(20, &[0x48, 0xff, 0xcd, 0x75, 0xef, 0x5d, 0x5b, 0xc3]);
        // SAFETY: the code above, which keeps what the calling convention asks to keep.
        let run: extern "C" fn(*const u64, u64) = unsafe { std::mem::transmute(self.at) };
        let began = used();
        run(list.as_ptr(), list.len() as u64);
        (used() - began) * 1e9 / list.len() as f64
    }
}

/// Processor time of this thread in seconds: what others take is not counted.
fn used() -> f64 {
    // SAFETY: all zeroes is a time, and the place is ours.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    }
}

/// Which function is called when.
struct Traffic {
    name: &'static str,
    /// Targets of the tree.
    tree: usize,
    /// The function of a call, by a random number.
    which: fn(u64) -> usize,
}

const TRAFFIC: [Traffic; 6] = [
    Traffic { name: "1 target", tree: 1, which: |_| 0 },
    Traffic { name: "2 targets, 90 : 10", tree: 2, which: |n| usize::from(n % 10 == 0) },
    Traffic { name: "4 targets, random", tree: 4, which: |n| (n % 4) as usize },
    Traffic { name: "4 targets, the last one only", tree: 4, which: |_| 3 },
    Traffic {
        name: "4 targets, 1 call in 20 misses",
        tree: 4,
        which: |n| if n % 20 == 0 { 5 } else { (n % 2) as usize },
    },
    Traffic { name: "4 targets, every call misses", tree: 4, which: |_| 5 },
];

fn list(place: &Place, which: fn(u64) -> usize) -> Vec<u64> {
    let mut seed = 88_172_645_463_325_252_u64;
    let next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        place.function(which(seed >> 11))
    };
    std::iter::repeat_with(next).take(CALLS).collect()
}

fn main() -> ExitCode {
    // cargo adds --bench.
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(61);
    let places = [LOW, HIGH].map(Place::map);
    let [Ok(low), Ok(high)] = places else {
        eprintln!("trees: no memory at the addresses that are compared");
        return ExitCode::FAILURE;
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("machine{}, load {}", model.trim_start_matches(['\t', ' ']), load.trim());
    println!("nanoseconds a call: median of {rounds} interleaved rounds (lowest quarter – highest quarter)\n");
    println!("{:31} {:>22} {:>22} {:>22} {:>22}", "", "direct", "retpoline", "module's tree", "engine's tree");
    for Traffic { name, tree, which } in TRAFFIC {
        for place in [&low, &high] {
            place.build(tree);
        }
        let (near, far) = (list(&low, which), list(&high, which));
        let mut seen: [Vec<f64>; 4] = Default::default();
        for _ in 0..rounds {
            let run = [
                low.measure(Callee::Direct, &near),
                low.measure(Callee::Thunk, &near),
                low.measure(Callee::Tree, &near),
                high.measure(Callee::Tree, &far),
            ];
            seen.iter_mut().zip(run).for_each(|(list, value)| list.push(value));
        }
        let cells = seen.map(|mut values| {
            values.sort_by(f64::total_cmp);
            let n = values.len();
            format!("{:5.2} ({:.2} – {:.2})", values[n / 2], values[n / 4], values[n * 3 / 4])
        });
        println!("{name:31} {:>22} {:>22} {:>22} {:>22}", cells[0], cells[1], cells[2], cells[3]);
    }
    ExitCode::SUCCESS
}
