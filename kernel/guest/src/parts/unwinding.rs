// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Stacks are unwound through the module's stubs and trees.
//!
//! The kernel's profiler interrupts every processor a thousand times a second and unwinds the stack of
//! whatever it interrupted. A sample that fell into the module's text must go on with the caller of the site,
//! and must end where kernel stacks end: at an entry point, or where the task was made.

use std::collections::HashSet;
use std::mem::{size_of, zeroed};
use std::ptr::{null_mut, read_volatile, write_volatile};
use std::sync::atomic::{Ordering, fence};
use std::thread::sleep;
use std::time::Duration;

use crate::kernel_text::Symbols;
use crate::load::Load;
use crate::module;
use crate::report::Report;

/// Pages of samples, besides the one that tells where they are.
const PAGES: usize = 512;
const PAGE: usize = 4096;
/// Seconds of sampling.
const SECONDS: u64 = 12;
/// Nanoseconds between two samples.
const PERIOD: u64 = 1_000_000;
/// A value in a call chain that is no address says what the following ones are.
const CONTEXT: u64 = u64::MAX - 4095;

/// Samples under load; looks at those in the module's text.
pub fn run(report: &mut Report) {
    let _load = Load::start();
    module::wait_until(20, || module::stat("now_promoted") > 50);
    module::tell("count on");
    let symbols = Symbols::read();
    let calls: HashSet<u64> =
        module::sites().iter().filter(|site| site.kind == "call").map(|site| site.address + 5).collect();
    let mut seen = Seen::default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let samplers: Vec<Sampler> = (0..processors).filter_map(Sampler::open).collect();
    report.check(samplers.len() == processors, "the kernel's profiler can be used");
    for step in 0..SECONDS * 20 {
        sleep(Duration::from_millis(50));
        // Learning comes to an end; so that recording stubs are among what is interrupted, it begins anew.
        if step % 20 == 10 {
            module::tell("relearn");
        }
        for sampler in &samplers {
            sampler.read(&mut |chain| seen.take(chain, &symbols, &calls));
        }
    }
    module::tell("count off");
    report.note(format!("{} samples, {} of them in the module's text", seen.samples, seen.inside));
    for (name, count) in ["counting stubs", "recording stubs", "trees"].into_iter().zip(seen.by_part) {
        report.note(format!("{count} in {name}"));
    }
    for chain in seen.bad.iter().take(5) {
        report.note(format!("not unwound: {chain}"));
    }
    report.check(seen.inside >= 50, format!("{} samples in the module's text", seen.inside));
    let bad = seen.bad.len();
    report.check(bad == 0, format!("every one of them was unwound to the stack's end by way of its caller: {bad} not"));
}

/// What the samples showed.
#[derive(Default)]
struct Seen {
    samples: u64,
    inside: u64,
    by_part: [u64; 3],
    bad: Vec<String>,
}

/// Where kernel stacks end.
fn is_end(name: &str) -> bool {
    [
        "entry_",
        "asm_",
        "ret_from_fork",
        "secondary_startup",
        "start_secondary",
        "x86_64_start",
        "common_interrupt_return",
    ]
    .iter()
    .any(|start| name.starts_with(start))
}

impl Seen {
    fn take(&mut self, chain: &[u64], symbols: &Symbols, calls: &HashSet<u64>) {
        let chain: Vec<u64> = chain.iter().copied().filter(|&address| address < CONTEXT).collect();
        self.samples += 1;
        let Some((&at, callers)) = chain.split_first() else { return };
        let parts = ["relpoline_cold_stubs", "relpoline_recorders", "relpoline_trees"];
        let Some(part) = parts.iter().position(|part| symbols.name(at) == *part) else { return };
        self.inside += 1;
        self.by_part[part] += 1;
        let ends = callers.last().is_some_and(|&end| is_end(symbols.name(end)));
        // A call leaves the address behind it; a tail call leaves what its caller left, which is no site.
        let is_text = callers.first().is_some_and(|&caller| calls.contains(&caller) || symbols.name(caller) != "?");
        if !ends || !is_text {
            let names: Vec<&str> = chain.iter().map(|&address| symbols.name(address)).collect();
            self.bad.push(names.join(" < "));
        }
    }
}

/// The profiler of one processor and its buffer.
struct Sampler {
    buffer: *mut u8,
}

/// The beginning of `struct perf_event_attr` (linux/perf_event.h), as long as its first published version.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    rest: u64,
}

impl Sampler {
    fn open(processor: usize) -> Option<Sampler> {
        const SOFTWARE: u32 = 1;
        const CPU_CLOCK: u64 = 0;
        const CALLCHAIN: u64 = 1 << 5;
        const EXCLUDE_USER: u64 = 1 << 4;
        const EXCLUDE_IDLE: u64 = 1 << 7;
        const EXCLUDE_CALLCHAIN_USER: u64 = 1 << 22;
        // SAFETY: all zeroes is valid.
        let mut attributes: Attributes = unsafe { zeroed() };
        (attributes.kind, attributes.config) = (SOFTWARE, CPU_CLOCK);
        attributes.size = size_of::<Attributes>() as u32;
        (attributes.period, attributes.sample_type) = (PERIOD, CALLCHAIN);
        attributes.flags = EXCLUDE_USER | EXCLUDE_IDLE | EXCLUDE_CALLCHAIN_USER;
        // SAFETY: attributes of ours; a mapping of the size that the kernel expects.
        unsafe {
            let event = libc::syscall(libc::SYS_perf_event_open, &raw const attributes, -1, processor as i32, -1, 0u64);
            if event < 0 {
                return None;
            }
            let size = (1 + PAGES) * PAGE;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let buffer = libc::mmap(null_mut(), size, access, libc::MAP_SHARED, event as i32, 0);
            (buffer != libc::MAP_FAILED).then_some(Sampler { buffer: buffer.cast() })
        }
    }

    /// Hands over the call chains that have come since the last time.
    fn read(&self, take: &mut dyn FnMut(&[u64])) {
        const HEAD: usize = 1024;
        const TAIL: usize = 1032;
        const SAMPLE: u32 = 9;
        // SAFETY: the mapping lives as long as we; head and tail lie in its first page, records behind it.
        unsafe {
            let head = read_volatile(self.buffer.add(HEAD).cast::<u64>());
            fence(Ordering::Acquire);
            let mut tail = read_volatile(self.buffer.add(TAIL).cast::<u64>());
            while tail < head {
                let header = self.word(tail);
                let (kind, size) = (header as u32, header >> 48);
                if kind == SAMPLE {
                    let count = self.word(tail + 8);
                    let chain: Vec<u64> = (0..count).map(|i| self.word(tail + 16 + 8 * i)).collect();
                    take(&chain);
                }
                tail += size.max(8);
            }
            fence(Ordering::Release);
            write_volatile(self.buffer.add(TAIL).cast::<u64>(), head);
        }
    }

    /// The eight bytes at a position in the ring. Records are made of such, so none is torn by its end.
    fn word(&self, at: u64) -> u64 {
        let at = at as usize % (PAGES * PAGE);
        // SAFETY: within the mapping, behind its first page.
        unsafe { read_volatile(self.buffer.add(PAGE + at).cast::<u64>()) }
    }
}
